"""The YAML of a Synchformer training, its three kinds alike, with upstream's field names where it has them.

Source of names and of the numbers in configs/synchformer/: v-iashin/Synchformer, segment_avclip.yaml,
sync.yaml, ft_synchability.yaml.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from latentsync.errors import ConfigError
from latentsync.sync.synchformer.augment import Augmentation
from latentsync.sync.synchformer.crops import FPS
from latentsync.sync.synchformer.viewing import FACE, Viewing
from latentsync.training import LoopConfig

KINDS = ("segment_avclip", "sync", "ft_synchability")


@dataclass(frozen=True)
class DataConfig:
    """Which collection (`dataset`: a layout of `layouts.LAYOUTS` in `vids_path`), what is seen of it (see
    `Viewing`), and how it is changed in training.

    `lists` is upstream's data/ folder; `fixed_offsets` a table or a folder of tables, used on the splits in
    `load_fixed_offsets_on`. Times in seconds. `crop_jitter_px` None lets a random square lie anywhere.
    `balance_speakers` draws rarely filmed people more often. `check_lengths` looks into every file first and
    drops those that are too short. `iter_times` is how often a test goes through its clips with random
    offsets. `augment` changes faces and voices in training as SyncNet's are, beside upstream's changes: each
    segment by itself in stage I, whole crops after.
    """

    dataset: str = "packed"
    vids_path: str = "???"
    lists: str = ""
    fixed_offsets: str = ""
    load_fixed_offsets_on: list[str] = field(default_factory=list)
    iter_times: int = 1
    size_ratio: float = 1.0
    balance_speakers: bool = False
    check_lengths: bool = True
    keep_priming: bool = False
    view: str = "scene"
    size_before_crop: int = 256
    input_size: int = 224
    crop_top: float = 0.5
    crop_left: float = 0.5
    is_spatial_crop_random: bool = True
    crop_jitter_px: int | None = None
    sometimes_upscale_p: float = 0.0
    smaller_input_size: int = 192
    segment_size_vframes: int = 16
    n_segments: int = 14
    step_size_seg: float = 0.5
    is_temporal_crop_random: bool = True
    crop_len_sec: float = 5.0
    clip_max_len_sec: float = 10.0
    max_off_sec: float = 2.0
    num_off_cls: int = 21
    audio_jitter_sec: float = 0.05
    p_horizontal_flip: float = 0.5
    p_color_jitter: float = 0.0
    color_jitter_strength: float = 1.0
    p_gray_scale: float = 0.0
    p_audio_aug: float = 0.0
    augment: bool = False

    @classmethod
    def showing(cls, viewing: Viewing, **others: Any) -> "DataConfig":
        """A configuration whose clips look as a network wants them; `others` are its further fields."""
        return cls(
            view=viewing.kind,
            size_before_crop=viewing.side,
            input_size=viewing.crop,
            crop_top=viewing.top,
            crop_left=viewing.left,
            segment_size_vframes=viewing.segment_frames,
            n_segments=viewing.segments,
            step_size_seg=viewing.step_frames / viewing.segment_frames,
            crop_len_sec=viewing.crop_seconds,
            max_off_sec=viewing.offset_limit_seconds,
            num_off_cls=viewing.offset_classes,
            **others,
        )

    @property
    def viewing(self) -> Viewing:
        """Raises: ValueError for numbers that contradict each other."""
        step = self.step_size_seg * self.segment_size_vframes
        if step != round(step):
            raise ValueError(
                f"data.step_size_seg {self.step_size_seg} of {self.segment_size_vframes} frames is no whole "
                "number of frames"
            )
        return Viewing(
            kind=self.view,
            side=self.size_before_crop,
            crop=self.input_size,
            top=self.crop_top,
            left=self.crop_left,
            crop_frames=round(self.crop_len_sec * FPS),
            segments=self.n_segments,
            segment_frames=self.segment_size_vframes,
            step_frames=round(step),
            offset_limit_seconds=self.max_off_sec,
            offset_classes=self.num_off_cls,
        )

    def needed_frames(self, kind: str) -> int:
        """The shortest clip that serves a training of that kind, in frames."""
        if kind == KINDS[0]:
            return self.viewing.span_frames
        away = self.viewing.crop_frames if kind == KINDS[2] else 0
        return self.viewing.crop_frames + max(away, math.ceil(self.max_off_sec * FPS))

    @property
    def augmentation(self) -> Augmentation:
        return Augmentation(
            flip=self.p_horizontal_flip,
            colour=self.p_color_jitter,
            strength=self.color_jitter_strength,
            grey=self.p_gray_scale,
            sound=self.p_audio_aug,
        )


@dataclass(frozen=True)
class ModelConfig:
    """Sizes (arguments of the extractors and of `SyncTransformer`) and where to begin.

    `motionformer` (ssv2_divided_224_16x4.pyth) and `ast` (a folder of
    MIT/ast-finetuned-audioset-10-10-0.4593) start stage I, `segments` (a network of stage I) stage II,
    `start` (one of stage II) the fine-tuning; "" begins with random weights. `is_trainable`: whether the
    extractors learn in stage II and after. `teacher` is a StableSyncNet of pixels and as many frames as a
    segment, which stage I imitates (see `lessons`).
    """

    visual: dict[str, Any] = field(default_factory=dict)
    audio: dict[str, Any] = field(default_factory=dict)
    sync: dict[str, Any] = field(default_factory=dict)
    motionformer: str = ""
    ast: str = ""
    segments: str = ""
    start: str = ""
    is_trainable: bool = False
    teacher: str = ""


@dataclass(frozen=True)
class RunConfig:
    """`num_epochs` above 0 replaces `loop.steps`; the best of `metric_name` on "valid" is kept in best/, and
    `patience` validations without a better one end the run (0: never). `lr_of_each_process` multiplies the
    learning rate by the number of processes. `win_size` are the segments of a window in stage I's validation;
    `max_valid_clips` bounds any validation (0: all); stages II and III take `valid_passes` over them, each
    with other offsets, for few clips held back say little in one. In stage I, `own_clip_only` has segments
    told from others of their clip alone, whose person and voice say nothing; `teacher_weight` is that of the
    distance from the teacher.
    """

    num_epochs: int = 0
    patience: int = 0
    metric_name: str = "accuracy_1"
    lr_of_each_process: bool = False
    adam_eps: float = 1e-8
    init_scale: float = 0.07
    gather_for_loss: bool = False
    own_clip_only: bool = False
    teacher_weight: float = 1.0
    win_size: int = 8
    max_valid_clips: int = 0
    valid_batch_size: int = 8
    valid_passes: int = 1
    pictures: bool = True


@dataclass(frozen=True)
class SynchformerTrainConfig:
    kind: str = "sync"
    output: str = "???"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    run: RunConfig = field(default_factory=RunConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def check(self) -> Viewing:
        """What the network will look at. Raises: ConfigError for settings that contradict each other."""
        if self.kind not in KINDS:
            raise ConfigError(f"kind is {self.kind!r}; expected one of {', '.join(KINDS)}")
        try:
            viewing = self.data.viewing
        except ValueError as error:
            raise ConfigError(f"data: {error}") from error
        jitter = self.data.audio_jitter_sec
        if self.kind != KINDS[0] and jitter > viewing.grid.step_seconds / 2:
            raise ConfigError(
                f"data.audio_jitter_sec {jitter} is more than half a step of the offsets "
                f"({viewing.grid.step_seconds:g} s): the class would be another"
            )
        if self.kind == KINDS[0] and not 1 <= self.run.win_size < self.data.n_segments:
            raise ConfigError(
                f"run.win_size is {self.run.win_size}; windows are told apart only below data.n_segments "
                f"({self.data.n_segments})"
            )
        if self.run.own_clip_only and self.run.gather_for_loss:
            raise ConfigError("run.own_clip_only leaves nothing to gather: switch gather_for_loss off")
        if self.model.teacher and (self.kind != KINDS[0] or viewing.kind != FACE):
            raise ConfigError("model.teacher is for stage I (kind segment_avclip) with data.view 'face'")
        if self.model.teacher and viewing.step_frames % 2:
            raise ConfigError(
                f"model.teacher is asked about every second frame, and segments lie {viewing.step_frames} "
                "frames apart: set data.step_size_seg so that they are an even number"
            )
        if viewing.kind == FACE and self.data.dataset not in ("packed",):
            raise ConfigError("data.view 'face' needs faces that are aligned already: data.dataset packed")
        if self.kind == KINDS[2] and self.data.load_fixed_offsets_on:
            raise ConfigError("ft_synchability draws its offsets: leave data.load_fixed_offsets_on empty")
        return viewing
