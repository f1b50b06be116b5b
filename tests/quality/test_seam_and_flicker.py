"""Made-up faults: a step of known strength along the mask's edge, a mouth whose light trembles."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from latentsync.face.mask import mouth_mask, paste_mask
from latentsync.quality.flicker import FlickerMeter, drawn_beside_lips, flicker_ratio
from latentsync.quality.seam import NOISE_ENERGY, SeamMeter, edge_band, seam_ratio

SIDE = 256
REGIONS = ("hole", "mouth")


def faces(frames=4, *, still=True, seed=0, grain=0.0):
    """Smooth pictures of about 128 levels; a still clip, or one that slides a pixel a frame."""
    rng = np.random.default_rng(seed)
    base = gaussian_filter(rng.standard_normal((SIDE + 64, SIDE + 64)), 6)
    base = 128 + 30 * base / base.std()
    steps = [0 if still else number for number in range(frames)]
    clip = np.stack([base[step : step + SIDE, step : step + SIDE] for step in steps])
    clip = clip + grain * rng.standard_normal(clip.shape)
    grey = torch.from_numpy(clip).round().clamp(0, 255).byte()
    return grey[:, None].repeat(1, 3, 1, 1)


def with_step(clip, mask, levels):
    """The drawn region lighter by so many levels."""
    lighter = levels * (mask < 0.5).float()
    return (clip.float() + lighter).clamp(0, 255).byte()


@pytest.mark.parametrize("region", REGIONS)
def test_an_untouched_clip_has_no_seam(region):
    clip = faces(still=False)
    assert seam_ratio(clip, clip, paste_mask(SIDE, region)) == 1.0


@pytest.mark.parametrize("region", REGIONS)
def test_a_step_raises_the_ratio_as_its_strength_says(region):
    clip, mask = faces(), paste_mask(SIDE, region)
    own = float(np.mean([seam_energy(face, mask) for face in clip])) + NOISE_ENERGY
    ratios = []
    width = 6  # px: three on either side of the edge
    for levels in (2, 5, 10, 20, 40):
        both = [seam_ratio(with_step(clip, mask, sign * levels), clip, mask) for sign in (1, -1)]
        ratio = np.mean(both)  # the slopes that a clip has of its own cancel
        assert (ratio - 1) * own == pytest.approx(levels**2 / (2 * width), rel=0.25)
        ratios.append(ratio)
    assert ratios == sorted(ratios) and ratios[-1] > 5


def seam_energy(face, mask):
    meter = SeamMeter(mask)
    return meter._energy(face[None])


@pytest.mark.parametrize("region", REGIONS)
def test_other_faults_are_no_seam(region):
    """A brighter whole, noise deep inside, an edge of the other region: nothing happens at this edge."""
    clip, mask = faces(), paste_mask(SIDE, region)
    assert seam_ratio((clip.float() + 20).byte(), clip, mask) == pytest.approx(1, abs=0.02)
    deep = torch.from_numpy(~edge_band(mask)[1] & (mask[0] < 0.5).numpy())
    deep[1:, :] &= deep[:-1, :].clone()
    noise = torch.randint(-20, 20, clip.shape, generator=torch.Generator().manual_seed(0)) * deep
    inner = torch.nn.functional.max_pool2d((~deep).float()[None, None], 5, 1, 2)[0, 0] == 0
    assert seam_ratio((clip + noise * inner).clamp(0, 255).byte(), clip, mask) == pytest.approx(1, abs=0.05)


def test_a_blurred_join_lies_below_one():
    clip, mask = faces(grain=8.0), mouth_mask(SIDE)
    blurred = torch.nn.functional.avg_pool2d(clip.float(), 9, 1, 4, count_include_pad=False).byte()
    assert seam_ratio(blurred, clip, mask) < 0.5


def test_parts_of_a_clip_add_up_and_a_mask_needs_an_edge():
    clip, mask = faces(still=False), mouth_mask(SIDE)
    stepped = with_step(clip, mask, 10)
    meter = SeamMeter(mask)
    assert np.isnan(meter.ratio)
    for part, own in zip(stepped.split(1), clip.split(1), strict=True):
        meter.add(part, own)
    assert meter.ratio == pytest.approx(seam_ratio(stepped, clip, mask))
    with pytest.raises(ValueError, match="no edge"):
        SeamMeter(torch.ones(1, SIDE, SIDE))
    with pytest.raises(ValueError, match="are needed"):
        meter.add(clip, clip[:, :, :64, :64])


@pytest.mark.parametrize("still", [True, False])
def test_an_untouched_clip_does_not_flicker(still):
    clip = faces(8, still=still, grain=2.0)
    assert flicker_ratio(clip, clip, drawn_beside_lips(SIDE)) == 1.0


def test_a_trembling_mouth_raises_the_ratio_with_its_strength():
    source, region = faces(12, grain=2.0), drawn_beside_lips(SIDE)
    ratios = []
    for levels in (1, 3, 6, 12):
        light = torch.tensor([levels * (-1) ** number for number in range(12)]).view(-1, 1, 1, 1)
        trembling = (source + light * (mouth_mask(SIDE) < 0.5)).clamp(0, 255).byte()
        ratios.append(flicker_ratio(trembling, source, region))
    assert ratios == sorted(ratios) and ratios[0] > 1.1
    changed = 24  # levels a frame, against the grain's mean |difference of two normals| = 2 * 2 / sqrt(pi)
    assert ratios[-1] == pytest.approx((changed + 0.25) / (4 / np.sqrt(np.pi) + 0.25), rel=0.1)


def test_new_lips_and_another_light_are_no_flicker():
    source, region = faces(12, grain=2.0), drawn_beside_lips(SIDE)
    talking = source.clone()
    lips = slice(int(0.56 * SIDE), int(0.68 * SIDE)), slice(int(0.4 * SIDE), int(0.6 * SIDE))
    talking[::2, :, lips[0], lips[1]] = 20
    assert flicker_ratio(talking, source, region) == pytest.approx(1, abs=0.01)
    assert flicker_ratio((source + 30).byte(), source, region) == pytest.approx(1, abs=0.02)


def test_frozen_skin_lies_below_one():
    source = faces(12, grain=4.0)
    assert flicker_ratio(source[:1].repeat(12, 1, 1, 1), source, drawn_beside_lips(SIDE)) < 0.2


def test_parts_of_a_clip_add_up_and_pauses_are_no_change():
    source, region = faces(9, still=False, grain=2.0), drawn_beside_lips(SIDE)
    result = (source + 4 * (torch.arange(9) % 2).view(-1, 1, 1, 1)).byte()
    meter = FlickerMeter(region)
    assert np.isnan(meter.ratio)
    for part, own in zip(result.split(2), source.split(2), strict=True):
        meter.add(part, own)
    assert meter.ratio == pytest.approx(flicker_ratio(result, source, region)) and meter.pairs == 8
    cut = FlickerMeter(region)
    for part in faces(4, grain=2.0), faces(4, grain=2.0, seed=9):
        cut.add(part, part)
        cut.pause()
    assert cut.pairs == 6 and cut.ratio == 1.0
