"""The denoiser: noisy, masked and reference latents plus audio tokens in, predicted noise (or v) out.

`B` batch, `F` frames, `C` channels, `h w` latent pixels, `N` audio tokens a frame, `D` their width. It is
diffusers' UNetMotionModel (AnimateDiff on Stable Diffusion 1.5) with what LatentSync does differently:
GroupNorm of resnets over all frames of a window, that of motion modules per frame, no text but audio of each
frame. Source: bytedance/LatentSync.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import SinusoidalPositionalEmbedding, TimestepEmbedding
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  (from_pretrained looks it up here)
from diffusers.models.unets.unet_motion_model import (
    AnimateDiffTransformer3D,
    UNetMotionModel,
    UNetMotionOutput,
)
from einops import rearrange
from torch import Size, Tensor, nn
from torch.utils.checkpoint import checkpoint

from latentsync.diffusion.feature_cache import FeatureCache
from latentsync.diffusion.unet_keys import TABLE, diffusers_config, from_upstream_names, to_upstream_names

MOTION_NORM_GROUPS = 32  # fixed in upstream's VanillaTemporalModule, whatever norm_num_groups is


class Window:
    """Number of frames of the window being denoised; shared by the norms that look across frames."""

    frames = 1


class WindowGroupNorm(nn.GroupNorm):
    """GroupNorm over (F, h, w) of frames folded into the batch, (B*F, C, h, w)."""

    def __init__(self, norm: nn.GroupNorm, window: Window) -> None:
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, norm.affine)
        self.window = window

    def forward(self, input: Tensor) -> Tensor:
        if self.window.frames == 1:
            return super().forward(input)
        height = input.shape[2]
        x = rearrange(input, "(b f) c h w -> b c (f h) w", f=self.window.frames)
        return rearrange(super().forward(x), "b c (f h) w -> (b f) c h w", h=height)


class FrameGroupNorm(nn.GroupNorm):
    """GroupNorm of each frame alone, on (B, C, F, h, w)."""

    def forward(self, input: Tensor) -> Tensor:
        frames = input.shape[2]
        x = super().forward(rearrange(input, "b c f h w -> (b f) c h w"))
        return rearrange(x, "(b f) c h w -> b c f h w", f=frames)


class NoMotion(nn.Module):
    """Stands where a motion module is switched off: passes frames on."""

    def forward(self, hidden_states: Tensor, num_frames: int = 1) -> Tensor:
        return hidden_states


class AudioAttention(Attention):
    """Cross-attention to audio tokens; without audio it adds nothing (diffusers would attend to itself)."""

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        if encoder_hidden_states is None:
            return torch.zeros_like(hidden_states)
        return super().forward(hidden_states, encoder_hidden_states, **kwargs)


class UNet3DConditionModel(UNetMotionModel):
    """Predicts the noise of a window of latents that hears one group of audio tokens a frame.

    `use_motion_module` off gives the stage 1 network. `audio_tokens = N` (small models only) adds learned
    positions to the tokens and lets the flattened tokens of a frame shift its time embedding; released
    weights have neither. `use_inflated_groupnorm` (upstream's name) norms every frame alone, so that frames
    do not depend on each other.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | None = None,
        in_channels: int = 13,
        out_channels: int = 4,
        down_block_types: tuple[str, ...] = ("CrossAttnDownBlockMotion",) * 3 + ("DownBlockMotion",),
        up_block_types: tuple[str, ...] = ("UpBlockMotion",) + ("CrossAttnUpBlockMotion",) * 3,
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        cross_attention_dim: int = 384,
        num_attention_heads: int = 8,
        add_audio_layer: bool = True,
        audio_tokens: int | None = None,
        use_inflated_groupnorm: bool = False,
        use_motion_module: bool = True,
        motion_module_resolutions: tuple[int, ...] = (1, 2, 4, 8),
        motion_module_mid_block: bool = False,
        motion_module_decoder_only: bool = False,
        motion_layers: int = 1,
        motion_max_seq_length: int = 24,
        motion_num_attention_heads: int = 8,
    ) -> None:
        # not the decorated constructor, which would add the parent's own arguments to the saved configuration
        UNetMotionModel.__init__.__wrapped__(
            self,
            sample_size=sample_size,
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=tuple(down_block_types),
            up_block_types=tuple(up_block_types),
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            norm_eps=norm_eps,
            cross_attention_dim=cross_attention_dim,
            num_attention_heads=num_attention_heads,
            use_motion_mid_block=use_motion_module and motion_module_mid_block,
            temporal_transformer_layers_per_block=motion_layers,
            temporal_transformer_layers_per_mid_block=motion_layers,
            motion_max_seq_length=motion_max_seq_length,
            motion_num_attention_heads=motion_num_attention_heads,
        )
        self.gradient_checkpointing = False  # see `_with_checkpoints`
        self.window = Window()
        if not use_inflated_groupnorm:
            self._norm_across_frames()
        self._keep_motion(
            frozenset(motion_module_resolutions) if use_motion_module else frozenset(),
            motion_module_decoder_only,
        )
        self._hear_audio(add_audio_layer)
        self.audio_position = self.audio_embedding = None
        if audio_tokens is not None:
            time_width = block_out_channels[0] * 4
            self.audio_position = nn.Parameter(torch.zeros(audio_tokens, cross_attention_dim))
            self.audio_embedding = TimestepEmbedding(audio_tokens * cross_attention_dim, time_width)

    @property
    def is_temporal(self) -> bool:
        """Whether a frame's result depends on the other frames of its window."""
        kinds = (WindowGroupNorm, AnimateDiffTransformer3D)
        return any(isinstance(module, kinds) for module in self.modules())

    @property
    def has_motion(self) -> bool:
        """Whether motion modules are there; they limit a window to `motion_max_seq_length` frames."""
        return any(isinstance(module, AnimateDiffTransformer3D) for module in self.modules())

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor | None = None,
        *,
        cache: FeatureCache | None = None,
        return_dict: bool = True,
    ) -> UNetMotionOutput | tuple[Tensor]:
        """Prediction (B, out_channels, F, h, w) for `sample` (B, in_channels, F, h, w) at `timestep`, a
        scalar or (B,).

        `encoder_hidden_states`: tokens (B, F, N, D) or (B*F, N, D) with the frame fastest, or None to hear
        nothing. A `cache` gives the deep features of an earlier step, or takes those of this one. Raises:
        ValueError for more frames than the motion modules have positions.
        """
        B, _, frames, _, _ = sample.shape
        if frames > self.config["motion_max_seq_length"] and self.has_motion:
            limit = self.config["motion_max_seq_length"]
            raise ValueError(
                f"{frames} frames in a window; the motion modules know {limit} positions at most"
            )
        audio = None if encoder_hidden_states is None else self._audio_tokens(encoder_hidden_states)
        emb = self.time_embedding(self.time_proj(_timesteps(timestep, B, sample.device)).to(sample.dtype))
        emb = emb.repeat_interleave(frames, dim=0)
        if audio is not None and self.audio_embedding is not None:
            emb = emb + self.audio_embedding(audio.flatten(1))
        self.window.frames = frames
        x = self.conv_in(rearrange(sample, "b c f h w -> (b f) c h w"))
        if cache is not None:
            x = self._with_cache(x, emb, audio, frames, cache)
        elif self.gradient_checkpointing and torch.is_grad_enabled():
            x = self._with_checkpoints(x, emb, audio, frames)
        else:
            x, skips = self._encode(x, emb, audio, frames)
            x = self._middle(x, emb, audio, frames)
            x = self._decode(x, skips, emb, audio, frames)
        x = self.conv_out(self.conv_act(self.conv_norm_out(x)))
        x = rearrange(x, "(b f) c h w -> b c f h w", f=frames)
        return UNetMotionOutput(sample=x) if return_dict else (x,)

    @classmethod
    def from_upstream(
        cls, model_config: Mapping[str, Any], state_dict: Mapping[str, Tensor] | None = None
    ) -> "UNet3DConditionModel":
        """The network of an upstream YAML's `model` section, with upstream's tensors when they are given
        (strictly).

        Raises: ValueError for a configuration this class does not cover, RuntimeError for tensors that do not
        fit.
        """
        arguments = diffusers_config(model_config)
        if state_dict is None:
            return cls(**arguments).eval()
        with torch.device("meta"):  # no memory but the given tensors'
            model = cls(**arguments)
        tensors = from_upstream_names(state_dict)
        _check_complete(model, tensors)
        model.load_state_dict(tensors, strict=False, assign=True)  # all but tables, as was just checked
        for module in model.modules():
            if isinstance(module, SinusoidalPositionalEmbedding) and module.pe.is_meta:
                _, length, width = module.pe.shape
                module.pe = SinusoidalPositionalEmbedding(width, length).pe
        return model.eval()

    def upstream_state_dict(self) -> dict[str, Tensor]:
        """The tensors under upstream's names, as `from_upstream` takes and upstream's code loads them."""
        return to_upstream_names(self.state_dict())

    def _encode(
        self, x: Tensor, emb: Tensor, audio: Tensor | None, frames: int
    ) -> tuple[Tensor, list[Tensor]]:
        skips = [x]
        for block in self.down_blocks:
            hears = {"encoder_hidden_states": audio} if _has_attention(block) else {}
            x, states = block(hidden_states=x, temb=emb, num_frames=frames, **hears)
            skips.extend(states)
        return x, skips

    def _middle(self, x: Tensor, emb: Tensor, audio: Tensor | None, frames: int) -> Tensor:
        with_frames = {"num_frames": frames} if hasattr(self.mid_block, "motion_modules") else {}
        return self.mid_block(x, emb, encoder_hidden_states=audio, **with_frames)

    def _decode(
        self, x: Tensor, skips: list[Tensor], emb: Tensor, audio: Tensor | None, frames: int
    ) -> Tensor:
        for block in self.up_blocks:
            states = tuple(skips[-len(block.resnets) :])
            del skips[-len(block.resnets) :]
            size = skips[-1].shape[2:] if skips else None  # odd sizes: grow to the next skip, not to twice
            hears = {"encoder_hidden_states": audio} if _has_attention(block) else {}
            x = block(
                hidden_states=x,
                res_hidden_states_tuple=states,
                temb=emb,
                upsample_size=size,
                num_frames=frames,
                **hears,
            )
        return x

    def _with_cache(
        self, x: Tensor, emb: Tensor, audio: Tensor | None, frames: int, cache: FeatureCache
    ) -> Tensor:
        """The body of the network layer by layer, with the state that enters the up layer of skip
        `cache.branch` taken from, or given to, the cache.
        """
        down, up = self._down_layers(), self._up_layers()
        if cache.branch > len(down):
            raise ValueError(f"cache branch {cache.branch}: this U-Net has skips 0 to {len(down)} to cut at")
        skips = [x]
        for layer in down[: cache.branch] if cache.reuses else down:
            x = layer(x, emb, audio, frames)
            skips.append(x)
        first = len(up) - 1 - cache.branch
        if cache.reuses and cache.state is not None:
            x = cache.state
        else:
            x = self._middle(x, emb, audio, frames)
            for layer in up[:first]:
                x = layer(x, *_last(skips), emb, audio, frames)
            x = cache.keep(x)
        for layer in up[first:]:
            x = layer(x, *_last(skips), emb, audio, frames)
        return x

    def _with_checkpoints(self, x: Tensor, emb: Tensor, audio: Tensor | None, frames: int) -> Tensor:
        """The body layer by layer: each keeps its input alone and is run again on the way back.

        (The blocks of diffusers do so for resnets only, but most memory is in attention and motion modules.)
        """
        rerun = partial(checkpoint, use_reentrant=False)
        skips = [x]
        for layer in self._down_layers():
            x = rerun(layer, x, emb, audio, frames)
            skips.append(x)
        x = rerun(self._middle, x, emb, audio, frames)
        for layer in self._up_layers():
            x = rerun(layer, x, *_last(skips), emb, audio, frames)
        return x

    def _down_layers(self) -> list[Callable[..., Tensor]]:
        """What makes each skip connection after the first: layers and down-samplers, in order."""
        layers: list[Callable[..., Tensor]] = []
        for block in self.down_blocks:
            layers += [partial(_layer, block, i) for i in range(len(block.resnets))]
            for sampler in block.downsamplers or ():
                layers.append(lambda x, emb, audio, frames, sampler=sampler: sampler(x))
        return layers

    def _up_layers(self) -> list[Callable[..., Tensor]]:
        """What uses each skip connection, last first; the up-sampler belongs to its block's last layer."""
        return [partial(_up_layer, block, i) for block in self.up_blocks for i in range(len(block.resnets))]

    def _audio_tokens(self, tokens: Tensor) -> Tensor:
        tokens = tokens.flatten(0, 1) if tokens.ndim == 4 else tokens
        return tokens if self.audio_position is None else tokens + self.audio_position

    def _norm_across_frames(self) -> None:
        for name, module in list(self.named_modules()):
            parent, _, leaf = name.rpartition(".")
            if isinstance(module, nn.GroupNorm) and (".resnets." in name or name == "conv_norm_out"):
                setattr(self.get_submodule(parent), leaf, WindowGroupNorm(module, self.window))

    def _keep_motion(self, resolutions: frozenset[int], decoder_only: bool) -> None:
        """Switch off the motion modules of levels not wanted (2^i is a level's down-sampling); set the
        others' norm.
        """
        last = len(self.down_blocks) - 1
        for index in range(last + 1):
            if 2**index not in resolutions or decoder_only:
                _switch_off_motion(self.down_blocks[index])
            if 2 ** (last - index) not in resolutions:
                _switch_off_motion(self.up_blocks[index])
        for module in self.modules():
            if isinstance(module, AnimateDiffTransformer3D):
                module.norm = FrameGroupNorm(MOTION_NORM_GROUPS, module.norm.num_channels, module.norm.eps)

    def _hear_audio(self, add_audio_layer: bool) -> None:
        temporal = {
            id(b) for m in self.modules() if isinstance(m, AnimateDiffTransformer3D) for b in m.modules()
        }
        for module in self.modules():
            if not isinstance(module, BasicTransformerBlock) or id(module) in temporal:
                continue
            if add_audio_layer:
                module.attn2.__class__ = (
                    AudioAttention  # same tensors and processors, so LoRA and back ends still work
                )
            else:
                module.attn2 = module.norm2 = None


def _check_complete(model: UNet3DConditionModel, tensors: Mapping[str, Tensor]) -> None:
    """Every tensor but the sinusoidal tables, which the architecture computes itself, and no other."""
    wanted = set(model.state_dict())
    missing = sorted(key for key in wanted - set(tensors) if not key.endswith(TABLE))
    unknown = sorted(set(tensors) - wanted)
    if missing or unknown:
        raise RuntimeError(
            f"the tensors do not fit the configuration: {len(missing)} missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}"
        )


def _layer(block: nn.Module, i: int, x: Tensor, emb: Tensor, audio: Tensor | None, frames: int) -> Tensor:
    """Resnet, attention where the block has it, motion module: layer `i` of a down or up block."""
    resnets, motion_modules = _lists(block, "resnets", "motion_modules")
    x = resnets[i](x, emb)
    if _has_attention(block):
        (attentions,) = _lists(block, "attentions")
        x = attentions[i](x, encoder_hidden_states=audio, return_dict=False)[0]
    return motion_modules[i](x, num_frames=frames)


def _lists(block: nn.Module, *names: str) -> list[nn.ModuleList]:
    """Module lists of a block, which torch types as tensors or modules."""
    return [cast(nn.ModuleList, getattr(block, name)) for name in names]


def _up_layer(
    block: nn.Module,
    i: int,
    x: Tensor,
    skip: Tensor,
    size: Size | None,
    emb: Tensor,
    audio: Tensor | None,
    frames: int,
) -> Tensor:
    """Layer `i` of an up block, and after its last the up-sampler, to `size` (None: to twice)."""
    x = _layer(block, i, torch.cat([x, skip], dim=1), emb, audio, frames)
    if i == len(block.resnets) - 1:
        for sampler in block.upsamplers or ():
            x = sampler(x, size)
    return x


def _last(skips: list[Tensor]) -> tuple[Tensor, Size | None]:
    """The last skip connection, which is taken out, and the height and width of the one before."""
    skip = skips.pop()
    return skip, skips[-1].shape[2:] if skips else None


def _timesteps(timestep: Tensor | float | int, batch: int, device: torch.device) -> Tensor:
    return torch.as_tensor(timestep, device=device).reshape(-1).expand(batch)


def _has_attention(block: nn.Module) -> bool:
    return bool(getattr(block, "has_cross_attention", False))


def _switch_off_motion(block: nn.Module) -> None:
    block.motion_modules = nn.ModuleList([NoMotion() for _ in block.resnets])
