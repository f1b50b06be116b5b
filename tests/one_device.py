"""What runs on a GPU must not mix its tensors with the CPU's; the meta device stands in for one.

Tensors there have shapes and no values, so that everything runs that asks no tensor for its value.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

MOVES = ("_to_copy", "copy_", "_copy_from")
INDEXING = ("index", "index_put_", "_index_put_impl_")  # by indices on the CPU, CUDA does that


class OneDevice(TorchDispatchMode):
    """Raises where an operation is given tensors of the CPU and of the other device; single numbers may."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        flat, _ = torch.utils._pytree.tree_flatten((args, kwargs or {}))
        tensors = [value for value in flat if isinstance(value, torch.Tensor)]
        devices = {value.device.type for value in tensors if value.ndim > 0}
        if len(devices) > 1 and name not in (*MOVES, *INDEXING):
            shapes = [(tuple(value.shape), value.device.type) for value in tensors]
            raise RuntimeError(f"{name} was given tensors of two devices: {shapes}")
        return func(*args, **(kwargs or {}))
