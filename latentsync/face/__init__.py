"""Faces: found, followed through a clip, cut out aligned, masked, and put back.

`detect` and `track` say where a face is, `align` cuts it out, `mask` hides the mouth, `compose` puts it back.
"""

from latentsync.face.align import align, crop_size, similarity, template, warp_to_crop
from latentsync.face.compose import Composer
from latentsync.face.detect import (
    Detector,
    DetectorUnavailable,
    Face,
    InsightFaceDetector,
    MediaPipeDetector,
    make_detector,
)
from latentsync.face.mask import latent_mask, masked, mouth_mask, normalize, paste_mask, resize_faces
from latentsync.face.track import Tracked, TrackedFace, bridge_gaps, track

__all__ = [
    "Composer",
    "Detector",
    "DetectorUnavailable",
    "Face",
    "InsightFaceDetector",
    "MediaPipeDetector",
    "Tracked",
    "TrackedFace",
    "align",
    "bridge_gaps",
    "crop_size",
    "latent_mask",
    "make_detector",
    "masked",
    "mouth_mask",
    "normalize",
    "paste_mask",
    "resize_faces",
    "similarity",
    "template",
    "track",
    "warp_to_crop",
]
