"""What Synchformer's trainings are given: lists of collections, samples decided by their number, changes."""

import csv

import numpy as np
import pytest
import torch
from footage_clips import frame_number, write_face_video, write_packed
from synchformer_clips import talker

from latentsync.errors import ConfigError, FootageError
from latentsync.sync.synchformer import augment
from latentsync.sync.synchformer.augment import Augmentation, zoomed
from latentsync.sync.synchformer.inputs import mel_segments
from latentsync.sync.synchformer.layouts import list_clips, read_fixed_offsets
from latentsync.sync.synchformer.samples import SegmentSamples, long_enough
from latentsync.sync.synchformer.training_config import DataConfig, SynchformerTrainConfig
from latentsync.sync.synchformer.training_data import samples

TINY = {
    "dataset": "packed",
    "view": "face",
    "size_before_crop": 32,
    "input_size": 32,
    "segment_size_vframes": 8,
    "n_segments": 3,
    "crop_len_sec": 0.88,
    "max_off_sec": 0.4,
    "num_off_cls": 5,
}


def write_table(path, rows, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def touch(folder, names):
    for name in names:
        path = folder / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def keys(*arguments):
    return [clip.key for clip in list_clips(*arguments)]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "packed"
    splits = ["train"] * 4 + ["val"] * 2
    return write_packed(folder, frames=[40, 60, 40, 44, 50, 50], speakers=list("aaabcd"), splits=splits)


def config(packed, kind="sync", **data):
    data = {**TINY, "vids_path": str(packed), **data}
    return SynchformerTrainConfig(kind=kind, output="runs/x", data=DataConfig(**data))


def test_lrs3_by_lists_or_shared_out_by_video(tmp_path):
    videos = [f"pretrain/v{number}/0000{clip}" for number in range(20) for clip in range(2)]
    touch(tmp_path / "lrs3", videos)
    shared = {split: keys("lrs3", tmp_path / "lrs3", split) for split in ("train", "valid", "test")}
    assert sorted(key for part in shared.values() for key in part) == sorted(videos)
    assert [len(part) for part in shared.values()] == [32, 4, 4]  # both clips of a video on one side
    of_video = {split: {key.split("/")[1] for key in part} for split, part in shared.items()}
    assert not of_video["valid"] & of_video["train"]
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/lrs3_test.txt").write_text("pretrain/v3/00001\npretrain/v9/00000.mp4\n")
    assert keys("lrs3", tmp_path / "lrs3", "test", tmp_path / "lists") == [
        "pretrain/v3/00001",
        "pretrain/v9/00000",
    ]
    short = tmp_path / "lists/filtered_examples_lrs"
    short.mkdir()
    (short / "less_than_9s.txt").write_text("00001\n")
    assert keys("longer_lrs3", tmp_path / "lrs3", "test", tmp_path / "lists") == ["pretrain/v9/00000"]


def vggsound(tmp_path):
    rows = [
        [f"id_{number:02d}", "30", f"class {number % 3}", "test" if number < 6 else "train"]
        for number in range(40)
    ]
    lists, root = tmp_path / "lists", tmp_path / "vgg"
    write_table(lists / "vggsound.csv", rows)
    touch(root, [f"id_{number:02d}_30000_40000" for number in range(40)])
    return root, lists


def test_vggsound_draws_its_validation_with_the_classes_of_the_test(tmp_path):
    root, lists = vggsound(tmp_path)
    parts = {split: keys("vggsound", root, split, lists) for split in ("train", "valid", "test")}
    assert [len(part) for part in parts.values()] == [28, 6, 6]
    assert sorted(int(key[3:5]) % 3 for key in parts["valid"]) == [0, 0, 1, 1, 2, 2]
    assert len({key for part in parts.values() for key in part}) == 40
    assert parts["test"][0] == "id_00_30000_40000"


def test_vggsound_sparse_keeps_its_classes_and_what_is_genuine(tmp_path):
    root, lists = vggsound(tmp_path)
    write_table(lists / "picked_sparse_classes.csv", [["class 0", "y"], ["class 1", "n"]], "\t")
    assert keys("vggsound_sparse", root, "test", lists) == ["id_00_30000_40000", "id_03_30000_40000"]
    table = [
        ["dataset_name", "video_id", "vstart_sec", "offset_sec", "is_sync"],
        ["vgg", "id_00_30000_40000", "1.2", "0.4", "1"],
        ["vgg", "id_03_30000_40000", "1.2", "0.4", "0"],
    ]
    place = write_table(lists / "vggsound_sparse_clean_fixed_offsets.csv", table)
    assert keys("vggsound_sparse_clean", root, "test", lists) == ["id_00_30000_40000"]
    offsets = read_fixed_offsets(place)
    assert list(offsets) == ["id_00_30000_40000"]
    assert (offsets["id_00_30000_40000"].offset_seconds, offsets["id_00_30000_40000"].start_seconds) == (
        0.4,
        1.2,
    )


def test_audioset_by_phase(tmp_path):
    rows = [["unbalanced/-a_b", "30.0", "40.0", "1;2", "train"], ["eval/cd", "0.5", "10.5", "1", "test"]]
    write_table(tmp_path / "lists/audioset.csv", rows)
    touch(tmp_path / "as", ["unbalanced_train_segments/-a_b_30000_40000", "eval_segments/cd_500_10500"])
    assert keys("audioset", tmp_path / "as", "train", tmp_path / "lists") == ["unbalanced/-a_b_30000_40000"]
    (clip,) = list_clips("audioset", tmp_path / "as", "test", tmp_path / "lists")
    assert (clip.key, clip.path.parent.name) == ("eval/cd_500_10500", "eval_segments")


def test_lists_that_cannot_serve_are_refused(tmp_path, packed):
    with pytest.raises(FootageError, match="'lrs4' is unknown; known are lrs3"):
        list_clips("lrs4", tmp_path, "test")
    with pytest.raises(FileNotFoundError, match=r"data\.vids_path"):
        list_clips("lrs3", tmp_path / "absent", "test")
    with pytest.raises(FileNotFoundError, match=r"vggsound\.csv does not exist; set data\.lists"):
        list_clips("vggsound", tmp_path, "test")
    root, lists = vggsound(tmp_path)
    for number in range(3):
        (root / f"id_0{number}_30000_40000.mp4").unlink()
    with pytest.raises(FootageError, match="3 of 6 clips of 'test' are missing: id_00"):
        list_clips("vggsound", root, "test", lists)
    with pytest.raises(FootageError, match="no table of fixed offsets"):
        read_fixed_offsets(lists / "vggsound.csv")
    with pytest.raises(FileNotFoundError, match=r"data\.fixed_offsets"):
        read_fixed_offsets(tmp_path / "no.csv")
    with pytest.raises(FootageError, match="2 of 2 clips are shorter than 80 s"):
        long_enough(list_clips("packed", packed, "valid"), 2000)


@pytest.mark.parametrize("kind", ["segment_avclip", "sync", "ft_synchability"])
def test_a_sample_is_decided_by_its_number(packed, kind):
    settings = {"n_segments": 2, "crop_len_sec": 0.48} if kind == "ft_synchability" else {}
    settings |= {"p_color_jitter": 0.5, "p_audio_aug": 0.5, "p_gray_scale": 0.5}
    first, again = (samples(config(packed, kind, **settings), "train") for _ in range(2))
    for place in ((0, 1), (3, 2)):
        one, other = first[place], again[place]
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(first[(0, 1)]["audio"], first[(1, 1)]["audio"])
    segments = settings.get("n_segments", 3)
    assert one["video"].shape == (segments, 8, 3, 32, 32) and one["audio"].shape == (segments, 1, 128, 34)
    assert one["video"].abs().max() <= 1


def uint8(video):
    return ((video + 1) * 127.5).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()


def test_segments_are_cut_where_their_frames_say(packed):
    data = samples(
        config(packed, "segment_avclip", n_segments=4, step_size_seg=1.0, crop_len_sec=1.28), "valid"
    )
    numbers = [frame_number(segment) for segment in uint8(data[0]["video"])]
    assert numbers == [list(range(start, start + 8)) for start in (9, 17, 25, 33)]  # 50 frames, 32 of them


def test_offsets_of_a_crop_are_those_of_its_class(packed):
    """Sound and picture carry their time: what is seen, and where its sound lies in the clip's."""
    data = samples(config(packed), "valid")
    seen = set()
    for epoch in range(30):
        sample = data[(epoch, 0)]
        target = int(sample["target"])
        seen.add(target)
        start = frame_number(uint8(sample["video"][:1])[0])[0]
        clip = data.open(data.clips[0], np.random.default_rng(0))
        first = round((start / 25 + (target - 2) * 0.2) * 16_000)
        alone = SegmentSamples(data.clips, data.config, seed=0, is_training=False)
        expected = torch.cat([mel_at(clip, first + 640 * 4 * number) for number in range(3)])
        assert torch.allclose(sample["audio"], expected, atol=1e-5), (epoch, target, start)
        assert alone.viewing == data.viewing
    assert seen == {0, 1, 2, 3, 4}


def mel_at(clip, start):
    return mel_segments(clip.waveform, [start], 8 * 640)


def test_sound_that_no_offset_explains_does_not_overlap_the_picture(packed):
    data = samples(config(packed, "ft_synchability", n_segments=2, crop_len_sec=0.48), "valid")
    told = []
    for epoch in range(40):
        sample = data[(epoch, 0)]
        told.append(int(sample["target"]))
        assert (int(sample["offset_target"]) == -1) == (told[-1] == 0)
        start = frame_number(uint8(sample["video"][:1])[0])[0]
        clip = data.open(data.clips[0], np.random.default_rng(0))
        if not told[-1]:
            sounds = [mel_at(clip, 640 * (start + shift)) for shift in (-12, 12) if 0 <= start + shift <= 42]
            assert any(torch.allclose(sample["audio"][:1], sound, atol=1e-5) for sound in sounds)
    assert 10 < sum(told) < 30


def test_fixed_offsets_are_the_same_in_every_pass(packed, tmp_path):
    rows = [["path", "offset_sec", "vstart_sec"], ["c4.mp4", "-0.2", "0.4"], ["elsewhere", "0", "0"]]
    table = write_table(tmp_path / "valid.csv", rows)
    data = samples(config(packed, fixed_offsets=str(table), load_fixed_offsets_on=["valid"]), "valid")
    assert len(data) == 1
    one, later = data[(0, 0)], data[(5, 0)]
    assert int(one["target"]) == 1 and torch.equal(one["video"], later["video"])
    assert frame_number(uint8(one["video"][:1])[0])[0] == 10 + 3  # the first segment begins 3 frames later
    with pytest.raises(FootageError, match=r"data\.fixed_offsets no table"):
        samples(config(packed, load_fixed_offsets_on=["test"]), "test")


def test_jitter_and_random_squares_stay_within_their_reach(packed):
    data = samples(
        config(packed, input_size=16, crop_top=0.75, crop_jitter_px=2, p_horizontal_flip=0.0), "train"
    )
    frames = torch.arange(32 * 32).reshape(1, 1, 32, 32)
    corners = {divmod(int(data.square(frames, np.random.default_rng(n))[0, 0, 0, 0]), 32) for n in range(300)}
    assert corners == {(12 + down, 8 + across) for down in range(-2, 3) for across in range(-2, 3)}
    moved = {data.jitter(np.random.default_rng(n), 500, 10**6) for n in range(3000)}
    assert min(moved) >= -500 and max(moved) <= 800 and len(moved) > 500


def test_people_rarely_filmed_are_drawn_more_often(packed):
    data = samples(config(packed, balance_speakers=True), "train")
    shares = np.diff([0, *data._cumulative])
    assert shares[:3].sum() == pytest.approx(3**0.5 / (3**0.5 + 1))  # three clips of one, one of another


def test_videos_serve_as_well_as_arrays(tmp_path):
    for split in ("train", "valid"):
        (tmp_path / split).mkdir()
        for number in range(2):
            talker(tmp_path / split / f"{number}.mp4", seconds=3, seed=number)
    data = {"dataset": "folder", "view": "scene", "size_before_crop": 40}
    found = samples(config(tmp_path, **data), "train")
    assert found[0]["video"].shape == (3, 8, 3, 32, 32)
    assert {clip.key for clip in found.clips} == {"train/0", "train/1"}


def test_videos_of_aligned_faces_serve_too(tmp_path):
    write_face_video(tmp_path / "a.mp4", frames=60, side=64)
    found = samples(config(tmp_path, size_before_crop=32), "train")
    assert found[0]["video"].shape == (3, 8, 3, 32, 32)


def test_colour_flip_and_grey_are_drawn_as_often_as_asked():
    frames = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    rng = np.random.default_rng(0)
    same = Augmentation(flip=0)
    assert torch.equal(same.pictures(frames, rng), frames)
    assert torch.equal(Augmentation(flip=1).pictures(frames, rng), frames.flip(-1))
    grey = Augmentation(flip=0, grey=1).pictures(frames, rng)
    assert torch.equal(grey[:, 0], grey[:, 2])
    changed = [Augmentation(flip=0, colour=0.5).pictures(frames, rng) for _ in range(100)]
    assert 30 < sum(not torch.equal(one, frames) for one in changed) < 70
    assert zoomed(frames, 16).shape == (4, 3, 16, 16)
    with pytest.raises(ValueError, match="share of colour is 2"):
        Augmentation(colour=2)


def test_a_change_of_hue_keeps_grey_grey_and_brightness():
    grey = torch.full((1, 3, 2, 2), 0.4)
    assert torch.allclose(augment.turned(grey, 0.17), grey, atol=1e-3)
    red = torch.tensor([0.8, 0.1, 0.1]).view(1, 3, 1, 1)
    turned = augment.turned(red, 0.5)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    assert float((turned * weights).sum()) == pytest.approx(float((red * weights).sum()), abs=1e-3)
    assert not torch.allclose(turned, red, atol=0.1)


def test_changes_of_the_sound_do_not_move_it():
    rng = np.random.default_rng(0)
    time = np.arange(16_000) / 16_000
    beep = (np.sin(2 * np.pi * 500 * time) * ((time > 0.4) & (time < 0.6)) * 0.3).astype(np.float32)
    for change in (augment.louder, augment.noisy, augment.muffled, augment.reverberated, augment.higher):
        changed = change(beep, rng)
        assert len(changed) == len(beep)
        loud = np.convolve(np.square(changed), np.ones(320), mode="same")
        onset = np.flatnonzero(loud > loud.max() / 10)[0] / 16_000
        assert onset == pytest.approx(0.4, abs=0.05), change.__name__
    assert np.abs(augment.louder(beep, rng)).max() == pytest.approx(0.6, abs=0.01)
    tone = np.abs(np.fft.rfft(augment.higher(beep, rng))).argmax()
    assert tone == pytest.approx(500 * 2 ** (1000 / 1200), rel=0.05)


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        ("other", {}, "expected one of segment_avclip"),
        ("sync", {"step_size_seg": 0.3}, "no whole number"),
        ("sync", {"audio_jitter_sec": 0.2}, "more than half a step"),
        ("sync", {"crop_len_sec": 0.4}, "do not fit"),
        ("segment_avclip", {}, "run.win_size is 8"),
        ("sync", {"dataset": "lrs3"}, "aligned already"),
        ("ft_synchability", {"load_fixed_offsets_on": ["valid"]}, "leave data.load_fixed_offsets_on empty"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(kind, data, words):
    with pytest.raises(ConfigError, match=words):
        config("nowhere", kind, **data).check()
