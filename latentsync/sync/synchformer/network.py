"""The two networks of Synchformer: one that learns what lips and sound have in common, one that says by how
much they are off.

`B` batch, `S` segments of `T` frames and a mel of `F x T` each, `D` width. Source: v-iashin/Synchformer
(arXiv 2401.16423): AVCLIP (stage I) and Synchformer (stage II, and the synchronizability model), named as in
its checkpoints but for AST's layers and the unused 2-D patch embedding.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from latentsync.sync.stable_syncnet import load_exactly
from latentsync.sync.synchformer.keys import from_original
from latentsync.sync.synchformer.motionformer import VisualExtractor
from latentsync.sync.synchformer.spectrogram_transformer import AudioExtractor
from latentsync.sync.synchformer.sync_transformer import HEADS, SyncTransformer
from latentsync.sync.synchformer.upstream_config import network_arguments, with_sizes_of
from latentsync.sync.synchformer.viewing import Viewing

TEMPERATURE = 0.07
TEMPERATURE_RANGE = (0.001, 0.5)


class Synchformer(ModelMixin, ConfigMixin):
    """Video and sound of some seconds, cut into overlapping segments -> logits of `classes`.

    With 21 classes these are offsets (see `grid.OffsetGrid`); with the head "sync_head" and two, class 1
    means that an offset can be told at all. `visual` and `audio` are arguments of the extractors, `sync` of
    `SyncTransformer`, `viewing` of `Viewing`: what it was made for. The extractors are those of a
    `SegmentContrast` and usually stay as they are.
    """

    @register_to_config
    def __init__(
        self,
        visual: Mapping[str, Any] | None = None,
        audio: Mapping[str, Any] | None = None,
        sync: Mapping[str, Any] | None = None,
        viewing: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.vfeat_extractor = VisualExtractor(**(visual or {}))
        self.afeat_extractor = AudioExtractor(**(audio or {}))
        self.transformer = SyncTransformer(**(sync or {}))
        width = self.transformer.ln_f.normalized_shape[0]
        self.vproj = nn.Linear(self.vfeat_extractor.norm.normalized_shape[0], width)
        self.aproj = nn.Linear(self.afeat_extractor.ast.config.hidden_size, width)

    @property
    def viewing(self) -> Viewing:
        """What it was made to look at and listen to."""
        return Viewing.from_config(self.config.viewing)

    @property
    def classes(self) -> int:
        return self.transformer.head.out_features

    @property
    def judges_offsets(self) -> bool:
        """Whether the classes are offsets; else they say whether an offset can be told."""
        return self.transformer.head_name == HEADS[0]

    @property
    def segments(self) -> int:
        """How many segments it was trained on, which is the most that it takes."""
        moments = self.vfeat_extractor.temp_embed.shape[1] + self.afeat_extractor.grid[1]
        return (self.transformer.pos_emb_cfg.pos_emb.shape[1] - 2) // moments

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        """Logits (B, classes) of `video` (B, S, T, 3, H, W) in [-1, 1] and `audio` (B, S, 1, F, T)."""
        return self.classify(self.vfeat_extractor(video), self.afeat_extractor(audio))

    def classify(self, vision: Tensor, audio: Tensor) -> Tensor:
        """Logits (B, classes) of the extractors' features (B, S, t, D)."""
        vision, audio = self.vproj(vision), self.aproj(audio)
        return self.transformer(vision.flatten(1, 2), audio.flatten(1, 2))

    def train(self, mode: bool = True) -> "Synchformer":
        """As always, but a frozen extractor stays in evaluation mode, without dropped paths."""
        super().train(mode)
        for extractor in (self.vfeat_extractor, self.afeat_extractor):
            if mode and not any(parameter.requires_grad for parameter in extractor.parameters()):
                extractor.eval()
        return self

    def freeze_extractors(self) -> "Synchformer":
        """Train only what comes after the extractors."""
        for extractor in (self.vfeat_extractor, self.afeat_extractor):
            extractor.requires_grad_(False).eval()
        return self

    @classmethod
    def from_upstream(
        cls, config: Mapping[str, Any] | None = None, state_dict: Mapping[str, Tensor] | None = None
    ) -> "Synchformer":
        """The network of an upstream configuration, with upstream's tensors when they are given.

        `config` has the sections `visual`, `audio`, `sync` in the names of Motionformer, AST and minGPT, or
        is upstream's YAML (or its `model` section); what it does not say is as in the released networks, and
        number of positions, classes and kind of head are those of the tensors. `state_dict` may be a
        `state_dict` of ours too.

        Raises: ValueError for a configuration that this class does not cover, RuntimeError for tensors that
        do not fit.
        """
        arguments = network_arguments(config or {})
        if state_dict is not None:
            state_dict = from_original(state_dict)
            arguments = with_sizes_of(arguments, state_dict)
        model = cls(**arguments)
        if state_dict is not None:
            load_exactly(model, state_dict)
        return model.eval()


class SegmentContrast(ModelMixin, ConfigMixin):
    """Stage I: one unit vector a segment for the video and one for the sound, close where they belong
    together.
    """

    @register_to_config
    def __init__(
        self,
        visual: Mapping[str, Any] | None = None,
        audio: Mapping[str, Any] | None = None,
        viewing: Mapping[str, Any] | None = None,
        temperature: float = TEMPERATURE,
    ) -> None:
        super().__init__()
        self.v_encoder = VisualExtractor(**(visual or {}))
        self.a_encoder = AudioExtractor(**(audio or {}))
        self.logit_scale = nn.Parameter(torch.tensor(float(temperature)))  # a temperature, despite its name
        widths = self.v_encoder.norm.normalized_shape[0], self.a_encoder.ast.config.hidden_size
        if widths[0] != widths[1]:
            raise ValueError(f"features of {widths[0]} and {widths[1]} numbers cannot be compared")

    @property
    def viewing(self) -> Viewing:
        """What it was made to look at and listen to."""
        return Viewing.from_config(self.config.viewing)

    @property
    def width(self) -> int:
        """D, of its vectors."""
        return self.v_encoder.norm.normalized_shape[0]

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors (B, S, D) of `video` (B, S, T, 3, H, W) and of `audio` (B, S, 1, F, T), and the
        temperature, kept in TEMPERATURE_RANGE.
        """
        vision, sound = self.v_encoder(video).mean(dim=2), self.a_encoder(audio).mean(dim=2)
        return F.normalize(vision, dim=-1), F.normalize(sound, dim=-1), self.temperature()

    def temperature(self) -> Tensor:
        """The learned temperature, brought back into TEMPERATURE_RANGE if a step led out of it."""
        with torch.no_grad():
            self.logit_scale.clamp_(*TEMPERATURE_RANGE)
        return self.logit_scale

    @classmethod
    def from_upstream(
        cls, config: Mapping[str, Any] | None = None, state_dict: Mapping[str, Tensor] | None = None
    ) -> "SegmentContrast":
        """As `Synchformer.from_upstream`, of stage I."""
        arguments = network_arguments(config or {})
        if state_dict is not None:
            state_dict = from_original(state_dict)
            arguments = with_sizes_of(arguments, state_dict)
        model = cls(visual=arguments["visual"], audio=arguments["audio"])
        if state_dict is not None:
            load_exactly(model, state_dict)
        return model.eval()
