"""Features on disk: the right ones for each recording, made once, and again where they are damaged."""

import os
import pickle

import numpy as np
import pytest
import torch
from footage_clips import write_face_video, write_packed
from transformers import WhisperModel

from latentsync.audio.mel import syncnet_mel
from latentsync.audio.whisper import encode, encoder_config, inner_context
from latentsync.audio.windows import frame_windows
from latentsync.errors import FootageError, MediaError
from latentsync.footage.clip import open_clip
from latentsync.footage.content import ContentKeys
from latentsync.footage.features import (
    FeatureCache,
    SyncNetMel,
    WhisperStates,
    token_window,
)
from latentsync.footage.listing import folder_clips, packed_clips

DIMS = dict(n_mels=80, n_audio_ctx=100, n_audio_state=16, n_audio_head=2, n_audio_layer=2)


@pytest.fixture
def encoder() -> WhisperModel:
    torch.manual_seed(0)
    return WhisperModel(encoder_config(DIMS)).eval()


def mel_cache(folder) -> FeatureCache:
    return FeatureCache(folder, SyncNetMel(), ContentKeys(folder))


@pytest.fixture
def refuses_to_compute(monkeypatch):
    monkeypatch.setattr(SyncNetMel, "compute", lambda *_: pytest.fail("made again"))


def test_two_files_of_equal_name_keep_features_of_their_own(tmp_path):
    write_face_video(tmp_path / "clips" / "one" / "a.mp4", seed=1)
    write_face_video(tmp_path / "clips" / "two" / "a.mp4", seed=2)
    first, second = folder_clips(tmp_path / "clips")
    cache = mel_cache(tmp_path / "cache")
    cache.fill([first, second])
    for clip in (first, second):
        with open_clip(clip) as opened:
            expected = syncnet_mel(torch.from_numpy(opened.waveform)).numpy()
        np.testing.assert_array_equal(cache.load(clip), expected)
    assert not np.array_equal(cache.load(first), cache.load(second))


def test_a_file_that_changes_gets_new_features(tmp_path):
    path = write_face_video(tmp_path / "clips" / "a.mp4", seed=1)
    (clip,) = folder_clips(tmp_path / "clips")
    cache = mel_cache(tmp_path / "cache")
    before = np.array(cache.load(clip))
    write_face_video(path, seed=2)
    os.utime(path, ns=(1, 1))
    assert not np.array_equal(cache.load(clip), before)


def test_what_is_kept_is_not_made_again_by_a_later_run(tmp_path, monkeypatch):
    (clip,) = packed_clips(write_packed(tmp_path / "clips", frames=(60,)))
    made = np.array(mel_cache(tmp_path / "cache").load(clip))
    monkeypatch.setattr(SyncNetMel, "compute", lambda *_: pytest.fail("made again"))
    np.testing.assert_array_equal(mel_cache(tmp_path / "cache").load(clip), made)


@pytest.mark.parametrize("damage", ["cut short", "empty", "other bytes", "other features"])
def test_a_damaged_file_is_made_again(tmp_path, damage, caplog):
    (clip,) = packed_clips(write_packed(tmp_path / "clips", frames=(60,)))
    cache = mel_cache(tmp_path / "cache")
    made = np.array(cache.load(clip))
    place = cache.place(clip)
    if damage == "other features":
        np.save(place, np.zeros((13, 7), np.float32))
    else:
        whole = place.read_bytes()
        place.write_bytes(
            {"cut short": whole[:-100], "empty": b"", "other bytes": b"\0" * len(whole)}[damage]
        )
    np.testing.assert_array_equal(cache.load(clip), made)
    assert "is made again" in caplog.text
    np.testing.assert_array_equal(np.load(place), made)
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_a_full_disk_is_an_error_that_leaves_nothing_behind(tmp_path, monkeypatch):
    (clip,) = packed_clips(write_packed(tmp_path / "clips", frames=(60,)))
    cache = mel_cache(tmp_path / "cache")

    def save(file, array) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", save)
        with pytest.raises(MediaError, match="No space left on device; is the disk full"):
            cache.load(clip)
    assert list(cache.place(clip).parent.iterdir()) == []


def test_ranks_share_the_work(tmp_path):
    clips = packed_clips(write_packed(tmp_path / "clips", frames=(60,) * 5))
    cache = mel_cache(tmp_path / "cache")
    cache.fill(clips, rank=1, ranks=2)
    assert [cache.place(clip).is_file() for clip in clips] == [False, True, False, True, False]
    cache.fill(clips, rank=0, ranks=2)
    assert all(cache.place(clip).is_file() for clip in clips)


def test_whisper_tokens_of_a_window_are_those_of_the_whole_clip(tmp_path, encoder):
    (clip,) = packed_clips(write_packed(tmp_path / "clips", frames=(80,)))  # longer than the encoder's 2 s
    cache = FeatureCache(tmp_path / "cache", WhisperStates(encoder), ContentKeys(tmp_path / "cache"))
    states = cache.load(clip)
    assert states.shape == (160, 3, 16) and states.dtype == np.float16
    with open_clip(clip) as opened:
        sound = torch.from_numpy(opened.waveform)
    windows = frame_windows(encode(sound, encoder, context=inner_context(encoder)).half().float(), 25)
    for start in (0, 17, 64):
        torch.testing.assert_close(
            token_window(states, start, 16), windows[start : start + 16], rtol=0, atol=0
        )


def test_other_weights_have_features_of_their_own(encoder):
    name = WhisperStates(encoder).name
    assert WhisperStates(encoder).name == name
    with torch.no_grad():
        encoder.encoder.layers[1].fc2.bias[0] += 1e-3
    assert WhisperStates(encoder).name != name


def test_an_encoder_stays_at_home_and_says_what_to_do(tmp_path, encoder):
    recipe = pickle.loads(pickle.dumps(WhisperStates(encoder)))
    assert recipe.name == WhisperStates(encoder).name
    with pytest.raises(FootageError, match="fill the cache before loading"):
        recipe.compute(np.zeros(16000, np.float32))
