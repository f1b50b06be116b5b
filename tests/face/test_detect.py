"""Detectors: MediaPipe on a public-domain portrait, large, small and several; InsightFace with a stand-in."""

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest

from latentsync.errors import LatentSyncError
from latentsync.face.detect import (
    INSIGHTFACE_FILES,
    MIN_FACE_PX,
    InsightFaceDetector,
    MediaPipeDetector,
    make_detector,
    overlap,
)

PORTRAIT_FACE_PX = 94  # width of the mesh in the 512-pixel portrait


@pytest.fixture(scope="module")
def detector():
    pytest.importorskip("mediapipe")
    with MediaPipeDetector() as detector:
        yield detector


@pytest.fixture(scope="module")
def portrait():
    return pytest.importorskip("skimage.data").astronaut()


@pytest.fixture(scope="module")
def portrait_face(detector, portrait):
    (face,) = detector.detect(portrait)
    return face


def pasted(portrait, places, size=(1080, 1920)):
    """A grey picture with the portrait at every (x, y, side)."""
    image = np.full((*size, 3), 90, np.uint8)
    for x, y, side in places:
        image[y : y + side, x : x + side] = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)
    return image


def moved(anchors, place, side=512):
    return anchors * place[2] / side + place[:2]


def test_one_face_and_its_anchors(portrait_face):
    left, right, nose = portrait_face.anchors
    x0, y0, x1, y1 = portrait_face.box
    assert portrait_face.kind == "mediapipe" and portrait_face.score > 0.8
    assert portrait_face.landmarks.shape == (468, 2) and portrait_face.landmarks.dtype == np.float32
    assert x0 < left[0] < nose[0] < right[0] < x1
    assert y0 < max(left[1], right[1]) < nose[1] < y1
    assert (
        np.linalg.norm(left - (200, 90)) < 6 and np.linalg.norm(nose - (224, 126)) < 6
    )  # read off the picture


@pytest.mark.parametrize("face_px", [400, 120, 60, 30])
def test_small_faces_in_a_large_frame(detector, portrait, portrait_face, face_px):
    side = min(1080, round(512 * face_px / PORTRAIT_FACE_PX))
    place = (1100 - side // 2, 0 if side == 1080 else 333, side)
    (face,) = detector.detect(pasted(portrait, [place]))
    wanted = moved(portrait_face.anchors, place)
    assert np.abs(face.anchors - wanted).max() < 1 + 0.02 * face_px


def test_several_faces(detector, portrait, portrait_face):
    places = [(50, 100, 512), (700, 300, 600), (1400, 80, 450)]
    faces = detector.detect(pasted(portrait, places))
    assert len(faces) == 3
    for place in places:
        wanted = moved(portrait_face.anchors, place)
        assert min(np.abs(face.anchors - wanted).max() for face in faces) < 4


def test_a_face_partly_outside(detector, portrait, portrait_face):
    cut = np.ascontiguousarray(portrait[:, 200:])
    (face,) = detector.detect(cut)
    assert np.abs(face.anchors - (portrait_face.anchors - (200, 0))).max() < 15


def test_nothing_where_nothing_is(detector):
    rng = np.random.default_rng(0)
    wall = cv2.resize(rng.integers(0, 256, (20, 35, 3), dtype=np.uint8), (640, 360))
    assert detector.detect(wall) == []
    assert detector.detect(np.zeros((64, 64, 3), np.uint8)) == []


def test_animals_are_nobody(detector):
    data = pytest.importorskip("skimage.data")
    assert detector.detect(data.chelsea()) == []


def test_too_small_a_face_is_refused(detector, portrait):
    side = round(512 * (MIN_FACE_PX - 8) / PORTRAIT_FACE_PX)
    assert detector.detect(pasted(portrait, [(100, 100, side)], size=(240, 320))) == []


def test_a_hint_gives_that_face_alone(detector, portrait, portrait_face):
    places = [(50, 100, 512), (900, 300, 700)]
    image = pasted(portrait, places)
    for x, y, side in places:
        hint = tuple(np.array(portrait_face.box) * side / 512 + (x, y, x, y) + 6)
        (face,) = detector.detect(image, hint)
        assert np.abs(face.anchors - moved(portrait_face.anchors, (x, y, side))).max() < 4


def test_a_wrong_hint_falls_back_to_the_whole_picture(detector, portrait, portrait_face):
    (face,) = detector.detect(portrait, (400.0, 400.0, 480.0, 480.0))
    assert overlap(face.box, portrait_face.box) > 0.9


def test_wrong_pictures_are_named(detector):
    with pytest.raises(ValueError, match="float32"):
        detector.detect(np.zeros((64, 64, 3), np.float32))


@pytest.mark.slow
def test_importing_is_free_and_starting_is_silent():
    """In a process of its own: mediapipe is loaded when a detector is made, and writes nothing even then."""
    pytest.importorskip("mediapipe")
    code = (
        "import sys, numpy as np, latentsync.face as face\n"
        "assert not [m for m in sys.modules if m.startswith(('mediapipe', 'insightface'))]\n"
        "with face.make_detector() as detector: detector.detect(np.zeros((64, 64, 3), np.uint8))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_unknown_detectors_are_named():
    with pytest.raises(ValueError, match=r"'dlib'.*mediapipe"):
        make_detector("dlib")


class FakeAnalysis:
    """What InsightFace's FaceAnalysis is asked and answers."""

    def __init__(self, name, root, allowed_modules):
        self.asked = SimpleNamespace(name=name, root=root, modules=allowed_modules)

    def prepare(self, ctx_id, det_size):
        self.asked.det_size = det_size

    def get(self, image):
        self.asked.image = image
        points = np.stack([np.arange(106), 200 - np.arange(106)], axis=1).astype(np.float32)
        box = np.array([10, 20, 110, 150], np.float32)
        doubtful = SimpleNamespace(bbox=box, det_score=0.3, landmark_2d_106=points)
        return [doubtful, SimpleNamespace(bbox=box, det_score=0.8, landmark_2d_106=points)]


@pytest.fixture
def fake_insightface(monkeypatch):
    app = ModuleType("insightface.app")
    app.FaceAnalysis = FakeAnalysis
    monkeypatch.setitem(sys.modules, "insightface", ModuleType("insightface"))
    monkeypatch.setitem(sys.modules, "insightface.app", app)


def test_insightface_gets_bgr_and_gives_the_anchors(fake_insightface, tmp_path):
    pack = tmp_path / "models" / "buffalo_l"
    pack.mkdir(parents=True)
    for name in INSIGHTFACE_FILES:
        (pack / name).touch()
    image = np.random.default_rng(1).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    with InsightFaceDetector(tmp_path) as detector:
        (face,) = detector.detect(image)
        asked = detector._app.asked
    assert np.array_equal(asked.image, image[:, :, ::-1])
    assert asked.modules == ["detection", "landmark_2d_106"] and asked.det_size == (512, 512)
    assert face.kind == "insightface" and face.score == pytest.approx(0.8)
    assert face.box == (10, 20, 110, 150)
    x = face.anchors[:, 0]
    assert x == pytest.approx([(43 + 48 + 49 + 51 + 50) / 5, 103, (74 + 77 + 83 + 86) / 4])
    assert face.anchors[:, 1] == pytest.approx(200 - x)


def test_a_missing_model_pack_says_where_it_goes(fake_insightface, tmp_path):
    with pytest.raises(LatentSyncError, match=r"det_10g\.onnx.*models.buffalo_l"):
        InsightFaceDetector(tmp_path)


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "insightface.app", None)
    with pytest.raises(ImportError, match=r"pip install latentsync\[insightface\].*checkpoints/auxiliary"):
        make_detector("insightface")
