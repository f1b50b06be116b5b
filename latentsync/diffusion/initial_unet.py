"""The U-Net that a run of the two-stage recipe starts from, and which of its weights are to learn.

Weights come strictly: every tensor must be there and fit, but for what upstream lets go, and this is said.
Stage 1 has no motion modules for stage 2; a Stable Diffusion U-Net has other channels at both ends, and
attends to text of another width. Source: `UNet3DConditionModel.from_pretrained` of bytedance/LatentSync.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from latentsync.checkpoint import identify, read_weights
from latentsync.diffusion.released_config import ReleasedConfig
from latentsync.diffusion.unet import UNet3DConditionModel
from latentsync.diffusion.unet_keys import TABLE, from_upstream_names, upstream_names
from latentsync.errors import CheckpointError, ConfigError

FAMILIES = ("unet", "unet (ours)", "stable-diffusion unet")
MOTION_MODULE = re.compile(r"(.*\.motion_modules\.\d+)\..+")
MAY_DIFFER = (  # in shape
    re.compile(r"conv_(in|out)\.(weight|bias)"),
    re.compile(r"(?!.*\.motion_modules\.).*\.attn2\.to_[kv]\.weight"),
)

logger = logging.getLogger(__name__)


def initial_unet(config: ReleasedConfig, place: Path | None) -> UNet3DConditionModel:
    """The network of `config.model` with the weights at `place`: a file of upstream's, a U-Net's folder or
    that of a pipeline; None for new ones.

    What is new begins without effect: the last layer, and that of each motion module, are 0. Raises:
    ConfigError; CheckpointError for weights that are missing, unknown, or of another shape.
    """
    torch.manual_seed(config.run.seed)
    try:
        unet = UNet3DConditionModel.from_upstream(config.model_section())
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise ConfigError(f"the section model describes no U-Net: {' '.join(str(error).split())}") from error
    _quieten(unet.conv_out)
    for name, module in unet.named_modules():
        if name.endswith("proj_out") and ".motion_modules." in name:
            _quieten(module)
    if place is not None:
        fresh = put_weights(unet, _tensors(place), place)
        logger.info("weights of %s%s", place, f"; new: {', '.join(fresh)}" if fresh else "")
    return unet


def put_weights(unet: UNet3DConditionModel, tensors: Mapping[str, Tensor], place: Path) -> list[str]:
    """Copy `tensors`, under our names, into `unet`; says what was left as it is, in words.

    Raises: CheckpointError that names what is missing, unknown, or of another shape for no known reason.
    """
    wanted = {name: value for name, value in unet.state_dict().items() if not name.endswith(TABLE)}
    given = {name: value for name, value in tensors.items() if not name.endswith(TABLE)}
    motion = _absent_motion(wanted, given)
    missing = [name for name in wanted if name not in given and _motion_module(name) not in motion]
    unknown = [name for name in given if name not in wanted]
    other = [name for name in wanted if name in given and given[name].shape != wanted[name].shape]
    misfits = [name for name in other if not any(rule.fullmatch(name) for rule in MAY_DIFFER)]
    if missing or unknown or misfits:
        raise CheckpointError(
            f"weights {str(place)!r} do not fit the configuration: {_listed(missing, 'missing')}, "
            f"{_listed(unknown, 'unknown')}, {_listed(misfits, 'of another shape')}; pass the YAML that "
            'belongs to them, or start anew with ckpt.resume_ckpt_path=""'
        )
    kept = {name: value for name, value in given.items() if name not in other}
    unet.load_state_dict(kept, strict=False)
    told = [f"{len(motion)} motion modules, which add nothing at first"] if motion else []
    return told + ([f"{len(other)} tensors that have another shape there ({other[0]} ...)"] if other else [])


def select_trainable(unet: nn.Module, parts: Sequence[str]) -> None:
    """Let only those weights learn whose upstream name contains one of `parts`; all of them without any.

    Upstream's names, since ours call an attention of motion modules attn2. Raises: ConfigError for a part
    that no weight has in its name.
    """
    names = {name: upstream_names(name) for name, _ in unet.named_parameters()}
    for part in parts:
        if not any(part in theirs for known in names.values() for theirs in known):
            raise ConfigError(
                f"run.trainable_modules has {part!r}, which is in no name of this U-Net's weights; "
                "motion_modules., attentions. and attn2. are usual, and motion modules want stage 2"
            )
    for name, parameter in unet.named_parameters():
        theirs = names[name]
        parameter.requires_grad_(not parts or any(part in known for part in parts for known in theirs))


def _tensors(place: Path) -> dict[str, Tensor]:
    """The tensors at `place` under our names."""
    folder = place / "unet" if (place / "unet").is_dir() else place
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else [place]
    if not files or (folder.is_dir() and not (folder / "config.json").is_file()):
        raise CheckpointError(
            f"{str(place)!r} is no folder of a U-Net (config.json and *.safetensors), nor of a pipeline that "
            "has one in unet/; of a finished run, pass its folder pipeline"
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read_weights(file).tensors
    found = identify(tensors)
    if found.family not in FAMILIES:
        raise CheckpointError(f"weights {str(place)!r} hold {found}; expected a LatentSync U-Net")
    return from_upstream_names(tensors)


def _absent_motion(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> set[str]:
    """The motion modules of which `given` holds nothing at all."""
    known = {module for name in given if (module := _motion_module(name))}
    return {module for name in wanted if (module := _motion_module(name)) and module not in known}


def _motion_module(name: str) -> str:
    """The motion module that a tensor belongs to, "" for none."""
    found = MOTION_MODULE.fullmatch(name)
    return found[1] if found else ""


def _quieten(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def _listed(names: Sequence[str], what: str) -> str:
    return f"{len(names)} {what}" + (f" ({', '.join(names[:3])})" if names else "")
