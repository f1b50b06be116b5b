"""Whole jobs with a random model: lengths, rates, gaps, order, and that nothing is left behind."""

from fractions import Fraction

import diffusers.utils.logging
import numpy as np
import pytest
import torch
from dubbing_clips import empty, portrait, write_clip, write_sound

import latentsync
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.dubbing.model import load_model
from latentsync.dubbing.playback import play
from latentsync.dubbing.settings import DubSettings
from latentsync.errors import CheckpointError, FaceNotFound, MediaError
from latentsync.media import VideoReader, audio_info
from latentsync.sync.stable_syncnet import StableSyncNet


def frames_of(path):
    with VideoReader(path) as reader:
        return list(reader), reader.info


def test_the_result_lasts_as_long_as_the_soundtrack_and_the_report_adds_up(model, clips, tmp_path):
    output, seen = tmp_path / "out.mp4", []
    report = latentsync.dub(
        clips / "face.mp4", clips / "speech.wav", output, model=model, progress=seen.append
    )
    frames, info = frames_of(output)
    assert len(frames) == report.frames == 10  # 0.4 s at 25 fps
    assert (info.width, info.height, info.fps) == (256, 256, 25)
    assert report.faces_found == report.frames_redrawn == 10
    assert report.frames_passed_through == 0
    assert abs(audio_info(output).duration_seconds - info.duration_seconds) <= 0.04
    assert [p.frames for p in seen] == list(range(1, 11)) and seen[-1].frames_total == 10
    assert set(report.seconds_by_stage) >= {"read", "track", "hear", "draw", "compose", "write"}
    assert report.peak_memory_bytes > 2**20
    assert list(tmp_path.iterdir()) == [output]


def test_only_the_mouth_changes(model, clips, tmp_path):
    latentsync.dub(clips / "face.mp4", clips / "speech.wav", tmp_path / "out.mp4", model=model, crf=4)
    before, _ = frames_of(clips / "face.mp4")
    after, _ = frames_of(tmp_path / "out.mp4")
    change = np.abs(after[3].image.astype(int) - before[3].image.astype(int)).mean(axis=2)
    rows, _ = np.where(change > 25)
    assert len(rows) > 200  # a random network paints the hole
    assert rows.min() > 90 and rows.max() < 235  # from the nose to the chin of this picture
    assert change[:80].mean() < 2 and change[:, :60].mean() < 2


@pytest.mark.slow
def test_longer_sound_makes_the_picture_go_back_and_forth(model, clips, tmp_path):
    sound = write_sound(tmp_path / "long.wav", 1.2)
    report = latentsync.dub(clips / "face.mp4", sound, tmp_path / "out.mp4", model=model)
    assert report.frames == 30
    with VideoReader(clips / "face.mp4") as reader:
        shown = list(play(reader, Fraction(30, 25)))
    assert [frame.index for frame in shown] == [*range(12), *range(10, -1, -1), *range(1, 8)]
    assert [frame.time for frame in shown] == [Fraction(index, 25) for index in range(30)]
    whole, _ = frames_of(clips / "face.mp4")
    assert all(np.array_equal(frame.image, whole[frame.index].image) for frame in shown)


@pytest.mark.parametrize(("duration", "frames"), [("audio", 10), ("video", 12), ("shortest", 10)])
def test_duration_rules(model, clips, tmp_path, duration, frames):
    report = latentsync.dub(
        clips / "face.mp4", clips / "speech.wav", tmp_path / "o.mp4", model=model, duration=duration
    )
    assert report.frames == frames


@pytest.mark.slow
@pytest.mark.parametrize("fps", [Fraction(30), Fraction(30000, 1001), Fraction(50), Fraction(12)])
def test_the_source_keeps_its_own_frame_rate(model, tmp_path, fps):
    clip = write_clip(tmp_path / "clip.mp4", [portrait(i / 4) for i in range(14)], fps)
    sound = write_sound(tmp_path / "s.wav", float(12 / fps))
    report = latentsync.dub(clip, sound, tmp_path / "out.mp4", model=model)
    frames, info = frames_of(tmp_path / "out.mp4")
    assert info.fps == fps and len(frames) == 12
    assert report.frames_redrawn == 12
    assert [frame.time - frames[0].time for frame in frames] == pytest.approx(
        [i / fps for i in range(12)], abs=1e-4
    )


def test_a_variable_rate_stays_as_it_is(model, tmp_path):
    steps = [Fraction(1, 25), Fraction(1, 50), Fraction(2, 25), Fraction(1, 30)] * 3
    times = [sum(steps[:index], Fraction(0)) for index in range(12)]
    clip = write_clip(tmp_path / "clip.mp4", [portrait()] * 12, 25, times)
    sound = write_sound(tmp_path / "s.wav", float(times[-1]) + 0.04)
    latentsync.dub(clip, sound, tmp_path / "out.mp4", model=model)
    source, _ = frames_of(clip)
    result, info = frames_of(tmp_path / "out.mp4")
    assert not info.constant_frame_rate
    found = [float(frame.time - result[0].time) for frame in result]
    wanted = [float(frame.time - source[0].time) for frame in source]
    assert found == pytest.approx(wanted[: len(found)], abs=1e-3)
    assert len(found) >= 11


@pytest.mark.slow
def test_frames_without_a_face_pass_through_and_nothing_shifts(model, tmp_path):
    """LS#107, LS#18: five faceless frames killed a job of 630; skipping them shifted the rest."""
    images = [portrait()] * 10 + [empty()] * 5 + [portrait()] * 10
    clip, sound = write_clip(tmp_path / "clip.mp4", images), write_sound(tmp_path / "s.wav", 1.0)
    report = latentsync.dub(clip, sound, tmp_path / "out.mp4", model=model, crf=4)
    assert (report.frames, report.faces_found, report.frames_redrawn) == (
        25,
        20,
        18,
    )  # one beside the gap, too
    assert report.frames_passed_through == 7
    before, _ = frames_of(clip)
    after, _ = frames_of(tmp_path / "out.mp4")
    change = [
        np.abs(a.image.astype(int) - b.image.astype(int)).mean() for a, b in zip(after, before, strict=True)
    ]
    assert max(change[9:16]) < 1.5
    assert min(change[:9] + change[16:]) > 2 * max(change[9:16])


@pytest.mark.slow
def test_threads_do_not_change_a_frame_and_a_seed_repeats(model, clips, tmp_path):
    def run(name, **options):
        latentsync.dub(clips / "face.mp4", clips / "speech.wav", tmp_path / name, model=model, **options)
        return np.stack([frame.image for frame in frames_of(tmp_path / name)[0]])

    with_threads, without, other = run("a.mp4"), run("b.mp4", threads=False), run("c.mp4", seed=7)
    assert np.array_equal(with_threads, without)
    assert not np.array_equal(with_threads, other)


def test_opening_a_model_in_float16_on_a_cpu_does_not_say_that_it_cannot_run(model, caplog, monkeypatch):
    monkeypatch.setattr(diffusers.utils.logging.get_logger(), "propagate", True)  # to the listener
    cpu = torch.device("cpu")
    pipeline, _ = load_model(model, cpu, torch.float32)
    load_model(pipeline, cpu, torch.float16)
    assert pipeline.unet.dtype == torch.float16
    assert load_model(model, cpu, torch.float16)[0].vae.dtype == torch.float16
    assert "accelerator" not in caplog.text


@pytest.mark.slow
def test_a_loaded_pipeline_serves_many_jobs(model, clips, tmp_path):
    pipeline = latentsync.LipsyncPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    for name in ("one.mp4", "two.mp4"):
        latentsync.dub(clips / "face.mp4", clips / "speech.wav", tmp_path / name, model=pipeline)
    one, two = (np.stack([f.image for f in frames_of(tmp_path / name)[0]]) for name in ("one.mp4", "two.mp4"))
    assert np.array_equal(one, two)


def test_nobody_in_the_picture_is_one_error_and_keeps_the_older_result(model, clips, tmp_path):
    output = tmp_path / "out.mp4"
    output.write_bytes(b"older result")
    with pytest.raises(FaceNotFound, match=r"8 frames|10 frames"):
        latentsync.dub(clips / "nobody.mp4", clips / "speech.wav", output, model=model)
    assert output.read_bytes() == b"older result"
    assert list(tmp_path.iterdir()) == [output]


def test_an_interrupt_leaves_nothing_behind(model, clips, tmp_path):
    def interrupt(progress):
        if progress.frames == 3:
            raise KeyboardInterrupt

    (tmp_path / "scratch").mkdir()
    for temp_dir in (None, tmp_path / "scratch"):
        with pytest.raises(KeyboardInterrupt):
            latentsync.dub(
                clips / "face.mp4",
                clips / "speech.wav",
                tmp_path / "out.mp4",
                model=model,
                progress=interrupt,
                temp_dir=temp_dir,
            )
    assert [path for path in tmp_path.rglob("*") if path.is_file() or "latentsync-" in path.name] == []


def test_the_temporary_folder_is_ours_alone_and_goes_away(model, clips, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "someone's.txt").write_text("keep")
    latentsync.dub(
        clips / "face.mp4", clips / "speech.wav", tmp_path / "out.mp4", model=model, temp_dir=scratch
    )
    assert [path.name for path in scratch.iterdir()] == ["someone's.txt"]
    assert len(frames_of(tmp_path / "out.mp4")[0]) == 10


def test_options_are_checked_by_name_and_value():
    with pytest.raises(TypeError, match="inferense_steps"):
        latentsync.dub("a.mp4", "b.wav", "c.mp4", inferense_steps=3)
    with pytest.raises(ValueError, match="forever"):
        DubSettings(duration="forever")
    with pytest.raises(ValueError, match="crf 99"):
        DubSettings(crf=99)


def test_the_output_may_not_be_an_input(model, clips):
    with pytest.raises(MediaError, match="same file"):
        latentsync.dub(clips / "face.mp4", clips / "speech.wav", clips / "face.mp4", model=model)


def test_models_that_are_none_are_refused_before_anything_in_them_is_imported(clips, tmp_path):
    def dub(folder):
        latentsync.dub(clips / "face.mp4", clips / "speech.wav", tmp_path / "out.mp4", model=folder)

    with pytest.raises(CheckpointError, match="does not exist"):
        dub(tmp_path / "missing")
    (tmp_path / "vacant").mkdir()
    with pytest.raises(CheckpointError, match="model_index"):
        dub(tmp_path / "vacant")
    hostile = tmp_path / "hostile"
    (hostile / "unet").mkdir(parents=True)
    (hostile / "model_index.json").write_text('{"_class_name": "LipsyncPipeline", "unet": ["os", "system"]}')
    with pytest.raises(CheckpointError, match=r"os\.system"):
        dub(hostile)


def test_a_damaged_weight_file_is_one_error(model, clips, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    weights = next((broken / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        latentsync.dub(clips / "face.mp4", clips / "speech.wav", tmp_path / "out.mp4", model=broken)


def test_the_job_does_not_disturb_the_global_generator(model, clips, tmp_path):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    latentsync.dub(clips / "face.mp4", clips / "speech.wav", tmp_path / "out.mp4", model=model)
    assert torch.equal(torch.rand(3), wanted)


def test_nothing_piles_up_while_no_face_is_seen(model):
    """Frames wait for their ticks only; a long stretch without a face must not keep them all."""
    import weakref

    from latentsync.dubbing.playback import Shown
    from latentsync.dubbing.redraw import redraw
    from latentsync.face import Composer, Tracked

    alive: list[weakref.ref] = []

    def faceless():
        for index in range(200):
            shown = Shown(np.zeros((8, 8, 3), np.uint8), index, Fraction(index, 25))
            alive.append(weakref.ref(shown))
            yield Tracked(shown, None)

    most = 0
    tokens = (torch.zeros(1, 1) for _ in range(300))
    for result in redraw(faceless(), tokens, lambda faces, tokens: iter(()), composer=Composer(64), fps=25):
        assert not result.is_redrawn
        most = max(most, sum(reference() is not None for reference in alive))
    assert most < 12


@pytest.mark.slow
def test_a_long_hold_of_a_variable_rate_keeps_the_picture_as_long_as_the_sound(model, tmp_path):
    times = [Fraction(i, 25) for i in range(12)] + [Fraction(12, 25) + 2 + Fraction(i, 25) for i in range(8)]
    clip = write_clip(tmp_path / "clip.mp4", [portrait()] * 20, 25, times)
    sound = write_sound(tmp_path / "s.wav", 2.0)
    latentsync.dub(clip, sound, tmp_path / "out.mp4", model=model)
    frames, info = frames_of(tmp_path / "out.mp4")
    assert abs(info.duration_seconds - 2.0) <= float(1 / info.fps)
    steps = np.diff([float(frame.time) for frame in frames])
    assert steps.max() < 0.25 and steps.min() > 0


@pytest.mark.parametrize("part", ["unet", "vae", "audio_encoder"])
def test_weights_that_lack_a_tensor_are_refused_by_name(model, clips, tmp_path, part):
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    path = next((broken / part).glob("*.safetensors"))
    tensors = load_file(path)
    lost = sorted(tensors)[0]
    del tensors[lost]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=part):
        latentsync.dub(clips / "face.mp4", clips / "speech.wav", tmp_path / "out.mp4", model=broken)


def test_impossible_numbers_of_a_model_are_refused(model, clips, tmp_path):
    import json
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    index = json.loads((broken / "model_index.json").read_text())
    (broken / "model_index.json").write_text(json.dumps({**index, "window": 0}))
    with pytest.raises(CheckpointError, match="window 0"):
        latentsync.dub(clips / "face.mp4", clips / "speech.wav", tmp_path / "out.mp4", model=broken)


def test_no_thread_survives_an_error_in_drawing(model, clips, tmp_path, monkeypatch):
    import threading

    pipeline = latentsync.LipsyncPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    monkeypatch.setattr(pipeline, "decode", lambda latents: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        latentsync.dub(clips / "face.mp4", clips / "speech.wav", tmp_path / "out.mp4", model=pipeline)
    assert not [thread for thread in threading.enumerate() if thread.name == "run-ahead"]
    assert list(tmp_path.iterdir()) == []


def test_a_missing_temporary_folder_and_a_pipe_as_output_are_refused(model, clips, tmp_path):
    import os

    with pytest.raises(MediaError, match="where"):
        latentsync.dub(
            clips / "face.mp4",
            clips / "speech.wav",
            tmp_path / "o.mp4",
            model=model,
            temp_dir=tmp_path / "no" / "where",
        )
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(MediaError, match="pipe"):
        latentsync.dub(clips / "face.mp4", clips / "speech.wav", tmp_path / "pipe.mp4", model=model)


def test_a_seed_out_of_range_is_named():
    with pytest.raises(ValueError, match="seed"):
        DubSettings(seed=10**20)


@pytest.mark.slow
def test_sync_guidance_judges_the_drafts_of_a_job(model, clips, tmp_path):
    widths = {"block_out_channels": [32, 64, 128]}
    audio = {"in_channels": 1, "downsample_factors": [[10, 4], [8, 7], 1], **widths}
    vision = {"in_channels": 24, "downsample_factors": [[4, 8], [4, 4], 1], **widths}
    torch.manual_seed(0)
    StableSyncNet(audio, vision, num_frames=8, resolution=32).save_pretrained(tmp_path / "judge")
    inputs = (clips / "face.mp4", clips / "speech.wav", tmp_path / "out.mp4")
    options = {"inference_steps": 2, "sync_guidance": True, "syncnet": tmp_path / "judge"}
    report = latentsync.dub(*inputs, model=model, dtype="float32", **options)
    assert report.settings["guidance_scale"] == "by sync"
    confidences = report.settings["draft_sync_confidences"]
    assert confidences and all(0 <= value <= 1 for value in confidences)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sync_guidance": True, "guidance_scale": 1.5}, "leave guidance_scale 1.5 out"),
        ({"syncnet": "judge.pt"}, "only used with sync_guidance"),
        ({"sync_guidance": True, "syncnet": "absent.pt"}, "absent.pt"),
    ],
)
def test_sync_guidance_that_cannot_be_is_refused(options, words, model, clips, tmp_path):
    inputs = (clips / "face.mp4", clips / "speech.wav", tmp_path / "out.mp4")
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        latentsync.dub(*inputs, model=model, dtype="float32", **options)


@pytest.mark.slow
def test_frames_of_a_looped_clip_are_encoded_once(model, clips, tmp_path, monkeypatch):
    """Twelve frames, shown back and forth; the smoothed alignment differs a little at the turns."""
    encoded, encode = [], LipsyncPipeline.encode
    monkeypatch.setattr(LipsyncPipeline, "encode", lambda *a: encoded.append(len(a[1])) or encode(*a))
    sound = write_sound(tmp_path / "long.wav", 1.4)
    report = latentsync.dub(clips / "face.mp4", sound, tmp_path / "out.mp4", model=model)
    assert report.frames == 35
    assert 12 <= sum(encoded) <= 16
