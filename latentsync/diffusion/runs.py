"""Which frames are drawn together: a stream of frames -> windows that overlap, and their latents cross-faded.

A window is `window` frames; its first `overlap` are the last ones of the window before. A tail that is
shorter than a window goes together with the frames before it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from latentsync.diffusion.condition import EncodedFace


@dataclass(frozen=True)
class Run:
    """One window: its frames from `first_frame` on, of which the last `fresh` were in no window before."""

    faces: list[EncodedFace]
    tokens: list[Tensor]
    first_frame: int
    fresh: int
    is_last: bool = False


def cut_runs(
    heard: Iterable[tuple[Tensor, Tensor]],
    encode: Callable[[list[Tensor]], list[EncodedFace]],
    *,
    window: int,
    overlap: int,
    first_frame: int = 0,
) -> Iterator[Run]:
    """The windows of a stream of faces (3, R, R) with their audio tokens (N, D); `encode` gets every face
    once.
    """
    faces: deque[EncodedFace] = deque(maxlen=window)
    tokens: deque[Tensor] = deque(maxlen=window)
    new: list[Tensor] = []
    wanted, seen = window, 0

    def run(*, is_last: bool = False) -> Run:
        faces.extend(encode(new))
        first = first_frame + seen - len(faces)
        return Run(list(faces), list(tokens), first, fresh=len(new), is_last=is_last)

    for face, token in heard:
        new.append(face)
        tokens.append(token)
        seen += 1
        if len(new) == wanted:
            yield run()
            wanted = window - overlap
            new.clear()
    if new:
        yield run(is_last=True)


def blend(held: list[Tensor], latents: list[Tensor]) -> list[Tensor]:
    """`latents` of a window, whose first ones fade over from `held`, what the window before made of them."""
    count = len(held)
    shares = [(index + 1) / (count + 1) for index in range(count)]
    mixed = [torch.lerp(old, new, share) for old, new, share in zip(held, latents, shares, strict=False)]
    return mixed + latents[count:]
