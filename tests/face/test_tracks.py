"""All faces of a clip, with a detector that is told what to see: identity, gaps, cuts, newcomers."""

import numpy as np
import pytest
from test_track import Told, clip, face

from latentsync.face.tracks import MAX_GAP_FRAMES, MIN_FOUND_FRAMES, SEARCH_FRAMES, find_tracks


def spans(tracks):
    return [(track.start, track.stop, track.found_frames) for track in tracks]


def run(faces, scenes=None):
    detector = Told(faces)
    return find_tracks(clip(len(faces), scenes), detector), detector


def test_two_people_are_two_tracks_each_in_its_place():
    tracks, _ = run([[face(40 + i / 4, 60), face(150, 60, size=50)] for i in range(40)])
    assert spans(tracks) == [(0, 40, 40), (0, 40, 40)]
    large, small = tracks  # the larger first
    assert large.size_px == pytest.approx(50) and small.size_px == pytest.approx(40)
    assert np.allclose(large.boxes[:, 0], 125) and np.allclose(small.boxes[:, 0], 20 + np.arange(40) / 4)
    assert small.anchors.shape == (40, 3, 2) and small.frames == 40


def test_known_faces_are_looked_for_where_they_were():
    _, detector = run([[face(60, 60)] for _ in range(40)])
    searches = 40 - detector.hinted
    assert searches == len(range(0, 40, SEARCH_FRAMES))


def test_somebody_who_comes_in_is_found_by_the_next_search():
    tracks, _ = run([[face(40, 60)] + ([face(150, 60)] if i >= 14 else []) for i in range(48)])
    assert spans(tracks) == [(0, 48, 48), (24, 48, 24)]


def test_a_gap_is_bridged_on_a_line_and_a_longer_one_parts():
    shown = [[] if 10 <= i < 15 else [face(60 + i, 60)] for i in range(40)]
    (track,), _ = run(shown)
    assert (track.frames, track.found_frames) == (40, 35)
    assert np.allclose(track.boxes[:, 0], 40 + np.arange(40), atol=1e-4)
    gap = MAX_GAP_FRAMES + 1
    first, second = run([[] if 10 <= i < 10 + gap else [face(60, 60)] for i in range(70)])[0]
    assert (first.start, first.stop, second.stop) == (0, 10, 70)


def test_a_cut_ends_all_tracks_even_where_the_faces_lie_alike():
    tracks, _ = run([[face(60, 60)] for _ in range(30)], scenes=[0] * 13 + [1] * 17)
    assert spans(tracks) == [(0, 13, 13), (13, 30, 17)]


def test_what_is_seen_a_few_times_only_is_no_face():
    few = MIN_FOUND_FRAMES - 1
    tracks, _ = run([[face(60, 60)] + ([face(150, 60)] if i < few else []) for i in range(60)])
    assert spans(tracks) == [(0, 60, 60)]
    assert run([[] for _ in range(20)])[0] == []


def test_a_jitter_of_positions_is_smoothed_in_the_anchors():
    jitter = np.random.default_rng(0).normal(0, 1.5, 40)
    (track,), _ = run([[face(60 + jitter[i], 60)] for i in range(40)])
    left = track.anchors[:, 0, 0]
    assert np.diff(left).std() < 0.5 * np.diff(jitter).std()
    assert np.allclose(track.boxes[:, 0], 40 + jitter, atol=1e-4)  # as measured
