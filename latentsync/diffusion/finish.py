"""Latents that the denoiser is done with -> faces: steadied in time, decoded, refined."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from diffusers import UNet2DModel
from torch import Tensor

from latentsync.diffusion.articulator import Articulator
from latentsync.diffusion.refine import Neighbours, refine, relit
from latentsync.diffusion.runs import Steadied
from latentsync.profiling import stage


class Finish:
    """The last steps of one stream of faces. Where it is `refining`, `frames` faces at a time go through that
    refiner, which is told motion by that articulator.
    """

    def __init__(
        self,
        decode: Callable[[Tensor], Tensor],
        mask: Tensor,
        steadied: Steadied,
        refining: tuple[UNet2DModel, Articulator] | None,
        frames: int,
    ) -> None:
        self.decode, self.mask, self.steadied = decode, mask, steadied
        self.refining, self.frames = refining, frames
        self.neighbours = Neighbours()
        self._heard: deque[Tensor] = deque()  # audio tokens of the faces that are not refined yet
        self._due: list[Tensor] = []  # latents that wait for the other frames their faces are made of

    def noting(
        self, faces: Iterable[Tensor], audio_windows: Iterable[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """`faces` (3, R, R) with their audio tokens (N, D), each kept as it passes for as long as it is
        needed.
        """
        for face, tokens in zip(faces, audio_windows, strict=True):
            if self.refining is not None:
                self.neighbours.add(face)
                self._heard.append(tokens)
            yield face, tokens

    def faces(self, latents: list[Tensor], *, is_last: bool = False) -> Iterator[Tensor]:
        """The faces (3, R, R) that are ready after these latents (C, h, w), all of them at the end."""
        self._due += self.steadied.add(latents) + (self.steadied.end() if is_last else [])
        if is_last:
            self.neighbours.end()
        ready = len(self._due)
        if self.refining is not None:
            ready = min(ready, self.neighbours.ready())
        due, self._due = self._due[:ready], self._due[ready:]
        for first in range(0, ready, self.frames):
            with stage("decode"):
                drawn = self.decode(torch.stack(due[first : first + self.frames], dim=1))
            yield from self._refined(drawn).unbind(0)

    def _refined(self, drawn: Tensor) -> Tensor:
        """The next faces (F, 3, R, R), as they were drawn where there is no refiner."""
        if self.refining is None:
            return drawn
        refiner, articulator = self.refining
        with stage("refine"):
            faces, others = (part.to(drawn) for part in self.neighbours.take(len(drawn)))
            heard = torch.stack([self._heard.popleft() for _ in drawn]).to(drawn.device)
            motion = articulator(heard)
            lit = relit(drawn, others)
            return refine(refiner, lit, faces, others, self.mask.to(drawn), motion).faces()
