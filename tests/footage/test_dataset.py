"""Windows for the U-Net and SyncNet: decided by seed, epoch and index, and true to the clip's timeline."""

import pickle

import numpy as np
import pytest
import torch
from footage_clips import frame_number, write_face_video, write_packed
from torch.utils.data import DataLoader
from transformers import WhisperModel

from latentsync.audio.whisper import encoder_config
from latentsync.audio.windows import mel_window
from latentsync.errors import FootageError
from latentsync.footage.content import ContentKeys
from latentsync.footage.dataset import (
    EpochSampler,
    FaceWindows,
    distant_start,
    unet_min_frames,
)
from latentsync.footage.features import FeatureCache, SyncNetMel, WhisperStates
from latentsync.footage.listing import ClipFile, folder_clips, packed_clips
from latentsync.footage.survey import Rules, Surveyor
from latentsync.footage.sync_windows import (
    ClipWindows,
    Others,
    SyncWindows,
    balanced,
    spread_starts,
    sync_min_frames,
)

DIMS = dict(n_mels=80, n_audio_ctx=100, n_audio_state=16, n_audio_head=2, n_audio_layer=1)
SPEAKERS = ("ann", "ann", "bob", "cid")


class Footage:
    """A small collection and its caches."""

    def __init__(self, folder, clips: list[ClipFile]) -> None:
        self.cache, self.keys = folder / "cache", ContentKeys(folder / "cache")
        self.clips = Surveyor(self.cache, self.keys).select(clips, Rules(48)).kept
        self.mel = FeatureCache(self.cache, SyncNetMel(), self.keys)

    def tokens(self) -> FeatureCache:
        torch.manual_seed(0)
        encoder = WhisperModel(encoder_config(DIMS)).eval()
        return FeatureCache(self.cache, WhisperStates(encoder), self.keys)

    def faces(self, **options) -> FaceWindows:
        return FaceWindows(self.clips, self.mel, **{"resolution": 32} | options)

    def sync(self, **options) -> SyncWindows:
        return SyncWindows(self.clips, self.mel, **{"resolution": 32} | options)


@pytest.fixture(scope="module")
def footage(tmp_path_factory) -> Footage:
    folder = tmp_path_factory.mktemp("footage")
    clips = packed_clips(write_packed(folder / "clips", frames=(48, 60, 75, 90), speakers=SPEAKERS))
    return Footage(folder, clips)


def shown_numbers(pixels: torch.Tensor) -> list[int]:
    """The frame numbers of faces (F, 3, R, R) in [-1, 1]."""
    return frame_number(((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        same = torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
        assert same, key


def test_a_sample_for_the_unet_has_its_shapes_and_its_reference_elsewhere(footage):
    data = footage.faces(tokens=footage.tokens(), repeats=12)
    assert len(data) == 48
    for index in range(48):
        sample = data[(0, index)]
        start, reference = sample["start"], sample["reference_start"]
        assert sample["clip"] == f"c{index % 4}"
        assert shown_numbers(sample["faces"]) == list(range(start, start + 16))
        assert shown_numbers(sample["reference"]) == list(range(reference, reference + 16))
        assert abs(start - reference) >= 16
        assert sample["mel"].shape == (1, 80, 52) and sample["tokens"].shape == (16, 20, 16)
        assert sample["faces"].dtype == torch.float32 and sample["faces"].abs().max() <= 1
    clip = footage.clips[1].file
    sample = data[(0, 1)]
    assert torch.equal(sample["mel"], mel_window(footage.mel.load(clip), sample["start"], 16))


def test_references_and_wrong_windows_are_drawn_evenly_from_what_is_allowed():
    rng = np.random.default_rng(0)
    for last, distance, start in ((32, 16, 10), (32, 16, 16), (32, 16, 0), (9, 1, 4), (9, 1, 9)):
        allowed = [place for place in range(last + 1) if abs(place - start) >= distance]
        drawn = [distant_start(rng, start, last=last, distance=distance) for _ in range(200 * len(allowed))]
        values, counts = np.unique(drawn, return_counts=True)
        assert values.tolist() == allowed and counts.min() > 120  # 200 +- 5 standard deviations of 14
    with pytest.raises(ValueError, match=r"no start in \[0, 20\] lies 16 frames from 10"):
        distant_start(rng, 10, last=20, distance=16)


@pytest.mark.parametrize("frames", [5, 16, 25])
@pytest.mark.parametrize("shift", [1, 5, 40])
def test_the_shortest_clip_has_another_window_for_every_window(frames, shift):
    rng = np.random.default_rng(0)
    for length, distance in (
        (unet_min_frames(frames), frames),
        (sync_min_frames(frames, shift), shift),
    ):
        for start in range(length - frames + 1):
            assert abs(distant_start(rng, start, last=length - frames, distance=distance) - start) >= distance


def test_labels_are_half_true_and_wrong_windows_differ(footage):
    data = footage.sync(repeats=40, lower_half=False)
    samples = [data[(0, index)] for index in range(len(data))]
    labels = np.array([float(sample["label"]) for sample in samples])
    assert set(labels) == {0.0, 1.0} and 0.34 < labels.mean() < 0.66  # 0.5 +- 4 standard deviations of 0.04
    for sample in samples:
        assert sample["shown_clip"] == sample["clip"]
        assert (sample["shown_start"] == sample["start"]) == bool(sample["label"])
        shown = shown_numbers(sample["faces"].unflatten(0, (16, 3)))
        assert shown == list(range(sample["shown_start"], sample["shown_start"] + 16))


def test_wrong_windows_keep_their_distance_or_come_from_other_speakers(footage):
    far = footage.sync(repeats=15, min_shift_frames=10)
    wrong = [sample for sample in (far[(0, index)] for index in range(len(far))) if not sample["label"]]
    assert min(abs(sample["shown_start"] - sample["start"]) for sample in wrong) >= 10
    others = footage.sync(repeats=40, other_clip_share=0.5)
    speaker = dict(zip(("c0", "c1", "c2", "c3"), SPEAKERS, strict=True))
    wrong = [sample for sample in (others[(0, index)] for index in range(160)) if not sample["label"]]
    foreign = [sample for sample in wrong if sample["shown_clip"] != sample["clip"]]
    assert 0.25 < len(foreign) / len(wrong) < 0.75  # 0.5 +- 4 standard deviations of 0.06
    assert all(speaker[sample["shown_clip"]] != speaker[sample["clip"]] for sample in foreign)
    assert {sample["shown_clip"] for sample in foreign} == set(speaker)


def test_the_lower_half_is_cut_and_frames_are_folded_frame_major(footage):
    whole, lower = footage.sync(lower_half=False)[(0, 2)], footage.sync()[(0, 2)]
    assert whole["faces"].shape == (48, 32, 32) and lower["faces"].shape == (48, 16, 32)
    assert torch.equal(lower["faces"], whole["faces"][:, 16:])
    longer = SyncWindows(footage.clips[1:], footage.mel, resolution=32, frames=25, lower_half=False)[0]
    assert longer["faces"].shape == (75, 32, 32) and longer["mel"].shape == (1, 80, 80)


def test_a_hook_changes_the_pixels_by_the_generator_of_the_sample(footage):
    def shade(pixels, rng):
        assert pixels.shape == (16, 3, 32, 32)
        return pixels * rng.uniform(0.5, 1)

    plain, shaded = footage.sync()[(3, 1)], footage.sync(augment=shade)[(3, 1)]
    ratio = (shaded["faces"] / plain["faces"])[plain["faces"].abs() > 0.1]
    assert ratio.min() >= 0.5 and ratio.max() - ratio.min() < 1e-5 and ratio.max() < 0.999
    assert_same(shaded, footage.sync(augment=shade)[(3, 1)])


def test_seed_epoch_and_index_decide_a_sample(footage):
    for make in (footage.faces, footage.sync):
        data = make(repeats=4)
        expected = data[(2, 5)]
        _ = data[(1, 3)]
        assert_same(data[(2, 5)], expected)
        assert_same(make(repeats=4)[(2, 5)], expected)
        assert_same(data[5], data[(0, 5)])
        starts = {
            name: [one[place]["start"] for place in ((e, i) for e in range(2) for i in range(8))]
            for name, one in (("a", data), ("b", make(repeats=4, seed=1)))
        }
        assert starts["a"] != starts["b"] and starts["a"][:8] != starts["a"][8:]
        with pytest.raises(IndexError, match=r"sample 16 .* \[0, 16\)"):
            data[(0, 16)]


@pytest.mark.parametrize("kind", ["faces", "sync"])
def test_workers_do_not_change_the_samples(footage, kind):
    data = getattr(footage, kind)(repeats=3)
    sampler = EpochSampler(len(data), seed=7)
    sampler.set_epoch(4)
    runs = [
        [batch for batch in DataLoader(data, batch_size=4, sampler=sampler, num_workers=workers)]
        for workers in (0, 2)
    ]
    assert len(runs[0]) == 3
    for first, second in zip(*runs, strict=True):
        assert_same(first, second)


def test_a_data_set_that_was_sent_to_a_worker_reads_videos_and_tokens(tmp_path):
    for seed in range(2):
        write_face_video(tmp_path / "clips" / f"{seed}.mp4", seed=seed)
    footage = Footage(tmp_path, folder_clips(tmp_path / "clips"))
    tokens = footage.tokens()
    tokens.fill(clip.file for clip in footage.clips)
    data = footage.faces(tokens=tokens)
    sent = pickle.loads(pickle.dumps(data))
    for index in range(2):
        assert_same(sent[index], data[index])


def test_the_order_of_an_epoch_is_its_own_and_covers_all():
    sampler = EpochSampler(10, seed=3)
    first = list(sampler)
    assert list(sampler) == first and sorted(first) == [(0, index) for index in range(10)]
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(second) == [(1, index) for index in range(10)]
    assert [index for _, index in first] != [index for _, index in second]
    assert list(EpochSampler(3, seed=0, shuffle=False)) == [(0, 0), (0, 1), (0, 2)]


def test_videos_give_windows_of_the_size_asked_for(tmp_path):
    write_face_video(tmp_path / "clips" / "a.mp4", frames=60)
    data = Footage(tmp_path, folder_clips(tmp_path / "clips")).faces(resolution=48)
    sample = data[(0, 0)]
    assert sample["faces"].shape == (16, 3, 48, 48)
    start = sample["start"]
    assert shown_numbers(sample["faces"]) == list(range(start, start + 16))


def test_what_cannot_be_trained_on_is_refused_at_once(footage):
    with pytest.raises(FootageError, match="no clips"):
        FaceWindows([], footage.mel, resolution=32)
    with pytest.raises(FootageError, match=r"are 32 px wide and 64 px are wanted; .* pack the footage at 64"):
        footage.faces(resolution=64)
    assert footage.faces(resolution=64, allow_upscale=True)[0]["faces"].shape == (16, 3, 64, 64)
    with pytest.raises(FootageError, match=r"1 of 4 clips are shorter than 51 frames, c0 .*min_frames=51"):
        footage.faces(frames=17)
    with pytest.raises(ValueError, match="min_shift_frames 0"):
        footage.sync(min_shift_frames=0)
    with pytest.raises(FootageError, match=r"all 2 clips are of one speaker \(ann\)"):
        SyncWindows(footage.clips[:2], footage.mel, resolution=32, other_clip_share=0.1)


def test_clips_without_speakers_take_any_other_clip(tmp_path):
    clips = [ClipFile(tmp_path / f"{n}.mp4", "video") for n in range(3)]
    rng = np.random.default_rng(0)
    assert {Others(clips).draw(rng, 1) for _ in range(50)} == {0, 2}


def test_windows_of_one_clip_lie_apart_and_hear_what_they_show(footage):
    windows = ClipWindows(footage.clips, footage.mel, resolution=32, windows=4, lower_half=False, seed=3)
    seen = set()
    for index in range(len(windows)):
        sample = windows[2, index]
        starts, clip = sample["starts"].tolist(), footage.clips[index].file
        assert sample["faces"].shape == (4, 48, 32, 32) and sample["mel"].shape == (4, 1, 80, 52)
        assert sample["clip"] == clip.name and int(sample["clip_number"]) == index
        assert min(np.diff(starts)) >= 5
        for number, start in enumerate(starts):
            faces = sample["faces"][number].unflatten(0, (16, 3))
            assert shown_numbers(faces) == list(range(start, start + 16))
            assert torch.equal(sample["mel"][number], mel_window(footage.mel.load(clip), start, 16))
        assert_same(sample, windows[2, index])
        seen.add(tuple(starts))
    assert len(seen) == len(windows)
    half = ClipWindows(footage.clips, footage.mel, resolution=32, windows=4, seed=3)[2, 0]["faces"]
    assert torch.equal(half, windows[2, 0]["faces"][:, :, 16:])


def test_starts_fill_the_clip_and_are_refused_where_they_do_not_fit():
    rng = np.random.default_rng(0)
    drawn = np.array([spread_starts(rng, 3, last=20, distance=6) for _ in range(400)])
    assert (np.diff(drawn, axis=1) >= 6).all() and drawn.min() == 0 and drawn.max() == 20
    assert spread_starts(rng, 3, last=12, distance=6) == [0, 6, 12]
    with pytest.raises(ValueError, match=r"3 starts 6 frames apart do not fit into \[0, 11\]"):
        spread_starts(rng, 3, last=11, distance=6)


def test_too_short_for_so_many_windows(footage):
    with pytest.raises(FootageError, match="shorter than 61 frames"):
        ClipWindows(footage.clips, footage.mel, resolution=32, windows=10)
    with pytest.raises(ValueError, match="windows 1: expected"):
        ClipWindows(footage.clips, footage.mel, resolution=32, windows=1)


def test_rare_speakers_are_drawn_more_often(footage):
    names = [clip.file.speaker for clip in balanced(footage.clips, 0.0)]
    assert sorted(names) == ["ann", "ann", "bob", "bob", "cid", "cid"]
    by_time = [clip.file.speaker for clip in balanced(footage.clips, 0.5)]  # 108, 75 and 90 frames
    assert sorted(by_time) == ["ann", "ann", "bob", "bob", "cid", "cid"]
    assert balanced(footage.clips, 1.0) == list(footage.clips)
    with pytest.raises(ValueError, match="speaker_power of 2"):
        balanced(footage.clips, 2)
