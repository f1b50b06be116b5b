"""LoRA on the attention of a U-Net: small matrices that learn while the weights stay as they were.

A layer's weight W becomes W + (alpha / rank) B A, A drawn, B zero at first. Training goes through PEFT, as
diffusers does it; what it leaves is a safetensors file that `apply_lora` puts into a U-Net without PEFT.
Source: Hu et al. 2021 (arXiv 2106.09685).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from latentsync.checkpoint import first_line, read_weights
from latentsync.diffusion.unet import UNet3DConditionModel
from latentsync.diffusion.unet_keys import upstream_names
from latentsync.errors import CheckpointError, ConfigError

PROJECTIONS = (".to_q", ".to_k", ".to_v", ".to_out.0")
ADAPTER = "default"
FILE = "pytorch_lora_weights.safetensors"  # diffusers' name
METADATA = "lora_adapter_metadata"
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


def add_lora(unet: UNet3DConditionModel, rank: int, *, within: Sequence[str] = ()) -> None:
    """Give the attentions of `unet` matrices of `rank` that alone will learn; `within`: only those whose
    upstream name contains one of these parts.

    Raises: ImportError with the remedy where PEFT is not installed; ConfigError where nothing is left.
    """
    try:
        from peft import LoraConfig  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("LoRA needs PEFT: pip install 'latentsync[lora]'") from error
    layers = attention_layers(unet, within)
    if not layers:
        raise ConfigError(f"no attention of this U-Net has {', '.join(within)} in its name")
    unet.requires_grad_(False)
    settings = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=layers)
    unet.add_adapter(settings, ADAPTER)


def attention_layers(unet: UNet3DConditionModel, within: Sequence[str] = ()) -> list[str]:
    """The projections of queries, keys, values and results, by name."""
    layers = [
        name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(PROJECTIONS)
    ]
    if not within:
        return layers
    return [name for name in layers if any(part in upstream_names(name + ".weight")[0] for part in within)]


def save_lora(unet: UNet3DConditionModel, folder: Path) -> Path:
    """Write the matrices of `unet` into `folder` as diffusers does: `apply_lora` reads them, and so does
    `unet.load_lora_adapter(folder, prefix=None, weight_name=FILE)`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(unet.peft_config[ADAPTER].to_dict(), sort_keys=True, default=sorted)  # sets
    tensors = {
        name.replace(f".{ADAPTER}.", "."): value.contiguous()
        for name, value in unet.state_dict().items()
        if ".lora_" in name
    }
    save_file(tensors, folder / FILE, metadata={"format": "pt", METADATA: settings})
    return folder / FILE


def merged_state(unet: UNet3DConditionModel) -> dict[str, Tensor]:
    """The tensors of `unet` without LoRA, its effect added to the weights."""
    scale = {name: module.scaling[ADAPTER] for name, module in unet.named_modules() if _is_adapted(module)}
    state = unet.state_dict()
    plain: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        layer = name.removesuffix(".weight").removesuffix(".base_layer")
        if layer in scale and name.endswith(".weight"):
            down, up = (state[f"{layer}.lora_{side}.{ADAPTER}.weight"] for side in "AB")
            value = _added(value, down, up, scale[layer])
        plain[name.replace(".base_layer.", ".")] = value
    return plain


def apply_lora(unet: UNet3DConditionModel, place: str | Path) -> None:
    """Add the effect of saved matrices (a file, or its folder) to the weights of `unet`, for good.

    Raises: FileNotFoundError; CheckpointError for a file that holds no LoRA, or that of another network.
    """
    path = Path(place) / FILE if Path(place).is_dir() else Path(place)
    tensors = read_weights(path).tensors
    layers = [name.removesuffix(DOWN) for name in tensors if name.endswith(DOWN)]
    if not layers or len(tensors) != 2 * len(layers):
        raise CheckpointError(f"{str(path)!r} holds no LoRA of a U-Net; expected {FILE} of a training run")
    share = _scale(path)
    weights = dict(unet.named_parameters())
    for layer in layers:
        weight, down, up = weights.get(layer + ".weight"), tensors[layer + DOWN], tensors.get(layer + UP)
        if weight is None or up is None or weight.shape != (up.shape[0], down.shape[1]):
            raise CheckpointError(f"the LoRA {str(path)!r} is of another network: {layer} does not fit")
        weight.data.copy_(_added(weight.data, down, up, share / down.shape[0]))


def _added(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    product = up.to(weight.device, torch.float32) @ down.to(weight.device, torch.float32)
    return (weight.float() + scale * product).to(weight.dtype)


def _scale(path: Path) -> float:
    """The alpha that the matrices were trained with, from the file's own metadata."""
    try:
        with safe_open(path, framework="pt") as file:
            told: Mapping[str, str] = file.metadata() or {}
        return float(json.loads(told[METADATA])["lora_alpha"])
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"the LoRA {str(path)!r} does not say its alpha ({first_line(error)}); pass the file as a "
            "training run wrote it"
        ) from error


def _is_adapted(module: nn.Module) -> bool:
    return hasattr(module, "lora_A") and hasattr(module, "scaling")
