"""Which frames are drawn together: a stream of frames -> windows that overlap, and their latents cross-faded,
and if wished steadied in time.

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


class Steadied:
    """Latents (C, h, w), one by one in order, averaged with their neighbours in time where `lips` (h, w), in
    [0, 1], is 0, and as they are where it is 1.

    `reach` frames on both sides count, the nearer the more; beyond an end, the end itself does. A frame comes
    out once `reach` more have come in, or at the end.
    """

    def __init__(self, lips: Tensor, reach: int) -> None:
        self.lips, self.reach = lips, reach
        self._seen: deque[Tensor] = deque(maxlen=2 * reach + 1)  # around the frame that is due
        self._weights = [1 + min(place, 2 * reach - place) for place in range(2 * reach + 1)]

    def add(self, latents: Iterable[Tensor]) -> list[Tensor]:
        """What is due after these."""
        return [due for frame in latents for due in self._next(frame)]

    def end(self) -> list[Tensor]:
        """What is still due; the next frame begins anew."""
        last = [self._seen[-1]] * self.reach if self._seen else []
        due = self.add(last)
        self._seen.clear()
        return due

    def _next(self, frame: Tensor) -> Iterator[Tensor]:
        if not self._seen:
            self._seen.extend([frame] * self.reach)
        self._seen.append(frame)
        if len(self._seen) == 2 * self.reach + 1:
            total = sum(self._weights)
            calm = sum(
                (weight / total) * near for weight, near in zip(self._weights, self._seen, strict=True)
            )
            yield torch.lerp(calm, self._seen[self.reach], self.lips.to(frame))  # pyright: ignore
