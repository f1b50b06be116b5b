"""Where a model's parts lie and how much is drawn at a time, so that a job keeps to a device's memory.

Ways are ordered from the fastest to the leanest; none of them changes the picture. What each needs is counted
on tensors without data (`footprint`), and the first that fits is taken.
"""

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from latentsync.diffusion.folder import PARTS
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.refine import OTHERS, refine
from latentsync.diffusion.sampling import Batching
from latentsync.footprint import largest_leaf_bytes, peak_bytes, weight_bytes

GIB = 2**30
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
OFFLOADS = ("none", "model", "group", "sequential")
OFFLOAD_NAMES = {
    "none": "all weights on the device",
    "model": "one network on the device at a time",
    "group": "the weights of a few layers on the device at a time",
    "sequential": "the weights of one layer on the device at a time",
}
LEAST_BYTES = GIB // 4
MARGIN = 1.25  # kernels' workspaces and gaps between blocks, of what is computed
CONTEXT_BYTES = GIB // 2  # what a GPU's driver takes of a process
FRAME_SLICES = (4, 1)


@dataclass(frozen=True)
class MemoryPlan:
    """How a job is laid out (`offload` is one of OFFLOADS), and what that needs of the device at most."""

    offload: str
    batching: Batching
    need_bytes: int
    budget_bytes: int | None = None

    def __str__(self) -> str:
        frames, windows = self.batching.frames, self.batching.windows
        guidance = "one pass" if self.batching.joint_guidance else "two passes"
        budget = f" of {self.budget_bytes / GIB:.1f}" if self.budget_bytes else ""
        return (
            f"memory plan: {OFFLOAD_NAMES[self.offload]}, {windows} window(s) at a time, guidance in "
            f"{guidance}, {frames} frame(s) through the autoencoder at a time: about "
            f"{self.need_bytes / GIB:.1f}{budget} GiB"
        )


def parse_bytes(text: str) -> int:
    """Bytes of "8GB", "8 GiB", "7.5G" or "8192MB" (powers of 1024, as sizes of GPUs are meant).

    Raises: ValueError for anything else, and below LEAST_BYTES.
    """
    found = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    size = int(float(found[1]) * UNITS[found[2].upper()]) if found else 0
    if size < LEAST_BYTES:
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        raise ValueError(f"memory {shown!r}: expected a size such as 8GB or 6500MB, at least 256MB")
    return size


def plan_memory(
    pipeline: LipsyncPipeline,
    *,
    budget_bytes: int,
    offload: str | None = None,
    batching: Batching | None = None,
    has_device: bool,
) -> MemoryPlan:
    """The fastest way for `pipeline` (weights anywhere) that needs at most `budget_bytes`.

    `offload` and `batching` are kept where they are given, but for windows at a time, which get fewer as
    needed. `has_device`: whether there is a device other than the one that weights could be put away to.
    Raises: ValueError when nothing fits, with what the leanest needs.
    """
    leanest: MemoryPlan | None = None
    for plan in _ways(pipeline, offload, batching, has_device=has_device):
        if plan.need_bytes <= budget_bytes:
            return replace(plan, budget_bytes=budget_bytes)
        leanest = plan if leanest is None or plan.need_bytes < leanest.need_bytes else leanest
    assert leanest is not None
    raise ValueError(
        f"memory {budget_bytes / GIB:.1f} GiB: the leanest way for this model needs about "
        f"{leanest.need_bytes / GIB:.1f} GiB; allow more, or choose a smaller model"
    )


def lay_out(
    pipeline: LipsyncPipeline,
    device: torch.device,
    *,
    vram: str | None = None,
    offload: str | None = None,
    batching: Batching | None = None,
) -> MemoryPlan | None:
    """Bring the pipeline to `device` in the way that was asked for; gives the plan when there was a choice.

    A pipeline that its owner has already offloaded stays as it is. Raises: ValueError for offloading without
    a device to offload from, and for less memory than the leanest way needs.
    """
    if is_offloaded(pipeline):
        if vram is not None or offload is not None:
            raise ValueError("the given pipeline is already offloaded: leave vram and offload out")
        return None
    has_device = device.type != "cpu"
    if offload not in (None, "none") and not has_device:
        raise ValueError(f"offload {offload!r} frees the memory of a GPU, but this job runs on the CPU")
    if vram is not None:
        budget = parse_bytes(vram)
        plan = plan_memory(
            pipeline, budget_bytes=budget, offload=offload, batching=batching, has_device=has_device
        )
    elif batching is not None and batching.windows > 1:
        budget = free_bytes(device) + (0 if has_device else weight_bytes(*_networks(pipeline)))
        plan = _most_windows(pipeline, budget, offload or "none", batching, has_device=has_device)
    else:
        place(pipeline, device, MemoryPlan(offload or "none", batching or Batching(pipeline.window), 0))
        return None
    place(pipeline, device, plan)
    return plan


def is_offloaded(pipeline: LipsyncPipeline) -> bool:
    """Whether weights come and go by hooks of accelerate or diffusers."""
    return any(
        hasattr(module, "_hf_hook") or hasattr(module, "_diffusers_hook")
        for network in _networks(pipeline)
        for module in network.modules()
    )


def place(pipeline: LipsyncPipeline, device: torch.device, plan: MemoryPlan) -> None:
    """Lay the pipeline out on `device` as `plan` says; torch refuses it more than the plan's budget there.

    Offloading has been tried with the CPU in the place of a GPU; CUDA and MPS have not been at hand.
    """
    pipeline.batching = plan.batching
    if plan.offload == "none":
        pipeline.to(device)
        if device.type != "mps":  # convolutions are faster so: docs/performance.md; untried on MPS
            for network in filter(None, (pipeline.unet, pipeline.vae, pipeline.refiner)):
                torch.nn.Module.to(network, memory_format=torch.channels_last)  # type: ignore[call-overload]
    elif plan.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif plan.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.enable_group_offload(
            device,
            offload_type="leaf_level",
            use_stream=device.type == "cuda",
            exclude_modules=["audio_encoder"],
        )
    if plan.budget_bytes is not None:
        _limit(device, plan.budget_bytes)


def free_bytes(device: torch.device) -> int:
    """Memory of `device` that is free now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _limit(device: torch.device, budget_bytes: int) -> None:
    """Make torch raise out-of-memory beyond the budget; nothing does that on a CPU."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, budget_bytes / total), device)
    elif device.type == "mps":
        torch.mps.set_per_process_memory_fraction(min(1.0, budget_bytes / torch.mps.recommended_max_memory()))


def _networks(pipeline: LipsyncPipeline) -> list[torch.nn.Module]:
    return [part for part in (getattr(pipeline, name) for name in PARTS) if part is not None]


def _most_windows(
    pipeline: LipsyncPipeline, free: int, offload: str, batching: Batching, *, has_device: bool
) -> MemoryPlan:
    """As many windows at a time as fit into what is free, one at least."""
    plans = list(_ways(pipeline, offload, batching, has_device=has_device))
    return next((plan for plan in plans if plan.need_bytes <= free), plans[-1])


def _ways(
    pipeline: LipsyncPipeline, offload: str | None, batching: Batching | None, *, has_device: bool
) -> Iterator[MemoryPlan]:
    """Every allowed way, the fastest first."""
    offloads = (offload,) if offload else OFFLOADS if has_device else ("none",)
    needs = _Needs(pipeline, has_device=has_device)
    for kind, batch in itertools.product(offloads, _batchings(pipeline.window, batching)):
        yield MemoryPlan(kind, batch, needs(kind, batch))


def _batchings(window: int, given: Batching | None) -> Iterator[Batching]:
    batching = given or Batching(frames=window)
    while batching.windows > 1:
        yield batching
        batching = replace(batching, windows=batching.windows // 2)
    slices = [size for size in FRAME_SLICES if size < batching.frames] if given is None else []
    for frames in (batching.frames, *slices):
        yield replace(batching, frames=frames)
    if given is None:
        yield Batching(frames=1, joint_guidance=False)


class _Needs:
    """What a way needs, each part counted once."""

    def __init__(self, pipeline: LipsyncPipeline, *, has_device: bool) -> None:
        self.pipeline, self.context = pipeline, CONTEXT_BYTES if has_device else 0
        self.computed: dict[tuple, int] = {}

    def __call__(self, offload: str, batching: Batching) -> int:
        pipeline = self.pipeline
        halves = 2 if batching.joint_guidance else 1
        unet, vae = self._unet(batching.windows * halves), self._vae(batching.frames)
        refiner = 0 if pipeline.refiner is None else self._refiner(batching.frames)
        parts = [part for part in PARTS if getattr(pipeline, part)]
        weights = {part: weight_bytes(getattr(pipeline, part)) for part in parts}
        if offload == "none":
            resident, computed = sum(weights.values()), max(unet, vae, refiner)
        elif offload == "model":  # the autoencoder stays while the U-Net works, not the other way round
            resident = sum(weights.values()) - weights["unet"]
            computed = max(weights["unet"] / MARGIN + unet, vae, refiner)
        else:
            leaf = largest_leaf_bytes(
                *filter(None, (pipeline.unet, pipeline.vae, pipeline.refiner, pipeline.articulator))
            )
            resident = weights["audio_encoder"] + leaf * (2 if offload == "group" else 1)
            computed = max(unet, vae, refiner)
        return int(resident + MARGIN * computed) + self.context

    def _unet(self, batch: int) -> int:
        """Of `batch` windows through the U-Net."""
        if ("unet", batch) not in self.computed:
            pipeline, unet = self.pipeline, self.pipeline.unet
            side = pipeline.resolution // pipeline.vae_scale_factor
            tokens = (int(unet.config.audio_tokens or 50), int(unet.config.cross_attention_dim))

            def step() -> None:
                sample = torch.empty(
                    batch, unet.config.in_channels, pipeline.window, side, side, dtype=unet.dtype
                )
                audio = torch.empty(batch, pipeline.window, *tokens, dtype=unet.dtype)
                unet(sample, torch.zeros(()), audio)

            self.computed["unet", batch] = peak_bytes(step)
        return self.computed["unet", batch]

    def _vae(self, frames: int) -> int:
        """Of `frames` through the autoencoder, either way."""
        if ("vae", frames) not in self.computed:
            pipeline, vae = self.pipeline, self.pipeline.vae
            side, latent = pipeline.resolution, pipeline.resolution // pipeline.vae_scale_factor

            def both() -> None:
                vae.encode(torch.empty(frames, 3, side, side, dtype=vae.dtype))
                vae.decode(torch.empty(frames, vae.config.latent_channels, latent, latent, dtype=vae.dtype))

            self.computed["vae", frames] = peak_bytes(both)
        return self.computed["vae", frames]

    def _refiner(self, frames: int) -> int:
        """Of `frames` through the refiner."""
        if ("refiner", frames) not in self.computed:
            pipeline, refiner, side = self.pipeline, self.pipeline.refiner, self.pipeline.resolution

            def mend() -> None:
                drawn = torch.empty(frames, 3, side, side)
                faces = torch.empty_like(drawn)
                others = torch.empty(frames, OTHERS, 3, side, side)
                motion = torch.empty(frames, pipeline.articulator.config.measures)
                refine(refiner, drawn, faces, others, torch.empty(1, side, side), motion).faces()

            self.computed["refiner", frames] = peak_bytes(mend)
        return self.computed["refiner", frames]
