"""The three trainings of Synchformer from end to end, on talkers made on the spot."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from footage_clips import write_packed
from safetensors.torch import load_file

from latentsync.config import load_config
from latentsync.sync.synchformer.open import open_segments, open_synchformer
from latentsync.sync.synchformer.training_config import KINDS, SynchformerTrainConfig
from latentsync.training import read_log

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs" / "synchformer"
WIDTHS = {"width": 16, "layers": 1, "heads": 2}
SMALL = {
    "data": {
        "dataset": "packed",
        "view": "face",
        "size_before_crop": 32,
        "input_size": 32,
        "segment_size_vframes": 8,
        "step_size_seg": 0.5,
        "n_segments": 3,
        "crop_len_sec": 0.88,
        "max_off_sec": 0.4,
        "num_off_cls": 5,
        "is_spatial_crop_random": False,
        "p_horizontal_flip": 0.0,
        "iter_times": 2,
    },
    "model": {"visual": WIDTHS, "audio": WIDTHS, "sync": WIDTHS},
    "run": {"win_size": 2},
    "loop": {"batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 2, "log_every": 2, "save_every": 4},
}
METRICS = {
    "segment_avclip": "precision",
    "sync": "accuracy_1",
    "ft_synchability": "roc_auc",
}


def script(name):
    spec = importlib.util.spec_from_file_location(Path(name).stem + "_script", ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "packed"
    splits = ["train"] * 6 + ["val"] * 3
    return write_packed(folder, frames=[50] * 9, speakers=list("aabbcddde"), splits=splits)


@pytest.fixture
def train(tmp_path, packed, monkeypatch):
    """`train(kind, output, *overrides)` as the command line does it; gives the run's folder."""

    def run(kind, output, *overrides, **sections):
        tree = {"kind": kind, "output": str(tmp_path / output)}
        for name, values in SMALL.items():
            tree[name] = {**values, **sections.get(name, {})}
        tree["data"]["vids_path"] = str(packed)
        tree["run"] = {**tree["run"], "metric_name": METRICS[kind]}
        path = tmp_path / f"{output}.yaml"
        path.write_text(yaml.safe_dump(tree))
        monkeypatch.setattr(sys, "argv", ["train", "--config", str(path), *overrides])
        assert script("scripts/train_synchformer.py").main() == 0
        return tmp_path / output

    return run


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_committed_configurations_load_and_agree_with_themselves(name):
    place = {"output=x", "data.vids_path=x"}
    text = (CONFIGS / f"{name}.yaml").read_text()
    place |= {f"{key}=x" for key in ("model.segments", "model.start") if f"{key.split('.')[1]}: ???" in text}
    place |= {"data.fixed_offsets=x"} if "fixed_offsets: ???" in text else set()
    config = load_config(SynchformerTrainConfig, CONFIGS / f"{name}.yaml", sorted(place))
    assert config.kind in KINDS
    viewing = config.check()
    if not name.startswith("tiny"):
        assert (
            viewing.span_frames == {"segment_avclip": 224, "sync": 120, "ft_synchability": 112}[config.kind]
        )


@pytest.mark.slow
def test_the_three_stages_run_one_after_the_other(train, packed, monkeypatch, capsys):
    first = train("segment_avclip", "one", "loop.steps=8", "run.own_clip_only=true", "data.augment=true")
    contrast = open_segments(first / "best")
    rows = read_log(first / "log.jsonl")
    assert {"precision", "precision_a", "precision_v", "valid_loss", "train_precision"} <= rows[-1].keys()
    assert [row["loss"] for row in rows if "loss" in row][-1] < 2 * torch.tensor(3.0).log()
    pictures = sorted(path.name for path in (first / "viz/sim_matrices").glob("*.png"))
    assert pictures == ["train_000004.png", "train_000008.png", "valid_000004.png", "valid_000008.png"]

    second = train("sync", "two", "loop.steps=6", "data.augment=true", f"model.segments={first / 'best'}")
    network = open_synchformer(second / "best")
    for name, value in contrast.state_dict().items():
        for old, new in (("v_encoder.", "vfeat_extractor."), ("a_encoder.", "afeat_extractor.")):
            if name.startswith(old):  # frozen all the while
                assert torch.equal(network.state_dict()[new + name.removeprefix(old)], value)
    tested = json.loads((second / "results.json").read_text())["test"]
    assert 0 <= tested["accuracy_1"] <= tested["accuracy_1_tol1"] + 1e-6 <= tested["accuracy_5"] + 1e-6
    rows = read_log(second / "log.jsonl")
    assert {"accuracy_1", "accuracy_1_tol1", "roc_auc", "valid_loss"} <= rows[-1].keys()

    shorter = {"n_segments": 2, "crop_len_sec": 0.48}
    third = train("ft_synchability", "three", "loop.steps=4", f"model.start={second / 'best'}", data=shorter)
    judge = open_synchformer(third / "best")
    assert (judge.judges_offsets, judge.classes, judge.segments) == (False, 2, 2)
    assert "roc_auc" in json.loads((third / "results.json").read_text())["test"]

    common = ["eval", "--dataset", "packed", "--vids_path", str(packed), "--iter_times", "2", "--json"]
    evaluate = script("eval/synchformer.py")
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [*common, "--ckpt", str(second / "best")])
    assert evaluate.main() == 0
    table = json.loads(capsys.readouterr().out)
    assert table["items"] == 6
    assert table["accuracy_1"] == pytest.approx(tested["accuracy_1"])
    flags = ["--ckpt", str(third / "best"), "--offset_ckpt", str(second / "best")]
    monkeypatch.setattr(sys, "argv", [*common, *flags])
    assert evaluate.main() == 0
    shares = [row["kept_share"] for row in json.loads(capsys.readouterr().out)["above_threshold"].values()]
    assert len(shares) == 7 and shares == sorted(shares, reverse=True)


@pytest.mark.slow
def test_a_run_goes_on_as_if_it_had_never_stopped(train):
    settings = {"model": {"is_trainable": True}, "loop": {"lr_scheduler": "constant"}}
    train("sync", "parts", "loop.steps=4", **settings)
    parts = train("sync", "parts", "loop.steps=8", **settings)
    whole = train("sync", "whole", "loop.steps=8", **settings)
    one, other = (load_file(folder / "checkpoint-8/model.safetensors") for folder in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    bests = [json.loads((folder / "best.json").read_text()) for folder in (whole, parts)]
    assert bests[0] == bests[1]


@pytest.mark.slow
def test_gathered_segments_are_told_apart_as_by_one_process(tmp_path):
    """Two processes with half of the batch each have the gradients of one with all of it."""
    command = [sys.executable, str(Path(__file__).with_name("contrast_run.py")), str(tmp_path)]
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (torch.load(tmp_path / f"gradients-{count}.pt", weights_only=True) for count in (1, 2))
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-6, rtol=1e-5)
