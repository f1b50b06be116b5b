"""Latents averaged over time outside the lips: which frames count how much, whatever batches they come in."""

import pytest
import torch

from latentsync.diffusion.runs import Steadied


def steadied(frames, lips, reach, size):
    steady = Steadied(lips, reach)
    out = []
    for start in range(0, len(frames), size):
        out += steady.add(list(frames[start : start + size]))
        assert len(out) == max(0, min(start + size, len(frames)) - reach)
    return torch.stack(out + steady.end())


@pytest.mark.parametrize("count", [1, 2, 3, 16, 33])
@pytest.mark.parametrize(("reach", "weights"), [(0, [1]), (1, [1, 2, 1]), (2, [1, 2, 3, 2, 1])])
def test_skin_is_averaged_with_its_neighbours_and_lips_are_not(count, reach, weights):
    torch.manual_seed(count)
    frames = torch.randn(count, 3, 2, 2)
    lips = torch.tensor([[0.0, 1.0], [0.25, 0.0]])
    found = steadied(frames, lips, reach, size=16)
    padded = torch.cat([frames[:1].expand(reach, -1, -1, -1), frames, frames[-1:].expand(reach, -1, -1, -1)])
    calm = sum(w / sum(weights) * padded[i : i + count] for i, w in enumerate(weights))
    torch.testing.assert_close(found, frames * lips + calm * (1 - lips))
    assert torch.equal(found, steadied(frames, lips, reach, size=3))


def test_a_run_ends_and_the_next_begins_anew():
    steady = Steadied(torch.zeros(1, 1), 1)
    one, two = torch.zeros(4, 1, 1, 1), torch.ones(4, 1, 1, 1)
    first = steady.add(list(one)) + steady.end()
    second = steady.add(list(two)) + steady.end()
    assert torch.stack(first).eq(0).all() and torch.stack(second).eq(1).all()
    assert steady.end() == []


def test_noise_on_still_skin_shrinks():
    torch.manual_seed(0)
    frames = torch.randn(200, 4, 8, 8)
    found = steadied(frames, torch.zeros(8, 8), 1, size=16)
    assert found.diff(dim=0).std() < 0.5 * frames.diff(dim=0).std()
