"""Upstream's U-Net configuration and tensor names -> those of our class on diffusers' UNetMotionModel.

Facts: bytedance/LatentSync `latentsync/models/` against diffusers' `unet_motion_model.py`; only motion
modules differ in name.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

FIXED = {  # what every released configuration says and this project's class is built for
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock3DCrossAttn",
    "motion_module_type": "Vanilla",
    "resnet_time_scale_shift": "default",
}
SAME_NAME = (
    "sample_size",
    "in_channels",
    "out_channels",
    "layers_per_block",
    "norm_num_groups",
    "norm_eps",
    "cross_attention_dim",
    "add_audio_layer",
    "audio_tokens",
    "use_inflated_groupnorm",
    "use_motion_module",
    "motion_module_mid_block",
    "motion_module_decoder_only",
)
MOTION_FIXED = {
    "attention_block_types": ["Temporal_Self", "Temporal_Self"],
    "temporal_position_encoding": True,
    "temporal_attention_dim_div": 1,
    "zero_initialize": True,
}


def diffusers_config(model_config: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of `UNet3DConditionModel` for the `model` section of an upstream YAML.

    Raises: ValueError naming a key or a value that is not covered.
    """
    given = dict(model_config)
    motion = dict(given.pop("motion_module_kwargs", None) or {})
    _expect(given, FIXED, "")
    _expect(motion, MOTION_FIXED, "motion_module_kwargs.")
    arguments = {key: given.pop(key) for key in SAME_NAME if key in given}
    for key in ("down_block_types", "up_block_types"):
        if key in given:
            arguments[key] = tuple(name.replace("Block3D", "BlockMotion") for name in given.pop(key))
    for key in ("block_out_channels", "motion_module_resolutions"):
        if key in given:
            arguments[key] = tuple(given.pop(key))
    if "attention_head_dim" in given:  # upstream's name for the number of heads
        arguments["num_attention_heads"] = given.pop("attention_head_dim")
    for theirs, ours in (
        ("num_attention_heads", "motion_num_attention_heads"),
        ("num_transformer_block", "motion_layers"),
        ("temporal_position_encoding_max_len", "motion_max_seq_length"),
    ):
        if theirs in motion:
            arguments[ours] = motion.pop(theirs)
    if unknown := [*given, *(f"motion_module_kwargs.{key}" for key in motion)]:
        raise ValueError(
            f"unknown U-Net configuration key(s) {unknown}; see configs/unet/ for the known ones"
        )
    return arguments


def _expect(given: dict[str, Any], fixed: Mapping[str, Any], prefix: str) -> None:
    """Take the `fixed` keys out of `given`; refuse another value."""
    for key, value in fixed.items():
        found = given.pop(key, value)
        found = list(found) if isinstance(value, list) else found
        if found != value:
            raise ValueError(f"U-Net configuration {prefix}{key} = {found!r}; only {value!r} is supported")


TABLE = (
    ".pos_embed.pe"  # ours: one sinusoidal table a motion block; upstream keeps it twice, once an attention
)
UPSTREAM_TABLES = (".attention_blocks.0.pos_encoder.pe", ".attention_blocks.1.pos_encoder.pe")


def from_upstream_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Upstream's tensors under our names; of the two equal position tables of a block, the first."""
    return {_rename(key): value for key, value in state_dict.items() if not key.endswith(UPSTREAM_TABLES[1])}


def to_upstream_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors as upstream's code wants them: `from_upstream_names` backwards."""
    renamed = {}
    for key, value in state_dict.items():
        for name in upstream_names(key):
            renamed[name] = value
    return renamed


def _rename(key: str) -> str:
    """Our name of an upstream tensor; all but those of motion modules are the same."""
    if ".motion_modules." not in key:
        return key
    key = key.replace(".temporal_transformer.", ".").replace(UPSTREAM_TABLES[0], TABLE)
    key = re.sub(r"\.attention_blocks\.(\d)\.", lambda m: f".attn{int(m[1]) + 1}.", key)
    key = re.sub(r"\.norms\.(\d)\.", lambda m: f".norm{int(m[1]) + 1}.", key)
    return key.replace(".ff_norm.", ".norm3.")


def upstream_names(key: str) -> list[str]:
    """Upstream's name, or names, of one of our tensors."""
    place, motion, rest = key.partition(".motion_modules.")
    if not motion:
        return [key]
    number, rest = rest.split(".", 1)
    place = f"{place}{motion}{number}.temporal_transformer."
    if rest.endswith(TABLE):
        return [place + rest.removesuffix(TABLE) + table for table in UPSTREAM_TABLES]
    rest = re.sub(r"\.attn(\d)\.", lambda m: f".attention_blocks.{int(m[1]) - 1}.", rest)
    rest = rest.replace(".norm3.", ".ff_norm.")
    return [place + re.sub(r"\.norm([12])\.", lambda m: f".norms.{int(m[1]) - 1}.", rest)]
