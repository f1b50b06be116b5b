"""What every test may use: tests/ on the path (for `synthetic`), random state put back, reference cases."""

import gc
import importlib.util
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))
torch.set_num_threads(min(2, torch.get_num_threads()))  # tiny models: more only wait for each other

Golden = Callable[[str, str], tuple[dict, dict, dict]]


def pytest_collection_finish() -> None:
    """What libraries made when they were loaded stays: the collector need not look at it time and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def restored_generators() -> Iterator[None]:
    """A test may seed the global generators: the next one does not notice."""
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.random.set_rng_state(states[2])


@pytest.fixture(autouse=True)
def restored_signals() -> Iterator[None]:
    """A command line that a test runs in this process takes Ctrl-C for itself: it is given back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def golden_root() -> Path:
    """Folder of the reference cases: $LATENTSYNC_GOLDENS, or those committed in tests/goldens."""
    return Path(os.environ.get("LATENTSYNC_GOLDENS") or TESTS / "goldens")


def load_recipe(root: Path) -> ModuleType:
    """The rule that rebuilds the weights: the `recipe.py` beside the cases, else ours."""
    path = root / "recipe.py"
    spec = importlib.util.spec_from_file_location(
        "golden_recipe", path if path.is_file() else TESTS / "goldens" / "recipe.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def golden() -> Golden:
    """`golden(system, case) -> (info, weights, tensors)` in numpy; skips a case that a foreign set lacks."""
    root = golden_root()
    if not root.is_dir():
        pytest.fail(f"LATENTSYNC_GOLDENS={root} is not a folder")
    recipe = load_recipe(root)

    def load(system: str, case: str) -> tuple[dict, dict, dict]:
        if root != TESTS / "goldens" and not (root / system / f"{case}.json").is_file():
            pytest.skip(f"{root} holds no {system}/{case}")
        return recipe.load_case(root / system, case)

    return load
