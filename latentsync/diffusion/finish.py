"""Latents that the denoiser is done with -> faces: steadied in time, decoded, refined, in the footage's
colours.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from diffusers import UNet2DModel
from torch import Tensor

from latentsync.diffusion.colour import FootageColour
from latentsync.diffusion.refine import Neighbours, refined, refiner_input, with_drawn_lips
from latentsync.diffusion.runs import Steadied
from latentsync.profiling import stage


class Finish:
    """The last steps of one stream of faces. `neighbours` hands out what each face is mended by; without it
    there is neither a refiner nor a matching of colours.
    """

    def __init__(
        self,
        decode: Callable[[Tensor], Tensor],
        mask: Tensor,
        steadied: Steadied,
        neighbours: Neighbours | None,
        refiner: UNet2DModel | None,
        *,
        match_colour: bool,
    ) -> None:
        self.decode, self.mask = decode, mask
        self.steadied, self.neighbours = steadied, neighbours
        self.refiner, self.colour = refiner, FootageColour() if match_colour else None

    def noting(self, faces: Iterable[Tensor]) -> Iterator[Tensor]:
        """`faces` (3, R, R), each kept as it passes for as long as it is needed."""
        for face in faces:
            if self.neighbours is not None:
                self.neighbours.add(face)
            yield face

    def faces(self, latents: list[Tensor], *, is_last: bool = False) -> Iterator[Tensor]:
        """The faces (3, R, R) that are ready after these latents (C, h, w), all of them at the end."""
        due = self.steadied.add(latents) + (self.steadied.end() if is_last else [])
        if not due:
            return
        with stage("decode"):
            drawn = self.decode(torch.stack(due, dim=1))
        if self.neighbours is not None:
            with stage("refine"):
                drawn = self._mended(drawn, *(part.to(drawn) for part in self.neighbours.take(len(drawn))))
        yield from drawn.unbind(0)

    def _mended(self, drawn: Tensor, faces: Tensor, others: Tensor) -> Tensor:
        mask = self.mask.to(drawn)
        if self.refiner is not None:
            seen = refiner_input(drawn, faces, others, mask)
            drawn = with_drawn_lips(drawn, refined(self.refiner, drawn, seen.to(self.refiner.dtype)))
        return drawn if self.colour is None else self.colour.apply(drawn, faces, others, mask)
