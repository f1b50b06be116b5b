"""The articulator: it learns motion from tokens, tells it in the true size, and does not say who speaks."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from latentsync.diffusion.articulator import Articulator
from latentsync.diffusion.dataset import Clip, motion_spread, told_correlation
from latentsync.diffusion.train_articulator import enlarge, hear, train_articulator
from latentsync.errors import MediaError

FRAMES, TOKENS, WIDTH = 120, 4, 8
FACTORS = torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(3))


def spoken_clip(name, speaker, *, usual, seed):
    """A clip whose waveform holds two numbers a frame, and whose mouth does them, about what is `usual`."""
    rng = np.random.default_rng(seed)
    said = rng.standard_normal((FRAMES, 2)).astype(np.float32)
    unheard = rng.standard_normal((FRAMES, 6))
    mouth = usual + 0.1 * said[:, [0, 1, 1, 0, 1, 0]] + 0.05 * unheard
    return Clip(name, speaker, "train", np.zeros(0), mouth, said.flatten())


def listener():
    """What of a pipeline hears: tokens that hold the waveform's numbers, each spread over all of them."""

    def audio_windows(waveform, frames):
        yield from torch.einsum("fs,snd->fnd", waveform.view(frames, 2), FACTORS)

    return SimpleNamespace(audio_windows=audio_windows)


@pytest.fixture(scope="module")
def told():
    clips = [spoken_clip(f"c{n}", "ab"[n % 2], usual=n % 2, seed=n) for n in range(8)]
    held_back = [spoken_clip(f"v{n}", "v", usual=5.0, seed=100 + n) for n in range(3)]
    spread = motion_spread(clips)
    pipeline = listener()
    speech = [hear(clip, pipeline, spread) for clip in held_back]
    return train_articulator(clips, speech, pipeline, spread, seed=1), held_back, pipeline, spread


def test_it_tells_what_the_mouth_does_of_people_it_never_heard(told):
    articulator, held_back, pipeline, spread = told
    motion = [articulator(hear(clip, pipeline, spread).tokens).numpy() for clip in held_back]
    scores = told_correlation(motion, held_back)
    assert set(scores) == {"r_aperture", "r_width"} and min(scores.values()) > 0.8


def test_what_it_tells_is_as_large_as_what_mouths_do_and_has_no_speaker(told):
    articulator, held_back, pipeline, spread = told
    heard = [hear(clip, pipeline, spread) for clip in held_back]
    motion = torch.cat([articulator(one.tokens) for one in heard])
    true = torch.cat([one.motion for one in heard])
    torch.testing.assert_close(motion.std(dim=0), true.std(dim=0), rtol=0.05, atol=0)
    assert motion.mean(dim=0).abs().max() < 0.3  # their mouths' usual shape, 5.0, is some 40 spreads away


def test_mouths_that_never_move_are_named(told):
    _, held_back, pipeline, spread = told
    clips = [spoken_clip("c", "a", usual=1, seed=1)]
    stiff = replace(held_back[0], mouth=np.ones((FRAMES, 6)))
    with pytest.raises(MediaError, match="mouths of these clips do not move"):
        motion_spread([stiff])
    with pytest.raises(MediaError, match="mouths of the held-back clips do not move"):
        train_articulator(clips, [hear(stiff, pipeline, spread)], pipeline, spread, seed=1)


def test_what_it_tells_can_be_made_larger(told):
    larger = copy.deepcopy(told[0])
    enlarge(larger, 1.5)
    weight, bias = larger.head[-1].weight, larger.head[-1].bias
    torch.testing.assert_close(weight, 1.5 * told[0].head[-1].weight)
    torch.testing.assert_close(bias, 1.5 * told[0].head[-1].bias)
    assert bounds(larger)[1].tolist() == bounds(told[0])[1].tolist()


def bounds(articulator):
    """The least and the most it tells, (K,) each."""
    return torch.tensor(articulator.config.least), torch.tensor(articulator.config.most)


def test_it_tells_no_motion_that_no_mouth_did(told):
    """Sounds far from all that was heard: what is told stays within what the clips' mouths did."""
    articulator, held_back, pipeline, spread = told
    heard = torch.cat([hear(clip, pipeline, spread).motion for clip in held_back])
    strange = articulator(100 * torch.randn(500, TOKENS, WIDTH))
    assert strange.abs().max() < heard.abs().max() + 1
    least, most = bounds(articulator)
    torch.testing.assert_close(strange.amin(dim=0), least)
    torch.testing.assert_close(strange.amax(dim=0), most)
    assert (least < -1.5).all() and (most > 1.5).all()


def test_the_same_seed_gives_the_same_one_and_leaves_torchs_own_alone(told):
    articulator, held_back, pipeline, spread = told
    clips = [spoken_clip(f"c{n}", "ab"[n % 2], usual=n % 2, seed=n) for n in range(8)]
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    speech = [hear(clip, pipeline, spread) for clip in held_back]
    again = train_articulator(clips, speech, pipeline, spread, seed=1)
    assert torch.equal(torch.rand(3), expected)
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, articulator.state_dict()[name], atol=1e-4, rtol=1e-3)


def test_it_is_kept_and_opened_again(told, tmp_path):
    articulator = told[0]
    articulator.save_pretrained(tmp_path)
    opened = Articulator.from_pretrained(tmp_path, local_files_only=True).eval()
    for tokens in (torch.randn(1, TOKENS, WIDTH), 100 * torch.randn(20, TOKENS, WIDTH)):
        torch.testing.assert_close(opened(tokens), articulator(tokens))
    assert articulator(tokens).shape == (20, 6)
    assert (articulator(tokens) == bounds(articulator)[1]).any()  # bounds were kept, too
