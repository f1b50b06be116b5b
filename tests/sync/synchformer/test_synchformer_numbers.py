"""The arithmetic around Synchformer against reference numbers: mel, cuts, offsets, losses, metrics."""

import math

import numpy as np
import pytest
import torch
from synchformer_cases import as_tensors, check, spectrogram, tiled_video

from latentsync.audio.mel import synchformer_filters, synchformer_mel, synchformer_mel_power
from latentsync.sync.synchformer import SegmentContrast
from latentsync.sync.synchformer.contrast import contrastive_loss, scaled_rows, similarities, window_scores
from latentsync.sync.synchformer.crops import (
    SAMPLES_PER_FRAME,
    CropOutside,
    Segments,
    equal_lengths,
    offset_crop,
    start_frames,
)
from latentsync.sync.synchformer.grid import OffsetGrid
from latentsync.sync.synchformer.inputs import mel_segments, normalize_images
from latentsync.sync.synchformer.metrics import (
    accuracy,
    area_under_roc,
    average_precision,
    metrics_above_thresholds,
    offset_metrics,
    tolerant_accuracy,
)
from latentsync.sync.synchformer.viewing import Viewing
from latentsync.training.config import LoopConfig
from latentsync.training.learner import make_schedule


@pytest.mark.golden
def test_mel_and_segments_agree_with_upstream(golden):
    info, _, tensors = golden("synchformer", "spectrogram")
    waveform = torch.from_numpy((tensors["input.waveform"] / 32768).astype(np.float16).astype(np.float32))

    def stored(name, found):
        spec = info["outputs"][name].get("sample", {"start": [0] * found.ndim, "step": [1] * found.ndim})
        return found[tuple(slice(a, None, b) for a, b in zip(spec["start"], spec["step"], strict=True))]

    power = synchformer_mel_power(waveform)
    wanted = torch.from_numpy(tensors["output.full_mel_power"])
    assert torch.allclose(stored("full_mel_power", power), wanted, rtol=1e-4, atol=1e-6)
    filters = torch.from_numpy(tensors["output.mel_filterbank"])
    assert torch.allclose(stored("mel_filterbank", synchformer_filters().T), filters, atol=1e-5)
    for count in (13, 14):
        segments = Segments(count, info["config"]["segment_frames"])
        starts = segments.starts(len(waveform) // SAMPLES_PER_FRAME)
        for name, scale in (("video", 1), ("audio", SAMPLES_PER_FRAME)):
            ranges = [[scale * start, scale * (start + segments.frames)] for start in starts]
            assert ranges == tensors[f"output.ranges_{name}_{count}"].tolist()
        found = mel_segments(waveform, [SAMPLES_PER_FRAME * start for start in starts], segments.samples)
        assert list(found.shape) == info["outputs"][f"spec_{count}"]["shape"]
        wanted = torch.from_numpy(tensors[f"output.spec_{count}"])
        assert torch.allclose(stored(f"spec_{count}", found), wanted, atol=1e-4)
        last = torch.from_numpy(tensors[f"output.spec_{count}_last_columns"])
        assert torch.allclose(found[:1, ..., -2:], last, atol=1e-4)
    start = tensors["output.ranges_audio_13"][0][0]
    log_mel = stored("seg0_log", synchformer_mel(waveform[start : start + segments.samples]))
    assert torch.allclose(log_mel, torch.from_numpy(tensors["output.seg0_log"]), atol=1e-3)
    levels = torch.arange(256, dtype=torch.uint8)
    half = normalize_images(levels, torch.float16)
    assert torch.equal(half, torch.from_numpy(tensors["output.rgb_norm_half"]))
    whole = normalize_images(levels, torch.float32)
    assert torch.allclose(whole, torch.from_numpy(tensors["output.rgb_norm_float"]), atol=1e-6)


def test_a_mel_too_short_to_be_mirrored_is_refused():
    with pytest.raises(ValueError, match="> 512 samples"):
        synchformer_mel(torch.zeros(512))


@pytest.mark.golden
@torch.no_grad()
def test_stage_one_agrees_with_upstream(golden):
    info, weights, tensors = golden("synchformer", "avclip")
    config = info["config"]
    model = SegmentContrast.from_upstream(config, as_tensors(weights["model"]))
    video = tiled_video(tensors, config["tile_period_hw"], config["visual"]["crop"])
    vision, sound, temperature = model(video, spectrogram(tensors).transpose(2, 3)[:, :, None])
    vision, sound = vision.flatten(0, 1), sound.flatten(0, 1)
    check(vision, tensors, info, "vfeat")
    check(sound, tensors, info, "afeat")
    check(contrastive_loss(vision, sound, temperature), tensors, info, "loss")
    found = similarities(vision, sound, temperature)
    for name in found._fields:
        check(getattr(found, name), tensors, info, f"sim_{name}")
    check(scaled_rows(found.v2a), tensors, info, "sim_v2a_minmax_rows")


@pytest.mark.golden
@torch.no_grad()
def test_contrast_and_windows_agree_with_upstream(golden):
    info, _, tensors = golden("synchformer", "contrastive_and_windows")
    arrays = {name: value.float() for name, value in as_tensors(tensors).items() if name.startswith("input")}
    vision, sound = arrays["input.vfeat"], arrays["input.afeat"]
    model = SegmentContrast.from_upstream(
        {
            "visual": {"EMBED_DIM": 8, "DEPTH": 1, "NUM_HEADS": 1, "crop": 16},
            "audio": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1},
        }
    )
    clamped, losses = [], []
    for scale in info["scalars"]["raw_scales"]:
        model.logit_scale.fill_(scale)
        clamped.append(float(model.temperature()))
        losses.append(float(contrastive_loss(vision, sound, model.temperature())))
    assert np.allclose(clamped, tensors["output.clamped_scales"])
    assert np.allclose(losses, tensors["output.losses"], rtol=1e-4, atol=1e-4)
    windows = {int(name[len("output.win") :].split("_")[0]) for name in tensors if "output.win" in name}
    assert windows
    for window in windows:
        scores = window_scores(arrays["input.win_video"], arrays["input.win_audio"], window)
        for name, found in (
            ("preds_a", scores.best_sound),
            ("preds_v", scores.best_video),
            ("precision_a", scores.precision_sound),
            ("precision_v", scores.precision_video),
            ("precision", scores.precision),
        ):
            wanted = tensors[f"output.win{window}_{name}"]
            assert np.allclose(found.numpy(), wanted, atol=1e-6), (window, name)


@pytest.mark.golden
def test_grids_and_quantisation_agree_with_upstream(golden):
    numbers = golden("synchformer", "grid_crop_metrics")[0]["scalars"]
    for name, grid in (
        ("grid_21", OffsetGrid()),
        ("grid_41_pm2", OffsetGrid(2.0, 41)),
        ("grid_21_pm1", OffsetGrid(1.0, 21)),
    ):
        assert np.allclose(grid.seconds, numbers[name], atol=1e-6)
    for case in numbers["quantize"]:
        assert OffsetGrid().nearest(case["offset"]) == case["index"], case


@pytest.mark.golden
def test_crops_agree_with_upstream_but_for_its_truncation(golden):
    """Upstream truncates products such as 1.16 * 25 = 28.999...: such a crop starts a frame later here."""
    numbers = golden("synchformer", "grid_crop_metrics")[0]["scalars"]
    for case in numbers["temporal_crop_5s_of_10s"]:
        wanted = {
            "crop_frames": 125,
            "start_seconds": case["v_start_sec"],
            "offset_seconds": case["offset_sec"],
        }
        if "error" in case:
            with pytest.raises(CropOutside):
                offset_crop(250, 160_000, **wanted)
            continue
        crop = offset_crop(250, 160_000, **wanted)
        on_frame = math.isclose(case["v_start_sec"] * 25, round(case["v_start_sec"] * 25), abs_tol=1e-6)
        assert crop.first_frame - case["v_first"] in (0, 1), case
        assert abs(crop.first_sample - case["a_first"]) <= (1 if on_frame else SAMPLES_PER_FRAME), case
        assert (crop.frames, crop.samples) == (125, 80_000)
        assert OffsetGrid().nearest(case["offset_sec"]) == case["target"]
    for case in numbers["segments"]:
        segments = Segments(case["n_segments"], case["v_len"], round(case["step"] * case["v_len"]))
        starts = segments.starts(case["v_frames"])
        assert starts == case["v_starts"] and len(starts) == case["n"]
        assert [640 * start for start in starts] == case["a_starts"]
        assert segments.samples == case["a_len"]
    for case in numbers["equalify"]:
        frames = equal_lengths(case["v_in"], case["a_in"])
        assert (frames, 640 * frames) == (case["v_out"], case["a_out"])
    for case in numbers["center_crop_224"]:
        assert Viewing().corner(case["h"], case["w"]) == (case["i"], case["j"])


@pytest.mark.golden
def test_metrics_agree_with_upstream(golden):
    info, _, tensors = golden("synchformer", "grid_crop_metrics")
    for name, tops in (("21", (1, 5)), ("binary", (1, 2))):
        logits, targets = tensors[f"input.logits_{name}"].astype(float), tensors[f"input.targets_{name}"]
        for top in tops:
            wanted = info["scalars"][f"metrics_{name}"]
            if f"accuracy_{top}" in wanted:
                assert accuracy(logits, targets, top) == pytest.approx(wanted[f"accuracy_{top}"], abs=1e-5)
            found = tolerant_accuracy(logits, targets, top)
            assert found == pytest.approx(wanted[f"accuracy_{top}_tol1"], abs=1e-5)
    found = area_under_roc(logits[:, 1] - logits[:, 0], targets)
    assert found == pytest.approx(info["scalars"]["binary_auroc_by_pairs"], abs=1e-5)


@pytest.mark.golden
def test_learning_rates_agree_with_upstream(golden):
    numbers = golden("synchformer", "grid_crop_metrics")[0]["scalars"]

    def rates(config):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.learning_rate)
        schedule = make_schedule(optimizer, config)
        return lambda step: config.learning_rate * schedule.lr_lambdas[0](step)

    cosine = LoopConfig(steps=2000, learning_rate=1e-4, warmup_steps=125, lr_scheduler="cosine")
    warm_up = LoopConfig(
        learning_rate=4 * 2e-6, warmup_steps=1000, warmup_from=0.01, lr_scheduler="constant_with_warmup"
    )
    for config, name in (
        (cosine, "cosine_lr_base1e-4_warm125_total2000"),
        (warm_up, "sync_warmup_lr_base2e-6_x4gpus_step_to_lr"),
    ):
        for step, wanted in numbers[name].items():
            assert rates(config)(int(step)) == pytest.approx(wanted, rel=1e-5, abs=1e-12), (name, step)


def test_starts_are_those_frames_from_which_crops_exist():
    for offset in (-1.4, -0.2, -0.1, 0.0, 0.1, 0.6, 2.0):
        allowed = start_frames(250, 125, offset)
        assert len(allowed) == 126 - math.ceil(round(abs(offset) * 25, 6))
        for frame in range(126):
            crop = {"crop_frames": 125, "start_seconds": frame / 25, "offset_seconds": offset}
            if frame in allowed:
                offset_crop(250, 160_000, **crop)
            elif frame > max(allowed) or frame < min(allowed) - 1:  # a start up to a frame early is moved
                with pytest.raises(CropOutside):
                    offset_crop(250, 160_000, **crop)
    with pytest.raises(CropOutside, match=r"7 s are needed"):
        start_frames(150, 125, 2.0)


def test_an_offset_outside_of_the_grid_goes_to_its_end():
    assert (OffsetGrid(0.8, 5).nearest(7), OffsetGrid(0.8, 5).nearest(-7)) == (4, 0)
    with pytest.raises(ValueError, match="at least 2 classes"):
        OffsetGrid(1.0, 1)


def test_area_under_roc_counts_pairs():
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 5, 60).astype(float), rng.random(60) < 0.4
    pairs = scores[truth][:, None] - scores[~truth][None]
    assert area_under_roc(scores, truth) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert math.isnan(area_under_roc(scores, np.zeros(60)))


def test_a_perfect_and_a_blind_judge():
    targets = np.arange(200) % 7
    perfect = offset_metrics(np.eye(7)[targets] * 9, targets)
    assert perfect["accuracy_1"] == perfect["mean_average_precision"] == perfect["roc_auc"] == 1
    blind = np.random.default_rng(0).standard_normal((4000, 7))
    found = offset_metrics(blind, np.arange(4000) % 7)
    assert found["accuracy_1"] == pytest.approx(1 / 7, abs=0.03)
    assert found["accuracy_1_tol1"] == pytest.approx(19 / 49, abs=0.03)  # 5 of 7 classes have two neighbours
    assert found["roc_auc"] == pytest.approx(0.5, abs=0.03)
    assert average_precision(np.array([3.0, 2, 1]), np.array([1, 0, 1])) == pytest.approx((1 + 2 / 3) / 2)


def test_what_cannot_be_told_counts_as_wrong_until_it_is_left_out():
    logits = np.eye(21)[[4, 4, 4, 4]] * 9.0
    truth, told = np.array([4, 4, 4, 4]), np.array([True, True, False, False])
    table = metrics_above_thresholds(logits, truth, np.array([0.95, 0.8, 0.6, 0.1]), told)
    assert table[0.5] == {
        "kept_share": 0.75,
        "accuracy_1": pytest.approx(2 / 3),
        "accuracy_1_tol1": pytest.approx(2 / 3, abs=1e-6),
    }
    assert table[0.7]["accuracy_1"] == 1 and table[0.95] == {"kept_share": 0.0}


def test_rows_of_equal_values_are_drawable():
    assert torch.equal(scaled_rows(torch.tensor([[2.0, 2.0], [1.0, 3.0]])), torch.tensor([[0.0, 0], [0, 1]]))


def test_windows_that_are_all_of_a_clip_are_refused():
    with pytest.raises(ValueError, match="windows of 4 segments cannot be told apart in clips of 4"):
        window_scores(torch.zeros(1, 4, 2), torch.zeros(1, 4, 2), 4)
