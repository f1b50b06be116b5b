"""What a SyncNet is taught by: values by hand, ln 2 for ignorance, no answer without a way back."""

import math

import pytest
import torch
import torch.nn.functional as F

from latentsync.sync.losses import pair_loss, window_losses


def embeddings(rows: int, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.rand(rows, 8, generator=generator))


def test_pairs_are_scored_by_binary_cross_entropy_of_their_cosine():
    vision, audio = embeddings(5, seed=0), embeddings(5, seed=1)
    labels = torch.tensor([1.0, 0, 1, 0, 1])
    cosines = (vision * audio).sum(1)
    wanted = -(labels * cosines.log() + (1 - labels) * (1 - cosines).log()).mean()
    assert float(pair_loss(vision, audio, labels)) == pytest.approx(float(wanted), rel=1e-4)


def test_equal_and_opposite_embeddings_have_a_finite_loss_and_a_gradient():
    """Cosines of exactly 1 and 0: where a positive pair starts at 0 it must find the way up."""
    vision = torch.eye(4)[:2].requires_grad_()
    audio = torch.eye(4)[[0, 2]] * (1 + 1e-7)
    loss = pair_loss(vision, audio, torch.tensor([0.0, 1.0]))
    loss.backward()
    assert loss.isfinite() and vision.grad[1, 2] < -1


def test_a_network_that_knows_nothing_has_a_loss_of_ln_2():
    half = torch.tensor([[0.5, 0.75**0.5, 0.0]]).expand(6, 3)
    same = torch.tensor([[1.0, 0.0, 0.0]]).expand(6, 3)
    clips = torch.tensor([0, 0, 0, 1, 1, 1])
    losses = window_losses(half, same, clips, temperature=0.07)
    assert float(losses["bce"]) == pytest.approx(math.log(2), abs=1e-4)
    assert float(losses["contrastive"]) == pytest.approx(math.log(3), abs=1e-4)
    with_others = window_losses(half, same, clips, temperature=0.07, other_clip_share=0.3)
    assert float(with_others["bce"]) == pytest.approx(math.log(2), abs=1e-4)
    assert float(with_others["contrastive"]) == pytest.approx(math.log(6), abs=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_losses_of_windows_are_those_of_a_plain_loop(share):
    vision, audio = embeddings(6, seed=2), embeddings(6, seed=3)
    clips = torch.tensor([4, 4, 4, 9, 9, 9])
    losses = window_losses(vision, audio, clips, temperature=0.1, other_clip_share=share)
    rights, wrongs, found = [], [], []
    for line in range(6):
        cosine = [float(vision[line] @ audio[column]) for column in range(6)]
        back = [float(vision[column] @ audio[line]) for column in range(6)]
        rights.append(-math.log(cosine[line]))
        same = [column for column in range(6) if clips[column] == clips[line] and column != line]
        others = [column for column in range(6) if clips[column] != clips[line]]
        penalty = [-math.log(1 - value) for value in cosine]
        of_same = sum(penalty[column] for column in same) / len(same)
        of_others = sum(penalty[column] for column in others) / len(others)
        wrongs.append((1 - share) * of_same + share * of_others)
        allowed = [line, *same, *(others if share else [])]
        for values in (cosine, back):
            total = sum(math.exp(values[column] / 0.1) for column in allowed)
            found.append(-math.log(math.exp(values[line] / 0.1) / total))
    bce = (sum(rights) / 6 + sum(wrongs) / 6) / 2
    assert float(losses["bce"]) == pytest.approx(bce, rel=1e-4)
    assert float(losses["contrastive"]) == pytest.approx(sum(found) / 12, rel=1e-4)


def test_a_clip_without_another_window_is_refused():
    rows = embeddings(3, seed=0)
    with pytest.raises(ValueError, match="single window"):
        window_losses(rows, rows, torch.tensor([0, 0, 1]), temperature=0.1)
