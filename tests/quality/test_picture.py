"""PSNR and SSIM against scikit-image's, and only of the pixels that are asked for."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from latentsync.face.mask import mouth_mask
from latentsync.quality.picture import PictureMeter, luma, psnr_db, ssim_map

SIDE = 64


def faces(seed=0, frames=3):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(frames, 3, 8, 8, generator=generator)
    return (torch.nn.functional.interpolate(coarse, size=SIDE, mode="bicubic") * 255).clamp(0, 255).byte()


def noisy(images, levels, seed=1, where=None):
    noise = levels * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + noise * (1 if where is None else where)).round().clamp(0, 255).byte()


def whole(side=SIDE):
    return torch.ones(side, side, dtype=torch.bool)


def test_ssim_is_that_of_scikit_image_away_from_the_border():
    first, second = faces(), noisy(faces(), 20)
    ours = ssim_map(luma(first)[:, None], luma(second)[:, None])[:, 0]
    for number in range(len(first)):
        _, theirs = structural_similarity(
            luma(first)[number].numpy(),
            luma(second)[number].numpy(),
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        inside = slice(6, -6)
        assert np.allclose(ours[number].numpy()[inside, inside], theirs[inside, inside], atol=1e-3)


def test_psnr_is_that_of_scikit_image_when_frames_err_alike():
    first = faces(frames=1)
    second = noisy(first, 10)
    meter = PictureMeter(whole())
    meter.add(second, first)
    assert meter.psnr == pytest.approx(peak_signal_noise_ratio(first.numpy(), second.numpy()), abs=1e-4)


def test_a_fault_in_the_mouth_is_seen_inside_alone_and_reversed():
    hole = mouth_mask(SIDE)[0] < 0.5
    truth = faces()
    for fault, clean in ((hole, ~hole), (~hole, hole)):
        bad, good = PictureMeter(fault), PictureMeter(clean)
        for meter in (bad, good):
            meter.add(noisy(truth, 30, where=fault), truth)
        assert good.psnr == 100.0 and bad.psnr == pytest.approx(psnr_db(30**2), abs=1.5)
        assert good.ssim > 0.9 > 0.7 > bad.ssim


def test_worse_pictures_have_lower_numbers_and_parts_add_up_to_the_whole():
    truth = faces(frames=4)
    numbers = []
    for levels in (0, 3, 10, 40):
        meter, parts = PictureMeter(whole()), PictureMeter(whole())
        meter.add(noisy(truth, levels), truth)
        for part, true in zip(noisy(truth, levels).split(1), truth.split(1), strict=True):
            parts.add(part, true)
        assert (meter.psnr, meter.ssim) == pytest.approx((parts.psnr, parts.ssim), rel=1e-6)
        numbers.append((meter.psnr, meter.ssim))
    assert numbers == sorted(numbers, reverse=True) and numbers[0] == pytest.approx((100.0, 1.0))


def test_nothing_and_nonsense():
    meter = PictureMeter(whole())
    assert math.isnan(meter.psnr) and math.isnan(meter.ssim)
    with pytest.raises(ValueError, match="no pixel"):
        PictureMeter(~whole())
    with pytest.raises(ValueError, match=r"of one shape"):
        meter.add(faces(), faces(frames=2))
