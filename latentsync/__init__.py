"""LatentSync: a talking clip and a new soundtrack in, the same clip with lips that say the soundtrack out.

`latentsync.dub` is the main job, `latentsync.LipsyncPipeline` the network behind it. Both load on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentsync.diffusion.pipeline import LipsyncPipeline
    from latentsync.dubbing import DubReport, dub

__version__ = "0.1.0"
__all__ = ["DubReport", "LipsyncPipeline", "dub"]

_HOMES = {
    "LipsyncPipeline": "latentsync.diffusion.pipeline",
    "DubReport": "latentsync.dubbing",
    "dub": "latentsync.dubbing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'latentsync' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
