"""What two-stage training changed: the losses of two U-Nets on the same windows, times and noise."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from latentsync.device import pick_dtype
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.released_config import ReleasedConfig
from latentsync.diffusion.stage_config import check_stages, supervision_of
from latentsync.diffusion.stage_footage import collate, open_footage
from latentsync.diffusion.stage_parts import find_files, open_audio_encoder, open_stage_vae, open_teachers
from latentsync.diffusion.stages import FaceBatch, stage_losses
from latentsync.diffusion.train_stages import build_unet


@dataclass(frozen=True)
class Change:
    """The mean of a loss before and after, and for how many windows it is lower."""

    before: float
    after: float
    lower: int


@torch.no_grad()
def losses_before_and_after(
    config: ReleasedConfig, after: Path, *, samples: int, device: torch.device, epoch: int
) -> dict[str, Change]:
    """Every loss of `config` for what it starts from and for the U-Net of the folder `after`.

    Networks compute in the dtype that suits the device, and all hear the sound; windows are those of the
    training footage in `epoch`. Raises: FileNotFoundError, ConfigError, CheckpointError, FootageError.
    """
    check_stages(config)
    dtype = pick_dtype("auto", device)
    files = find_files(config)
    teachers = open_teachers(config, files, open_stage_vae(files.vae, config)).to(device, dtype)
    encoder = open_audio_encoder(files.audio_encoder, config.model.cross_attention_dim)
    first = build_unet(config, files.initial).to(device).eval()
    last = LipsyncPipeline.from_pretrained(after, local_files_only=True).unet.to(device).eval()
    accelerator = Accelerator(cpu=device.type == "cpu")
    footage = open_footage(config, encoder, Path(config.data.train_output_dir), accelerator)
    supervision = replace(supervision_of(config), audio_dropout=0.0)

    def losses(unet: nn.Module, number: int) -> dict[str, float]:
        batch = FaceBatch(*(part.to(device) for part in collate([footage[(epoch, number % len(footage))]])))
        draws = torch.Generator().manual_seed(number)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            found = stage_losses(unet, batch, teachers, supervision, draws)
        return {name: float(loss) for name, loss in found.items()}

    rows = [(losses(first, number), losses(last, number)) for number in range(samples)]
    return {
        name: Change(
            before=sum(one[name] for one, _ in rows) / samples,
            after=sum(other[name] for _, other in rows) / samples,
            lower=sum(other[name] < one[name] for one, other in rows),
        )
        for name in rows[0][0]
    }
