"""What MPS lacks must not be asked of it: the pipeline runs where those operations raise.

No Mac is at hand; this stands in for one. Source of the list: operations and types that PyTorch's MPS backend
refuses or sends to the CPU (float64; singular values; antialiased bicubic; Fourier transforms on older ones).
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

LACKING = ("linalg_svd", "_linalg_svd", "_upsample_bicubic2d_aa", "_fft_r2c", "_fft_c2c", "linalg_eigh")


class LikeMps(TorchDispatchMode):
    """Raises where MPS would; `allowed` names what our code does on the CPU on purpose."""

    def __init__(self, *allowed: str) -> None:
        super().__init__()
        self.lacking = [name for name in LACKING if name not in allowed]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.lacking:
            raise NotImplementedError(f"{name} is not implemented on MPS")
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
                raise TypeError(f"{name}: MPS has no float64")
        return out


def test_the_stand_in_refuses_what_mps_refuses():
    with LikeMps(), pytest.raises(NotImplementedError, match="svd"):
        torch.linalg.svd(torch.eye(2))
    with LikeMps(), pytest.raises(TypeError, match="float64"):
        torch.ones(2).double()


@pytest.mark.parametrize("options", [{}, {"cache_interval": 2}, {"guidance_window": (0.0, 0.5)}])
def test_drawing_asks_for_nothing_that_mps_lacks(temporal_pipeline, options):
    pipeline = temporal_pipeline
    faces, windows = torch.zeros(10, 3, 32, 32), torch.zeros(10, 20, 16)
    noise = pipeline.draw_noise(torch.Generator().manual_seed(0))
    pipeline.scheduler.set_timesteps(4)  # its tables are made on the CPU, in numpy
    with LikeMps():
        drawn = list(pipeline.stream(faces, windows, noise, pipeline.sampling(4, 1.5, **options)))
    assert len(drawn) == 10 and torch.isfinite(torch.stack(drawn)).all()


def test_hearing_transforms_on_the_cpu_and_encodes_like_mps(temporal_pipeline):
    list(temporal_pipeline.audio_windows(torch.randn(16000), 5))  # mel filters are made once, on the CPU
    with LikeMps("_fft_r2c"):  # the spectrum is ours, on the CPU whatever the device
        windows = list(temporal_pipeline.audio_windows(torch.randn(16000), 5))
    assert len(windows) == 5
