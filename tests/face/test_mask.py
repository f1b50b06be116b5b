"""The stored mask and the preparation of pixels against reference numbers."""

import math

import numpy as np
import pytest
import torch

from latentsync.face.mask import (
    latent_mask,
    lips_region,
    masked,
    mouth_mask,
    normalize,
    paste_mask,
    resize_faces,
)


def sampled(array, spec):
    """The part of a full result that a golden case keeps."""
    return array[tuple(slice(a, None, b) for a, b in zip(spec["start"], spec["step"], strict=True))]


def channels_first(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@pytest.mark.golden
def test_mask_agrees_with_upstream(golden):
    info, _, tensors = golden("latentsync", "masks")
    wanted = np.ones((256, 256), np.float32)
    for row, first, end in tensors["input.mask_runs"]:
        wanted[row, first:end] = 0
    assert np.array_equal(mouth_mask(256)[0].numpy(), wanted)
    assert np.abs(mouth_mask(64)[0].numpy() - tensors["output.mask64"]).max() < 1e-6
    large = sampled((mouth_mask(512)[0].numpy() * 255).round(), info["outputs"]["mask512_u8"]["sample"])
    assert np.abs(large - tensors["output.mask512_u8"]).max() <= 1
    assert np.array_equal(latent_mask(mouth_mask(256))[0].numpy(), tensors["output.mask_latent32"])


@pytest.mark.golden
def test_pixels_agree_with_upstream(golden):
    info, _, tensors = golden("latentsync", "masks")
    specs = info["outputs"]
    pixels = normalize(channels_first(tensors["input.images256"]))
    seen = sampled(pixels.numpy(), specs["pixel_values256"]["sample"])
    assert np.abs(seen - tensors["output.pixel_values256"]).max() < 1e-6
    hidden = sampled(masked(pixels, mouth_mask(256)).numpy(), specs["masked_pixel_values256"]["sample"])
    assert np.abs(hidden - tensors["output.masked_pixel_values256"]).max() < 1e-6
    resized = resize_faces(channels_first(tensors["input.images_other"]), 256).numpy().astype(int)
    resized = sampled(resized, specs["pixel_values_other_u8"]["sample"])
    assert np.abs(resized - tensors["output.pixel_values_other_u8"]).max() <= 1


@pytest.mark.parametrize("resolution", [64, 128, 256, 512])
def test_mask_shape_and_share(resolution):
    mask = mouth_mask(resolution)
    assert mask.shape == (1, resolution, resolution) and mask.dtype == torch.float32
    assert mask.min() >= 0 and mask.max() <= 1
    assert (1 - mask).mean() == pytest.approx(0.407, abs=0.005)  # the share of the face that is drawn anew
    assert mask[0, 0].eq(1).all() and mask[0, :, 0].eq(1).all() and mask[0, -1].eq(1).all()


def test_hole_is_mid_grey_and_the_rest_untouched():
    faces = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    pixels, mask = normalize(faces), mouth_mask(256)
    hidden = masked(pixels, mask)
    assert pixels.min() == -1 and pixels.max() == 1
    assert (hidden * (1 - mask)).abs().max() == 0
    assert torch.equal(hidden[mask.expand_as(pixels) == 1], pixels[mask.expand_as(pixels) == 1])


def test_faces_of_the_right_size_are_not_resampled():
    faces = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(resize_faces(faces, 64), faces)


def test_what_is_pasted_lies_inside_what_was_redrawn():
    hole, mouth = paste_mask(128), paste_mask(128, "mouth")
    assert torch.equal(hole, mouth_mask(128))
    assert (mouth >= hole).all()
    assert 0.3 < (mouth < 0.5).sum() / (hole < 0.5).sum() < 0.8
    assert mouth[0, 84, 64] == 0 and mouth[0, 60, 10] == 1 and hole[0, 60, 10] == 0
    with pytest.raises(ValueError, match="'nose'"):
        paste_mask(128, "nose")


@pytest.mark.parametrize("resolution", [16, 32, 128])
def test_the_lips_lie_in_the_mouths_part_whatever_the_size(resolution):
    region, mouth = lips_region(resolution), paste_mask(resolution * 8, "mouth")[0, ::8, ::8]
    assert region.shape == (resolution, resolution) and region.min() >= 0 and region.max() > 0.9
    assert (mouth[region > 0.5] < 0.5).float().mean() > 0.9  # but for a strip below the nose
    assert (region > 0.5).float().mean() == pytest.approx(math.pi * 0.21 * 0.15, rel=0.15)
