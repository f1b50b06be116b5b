"""Drawn faces -> the same faces, with the skin of the footage: the last step of small models.

A small autoencoder loses pores, beard and the exact colour of a stranger's skin; what it drew is mended here
in pixels, by a network that also sees the visible face and another frame without its lips. `F` frames, `R`
resolution; pixels are RGB in [-1, 1].
"""

from collections import deque
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor

from latentsync.face.mask import lips_region

FOLD = 2  # squares of so many pixels become channels: the network works at half the resolution
PICTURES = 3  # drawn, visible, other frame
NORM_GROUPS = 8
COLOUR_SHARE = 0.08  # of the side: over so much colour is averaged


def build_refiner(channels: Sequence[int], resolution: int) -> UNet2DModel:
    """A U-Net without attention that begins by changing nothing; its time is always 0."""
    refiner = UNet2DModel(
        sample_size=resolution // FOLD,
        in_channels=PICTURES * 3 * FOLD**2,
        out_channels=3 * FOLD**2,
        block_out_channels=tuple(channels),
        down_block_types=("DownBlock2D",) * len(channels),
        up_block_types=("UpBlock2D",) * len(channels),
        layers_per_block=1,
        norm_num_groups=NORM_GROUPS,
        add_attention=False,
    )
    torch.nn.init.zeros_(refiner.conv_out.weight)
    torch.nn.init.zeros_(refiner.conv_out.bias)  # pyright: ignore[reportArgumentType]
    return refiner


def check_refiner(refiner: UNet2DModel, resolution: int) -> None:
    """Raises: ValueError for a network of other channels, with classes, or that cannot halve the picture."""
    found, wanted = refiner.config, (PICTURES * 3 * FOLD**2, 3 * FOLD**2)
    halvings = FOLD * 2 ** (len(found.block_out_channels) - 1)
    if (found.in_channels, found.out_channels) != wanted or refiner.class_embedding is not None:
        classes = "" if refiner.class_embedding is None else " and wants to be told a class"
        raise ValueError(
            f"this refiner takes {found.in_channels} channels, gives {found.out_channels}{classes}; expected "
            f"{wanted[0]}, {wanted[1]} and no classes"
        )
    if resolution % halvings:
        raise ValueError(f"this refiner needs a resolution in multiples of {halvings} px, not {resolution}")


def refiner_input(drawn: Tensor, faces: Tensor, references: Tensor, mask: Tensor) -> Tensor:
    """What the network sees of `drawn` faces, of the frames they belong to and of other frames of the same
    person, (F, 3, R, R) each; `mask` (1, R, R) hides the frames' own mouths, and of the others the lips go.
    """
    lips = lips_region(references.shape[-1]).to(references)
    pictures = torch.cat([drawn, faces * mask, references * (1 - lips)], dim=1)
    return F.pixel_unshuffle(pictures, FOLD)


def refined(refiner: torch.nn.Module, drawn: Tensor, seen: Tensor) -> Tensor:
    """Faces (F, 3, R, R) float32 out of `drawn` ones and the `refiner_input`."""
    change = refiner(seen, 0, return_dict=False)[0]
    return drawn + F.pixel_shuffle(change, FOLD).float()


def with_drawn_lips(drawn: Tensor, mended: Tensor) -> Tensor:
    """`mended` faces (F, 3, R, R), but of what was mended at the lips the colour alone, not the shape: where
    the sound is not enough to go by, a refiner draws the mean of all mouths, which opens less.
    """
    change = mended - drawn
    colour, size = change, 2 * round(COLOUR_SHARE * drawn.shape[-1] / 2) + 1
    for _ in range(3):  # nearly a Gaussian
        colour = F.avg_pool2d(colour, size, 1, size // 2, count_include_pad=False)
    return drawn + torch.lerp(change, colour, lips_region(drawn.shape[-1]).to(change))


class Neighbours:
    """The faces of a stream that are drawn later than they come, each with another one of its time: the one
    `distance` frames before it, for the first ones after it, or as far as there is any.
    """

    def __init__(self, distance: int) -> None:
        self.distance = distance
        self._faces: deque[Tensor] = deque()
        self._passed = 0  # at the head of `_faces`: taken, and needed as neighbours, `distance` at most

    def add(self, face: Tensor) -> None:
        """The next face (3, R, R)."""
        self._faces.append(face)

    def take(self, count: int) -> tuple[Tensor, Tensor]:
        """The next `count` faces and their neighbours, (count, 3, R, R) each."""
        faces, others = [], []
        for _ in range(count):
            place = self._passed
            other = 0 if place == self.distance else min(place + self.distance, len(self._faces) - 1)
            faces.append(self._faces[place])
            others.append(self._faces[0 if other == place else other])
            if place == self.distance:
                self._faces.popleft()
            else:
                self._passed += 1
        return torch.stack(faces), torch.stack(others)
