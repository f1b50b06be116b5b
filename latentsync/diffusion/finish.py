"""Latents that the denoiser is done with -> faces: steadied in time, decoded, refined."""

from collections.abc import Callable, Iterable, Iterator

import torch
from diffusers import UNet2DModel
from torch import Tensor

from latentsync.diffusion.refine import Neighbours, refine
from latentsync.diffusion.runs import Steadied
from latentsync.profiling import stage


class Finish:
    """The last steps of one stream of faces; `frames` at a time go through the `refiner`, if there is one."""

    def __init__(
        self,
        decode: Callable[[Tensor], Tensor],
        mask: Tensor,
        steadied: Steadied,
        refiner: UNet2DModel | None,
        frames: int,
    ) -> None:
        self.decode, self.mask, self.steadied = decode, mask, steadied
        self.refiner, self.frames = refiner, frames
        self.neighbours = Neighbours()
        self._due: list[Tensor] = []  # latents that wait for the other frames their faces are made of

    def noting(self, faces: Iterable[Tensor]) -> Iterator[Tensor]:
        """`faces` (3, R, R), each kept as it passes for as long as it is needed."""
        for face in faces:
            if self.refiner is not None:
                self.neighbours.add(face)
            yield face

    def faces(self, latents: list[Tensor], *, is_last: bool = False) -> Iterator[Tensor]:
        """The faces (3, R, R) that are ready after these latents (C, h, w), all of them at the end."""
        self._due += self.steadied.add(latents) + (self.steadied.end() if is_last else [])
        if is_last:
            self.neighbours.end()
        ready = len(self._due)
        if self.refiner is not None:
            ready = min(ready, self.neighbours.ready())
        due, self._due = self._due[:ready], self._due[ready:]
        for first in range(0, ready, self.frames):
            with stage("decode"):
                drawn = self.decode(torch.stack(due[first : first + self.frames], dim=1))
            if self.refiner is not None:
                with stage("refine"):
                    faces, others = (part.to(drawn) for part in self.neighbours.take(len(drawn)))
                    drawn = refine(self.refiner, drawn, faces, others, self.mask.to(drawn)).faces()
            yield from drawn.unbind(0)
