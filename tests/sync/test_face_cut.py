"""Where judges want faces cut: the original's square, restated plainly, and the aligned face."""

import cv2
import numpy as np
import pytest
import torch
from scipy.signal import medfilt

from latentsync.face import align, similarity, template
from latentsync.face.tracks import FaceTrack
from latentsync.sync.face_cut import AlignedCut, HeadCut


def track_of(boxes):
    boxes = np.asarray(boxes, np.float32)
    anchors = np.array([[0.3, 0.3], [0.7, 0.3], [0.5, 0.6]])
    size = boxes[:, None, 2:] - boxes[:, None, :2]
    return FaceTrack(0, boxes, (boxes[:, None, :2] + anchors * size).astype(np.float32), len(boxes))


def as_the_original(image, box):
    """The square of one frame, with the arithmetic of its `crop_video`."""
    half = max(box[3] - box[1], box[2] - box[0]) / 2
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    margin, border = 0.4, int(half * (1 + 2 * 0.4))
    padded = np.pad(image, ((border, border), (border, border), (0, 0)), constant_values=110)
    my, mx = y + border, x + border
    part = padded[
        int(my - half) : int(my + half * (1 + 2 * margin)),
        int(mx - half * (1 + margin)) : int(mx + half * (1 + margin)),
    ]
    return cv2.resize(part, (224, 224))


@pytest.mark.parametrize("box", [(60, 50, 140, 150), (5, 8, 91.5, 110.25), (150, 90, 230, 190)])
def test_the_square_is_the_originals_also_beyond_the_picture(box):
    image = np.random.default_rng(0).integers(0, 256, (200, 240, 3), dtype=np.uint8)
    cut, track = HeadCut(), track_of([box] * 3)
    faces = cut.cut([image] * 3, cut.places(track))
    assert faces.shape == (3, 3, 224, 224) and faces.dtype == torch.uint8 and cut.size == (224, 224)
    assert np.array_equal(faces[0].permute(1, 2, 0).numpy(), as_the_original(image, box))


def test_the_face_lies_where_the_original_shows_it():
    """Its upper edge at the top, the chin 0.8 half sides above the bottom, in the middle across."""
    image = np.zeros((300, 300, 3), np.uint8)
    image[100:200, 110:190] = 255
    cut = HeadCut()
    face = cut.cut([image], cut.places(track_of([(110, 100, 190, 200)])))[0, 0].numpy() > 128
    rows, columns = np.flatnonzero(face.any(axis=1)), np.flatnonzero(face.any(axis=0))
    assert rows[0] == 0 and abs(rows[-1] + 1 - 224 * 2 / 2.8) <= 1
    assert abs((columns[0] + columns[-1] + 1) / 2 - 112) <= 1


def test_places_are_a_median_over_13_frames_that_repeats_the_ends():
    rng = np.random.default_rng(1)
    low = 50 + rng.normal(0, 3, (40, 2))
    boxes = np.concatenate([low, low + 80 + rng.normal(0, 3, (40, 2))], axis=1)
    places = HeadCut().places(track_of(boxes))
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) / 2
    series = np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2, half], axis=1)
    for column in range(3):
        wanted = medfilt(np.pad(series[:, column], 6, mode="edge"), 13)[6:-6]
        assert np.allclose(places[:, column], wanted, atol=1e-3)


def test_the_aligned_cut_is_that_of_training():
    image = np.random.default_rng(2).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    track = track_of([(60, 50, 140, 150)] * 2)
    cut = AlignedCut(64)
    faces = cut.cut([image] * 2, cut.places(track))
    assert faces.shape == (2, 3, 64, 64) and cut.size == (64, 64)
    assert torch.equal(faces, align([image] * 2, similarity(track.anchors, template(64)), 64))
