"""How much memory a computation would take, found by running it on tensors that have shapes but no data.

Every tensor that is alive is counted, as torch's allocator would see it; kernels' own workspaces are not, so
a caller adds a margin.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def weight_bytes(*modules: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(_bytes(module.parameters()) + _bytes(module.buffers()) for module in modules)


def largest_leaf_bytes(*modules: nn.Module) -> int:
    """Bytes of the largest single layer's own weights."""
    layers = (layer for module in modules for layer in module.modules())
    return max((_bytes(layer.parameters(recurse=False)) for layer in layers), default=0)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@torch.no_grad()
def peak_bytes(computation: Callable[[], object]) -> int:
    """The most bytes that were alive at once of what `computation` made; what it was given is not counted.

    Weights and inputs may be real or on the meta device; nothing is computed.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), _Alive() as alive:
        computation()
    return alive.peak


class _Alive(TorchDispatchMode):
    """Counts the bytes of storages from the operation that makes them until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[int] = set()
        self.bytes = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        given = {_key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _key(leaf) not in given:
                self._count(leaf)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        self.known.add(key)
        size = storage.nbytes()
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.bytes -= size


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
