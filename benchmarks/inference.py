"""What each switch buys: times beside a plain way in one run, and likeness to the reference in decibels.

    python benchmarks/inference.py                 # all of it, some minutes on two cores
    python benchmarks/inference.py --only flops

Three models: the embedded default on the portrait in assets/ (presets, number types, cache, whole job, and
every stage of it beside a plain loop), a mid-size U-Net of random weights (cache, number types, guidance),
and the released U-Net on the meta device, where only operations are counted. Ratios are plain / ours: above 1
is a gain. Every pair is timed in turns.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from side_by_side import ASSETS, open_demo, row, timed
from stages import stages
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import latentsync
from latentsync.device import pick_device
from latentsync.diffusion.feature_cache import FeatureCache
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.presets import PRESETS, with_sampler
from latentsync.diffusion.released_config import ReleasedConfig, ReleasedModelConfig
from latentsync.diffusion.unet import UNet3DConditionModel
from latentsync.dubbing.model import load_model

FRAMES = 32
MID_WIDTHS = (96, 192, 384, 384)


def psnr(drawn: Tensor, reference: Tensor, hole: Tensor) -> float:
    """Decibels in the hole, of pixels in [-1, 1]."""
    error = ((drawn.clamp(-1, 1) - reference.clamp(-1, 1)) / 2)[:, hole.expand(3, -1, -1)]
    return float(-10 * torch.log10(error.square().mean()))


def draw(pipeline: LipsyncPipeline, faces: Tensor, windows: Tensor, **options: object) -> Tensor:
    """The drawn faces, from one seed."""
    noise = pipeline.draw_noise(torch.Generator().manual_seed(1247))
    return torch.stack(list(pipeline.stream(faces, windows, noise, pipeline.sampling(**options))))


def embedded() -> None:
    """Presets, cache and number types of the embedded default."""
    pipeline, _ = load_model(None, pick_device("cpu"), torch.float32)
    demo = open_demo(pipeline, FRAMES)
    faces, windows = demo.faces, demo.windows
    hole = pipeline.mask() == 0
    own = pipeline.scheduler
    print(
        f"\nembedded default, {FRAMES} frames of {pipeline.resolution} px: preset, seconds, PSNR in the hole"
    )

    def preset(name: str) -> Tensor:
        chosen = PRESETS[name]
        pipeline.scheduler = with_sampler(own, chosen.scheduler)
        window = (0.0, chosen.guidance_stop)
        return draw(
            pipeline,
            faces,
            windows,
            steps=chosen.steps,
            cache_interval=chosen.cache_interval,
            guidance_window=window,
        )

    def own_steps() -> Tensor:
        pipeline.scheduler = own
        return draw(pipeline, faces, windows)

    ways = {name: (lambda name=name: preset(name)) for name in PRESETS} | {"own": own_steps}
    reference = preset("reference")
    seconds = timed(ways, rounds=2)
    for name, way in ways.items():
        title = "the model's own 3 steps" if name == "own" else name
        likeness = psnr(way(), reference, hole)
        row(f"reference -> {title}", seconds["reference"], seconds[name], f"{likeness:.1f} dB")

    print("\nembedded default: one way against another")
    plain = draw(pipeline, faces, windows, steps=10)
    cached = draw(pipeline, faces, windows, steps=10, cache_interval=3)
    seconds = timed(
        {
            "plain": lambda: draw(pipeline, faces, windows, steps=10),
            "cached": lambda: draw(pipeline, faces, windows, steps=10, cache_interval=3),
        },
        rounds=2,
    )
    row(
        "10 steps: whole U-Net -> cache of interval 3",
        *seconds.values(),
        f"{psnr(cached, plain, hole):.1f} dB",
    )
    half, _ = load_model(None, pick_device("cpu"), torch.bfloat16)
    exact, rough = draw(pipeline, faces, windows), draw(half, faces, windows)
    seconds = timed(
        {
            "float32": lambda: draw(pipeline, faces, windows),
            "bfloat16": lambda: draw(half, faces, windows),
        },
        rounds=2,
    )
    row("float32 -> bfloat16, own 3 steps", *seconds.values(), f"{psnr(rough, exact, hole):.1f} dB")


def whole_job() -> None:
    """The demo, stage after stage and with stages that overlap."""
    print("\nwhole job on assets/ (512x512, 143 frames)")
    with tempfile.TemporaryDirectory(prefix="latentsync-bench-") as folder:

        def job(**options: object) -> Callable[[], object]:
            inputs = (ASSETS / "portrait.mp4", ASSETS / "speech.wav", Path(folder) / "out.mp4")
            return lambda: latentsync.dub(*inputs, **options)

        half = {"dtype": "bfloat16"}
        seconds = timed({"alone": job(threads=False, **half), "overlap": job(**half)}, rounds=1)
        row(
            "bfloat16: one stage at a time -> overlapping",
            *seconds.values(),
            f"{143 / seconds['overlap']:.1f} frames/s",
        )
        seconds = timed({"float32": job(dtype="float32"), "bfloat16": job(dtype="bfloat16")}, rounds=1)
        row("float32 -> bfloat16", *seconds.values(), f"{143 / seconds['bfloat16']:.1f} frames/s")


def mid_size() -> None:
    """The released architecture in a third of its width, random weights, one window at 256 px."""
    config = dataclasses.replace(ReleasedModelConfig(), block_out_channels=list(MID_WIDTHS))
    model = ReleasedConfig(model=config).model_section()
    torch.manual_seed(0)
    unet = UNet3DConditionModel.from_upstream(model)
    for parameter in unet.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    inputs = torch.randn(2, 13, 16, 32, 32), torch.tensor([500, 500]), torch.randn(2, 16, 50, 384)
    parameters = sum(parameter.numel() for parameter in unet.parameters()) / 1e6
    print(f"\nmid-size U-Net of random weights ({parameters:.0f} M), 16 frames, 256 px: one step")

    @torch.no_grad()
    def step(network: UNet3DConditionModel, cache: FeatureCache | None = None, passes: int = 1) -> None:
        dtype = network.dtype
        for part in range(passes):
            chosen = slice(None) if passes == 1 else slice(part, part + 1)
            sample, times, audio = (value[chosen] for value in inputs)
            network(sample.to(dtype), times, audio.to(dtype), cache=cache)

    cache = FeatureCache(interval=2)
    cache.begin(0, 32)
    step(unet, cache)
    cache.begin(1, 32)
    seconds = timed({"whole": lambda: step(unet), "cached": lambda: step(unet, cache)}, rounds=2)
    row("whole U-Net -> cached step", *seconds.values())
    seconds = timed({"two": lambda: step(unet, passes=2), "one": lambda: step(unet)}, rounds=2)
    row("guidance in two passes -> one batch", *seconds.values())
    half = UNet3DConditionModel.from_upstream(model, unet.upstream_state_dict()).to(torch.bfloat16)
    seconds = timed({"float32": lambda: step(unet), "bfloat16": lambda: step(half)}, rounds=2)
    row("float32 -> bfloat16", *seconds.values())


def flops() -> None:
    """Operations of the released U-Net with and without the cache, on the meta device."""
    print("\nreleased U-Net (1.5, 1.6), 16 frames, 20 guided steps, cache interval 3, branch 0")
    with torch.device("meta"):
        unet = UNet3DConditionModel.from_upstream(ReleasedConfig().model_section())
        for side in (32, 64):
            inputs = torch.randn(2, 13, 16, side, side), torch.zeros(2), torch.randn(2, 16, 50, 384)
            cache = FeatureCache(interval=3)
            cost = []
            for index in range(2):
                cache.begin(index, 32)
                with torch.no_grad(), FlopCounterMode(display=False) as counter:
                    unet(*inputs, cache=cache)
                cost.append(counter.get_total_flops() / 1e12)
            full, cached = cost
            with_cache = 7 * full + 13 * cached
            print(
                f"  {side * 8} px: whole step {full:6.2f} TFLOP, cached {cached:5.2f}; "
                f"20 steps {20 * full:6.1f} -> {with_cache:6.1f}, x{20 * full / with_cache:.2f} fewer"
            )


PARTS = {"flops": flops, "stages": stages, "embedded": embedded, "mid": mid_size, "job": whole_job}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, help="one part (default: all)")
    flags = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; columns: plain, ours, plain / ours")
    for name, part in PARTS.items():
        if flags.only in (None, name):
            part()


if __name__ == "__main__":
    main()
