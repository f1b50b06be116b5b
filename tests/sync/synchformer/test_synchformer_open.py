"""Synchformer's published files open without running what they hold; a hostile one stays closed."""

import os
from collections import defaultdict

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from latentsync.errors import CheckpointError
from latentsync.sync.synchformer import SegmentContrast, Synchformer
from latentsync.sync.synchformer.inert import StandIn, stand_ins
from latentsync.sync.synchformer.open import open_segments, open_synchformer, read_released

SIZES = {
    "visual": {"EMBED_DIM": 16, "DEPTH": 1, "NUM_HEADS": 2, "crop": 32},
    "audio": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    "sync": {"n_embd": 16, "n_head": 2, "n_layer": 1},
}
OUR_TO_UPSTREAM = {
    ".attention.q_proj.": ".attention.attention.query.",
    ".attention.k_proj.": ".attention.attention.key.",
    ".attention.v_proj.": ".attention.attention.value.",
    ".attention.o_proj.": ".attention.output.dense.",
    ".mlp.fc1.": ".intermediate.dense.",
    ".mlp.fc2.": ".output.dense.",
    ".ast.layers.": ".ast.encoder.layer.",
}
ARGS = {
    "action": "train_avsync_model",
    "data": {
        "max_off_sec": 1.5,
        "n_segments": 14,
        "dataset": {"params": {"load_fixed_offsets_on": ["valid"]}},
    },
    "training": {"base_learning_rate": 2e-6, "resume": False, "seed": "${data.n_segments}", "x": None},
}


class Evil:
    def __reduce__(self):
        return os.system, ("touch was_here",)


def network(positions=198, head="off_head", classes=21):
    torch.manual_seed(0)
    sync = {"positions": positions, "classes": classes}
    model = Synchformer.from_upstream({**SIZES, "sync": {**SIZES["sync"], **sync}})
    state = model.state_dict()
    if head != "off_head":
        state = {name.replace("off_head", head): value for name, value in state.items()}
    return state


def upstreams_names(state, prefix=""):
    """As released: transformers 4's names for AST, the unused patch embedding, DDP's prefix."""
    named = {}
    for name, value in state.items():
        for ours, theirs in OUR_TO_UPSTREAM.items():
            if ".ast.layers." in name or theirs == ".ast.encoder.layer.":
                name = name.replace(ours, theirs) if ".ast." in name else name
        named[prefix + name] = value
    owner = "v_encoder." if "logit_scale" in state else "vfeat_extractor."
    named[f"{prefix}{owner}patch_embed.proj.weight"] = torch.zeros(16, 3, 16, 16)
    return named


def stage_two_file(path, state, **rest):
    """As upstream's Trainer saves: the model beside a pickled OmegaConf configuration."""
    held = {
        "args": OmegaConf.create(ARGS),
        "loss": np.float64(1.2),
        "metrics": {"accuracy_1": np.float32(0.5), "by_class": {10: 0.7}},
        "epoch": 282,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 2e-6}]},
        "model": upstreams_names(state),
        "scaler": {"scale": 65536.0},
        "lr_scheduler": {"last_epoch": 7, "_schedulers": []},
        "model_type": "Synchformer",
        **rest,
    }
    torch.save(held, path)
    return path


def stage_one_file(path):
    torch.manual_seed(1)
    model = SegmentContrast.from_upstream(SIZES)
    held = {
        "epoch": 30,
        "name": "23-12-22T16-04-18",
        "state_dict": upstreams_names(model.state_dict(), "module."),
        "optimizer": {"state": {}, "param_groups": []},
        "scaler": {},
        "metrics": {"sync_w_shifts": {"precision": 0.9}},
        "args": OmegaConf.create({"action": "train_avclip", "training": {"learning_rate": 5e-5}}),
    }
    torch.save(held, path)
    return path, model


def same(model, state):
    held = model.state_dict()
    return held.keys() == state.keys() and all(torch.equal(held[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("positions", "head", "classes", "segments"), [(198, "off_head", 21, 14), (184, "sync_head", 2, 13)]
)
def test_released_files_open_and_say_what_they_are(tmp_path, positions, head, classes, segments):
    state = network(positions, head, classes)
    path = stage_two_file(tmp_path / "24-01-04T16-39-21.pt", state)
    model = open_synchformer(path, SIZES)
    assert same(model, state)
    assert (model.classes, model.segments, model.judges_offsets) == (classes, segments, head == "off_head")
    assert (model.viewing.segments, model.viewing.crop_frames) == (segments, 125)
    assert model.viewing.offset_limit_seconds == 1.5  # as its own configuration says
    _, told = read_released(path)
    assert (told["epoch"], told["model_type"]) == (282, "Synchformer")
    assert told["args"] == ARGS  # interpolations as they were written
    assert told["metrics"]["by_class"] == {10: 0.7}


def test_a_stage_one_file_opens(tmp_path):
    path, model = stage_one_file(tmp_path / "epoch_best.pt")
    assert same(open_segments(path, SIZES), model.state_dict())


def test_a_plain_state_dict_opens_as_mmaudio_has_it(tmp_path):
    state = network()
    torch.save(upstreams_names(state), tmp_path / "synchformer_state_dict.pth")
    assert same(open_synchformer(tmp_path / "synchformer_state_dict.pth", SIZES), state)
    save_file(upstreams_names(state), tmp_path / "synchformer.safetensors")
    assert same(open_synchformer(tmp_path / "synchformer.safetensors", SIZES), state)


def test_a_folder_of_ours_opens(tmp_path):
    model = Synchformer.from_upstream({**SIZES, "sync": {**SIZES["sync"], "positions": 44}})
    model.register_to_config(viewing={"segments": 3, "crop_frames": 40, "kind": "face"})
    model.save_pretrained(tmp_path)
    again = open_synchformer(tmp_path)
    assert same(again, model.state_dict())
    assert (again.viewing.kind, again.viewing.segments, again.viewing.crop) == ("face", 3, 224)
    with pytest.raises(CheckpointError, match="holds a Synchformer; a SegmentContrast"):
        open_segments(tmp_path)


@pytest.mark.parametrize("hidden", [{"metrics": Evil()}, {"args": Evil()}, {"model": {"x": Evil()}}])
def test_a_file_with_code_stays_closed(tmp_path, monkeypatch, hidden):
    monkeypatch.chdir(tmp_path)
    path = stage_two_file(tmp_path / "evil.pt", network(), **hidden)
    with pytest.raises(CheckpointError, match="more than tensors"):
        open_synchformer(path, SIZES)
    assert not (tmp_path / "was_here").exists()


def test_stand_ins_do_nothing_and_are_gone_afterwards(tmp_path, monkeypatch):
    """Even the state of an OmegaConf object is only kept: its `__setstate__` is not called."""
    called = []
    monkeypatch.setattr("omegaconf.DictConfig.__setstate__", lambda self, state: called.append(state))
    path = tmp_path / "a.pt"
    torch.save({"args": OmegaConf.create({"a": 1}), "x": torch.ones(2), "y": defaultdict(dict)}, path)
    with stand_ins():
        held = torch.load(path, weights_only=True)
    assert isinstance(held["args"], StandIn) and not called
    with pytest.raises(Exception, match=r"omegaconf\.dictconfig"):
        torch.load(path, weights_only=True)


def test_files_of_another_kind_are_refused_in_words(tmp_path):
    path, _ = stage_one_file(tmp_path / "epoch_best.pt")
    with pytest.raises(CheckpointError, match="stage I"):
        open_synchformer(path, SIZES)
    offsets = stage_two_file(tmp_path / "offsets.pt", network())
    with pytest.raises(CheckpointError, match="a Synchformer; expected a network of stage I"):
        open_segments(offsets, SIZES)
    with pytest.raises(CheckpointError, match="406 tensor"):  # the released sizes were expected
        open_synchformer(offsets)
    torch.save({"x": torch.zeros(9)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="unknown tensors"):
        open_synchformer(tmp_path / "other.pt")
    lacking = {name: value for name, value in network().items() if not name.startswith("vproj")}
    with pytest.raises(CheckpointError, match=r"2 tensor\(s\) missing \['vproj\.bias'"):
        open_synchformer(stage_two_file(tmp_path / "lacking.pt", lacking), SIZES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        open_synchformer(tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        open_synchformer(tmp_path / "absent.pt")
