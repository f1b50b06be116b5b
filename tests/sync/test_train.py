"""Training a SyncNet on drawn mouths: it learns, goes on exactly, and says why when it does not."""

import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from footage_clips import write_packed
from sync.tiny_syncnet import MODEL, tiny_config

from latentsync.audio.windows import mel_window
from latentsync.config import load_config
from latentsync.errors import CheckpointError, ConfigError, FootageError
from latentsync.footage.listing import find_clips
from latentsync.sync.accuracy import measure_accuracy, stretch_frames
from latentsync.sync.open_syncnet import open_any_syncnet, open_syncnet
from latentsync.sync.syncnet_config import SyncNetConfig
from latentsync.sync.train import Library, Viewer, open_footage, overfit_one_batch, train_syncnet
from latentsync.training import TrainingStopped, read_log

SPLITS = ["train"] * 6 + ["val"] * 2


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return write_packed(tmp_path_factory.mktemp("packed") / "clips", frames=[90] * 8, splits=SPLITS)


def configured(folder, packed, **sections) -> SyncNetConfig:
    return load_config(SyncNetConfig, tiny_config(folder, packed, **sections))


def weights(network) -> torch.Tensor:
    return torch.cat([value.flatten() for value in network.state_dict().values()])


@pytest.mark.slow
def test_it_learns_and_tells_speakers_it_never_saw(packed, tmp_path):
    config = configured(
        tmp_path,
        packed,
        optimizer={"lr": 1e-3},
        run={"max_train_steps": 80, "validation_steps": 40, "log_every": 10},
    )
    network = train_syncnet(config, Accelerator(cpu=True))
    rows = [row for row in read_log(tmp_path / "run/log.jsonl") if "bce" in row]
    assert rows[0]["bce"] > 0.6 and rows[-1]["bce"] < 0.5
    assert rows[0]["contrastive"] > 1.2 and rows[-1]["contrastive"] < 0.8
    windows = open_footage(config).validation
    asked = {"samples": 200, "batch_size": 50, "see": Viewer(config, torch.device("cpu"), None)}
    scored = measure_accuracy(network.eval(), windows, **asked)
    assert scored.share > 0.75 and scored.roc_auc > 0.8
    assert scored.interval[0] < scored.share < scored.interval[1]
    saved = open_syncnet(tmp_path / "run/syncnet")
    assert measure_accuracy(saved, windows, **asked) == scored
    assert saved.config["num_frames"] == 16 and saved.config["resolution"] == 32


def test_a_longer_question_is_several_windows_of_the_same_clip(packed, tmp_path):
    """The network sees what it would see of windows that begin 5 frames apart, column for column."""
    config = configured(tmp_path, packed)
    library = Library(config)
    windows = library.windows_to_ask(find_clips("", str(packed), split="val"), frames=stretch_frames(16, 3))
    seen = []

    class Spy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, faces, mel):
            seen.append((faces, mel))
            vectors = torch.nn.functional.one_hot(torch.arange(len(faces)) % 3, 4).float()
            return vectors, torch.nn.functional.one_hot(
                torch.tensor([0, 1, 3] * (len(faces) // 3)), 4
            ).float()

    found = measure_accuracy(Spy(), windows, samples=2, batch_size=2, see=lambda faces: faces, frames=16)
    assert [answer.cosine for answer in found.answers] == pytest.approx([2 / 3] * 2)
    ((faces, mel),) = seen
    sample = windows[(0, 1)]
    clip = next(known.file for known in windows.clips if known.file.name == sample["clip"])
    for number in range(3):
        heard = mel_window(library.mel.load(clip), sample["start"] + 5 * number, 16)
        assert torch.equal(mel[3 + number], heard)
        shown = sample["faces"].unflatten(0, (26, 3))[5 * number : 5 * number + 16].flatten(0, 1)
        assert torch.equal(faces[3 + number], shown)


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_exactly(packed, tmp_path):
    whole = train_syncnet(configured(tmp_path / "whole", packed), Accelerator(cpu=True))
    halves = {"run": {"max_train_steps": 4}, "ckpt": {"save_ckpt_steps": 2}}
    first = configured(tmp_path / "halves", packed, run={"max_train_steps": 2}, ckpt=halves["ckpt"])
    train_syncnet(first, Accelerator(cpu=True))
    second = configured(tmp_path / "halves", packed, **halves)
    assert torch.equal(weights(train_syncnet(second, Accelerator(cpu=True))), weights(whole))


def test_pairs_with_labels_as_upstream(packed, tmp_path):
    config = configured(tmp_path, packed, data={"windows_per_clip": 1, "other_clip_share": 0.5})
    train_syncnet(config, Accelerator(cpu=True))
    rows = [row for row in read_log(tmp_path / "run/log.jsonl") if "bce" in row]
    assert len(rows) == 4 and all(row["loss"] == row["bce"] for row in rows)


@pytest.mark.slow
def test_the_best_answer_is_kept_and_not_the_last(packed, tmp_path, monkeypatch):
    from latentsync.sync import accuracy, train

    told = iter([0.6, 0.9, 0.7])
    real = measure_accuracy

    def scripted(*arguments, **options):
        monkeypatch.setattr(accuracy.Accuracy, "roc_auc", property(lambda self: next(told)))
        return real(*arguments, **options)

    monkeypatch.setattr(train, "measure_accuracy", scripted)
    seen = []
    original = train.StableSyncNet.save_pretrained

    def saved(self, folder, **options):
        seen.append((folder.name, weights(self)))
        original(self, folder, **options)

    monkeypatch.setattr(train.StableSyncNet, "save_pretrained", saved)
    run = {"max_train_steps": 3, "validation_steps": 1}
    network = train_syncnet(configured(tmp_path, packed, run=run), Accelerator(cpu=True))
    assert [name for name, _ in seen] == ["best", "best", "syncnet"]
    assert torch.equal(seen[2][1], seen[1][1]) and torch.equal(weights(network), seen[1][1])


@pytest.mark.slow
def test_latents_are_seen_through_the_autoencoder(packed, tmp_path):
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8],
        norm_num_groups=4,
        sample_size=32,
    )
    visual = {"in_channels": 64, "block_out_channels": [32, 64], "downsample_factors": [4, 4]}
    config = configured(
        tmp_path,
        packed,
        model=MODEL | {"visual_encoder": visual | {"block_out_channels": [32, 128]}},
        data={"latent_space": True, "lower_half": False},
    )
    train_syncnet(config, Accelerator(cpu=True), vae=vae)
    see = Viewer(config, torch.device("cpu"), vae)
    faces = torch.rand(2, 48, 32, 32) * 2 - 1
    torch.manual_seed(1)
    latents = see(faces)
    torch.manual_seed(1)
    wanted = vae.encode(faces[0].unflatten(0, (16, 3))).latent_dist.mean * vae.config.scaling_factor
    assert latents.shape == (2, 64, 16, 16)
    assert np.corrcoef(latents[0].flatten(), wanted.detach().flatten())[0, 1] > 0.3
    with pytest.raises(ValueError, match="vae_path"):
        Viewer(config, torch.device("cpu"), None)


@pytest.mark.slow
def test_wav2lip_is_trained_and_opened(tmp_path):
    packed = write_packed(tmp_path / "clips", frames=[40, 40], side=256)
    config = configured(
        tmp_path,
        packed,
        model={"wav2lip": {"act_fn": "relu"}},
        data={"num_frames": 5, "resolution": 256, "windows_per_clip": 2, "batch_size": 2},
        run={"max_train_steps": 1},
    )
    network = train_syncnet(config, Accelerator(cpu=True))
    again = open_any_syncnet(tmp_path / "run/syncnet")
    assert type(again) is type(network) and torch.equal(weights(again), weights(network))
    with pytest.raises(ValueError, match="5 lower halves of 256 px"):
        configured(tmp_path, packed, model={"wav2lip": {}}).build()


def test_weights_to_start_from_must_fit(packed, tmp_path, caplog):
    train_syncnet(configured(tmp_path, packed, run={"max_train_steps": 1}), Accelerator(cpu=True))
    start = {"resume_ckpt_path": str(tmp_path / "run/syncnet")}
    from latentsync.sync.train import build

    network = build(configured(tmp_path / "next", packed, ckpt=start))
    assert torch.equal(weights(network), weights(open_syncnet(tmp_path / "run/syncnet")))
    last = "visual_encoder.down_blocks.2.conv2.weight"
    lean = {
        name: model | {"block_out_channels": [*model["block_out_channels"][:-1], 96]}
        for name, model in MODEL.items()
    }
    with caplog.at_level("INFO"):
        narrow = build(configured(tmp_path / "narrow", packed, ckpt=start, model=lean)).state_dict()
    assert torch.equal(narrow[last], network.state_dict()[last][:96, :96])
    assert "is wider" in caplog.text and "give their first channels" in caplog.text
    other = MODEL | {"visual_encoder": MODEL["visual_encoder"] | {"block_out_channels": [32, 64, 64]}}
    with pytest.raises(CheckpointError, match=r"has shape|do not fit"):
        build(configured(tmp_path / "other", packed, ckpt=start, model=other))


def test_a_resumed_run_must_be_the_same(packed, tmp_path):
    train_syncnet(configured(tmp_path, packed, run={"max_train_steps": 1}), Accelerator(cpu=True))
    changed = configured(tmp_path, packed, run={"temperature": 0.2})
    with pytest.raises(ConfigError, match=r"run\.temperature"):
        train_syncnet(changed, Accelerator(cpu=True))


@pytest.mark.slow
def test_a_loss_that_stays_at_ln_2_raises_the_alarm(tmp_path, monkeypatch):
    """Every clip has the sound of another time: there is nothing to learn, and the alarm says so."""
    monkeypatch.setattr("latentsync.sync.train.STUCK_WITHIN", 0.3)  # of a network that was never trained
    packed = write_packed(tmp_path / "clips", frames=[120] * 24)
    for number in range(24):
        path = packed / f"c{number}" / "waveform.npy"
        np.save(path, np.roll(np.load(path), (20 + 7 * number) * 640))
    config = configured(
        tmp_path,
        packed,
        optimizer={"lr": 1e-7},
        data={"batch_size": 2},
        run={"max_train_steps": 8, "alarm_steps": 4, "contrastive_weight": 0.0},
    )
    train_syncnet(config, Accelerator(cpu=True))
    text = (tmp_path / "run/alarm.txt").read_text()
    assert "ln 2" in text and "a step learns from 8 windows" in text
    assert "of the footage: lips and sound agree hardly better than by chance" in text


def test_one_batch_is_learned_by_heart(packed, tmp_path):
    report = overfit_one_batch(configured(tmp_path, packed), Accelerator(cpu=True))
    assert report.is_passed and report.accuracy == 1.0 and report.last_loss < 0.4
    assert "accuracy 1.00" in str(report)


def test_footage_that_serves_nobody(packed, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_footage(configured(tmp_path, tmp_path / "nowhere"))
    with pytest.raises(FootageError, match="max_dropped_share"):
        open_footage(configured(tmp_path, packed, data={"windows_per_clip": 30}))


def test_a_stop_leaves_a_checkpoint(packed, tmp_path, monkeypatch):
    from latentsync.sync import train
    from latentsync.training import stop

    taken = []
    real = train.sync_losses

    def losses(*arguments):
        taken.append(1)
        if len(taken) == 2:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(train, "sync_losses", losses)
    with pytest.raises(TrainingStopped):
        train_syncnet(configured(tmp_path, packed), Accelerator(cpu=True))
    assert stop.SIGNALS and (tmp_path / "run/checkpoint-2").is_dir()
    assert json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])["step"] == 2
