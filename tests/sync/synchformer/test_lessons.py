"""What stage I learns from beside upstream's contrast: other faces and voices, its own clip, a teacher."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from footage_clips import write_packed

from latentsync.audio.mel import syncnet_mel
from latentsync.audio.windows import mel_window
from latentsync.errors import ConfigError, FootageError
from latentsync.sync.open_syncnet import open_syncnet
from latentsync.sync.stable_syncnet import StableSyncNet
from latentsync.sync.synchformer import lessons as module
from latentsync.sync.synchformer.augment import changed_people
from latentsync.sync.synchformer.contrast import contrastive_loss, own_clip_loss
from latentsync.sync.synchformer.inputs import mel_segments
from latentsync.sync.synchformer.layouts import list_clips
from latentsync.sync.synchformer.lessons import LESSONS, STRIDE, prepare_lessons, principal_axes
from latentsync.sync.synchformer.samples import SegmentSamples
from latentsync.sync.synchformer.training_config import (
    DataConfig,
    ModelConfig,
    RunConfig,
    SynchformerTrainConfig,
)

VISION = {
    "in_channels": 48,
    "block_out_channels": [32, 64, 128],
    "downsample_factors": [[2, 4], [4, 4], 2],
}
AUDIO = {
    "in_channels": 1,
    "block_out_channels": [32, 32, 64, 128],
    "downsample_factors": [[5, 2], [4, 2], [2, 2], [2, 7]],
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "packed"
    write_packed(folder, frames=[50] * 4, speakers=list("aabb"), splits=["train"] * 3 + ["val"])
    return list_clips("packed", folder, "train")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.manual_seed(0)
    net = StableSyncNet(audio=AUDIO, vision=VISION, num_frames=16, resolution=32, lower_half=True)
    folder = tmp_path_factory.mktemp("teacher")
    net.save_pretrained(folder)
    return str(folder)


def lessons_of(teacher, clips, folder, width=128):
    return prepare_lessons(
        teacher, clips, frames=16, width=width, folder=folder, accelerator=Accelerator(cpu=True)
    )


def said_by(teacher, clip):
    """What the teacher says of every second 16 frames and of their sound, asked one by one."""
    network = open_syncnet(teacher)
    faces = torch.from_numpy(np.load(clip.path / "faces.npy")).permute(0, 3, 1, 2) / 127.5 - 1
    mel = syncnet_mel(torch.from_numpy(np.load(clip.path / "waveform.npy"))).numpy()
    rows = []
    for start in range(0, len(faces) - 15, STRIDE):
        with torch.no_grad():
            seen = network.visual_encoder(network.prepare(faces[start : start + 16])[None])
            heard = network.audio_encoder(mel_window(mel, start, 16)[None])
        rows.append(F.normalize(torch.cat([seen.flatten(1), heard.flatten(1)]), dim=1))
    return torch.stack(rows, dim=1)  # (2, K, D)


def test_lessons_are_what_the_teacher_says_of_those_frames(teacher, clips, tmp_path):
    """In as many dimensions as it has itself: the same vectors less their means, in another basis."""
    lessons = lessons_of(teacher, clips, tmp_path)
    direct = torch.stack([said_by(teacher, clip) for clip in clips])  # (clips, 2, K, D)
    direct = F.normalize(direct - direct.mean(dim=(0, 2), keepdim=True), dim=-1)
    starts = [0, 4, 10]
    told = torch.cat(lessons.of(clips[1].key, starts))
    wanted = direct[1][:, [start // STRIDE for start in starts]].flatten(0, 1)
    torch.testing.assert_close(told @ told.T, wanted @ wanted.T, atol=0.05, rtol=0)  # bfloat16 on some CPUs


def test_a_sample_has_the_lessons_of_its_own_segments(teacher, clips, tmp_path):
    data = DataConfig(
        view="face", size_before_crop=32, input_size=32, n_segments=2, crop_len_sec=0.96, clip_max_len_sec=1.2
    )
    samples = SegmentSamples(clips, data, seed=3, is_training=True)
    samples.lessons = lessons_of(teacher, clips, tmp_path)
    firsts = set()
    for epoch in range(12):
        sample = samples[(epoch, 0)]
        rows = (samples.lessons.vision[clips[0].key].float() @ sample["taught_video"].T).argmax(dim=0)
        assert rows[1] - rows[0] == 8 // STRIDE
        assert torch.equal(sample["taught_audio"], samples.lessons.sound[clips[0].key][rows].float())
        firsts.add(int(rows[0]))
    assert len(firsts) > 3 and max(firsts) * STRIDE + 24 <= 50


def test_a_teacher_is_asked_once_a_run(teacher, clips, tmp_path, monkeypatch):
    first = lessons_of(teacher, clips, tmp_path, width=16)
    assert first.vision[clips[0].key].shape == ((50 - 16) // STRIDE + 1, 16)
    monkeypatch.setattr(module, "ask", None)
    again = lessons_of(teacher, clips, tmp_path, width=16)
    assert all(torch.equal(again.vision[key], rows) for key, rows in first.vision.items())
    assert [path.name for path in tmp_path.iterdir()] == [LESSONS]
    monkeypatch.undo()
    assert lessons_of(teacher, clips, tmp_path, width=8).vision[clips[0].key].shape[1] == 8  # asked again
    place = tmp_path / LESSONS
    place.write_bytes(place.read_bytes()[:900])
    assert len(lessons_of(teacher, clips, tmp_path, width=8).sound) == 3


def test_a_teacher_of_other_frames_is_refused(clips, tmp_path):
    vision = {**VISION, "in_channels": 15}
    StableSyncNet(audio=AUDIO, vision=vision, num_frames=5, resolution=32).save_pretrained(tmp_path / "five")
    with pytest.raises(ConfigError, match="looks at 5 frames of pixels; expected pixels and the 16 frames"):
        lessons_of(str(tmp_path / "five"), clips, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        lessons_of(str(tmp_path / "nowhere"), clips, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_pupil_wider_than_the_teacher_or_a_clip_shorter_than_a_segment_is_refused(teacher, tmp_path):
    folder = tmp_path / "packed"
    write_packed(folder, frames=[50, 10], speakers=list("ab"), splits=["train"] * 2)
    clips = list_clips("packed", folder, "train")
    with pytest.raises(ConfigError, match="width 192 is wider than the teacher"):
        lessons_of(teacher, clips, tmp_path / "run", width=192)
    with pytest.raises(FootageError, match="has 10 frames with their sound, the teacher looks at 16"):
        lessons_of(teacher, clips, tmp_path / "run")


def test_few_axes_keep_most_of_what_lies_along_them():
    torch.manual_seed(1)
    plane = torch.randn(2, 10)
    vectors = torch.randn(200, 2) @ plane
    axes = principal_axes(vectors, 2)
    torch.testing.assert_close(axes.T @ axes, torch.eye(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors @ axes @ axes.T, vectors, atol=1e-4, rtol=0)


def test_who_it_is_does_not_help_within_a_clip():
    """Vectors that say whose clip it is, no more: no contrast gets below ln S."""
    B, S = 4, 3
    people = torch.eye(B)[:, None].expand(-1, S, -1)
    temperature = torch.tensor(0.05)
    whole = contrastive_loss(people.flatten(0, 1), people.flatten(0, 1), temperature)
    own = own_clip_loss(people, people, temperature)
    assert whole == pytest.approx(np.log(S), abs=1e-4) and own == pytest.approx(np.log(S), abs=1e-4)
    known = F.normalize(torch.randn(B, S, 8), dim=-1)
    assert own_clip_loss(known, known, torch.tensor(0.01)) < 0.1
    assert own_clip_loss(known, known.flip(1), torch.tensor(0.05)) > own


@pytest.mark.parametrize("by_segment", [True, False])
def test_other_people_say_the_same_at_the_same_time(by_segment):
    torch.manual_seed(4)
    B, S = 3, 2
    video = torch.full((B, S, 16, 3, 24, 24), 0.4)
    video[:, :, 8:, :, 10:18, 6:18] = -0.9  # the mouth opens
    wave = torch.zeros(2 * 10240)
    wave[5120:7680] = torch.sin(torch.arange(2560) * 0.3) * 0.3  # and sounds
    wave[15360:17920] = wave[5120:7680]
    audio = mel_segments(wave, [0, 10240], 10240)[None].expand(B, -1, -1, -1, -1)
    faces, heard = changed_people(video, audio, by_segment=by_segment)
    assert faces.shape == video.shape and heard.shape == audio.shape
    assert torch.equal(heard[..., -1], audio[..., -1])  # no sound there
    light = faces.mean(dim=(3, 4, 5))
    assert (light[:, :, :8].mean(dim=2) > light[:, :, 8:].mean(dim=2) + 0.01).all()
    loud = heard.mean(dim=(2, 3))[..., :-1]
    assert (loud[..., 34:46].mean(dim=2) > loud[..., :28].mean(dim=2) + 0.02).all()
    looks = faces[:, :, 0].mean(dim=(2, 3, 4))
    assert (looks[1:] - looks[:-1]).abs().min() > 1e-3  # each crop has its own
    apart = (faces[:, 0, 0] - faces[:, 1, 0]).abs().mean(dim=(1, 2, 3))
    assert (apart > 0.05).all() if by_segment else (apart < 0.06).all()


def test_settings_without_a_meaning_are_refused():
    data = DataConfig(view="face", size_before_crop=96, input_size=48)
    run = RunConfig(own_clip_only=True, gather_for_loss=True)
    with pytest.raises(ConfigError, match="leaves nothing to gather"):
        SynchformerTrainConfig(kind="segment_avclip", data=data, run=run).check()
    with pytest.raises(ConfigError, match=r"model\.teacher is for stage I"):
        SynchformerTrainConfig(kind="sync", data=data, model=ModelConfig(teacher="checkpoints/x")).check()
    odd = DataConfig(view="face", size_before_crop=96, input_size=48, step_size_seg=0.4375, crop_len_sec=5.0)
    with pytest.raises(ConfigError, match="segments lie 7 frames apart"):
        SynchformerTrainConfig(
            kind="segment_avclip", data=odd, model=ModelConfig(teacher="checkpoints/x")
        ).check()
