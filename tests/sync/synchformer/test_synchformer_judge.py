"""Synchformer behind the judges' interface: the probabilities of its classes, seen as a curve over frames."""

import numpy as np
import pytest
import torch
from synchformer_clips import talker, tiny_synchformer

from latentsync.face.tracks import FaceTrack
from latentsync.sync.synchformer.footage import read_clip
from latentsync.sync.synchformer.judge import SceneCut, SynchformerJudge
from latentsync.sync.synchformer.measure import measure_offset


@pytest.fixture
def seen(tmp_path):
    network = tiny_synchformer()
    path = talker(tmp_path / "clip.mp4", seconds=2.0)
    return network, path, read_clip(path, network.viewing)


def test_it_answers_as_the_measurement_of_the_file_does(seen):
    network, path, clip = seen
    found = measure_offset(path, network, hop_seconds=1.28)
    judge = SynchformerJudge(network)
    score = judge.score(iter(clip.frames.split(7)), clip.waveform)
    assert score.offset_frames == round(found.offset_seconds * 25)
    mean = np.mean([window.probabilities for window in found.windows], axis=0)
    assert score.min_distance == pytest.approx(1 - mean.max(), abs=1e-5)
    assert score.offsets == range(-10, 11)
    assert np.array(score.curve)[::5] == pytest.approx(1 - mean, abs=1e-5)


def test_several_sounds_and_what_it_wants(seen):
    network, _, clip = seen
    judge = SynchformerJudge(network)
    both = judge.score_sounds(clip.frames, [clip.waveform, clip.waveform.flip(0)])
    assert both[0] == judge.score(clip.frames, clip.waveform) and both[0].curve != both[1].curve
    assert (judge.tolerance_frames, judge.min_frames) == (5, 16)
    with pytest.raises(ValueError, match="fewer than 16 frames"):
        judge.score(clip.frames[:10], clip.waveform)
    with pytest.raises(ValueError, match="pass one for offsets"):
        SynchformerJudge(tiny_synchformer(head="sync_head", classes=2))


def test_a_scene_is_seen_as_its_own_reader_shows_it(seen):
    network, _, _ = seen
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    track = FaceTrack(0, np.zeros((1, 4), np.float32), np.zeros((1, 3, 2), np.float32), 1)
    cut = SceneCut(network.viewing)
    faces = cut.cut([image], cut.places(track))
    assert faces.shape == (1, 3, 40, 40) and faces.dtype == torch.uint8 and cut.size == (40, 40)
