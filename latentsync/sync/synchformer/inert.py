"""OmegaConf objects in a `.pt` read as what they say, without running any of their code.

Upstream's files hold their run's configuration as pickled OmegaConf objects beside the tensors, and some
numbers as NumPy's. While `stand_ins()` is open, torch's unpickler for tensors only (`weights_only=True`)
builds an inert `StandIn` wherever such a class is named: an object that keeps its state and does nothing. Any
other class or function still closes the file.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch.serialization import safe_globals

OMEGACONF = {
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.base": ("ContainerMetadata", "Metadata"),
    "omegaconf.nodes": (
        "AnyNode",
        "BooleanNode",
        "BytesNode",
        "FloatNode",
        "IntegerNode",
        "InterpolationResultNode",
        "PathNode",
        "StringNode",
    ),
}
TYPES = {  # that OmegaConf notes beside its values
    "typing": ("Any", "Dict", "List", "Optional", "Union"),
    "builtins": ("bool", "dict", "float", "int", "list", "str", "tuple"),
}
NUMPY = {"numpy": ("dtype",), "numpy.core.multiarray": ("scalar",), "numpy._core.multiarray": ("scalar",)}
MAX_DEPTH = 30


class StandIn:
    """What a file says an object is made of: the arguments it was called with, the state it was given."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __new__(cls, *arguments: Any) -> "StandIn":
        made = super().__new__(cls)
        made.arguments, made.state = arguments, None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _empty(*arguments: Any) -> dict[Any, Any]:
    """Instead of `collections.defaultdict`, which OmegaConf keeps for its resolvers."""
    return {}


def stand_ins() -> AbstractContextManager[Any]:
    """Inside, `torch.load(weights_only=True)` builds stand-ins for the classes above."""
    names = [
        f"{module}.{name}"
        for group in (OMEGACONF, TYPES, NUMPY)
        for module, names in group.items()
        for name in names
    ]
    return safe_globals([*((StandIn, name) for name in names), (_empty, "collections.defaultdict")])


def plain(value: Any, depth: int = 0) -> Any:
    """`value` in dictionaries, lists, numbers and strings; what a stand-in does not tell becomes None.

    Interpolations stay as they were written, "${training.seed}".
    """
    if depth > MAX_DEPTH:
        return None
    if isinstance(value, StandIn):
        state = value.state
        if not isinstance(state, Mapping):
            return None
        return plain(state.get("_content", state.get("_val")), depth + 1)
    if isinstance(value, Mapping):
        return {plain(key, depth + 1): plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner, depth + 1) for inner in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else None
