"""New networks begin with the weights that their configuration names, each in its place."""

import json

import pytest
import torch
from synchformer_clips import SIZES, VIEWING, tiny_synchformer
from transformers import ASTConfig, ASTModel

from latentsync.errors import CheckpointError, ConfigError, TrainingError
from latentsync.sync.synchformer import SegmentContrast, Synchformer
from latentsync.sync.synchformer.best import Best, PatienceEnded
from latentsync.sync.synchformer.build import build_segments, build_synchformer, shorter_positions
from latentsync.sync.synchformer.train import loop_of, parameter_groups
from latentsync.sync.synchformer.training_config import (
    DataConfig,
    ModelConfig,
    RunConfig,
    SynchformerTrainConfig,
)
from latentsync.sync.synchformer.viewing import Viewing
from latentsync.training import LoopConfig

DATA = DataConfig.showing(Viewing.from_config(VIEWING), vids_path="x", dataset="folder")
WIDTHS = {
    "visual": {"width": 16, "layers": 1, "heads": 2},
    "audio": {"width": 16, "layers": 1, "heads": 2},
    "sync": {"width": 16, "layers": 1, "heads": 2},
}


def config(kind="sync", run=None, **model):
    run = RunConfig(win_size=2, **(run or {}))
    return SynchformerTrainConfig(
        kind=kind, output="x", data=DATA, model=ModelConfig(**WIDTHS, **model), run=run
    )


def segments_folder(tmp_path):
    torch.manual_seed(5)
    contrast = SegmentContrast(**SIZES, viewing=VIEWING)
    contrast.save_pretrained(tmp_path / "segments")
    return tmp_path / "segments", contrast


def test_what_follows_from_the_viewing_is_not_asked_for_twice():
    network = build_synchformer(config())
    assert (network.segments, network.classes) == (3, 5)
    assert (network.vfeat_extractor.grid, network.vfeat_extractor.frames) == (2, 8)
    assert network.afeat_extractor.columns == 34
    assert network.viewing == Viewing.from_config(VIEWING)


def test_stage_two_begins_with_the_extractors_of_stage_one_and_leaves_them_alone(tmp_path):
    place, contrast = segments_folder(tmp_path)
    network = build_synchformer(config(segments=str(place)))
    held = contrast.state_dict()
    for old, new in (("v_encoder.", "vfeat_extractor."), ("a_encoder.", "afeat_extractor.")):
        for name, value in network.state_dict().items():
            if name.startswith(new):
                assert torch.equal(value, held[old + name.removeprefix(new)])
    assert not any(p.requires_grad for p in network.vfeat_extractor.parameters())
    free = build_synchformer(config(segments=str(place), is_trainable=True))
    assert all(p.requires_grad for p in free.parameters())


def test_fine_tuning_cuts_the_positions_and_gets_a_new_head(tmp_path):
    start = tiny_synchformer(positions=2 + 4 * 6)
    start.save_pretrained(tmp_path / "sync")
    network = build_synchformer(config("ft_synchability", start=str(tmp_path / "sync")), "sync_head")
    assert (network.classes, network.judges_offsets, network.segments) == (2, False, 3)
    table = network.transformer.pos_emb_cfg.pos_emb
    assert torch.equal(table, start.transformer.pos_emb_cfg.pos_emb[:, :20])
    assert torch.equal(network.transformer.ln_f.weight, start.transformer.ln_f.weight)
    tiny_synchformer(positions=2 + 2 * 6).save_pretrained(tmp_path / "short")
    with pytest.raises(CheckpointError, match="14 positions and 20 are needed"):
        build_synchformer(config("ft_synchability", start=str(tmp_path / "short")), "sync_head")


def test_motionformers_own_weights(tmp_path):
    donor = SegmentContrast(**SIZES).v_encoder.state_dict()
    held = {name: value for name, value in donor.items() if not name.startswith("spatial_attn_agg")}
    held |= {"head.weight": torch.zeros(174, 16), "patch_embed.proj.weight": torch.zeros(16, 3, 16, 16)}
    torch.save({"model_state": held, "epoch": 3, "cfg": "TRAIN: 1"}, tmp_path / "ssv2.pyth")
    network = build_segments(config("segment_avclip", motionformer=str(tmp_path / "ssv2.pyth")))
    assert torch.equal(network.v_encoder.temp_embed, held["temp_embed"])
    del held["blocks.0.timeattn.qkv.weight"]
    torch.save({"model_state": held}, tmp_path / "joint.pyth")
    with pytest.raises(CheckpointError, match=r"lacks blocks\.0\.timeattn\.qkv\.weight"):
        build_segments(config("segment_avclip", motionformer=str(tmp_path / "joint.pyth")))


def test_asts_own_weights_keep_their_places(tmp_path):
    """A shorter mel takes the positions of the same bands and times, not the first rows of the table."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    donor = ASTModel(ASTConfig(**sizes, max_length=106))
    torch.nn.init.normal_(donor.embeddings.position_embeddings)
    donor.save_pretrained(tmp_path / "ast")
    network = build_segments(config("segment_avclip", ast=str(tmp_path / "ast")))
    grid = donor.embeddings.position_embeddings[0, 2:].reshape(12, 10, 16)
    found = network.a_encoder.ast.embeddings.position_embeddings[0, 2:].reshape(12, 2, 16)
    assert torch.equal(found, grid[:, :2])
    assert torch.equal(network.a_encoder.ast.layernorm.weight, donor.layernorm.weight)
    with pytest.raises(CheckpointError, match="no AST in"):
        build_segments(config("segment_avclip", ast=str(tmp_path)))
    with pytest.raises(CheckpointError, match=r"\(12, 10\) patches; \(12, 11\) are needed"):
        shorter_positions(donor.embeddings.position_embeddings, (12, 10), (12, 11))


def test_sizes_that_do_not_fit_are_refused(tmp_path):
    place, _ = segments_folder(tmp_path)
    wider = {**WIDTHS, "visual": {"width": 32, "layers": 1, "heads": 2}}
    wanted = SynchformerTrainConfig(output="x", data=DATA, model=ModelConfig(**wider, segments=str(place)))
    with pytest.raises(CheckpointError, match=r"vfeat_extractor\.\w+ is .* there and .* here"):
        build_synchformer(wanted)
    odd = {**WIDTHS, "visual": {"width": 15, "layers": 1, "heads": 2}}
    with pytest.raises(ConfigError, match="15 cannot be shared out over 2"):
        build_synchformer(SynchformerTrainConfig(output="x", data=DATA, model=ModelConfig(**odd)))
    misspelt = {**WIDTHS, "visual": {"witdh": 16}}
    with pytest.raises(ConfigError, match="witdh"):
        build_segments(SynchformerTrainConfig(output="x", data=DATA, model=ModelConfig(**misspelt)))


def test_epochs_and_learning_rates_follow_the_processes():
    wanted = config(run={"num_epochs": 3, "lr_of_each_process": True, "adam_eps": 1e-7})
    assert loop_of(wanted, clips=100, processes=2).steps == 3 * 100 // 32
    network = build_synchformer(wanted)
    matrices, vectors = parameter_groups(network, wanted, processes=4)
    assert matrices["lr"] == 4 * LoopConfig.learning_rate and matrices["eps"] == 1e-7
    assert vectors["weight_decay"] == 0 < matrices["weight_decay"]
    learning = sum(p.requires_grad for p in network.parameters())
    assert len(matrices["params"]) + len(vectors["params"]) == learning


def test_the_best_network_is_kept_and_patience_ends(tmp_path):
    best = Best(tmp_path, "accuracy_1", patience=2)
    network = tiny_synchformer()
    heard = []
    for step, value in ((10, 0.2), (20, 0.5), (30, 0.4)):
        with torch.no_grad():
            network.vproj.bias.fill_(value)
        best.keep(network, step, {"accuracy_1": value})
        best.hear({"step": step, "accuracy_1": value})
        heard.append(value)
    best.hear({"step": 35, "loss": 1.0})  # no validation
    assert best.stored()["step"] == 20
    assert Synchformer.from_pretrained(tmp_path / "best").vproj.bias.tolist() == [0.5] * 16
    with pytest.raises(PatienceEnded, match=r"step 40: 2 validations without a accuracy_1 above 0\.5"):
        best.hear({"step": 40, "accuracy_1": 0.5})
    assert not issubclass(PatienceEnded, TrainingError)  # the loop's own failures are other things


def test_patience_counts_on_where_a_run_was_stopped(tmp_path):
    (tmp_path / "checkpoint-20").mkdir()
    rows = ((10, 0.5), (20, 0.4), (30, 0.9))
    lines = [json.dumps({"step": step, "accuracy_1": value}) + "\n" for step, value in rows]
    (tmp_path / "log.jsonl").write_text("".join(lines))
    best = Best(tmp_path, "accuracy_1", patience=2)  # step 30 is after the checkpoint: it comes again
    with pytest.raises(PatienceEnded):
        best.hear({"step": 30, "accuracy_1": 0.3})
