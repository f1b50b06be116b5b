"""Drawn faces -> the same faces, made of the footage's own pixels: the last step of small models.

A small model that saw few people draws a stranger's mouth at the right place in the wrong skin, and as a
blur. Here a network that sees the drawn face, the visible face and `OTHERS` other frames says where each
pixel is to be taken from: from the other frames, each bent into shape, or from the drawn face; and a change
on top. It is told the mouth's motion (see `articulator`). So what lips and teeth look like comes from the
footage, and what they do from the sound, drawn and told.

`F` frames, `K` = OTHERS, `M` measures of motion, `R` resolution; pixels are RGB in [-1, 1].
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

FOLD = 2  # squares of so many pixels become channels: the network works at half the resolution
OTHERS = 5  # frames of another time
BLOCK = 48  # frames that have the same others
PICTURES = 2 + OTHERS  # drawn, visible, others
OUTPUTS = (2 * OTHERS, OTHERS + 1, 3 * FOLD**2)  # flow to each other, logits of them and the drawn, change
FLOW_UNIT = 0.05  # sides of the face
NORM_GROUPS = 8
LIGHT_GRID = 8  # cells a side: finer than a cheek, coarser than lips
MOTION_WIDTH = 128  # of the embedding
MOTION_REACH = 6.0  # spreads either way that are told apart
FINEST_STEP = 0.3  # spreads, near none
MOTION_SIZE = 3.0  # of the embedding: with 1 what is told is learned several times more slowly


def build_refiner(channels: Sequence[int], resolution: int) -> UNet2DModel:
    """A U-Net without attention that begins with the mean of all pictures, deaf to motion; its time is always
    0.
    """
    refiner = UNet2DModel(
        sample_size=resolution // FOLD,
        in_channels=PICTURES * 3 * FOLD**2,
        out_channels=sum(OUTPUTS),
        block_out_channels=tuple(channels),
        down_block_types=("DownBlock2D",) * len(channels),
        up_block_types=("UpBlock2D",) * len(channels),
        layers_per_block=1,
        norm_num_groups=NORM_GROUPS,
        add_attention=False,
        time_embedding_dim=MOTION_WIDTH,
        class_embed_type="identity",
        resnet_time_scale_shift="scale_shift",
    )
    told = [block.time_emb_proj for block in refiner.modules() if isinstance(block, ResnetBlock2D)]
    for layer in (refiner.conv_out, *told):
        torch.nn.init.zeros_(layer.weight)  # pyright: ignore[reportArgumentType, reportOptionalMemberAccess]
        torch.nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType, reportOptionalMemberAccess]
    return refiner


def check_refiner(refiner: UNet2DModel, resolution: int) -> None:
    """Raises: ValueError for a network of other channels, that is not told motion, or that cannot halve the
    picture.
    """
    found, wanted = refiner.config, (PICTURES * 3 * FOLD**2, sum(OUTPUTS), "identity", MOTION_WIDTH)
    held = (found.in_channels, found.out_channels, found.class_embed_type, found.time_embedding_dim)
    halvings = FOLD * 2 ** (len(found.block_out_channels) - 1)
    if held != wanted:
        raise ValueError(
            f"this refiner takes {held[0]} channels, gives {held[1]}, and its class embedding is {held[2]} "
            f"of width {held[3]}; expected {wanted[0]}, {wanted[1]}, {wanted[2]} and {wanted[3]}: train one "
            "with scripts/train_refiner.py"
        )
    if resolution % halvings:
        raise ValueError(f"this refiner needs a resolution in multiples of {halvings} px, not {resolution}")


def refiner_input(drawn: Tensor, faces: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    """What the network sees of `drawn` faces and of the frames they belong to, (F, 3, R, R) each, and of
    `others` (F, K, 3, R, R), frames of the same person; `mask` (1, R, R) hides the frames' own mouths.
    """
    pictures = torch.cat([drawn, faces * mask, others.flatten(1, 2)], dim=1)
    return F.pixel_unshuffle(pictures, FOLD)


def relit(drawn: Tensor, others: Tensor) -> Tensor:
    """`drawn` faces (F, 3, R, R) in the light and skin of `others` (F, K, 3, R, R): on a grid of LIGHT_GRID
    cells a side their mean colours are those of the others' mean.
    """
    difference = F.adaptive_avg_pool2d(others.mean(dim=1) - drawn, LIGHT_GRID)
    return drawn + F.interpolate(difference, drawn.shape[-2:], mode="bilinear", align_corners=False)


def motion_embedding(motion: Tensor) -> Tensor:
    """`motion` (F, M) as MOTION_WIDTH numbers a frame, (F, MOTION_WIDTH): each measure against steps between
    -MOTION_REACH and MOTION_REACH, finer near none, softly above or below; the rest 0.
    """
    count = MOTION_WIDTH // motion.shape[1]
    places = torch.linspace(-1, 1, count, device=motion.device)
    steps = MOTION_REACH * places * places.abs()
    apart = 4 * MOTION_REACH * places.abs() / count + FINEST_STEP
    above = MOTION_SIZE * torch.tanh((motion.float()[:, :, None] - steps) / apart)
    return F.pad(above.flatten(1), (0, MOTION_WIDTH - motion.shape[1] * count))


@dataclass(frozen=True)
class Refined:
    """What a refiner made of F faces: the drawn ones and the others bent into shape (F, K, 3, R, R), the
    logits (F, K + 1, R, R) by which these are mixed, and a change (F, 3, R, R) on top; float32.
    """

    drawn: Tensor
    bent: Tensor
    logits: Tensor
    change: Tensor

    def faces(self) -> Tensor:
        """The result, (F, 3, R, R)."""
        shares = self.logits.softmax(dim=1)[:, :, None]
        return (shares[:, :-1] * self.bent).sum(dim=1) + shares[:, -1] * self.drawn + self.change

    def of_others(self) -> Tensor:
        """What the other frames would make alone, (F, 3, R, R)."""
        return (self.logits[:, :-1].softmax(dim=1)[:, :, None] * self.bent).sum(dim=1)


def refine(
    refiner: torch.nn.Module, drawn: Tensor, faces: Tensor, others: Tensor, mask: Tensor, motion: Tensor
) -> Refined:
    """`drawn` faces (F, 3, R, R), made anew with the mouth's `motion` (F, M) in spreads; the other arguments
    are those of `refiner_input`.
    """
    dtype = next(refiner.parameters()).dtype
    seen = refiner_input(drawn, faces, others, mask).to(dtype)
    embedding = motion_embedding(motion).to(dtype)
    told = refiner(seen, 0, class_labels=embedding, return_dict=False)[0].float()
    flow, logits, change = told.split(OUTPUTS, dim=1)
    side = drawn.shape[-1]
    flow, logits = (
        F.interpolate(part, (side, side), mode="bilinear", align_corners=False) for part in (flow, logits)
    )
    bent = _bent(others, flow.unflatten(1, (-1, 2)))
    return Refined(drawn, bent, logits, F.pixel_shuffle(change, FOLD))


def _bent(pictures: Tensor, flow: Tensor) -> Tensor:
    """`pictures` (F, K, 3, R, R), each pixel taken from `flow` (F, K, 2, R, R; x, y) further on; beyond the
    border the border goes on.
    """
    side = pictures.shape[-1]
    line = torch.linspace(-1, 1, side, device=pictures.device)
    here = torch.stack(torch.meshgrid(line, line, indexing="xy"))
    places = (here + 2 * FLOW_UNIT * flow).clamp(-1, 1)
    found = F.grid_sample(
        pictures.flatten(0, 1).float(), places.flatten(0, 1).permute(0, 2, 3, 1), align_corners=True
    )
    return found.unflatten(0, pictures.shape[:2])


class Neighbours:
    """The faces of a stream that are drawn later than they come, each with K others of its time.

    A stream is cut into blocks; pairs of blocks lend each other the same K frames all along, so that no mouth
    that moves shines through. The last blocks take those of the one before; a stream shorter than two blocks
    is cut into halves. Which these are depends on the stream alone, not on how far it has been read.
    """

    def __init__(self) -> None:
        self._faces: deque[Tensor] = deque()  # from number `_first` on
        self._first = self._taken = 0
        self._ended = False

    def add(self, face: Tensor) -> None:
        """The next face (3, R, R)."""
        self._faces.append(face)

    def end(self) -> None:
        """There are no more."""
        self._ended = True

    def ready(self) -> int:
        """How many faces can be taken now."""
        known = self._first + len(self._faces)
        whole_pairs = known if self._ended else known // (2 * BLOCK) * 2 * BLOCK
        return max(0, whole_pairs - self._taken)

    def take(self, count: int) -> tuple[Tensor, Tensor]:
        """The next `count` faces (count, 3, R, R) and their others (count, K, 3, R, R); no more than are
        `ready`.
        """
        faces, others = [], []
        for _ in range(count):
            known = self._first + len(self._faces)
            faces.append(self._faces[self._taken - self._first])
            others.append(
                torch.stack([self._faces[place - self._first] for place in lenders(self._taken, known)])
            )
            self._taken += 1
            while self._first < (self._taken // BLOCK - 1) * BLOCK:
                self._faces.popleft()
                self._first += 1
        return torch.stack(faces), torch.stack(others)


def lenders(number: int, known: int) -> list[int]:
    """The K frames that frame `number` of a stream takes its pixels from, once `known` frames, in whole pairs
    of blocks or all there are, have been read.
    """
    block = number // BLOCK
    other = block ^ 1 if ((block | 1) + 1) * BLOCK <= known or block % 2 else block - 1
    first, stop = other * BLOCK, (other + 1) * BLOCK
    if known < 2 * BLOCK:
        half = known // 2
        first, stop = (half, known) if number < half else (0, max(half, 1))
    return [first + (2 * place + 1) * (stop - first) // (2 * OTHERS) for place in range(OTHERS)]
