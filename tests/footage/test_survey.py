"""Which clips serve: each rule drops what it is for, is counted, and too many of them stop the run."""

import numpy as np
import pytest
from footage_clips import SAMPLES, face_images, opening, voice, write_face_video, write_packed_clip
from synthetic import write_video

from latentsync.errors import FootageError
from latentsync.footage.clip import heard_frames
from latentsync.footage.content import ContentKeys
from latentsync.footage.listing import ClipFile, folder_clips
from latentsync.footage.survey import Rules, Surveyor, measure

RULES = Rules(min_frames=48)


@pytest.fixture
def surveyor(tmp_path) -> Surveyor:
    return Surveyor(tmp_path / "cache", ContentKeys(tmp_path / "cache"))


def packed(folder, *, frames=60, faces=None, sound=None) -> ClipFile:
    mouth = opening(frames, 1)
    faces = face_images(mouth, 1) if faces is None else faces
    write_packed_clip(folder, faces, mouth, voice(mouth, 1) if sound is None else sound)
    return ClipFile(folder, "packed")


def bad_clip(folder, reason: str) -> ClipFile:
    faces, sound = face_images(opening(60, 1), 1), voice(opening(60, 1), 1)
    if reason == "no sound":
        return ClipFile(write_video(folder.with_suffix(".mp4"), list(faces)), "video")
    if reason == "too short":
        return packed(folder, sound=sound[: 47 * SAMPLES])
    if reason == "silent":
        return packed(folder, sound=0.5 + 1e-4 * sound)
    if reason == "still":
        return packed(folder, faces=np.repeat(faces[:1], 60, axis=0))
    if reason == "dark":
        return packed(folder, faces=faces // 20)
    clip = packed(folder)
    (folder / "faces.npy").write_bytes(b"nothing")
    return clip


@pytest.mark.parametrize("reason", ["no sound", "too short", "silent", "still", "dark", "unreadable"])
def test_each_rule_drops_and_says_why(tmp_path, surveyor, reason):
    clips = [packed(tmp_path / f"good{n}") for n in range(4)] + [bad_clip(tmp_path / "bad", reason)]
    selection = surveyor.select(clips, RULES)
    assert [clip.file.name for clip in selection.kept] == ["good0", "good1", "good2", "good3"]
    assert [(clip.file.name, clip.reason) for clip in selection.dropped] == [("bad", reason)]
    assert f"4 of 5 clips serve, 240 frames (0.2 minutes)\n1 {reason} (" in selection.table()


def test_too_many_dropped_clips_stop_the_run_with_the_counts(tmp_path, surveyor):
    clips = [packed(tmp_path / f"good{n}") for n in range(3)]
    clips += [bad_clip(tmp_path / "bad", "dark"), packed(tmp_path / "short", frames=40)]
    with pytest.raises(
        FootageError, match=r"(?s)2 of 5 clips .* share of 0\.2 .*1 dark .*1 too short .*48 needed"
    ):
        surveyor.select(clips, RULES)
    assert len(surveyor.select(clips, Rules(48, max_dropped_share=0.4)).kept) == 3
    with pytest.raises(FootageError, match="1 of 1 clips"):
        surveyor.select(clips[3:4], Rules(48, max_dropped_share=1.0))


def test_a_photograph_with_a_voice_is_still_and_a_talking_video_is_not(tmp_path):
    mouth = opening(60, 3)
    noisy = face_images(mouth[:1].repeat(60), 3, 64)
    noisy[:, :16] = noisy[:1, :16]  # no frame counter
    photo = write_video(tmp_path / "photo.mp4", noisy, sound=voice(mouth, 3)[None], rate=16000)
    rules = Rules(48)
    assert measure(ClipFile(photo, "video")).motion < rules.still_levels
    talking = measure(ClipFile(write_face_video(tmp_path / "talk.mp4"), "video"))
    assert talking.motion > 4 * rules.still_levels
    assert rules.reason_against(talking) is None


def test_a_cut_video_is_unreadable_rather_than_an_error(tmp_path, surveyor):
    path = write_face_video(tmp_path / "clips" / "a.mp4")
    path.write_bytes(path.read_bytes()[:2000])
    (dropped,) = surveyor.sort_out(folder_clips(tmp_path / "clips"), RULES).dropped
    assert dropped.reason == "unreadable" and "a.mp4" in dropped.detail


def test_videos_are_measured_once_and_a_damaged_note_is_measured_again(tmp_path, surveyor, monkeypatch):
    write_face_video(tmp_path / "clips" / "a.mp4")
    (clip,) = folder_clips(tmp_path / "clips")
    facts = surveyor.facts(clip)
    with monkeypatch.context() as patch:
        patch.setattr("latentsync.footage.survey.measure", lambda file: pytest.fail("measured again"))
        assert surveyor.facts(clip) == facts
    (note,) = (tmp_path / "cache").rglob("*.json")
    note.write_text('{"frames": 3}')
    assert surveyor.facts(clip) == facts


def test_frames_without_their_sound_do_not_count():
    assert heard_frames(75, 48000) == 75 and heard_frames(75, 47999) == 74 and heard_frames(75, 99999) == 75
