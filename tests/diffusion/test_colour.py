"""Colours of the footage on drawn faces: cast and light are mended, shapes stay, other lips are not taken."""

import pytest
import torch

from latentsync.diffusion.colour import FootageColour
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.face.mask import lips_region, mouth_mask

SIDE = 64


@pytest.fixture
def faces():
    """Two faces of smooth colours."""
    torch.manual_seed(0)
    coarse = 0.4 * (torch.rand(2, 3, 4, 4) - 0.5)
    return torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic", align_corners=True)


def lit(faces, light):
    return (faces + 1) * light - 1


def test_a_cast_goes_everywhere_and_at_the_lips_too(faces):
    cast = torch.tensor([1.3, 0.8, 1.1]).view(3, 1, 1)
    found = FootageColour().apply(lit(faces, cast), faces, faces, mouth_mask(SIDE))
    still = FootageColour().apply(lit(faces[:1], cast), faces[:1], faces[:1], mouth_mask(SIDE))
    assert torch.allclose(still, faces[:1], atol=0.02)
    assert (found - faces).abs().mean() < 0.1 * (lit(faces, cast) - faces).abs().mean()


def test_contrast_grows_with_the_light(faces):
    """Lips that are drawn in the dark are lit like the skin: what is darker stays so by as large a share."""
    drawn, mask = torch.full((1, 3, SIDE, SIDE), -0.5), mouth_mask(SIDE)
    drawn[..., SIDE // 2 + 8, :] = -0.6  # a line, 20 % darker
    found = FootageColour().apply(drawn, faces[:1] * 0, faces[:1] * 0, mask)
    line, beside = (1 + found[0, :, row, SIDE // 2].mean() for row in (SIDE // 2 + 8, SIDE // 2 + 12))
    assert float(line / beside) == pytest.approx(0.8, abs=0.05) and beside > 0.9


@pytest.mark.parametrize("side", [24, 40, 104])
def test_any_size_of_face_will_do(side):
    plain = torch.full((3, 3, side, side), 0.1)
    found = FootageColour().apply(lit(plain, 0.7), plain, plain, mouth_mask(side))
    assert torch.allclose(found, plain, atol=1e-4)


def test_light_from_one_side_is_mended(faces):
    slope = 0.4 * torch.linspace(-1, 1, SIDE)
    found = FootageColour().apply(faces + slope, faces, faces, mouth_mask(SIDE))
    assert (found - faces).abs().mean() < 0.1 * slope.abs().mean()


def test_what_is_fine_stays_as_drawn(faces):
    stripes = 0.3 * (-1.0) ** torch.arange(SIDE)
    found = FootageColour().apply(faces + stripes, faces, faces, mouth_mask(SIDE))
    assert (found - faces - stripes).abs().mean() < 0.02


def test_the_own_hidden_mouth_is_not_looked_at(faces):
    mask, drawn = mouth_mask(SIDE), torch.zeros_like(faces)
    found = FootageColour().apply(drawn, faces, faces, mask)
    hidden = (mask == 0).float()
    own = FootageColour().apply(drawn, faces + 0.5 * hidden, faces, mask)
    assert torch.allclose(found, own, atol=1e-6)
    other = FootageColour().apply(drawn, faces, faces + 0.5 * hidden, mask)
    assert (other - found)[..., mask[0] == 0].mean() > 0.3


def test_lips_of_other_frames_count_by_their_mean_alone(faces):
    """Another mouth that blinks: what it adds at the lips does not blink with it, and is half its light."""
    mask = mouth_mask(SIDE)
    lips = (lips_region(SIDE) > 0.9) & (mask[0] == 0)
    still = faces[:1].expand(120, -1, -1, -1)
    blinks = (torch.arange(120) % 2).float().view(-1, 1, 1, 1)
    colour, drawn = FootageColour(), torch.zeros_like(still)
    parts = [
        colour.apply(drawn[part], still[part], (still + 0.6 * blinks * lips)[part], mask)
        for part in (slice(0, 16), slice(16, 17), slice(17, 120))
    ]
    light = (torch.cat(parts) - FootageColour().apply(drawn, still, still, mask))[..., lips].mean(dim=(1, 2))
    assert light.std() < 0.02 and 0.15 < light.mean() < 0.35
    whole = FootageColour().apply(drawn, still, still + 0.6 * blinks * lips, mask)
    assert torch.allclose(whole, torch.cat(parts), atol=1e-5)  # however the stream is cut


@pytest.mark.parametrize("first", [1, 3, 8, 20])
def test_the_mean_follows_a_change_that_lasts(faces, first):
    """However few frames come first: an odd frame fades, and what lasts is all there is after a while."""
    mask, still = mouth_mask(SIDE), faces[:1].expand(260, -1, -1, -1)
    others = still.clone()
    others[0] += 0.8
    others[130:] += 0.4
    colour = FootageColour()
    parts = [
        colour.apply(still[part], still[part], others[part], mask)
        for part in (slice(0, first), slice(first, 260))
    ]
    gain = (torch.cat(parts) - still)[..., mask[0] == 0].mean(dim=(1, 2))
    assert gain[20:130].abs().max() < 0.05 and gain[100] < gain[20]
    assert 0.15 < gain[165] < 0.28 and 0.3 < gain[259] < gain[258] + 0.01


def test_a_pipeline_remembers_it_and_draws_other_colours(frame_pipeline, tmp_path):
    settings = {name: value for name, value in frame_pipeline.config.items() if not name.startswith("_")}
    settings = {name: value for name, value in settings.items() if name not in frame_pipeline.components}
    with pytest.raises(ValueError, match="needs a reference_shift above 0, not 0"):
        LipsyncPipeline(
            **frame_pipeline.components, **settings | {"match_colour": True, "reference_shift": 0}
        )
    alone = {"match_colour": True, "reference_shift": 1, "window": 1, "overlap": 0}
    with pytest.raises(ValueError, match="a window above 1, not 1"):
        LipsyncPipeline(**frame_pipeline.components, **settings | alone)
    shifted = settings | {"reference_shift": 2}
    matching = LipsyncPipeline(**frame_pipeline.components, **shifted | {"match_colour": True})
    matching.save_pretrained(tmp_path / "matching")
    assert LipsyncPipeline.from_pretrained(tmp_path / "matching").match_colour
    plain = LipsyncPipeline(**frame_pipeline.components, **shifted)
    generator = torch.Generator().manual_seed(1)
    faces = torch.rand(20, 3, plain.resolution, plain.resolution, generator=generator) - 0.5
    windows = torch.stack(list(plain.audio_windows(torch.rand(20 * 640, generator=generator), 20)))
    drawn, matched = (
        torch.stack(
            list(one.stream(faces, windows, plain.draw_noise(generator.manual_seed(2)), one.sampling(1, 1.0)))
        )
        for one in (plain, matching)
    )
    others = torch.stack([faces[i - 2 if i >= 2 else i + 2] for i in range(20)])
    wanted = FootageColour().apply(drawn, faces, others, plain.mask())
    assert torch.allclose(matched, wanted, atol=1e-4) and not torch.allclose(matched, drawn, atol=0.05)
