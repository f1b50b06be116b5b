"""The reference face without its own lips, for models that would copy them.

A small model that saw few people takes a stranger's bright teeth for skin and draws them where they were.
What stands in the reference's mouth says nothing about the sound, so it can be hidden: in training now and
then, at inference always.
"""

from torch import Tensor

ROWS, COLUMNS = (0.44, 0.82), (0.19, 0.81)  # lips and jaw in an aligned face, as shares of its size


def hide_mouth(reference: Tensor, masked: Tensor) -> Tensor:
    """Latents (..., h, w) of `reference` with those of the masked face where the mouth is."""
    h, w = reference.shape[-2:]
    rows, columns = (
        slice(round(low * size), round(high * size)) for (low, high), size in ((ROWS, h), (COLUMNS, w))
    )
    hidden = reference.clone()
    hidden[..., rows, columns] = masked[..., rows, columns]
    return hidden
