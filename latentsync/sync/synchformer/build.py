"""New networks of a training's configuration, begun with the weights that it names.

Source: v-iashin/Synchformer. What it does otherwise: it keeps the first 74 rows of AST's positions, which
belong to other frequencies and times in a mel of 66 columns than in one of 1024; here each goes to its own
place.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ASTModel

from latentsync.checkpoint import first_line, read_weights
from latentsync.errors import CheckpointError, ConfigError
from latentsync.sync.synchformer.crops import SAMPLES_PER_FRAME
from latentsync.sync.synchformer.inputs import mel_columns
from latentsync.sync.synchformer.keys import UNUSED, extractors_of
from latentsync.sync.synchformer.network import SegmentContrast, Synchformer
from latentsync.sync.synchformer.open import open_segments, open_synchformer
from latentsync.sync.synchformer.spectrogram_transformer import SPECIAL_TOKENS, AudioExtractor
from latentsync.sync.synchformer.sync_transformer import HEADS
from latentsync.sync.synchformer.training_config import ModelConfig, SynchformerTrainConfig
from latentsync.sync.synchformer.viewing import Viewing

TUBELET = 2
MOTIONFORMER_HEADS = ("head.", "head_drop.", "pre_logits.", UNUSED)
NEW_IN_EXTRACTOR = "spatial_attn_agg."
POSITIONS = "transformer.pos_emb_cfg.pos_emb"


def build_segments(config: SynchformerTrainConfig) -> SegmentContrast:
    """The network of stage I. Raises: ConfigError, CheckpointError, FileNotFoundError."""
    model, viewing = config.model, config.check()
    torch.manual_seed(config.loop.seed)
    visual, audio = _extractor_arguments(model, viewing)
    try:
        network = SegmentContrast(visual, audio, viewing.as_config(), config.run.init_scale)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"model: {first_line(error)}") from error
    if model.motionformer:
        load_motionformer(network.v_encoder, model.motionformer)
    if model.ast:
        load_ast(network.a_encoder, model.ast)
    return network


def build_synchformer(config: SynchformerTrainConfig, head: str = HEADS[0]) -> Synchformer:
    """The network of stage II, or with the head "sync_head" of synchronizability.

    Its extractors are frozen unless the configuration trains them. Raises: as `build_segments`.
    """
    model, viewing = config.model, config.check()
    torch.manual_seed(config.loop.seed)
    visual, audio = _extractor_arguments(model, viewing)
    try:
        extractor = AudioExtractor(**audio)
        moments = viewing.segment_frames // visual.get("tubelet", TUBELET) + extractor.grid[1]
        sync = {
            **model.sync,
            "positions": 2 + viewing.segments * moments,
            "classes": viewing.offset_classes if head == HEADS[0] else 2,
            "head": head,
        }
        network = Synchformer(visual, audio, sync, viewing.as_config())
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"model: {first_line(error)}") from error
    if model.segments:
        held = open_segments(model.segments).state_dict()
        _load_part(network, extractors_of(held), model.segments)
    if model.start:
        load_start(network, open_synchformer(model.start), model.start)
    return network if model.is_trainable else network.freeze_extractors()


def load_start(network: Synchformer, start: Synchformer, place: str | Path) -> None:
    """Begin `network` with another's weights: positions cut to as many as are needed, another head left new.

    Raises: CheckpointError for fewer positions, or other sizes.
    """
    held, wanted = start.state_dict(), network.state_dict()
    needed, there = wanted[POSITIONS].shape[1], held[POSITIONS].shape[1]
    if there < needed:
        raise CheckpointError(
            f"{str(place)!r} has {there} positions and {needed} are needed: take no more segments than it has"
        )
    held[POSITIONS] = held[POSITIONS][:, :needed]
    own = {name: value for name, value in held.items() if name in wanted}
    _load_part(network, own, place)


def load_motionformer(extractor: nn.Module, path: str | Path) -> None:
    """Motionformer's own weights (ssv2_divided_224_16x4.pyth); the aggregation layer stays new.

    Raises: FileNotFoundError, CheckpointError.
    """
    held = {
        name: value
        for name, value in read_weights(path).tensors.items()
        if not name.startswith(MOTIONFORMER_HEADS)
    }
    missing = {name for name in extractor.state_dict() if not name.startswith(NEW_IN_EXTRACTOR)} - set(held)
    if missing:
        raise CheckpointError(
            f"{str(path)!r} is no Motionformer with divided attention: it lacks {sorted(missing)[0]}"
        )
    _load_part(extractor, held, path)


def load_ast(extractor: AudioExtractor, folder: str | Path) -> None:
    """AST's own weights, a transformers folder; of its positions those that a shorter mel has.

    Raises: CheckpointError.
    """
    try:
        ast = ASTModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"no AST in {str(folder)!r}: {first_line(error)}") from error
    held = dict(ast.state_dict())
    name = "embeddings.position_embeddings"
    held[name] = shorter_positions(held[name], ast.embeddings.get_shape(ast.config), extractor.grid)
    _load_part(extractor.ast, held, folder)


def shorter_positions(table: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """Positions (1, 2 + f t, D) of a mel of f x t patches -> those of its first `wanted` bands and times.

    Raises: CheckpointError where there are not so many.
    """
    if grid[0] < wanted[0] or grid[1] < wanted[1]:
        raise CheckpointError(f"AST has positions for {grid} patches; {wanted} are needed")
    places = table[:, SPECIAL_TOKENS:].unflatten(1, grid)[:, : wanted[0], : wanted[1]]
    return torch.cat([table[:, :SPECIAL_TOKENS], places.flatten(1, 2)], dim=1)


def _extractor_arguments(model: ModelConfig, viewing: Viewing) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sizes of both extractors; what follows from the viewing is not asked for twice."""
    visual = {**model.visual, "resolution": viewing.crop, "frames": viewing.segment_frames}
    columns = mel_columns(viewing.segment_frames * SAMPLES_PER_FRAME)
    return visual, {**model.audio, "columns": columns}


def _load_part(network: nn.Module, tensors: Mapping[str, Tensor], place: str | Path) -> None:
    """Put `tensors` into `network`, each of which must have its place and shape there."""
    wanted = network.state_dict()
    for name, value in tensors.items():
        if name not in wanted or wanted[name].shape != value.shape:
            there = tuple(wanted[name].shape) if name in wanted else "no such tensor"
            raise CheckpointError(
                f"{str(place)!r} does not fit the configuration: {name} is {tuple(value.shape)} there and "
                f"{there} here"
            )
    network.load_state_dict(dict(tensors), strict=False)
