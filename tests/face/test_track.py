"""Tracking with a detector that is told what to see: identity, cuts, gaps, smoothing, look-ahead."""

from types import SimpleNamespace

import numpy as np
import pytest

from latentsync.face.detect import Face
from latentsync.face.track import RADIUS, bridge_gaps, track

HEIGHT, WIDTH = 120, 200
BEYOND = RADIUS + 2


def face(x, y, size=40.0, score=0.9):
    """A face of `size` around (x, y)."""
    anchors = np.array([[-0.25, -0.2], [0.25, -0.2], [0.0, 0.1]]) * size + (x, y)
    box = (x - size / 2, y - size / 2, x + size / 2, y + size / 2)
    return Face(box, score, anchors.astype(np.float32), anchors.astype(np.float32), "mediapipe")


def scene(seed):
    """A picture of large random fields; another seed is another shot."""
    fields = np.random.default_rng(seed).integers(30, 200, (6, 10, 3), dtype=np.uint8)
    return np.kron(fields, np.ones((20, 20, 1), np.uint8))


class Told:
    """Sees in frame i what it was told; with a hint only the face near it, as the real one does."""

    def __init__(self, faces):
        self.faces, self.calls, self.hinted = faces, [], 0

    def detect(self, image, hint=None):
        index = int(image[0, 0, 0])
        self.calls.append(index)
        seen = list(self.faces[index])
        if hint is not None:
            centre = (hint[0] + hint[2]) / 2, (hint[1] + hint[3]) / 2
            side = hint[2] - hint[0]
            near = [f for f in seen if np.hypot(*(f.anchors.mean(axis=0) - centre)) < side]
            self.hinted += bool(near)
            return near[:1] or seen
        return seen

    def close(self):
        pass


def clip(count, scenes=None, first=0):
    """Frames whose first pixel tells their index."""
    for i in range(first, first + count):
        image = scene(0 if scenes is None else scenes[i]).copy()
        image[0, 0] = i
        yield SimpleNamespace(image=image, index=i, time=i / 25)


def run(faces, scenes=None, **options):
    detector = Told(faces)
    return list(track(clip(len(faces), scenes), detector, **options)), detector


def centres(tracked):
    return [None if t.face is None else float(t.face.anchors[:, 0].mean()) for t in tracked]


@pytest.mark.parametrize("count", range(8))
def test_every_frame_comes_back_once_and_in_order(count):
    frames = list(clip(count))
    tracked = list(track(frames, Told([[face(80, 60)]] * count)))
    assert [t.frame for t in tracked] == frames
    assert all(t.face is not None and t.face.shot == 0 for t in tracked)


def test_no_face_is_no_error():
    tracked, _ = run([[]] * 9)
    assert [t.face for t in tracked] == [None] * 9
    assert [t.face for t in bridge_gaps(tracked)] == [None] * 9


def test_a_larger_face_that_enters_does_not_take_over():
    faces = [[face(60, 60, 36)] + ([face(140, 60, 80)] if i >= 5 else []) for i in range(20)]
    tracked, detector = run([sorted(f, key=lambda x: -x.box[2]) for f in faces])
    assert np.allclose(centres(tracked), 60, atol=0.1)
    assert detector.hinted == 19  # the whole picture was searched once


def test_starts_with_the_largest_and_most_central_face():
    tracked, _ = run([[face(20, 20, 42), face(100, 60, 40), face(150, 60, 20)]] * 4)
    assert np.allclose(centres(tracked), 100, atol=0.1)


def test_a_passer_by_close_to_the_lost_person_is_not_taken():
    """While the person is hidden, another face of another size stands elsewhere."""
    faces = [[face(60, 60)]] * 6 + [[face(150, 60, 70)]] * 6 + [[face(64, 60), face(150, 60, 70)]] * 6
    tracked, _ = run(faces)
    got = centres(tracked)
    assert got[6:12] == [None] * 6
    assert np.allclose(got[12:], 64, atol=0.1)


def test_a_gap_starts_a_new_shot_and_bridging_widens_it():
    faces = [[face(80, 60)]] * 6 + [[]] + [[face(80, 60)]] * 6
    tracked, _ = run(faces)
    shots = [None if t.face is None else t.face.shot for t in tracked]
    assert shots == [0] * 6 + [None] + [1] * 6
    bridged = [t.face is None for t in bridge_gaps(tracked)]
    assert bridged == [False] * 5 + [True] * 3 + [False] * 5


def test_bridging_streams():
    taken = []

    def source():
        for t in run([[face(80, 60)]] * 10)[0]:
            taken.append(t)
            yield t

    stream = bridge_gaps(source())
    for i in range(5):
        next(stream)
        assert len(taken) == i + 2


def test_a_cut_starts_a_new_shot_and_smoothing_stays_on_its_side():
    """The person jumps with the cut: not one position may lie in between."""
    faces = [[face(60, 60)]] * 8 + [[face(130, 50, 60)]] * 8
    tracked, _ = run(faces, scenes=[1] * 8 + [2] * 8)
    assert [t.face.shot for t in tracked] == [0] * 8 + [1] * 8
    assert np.allclose(centres(tracked), [60] * 8 + [130] * 8, atol=1e-3)


def test_smoothing_does_not_cross_a_gap():
    faces = [[face(60, 60)]] * 6 + [[]] + [[face(75, 60)]] * 6
    tracked, _ = run(faces)
    got = centres(tracked)
    assert np.allclose(got[:6], 60, atol=1e-3) and np.allclose(got[7:], 75, atol=1e-3)


def test_after_a_cut_the_same_person_is_found_by_looks():
    """Two people side by side; in the next shot they have changed sides and the other one is larger."""
    person = np.array([200, 90, 60], np.uint8)
    other = np.array([40, 80, 190], np.uint8)

    def frames():
        for i in range(12):
            image = scene(1 if i < 6 else 2).copy()
            a, b = (50, 140) if i < 6 else (140, 50)
            image[20:100, a - 40 : a + 40], image[20:100, b - 40 : b + 40] = person, other
            image[0, 0] = i
            yield SimpleNamespace(image=image, index=i)

    faces = [[face(50, 60, 44), face(140, 60, 30)]] * 6 + [[face(50, 60, 50), face(140, 60, 40)]] * 6
    tracked = list(track(frames(), Told(faces)))
    assert np.allclose(centres(tracked), [50] * 6 + [140] * 6, atol=0.1)


def test_a_flash_or_a_fade_is_no_cut():
    frames = list(clip(20))
    frames[7].image[1:] = 255
    for i in range(10, 20):
        frames[i].image[1:] = (frames[i].image[1:] * (1 - 0.08 * (i - 9))).astype(np.uint8)
    tracked = list(track(frames, Told([[face(80, 60)]] * 20)))
    assert {t.face.shot for t in tracked} == {0}


def test_steady_motion_is_neither_delayed_nor_damped():
    """Also in the first and last frames, where the neighbours are on one side only."""
    positions = [40 + 3.0 * i for i in range(20)]
    tracked, _ = run([[face(x, 60)] for x in positions])
    assert np.allclose(centres(tracked), positions, atol=1e-3)


def test_noise_is_reduced():
    noise = np.random.default_rng(5).normal(0, 1.0, 60)
    tracked, _ = run([[face(100 + n, 60)] for n in noise])
    left = np.array(centres(tracked)) - 100
    assert left[2:-2].std() < 0.65 * noise.std()  # binomial weights leave sqrt(70)/16 = 0.52 of white noise


def test_landmarks_stay_as_measured():
    positions = [100 + (-1) ** i for i in range(10)]
    tracked, _ = run([[face(x, 60)] for x in positions])
    assert [float(t.face.landmarks[:, 0].mean()) for t in tracked] == pytest.approx(positions, abs=1e-3)


def test_a_single_jump_is_no_measurement():
    faces = [[face(80, 60)] for _ in range(11)]
    faces[5] = [face(95, 60)]
    tracked, _ = run(faces)
    assert np.allclose(centres(tracked), 80, atol=0.1)


def test_a_detection_in_one_frame_only_is_no_face():
    faces = [[] for _ in range(11)]
    faces[5] = [face(80, 60)]
    assert centres(run(faces)[0]) == [None] * 11


def test_one_picture_is_enough():
    assert centres(run([[face(80, 60)]])[0]) == pytest.approx([80], abs=1e-3)


def test_the_person_may_come_back_anywhere_after_a_while():
    """Both halves of the picture are alike, and so is the person in either."""
    frames = list(clip(40))
    for frame in frames:
        frame.image[:, 100:] = frame.image[:, :100]
    faces = [[face(45, 60)]] * 5 + [[]] * 30 + [[face(145, 60)]] * 5
    got = centres(list(track(frames, Told(faces))))
    assert got[5:35] == [None] * 30
    assert np.allclose(got[35:], 145, atol=0.1)


def test_a_false_start_is_forgotten():
    """Something like a face in the first frames, elsewhere; the person comes later and is no copy of it."""
    faces = [[face(30, 30, 25)]] * 2 + [[]] * 4 + [[face(150, 70)]] * 8
    assert np.allclose(centres(run(faces)[0])[6:], 150, atol=0.1)


def test_nobody_else_is_taken_for_the_lost_person():
    """The person leaves; somebody of quite other colours stays."""
    frames = list(clip(60))
    for frame in frames:
        frame.image[10:110, :90] = np.linspace(0, 200, 90).astype(np.uint8)[None, :, None]
        frame.image[10:110, 110:] = np.linspace(200, 0, 90).astype(np.uint8)[None, :, None]
        frame.image[0, 0] = frame.index
    faces = [[face(45, 60)]] * 10 + [[face(155, 60)]] * 50
    tracked = list(track(frames, Told(faces)))
    assert [t.face is None for t in tracked] == [False] * 10 + [True] * 50


def test_look_ahead_is_bounded():
    taken = []

    def frames():
        for frame in clip(30):
            taken.append(frame.index)
            yield frame

    for done, _ in enumerate(track(frames(), Told([[face(80, 60)]] * 30)), start=1):
        assert len(taken) <= done + BEYOND


def test_the_cache_spares_a_second_look():
    faces = [[face(60 + i, 60)] for i in range(10)]
    detector, cache = Told(faces), {}
    there = list(clip(10))
    back_and_forth = there + there[-2:0:-1] + there
    tracked = list(track(back_and_forth, detector, cache=cache))
    assert sorted(detector.calls) == list(range(10))
    assert all(t.face is not None for t in tracked)
    assert sorted(cache) == list(range(10))
    assert centres(tracked)[18:] == pytest.approx(centres(run(faces)[0]), abs=3)


def test_shorter_smoothing():
    positions = [100 + (-1) ** i for i in range(10)]
    tracked, _ = run([[face(x, 60)] for x in positions], radius=1)
    assert centres(tracked)[1:-1] == pytest.approx([100] * 8, abs=1e-3)  # (1, 2, 1) takes out the fastest
    with pytest.raises(ValueError, match="radius 0"):
        run([[face(80, 60)]], radius=0)
