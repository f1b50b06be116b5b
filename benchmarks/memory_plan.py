"""What the memory ladder foretells, against what this process then takes: every way that a CPU knows.

    python benchmarks/memory_plan.py

The released architecture in a third of its width, random weights, one window of 256 px in float32, and the
embedded default. Each way runs in a process of its own; columns are MiB of weights and of what is computed.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys

import torch
from diffusers import AutoencoderKL

from latentsync.diffusion.noise import released_scheduler
from latentsync.diffusion.original import VAE_CONFIG
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.released_config import ReleasedConfig, ReleasedModelConfig
from latentsync.diffusion.sampling import Batching
from latentsync.diffusion.unet import UNet3DConditionModel
from latentsync.dubbing.memory import MARGIN, plan_memory
from latentsync.dubbing.model import load_model
from latentsync.footprint import weight_bytes
from latentsync.profiling import SampledMemory, resident_reader

MIB = 2**20
WIDTHS = [96, 192, 384, 384]
WAYS = [Batching(16), Batching(4), Batching(1), Batching(1, joint_guidance=False)]
CPU = torch.device("cpu")


def model(name: str) -> LipsyncPipeline:
    default, _ = load_model(None, CPU, torch.float32)
    if name == "embedded":
        return default
    config = ReleasedConfig(model=dataclasses.replace(ReleasedModelConfig(), block_out_channels=WIDTHS))
    torch.manual_seed(0)
    unet = UNet3DConditionModel.from_upstream(config.model_section())
    vae = AutoencoderKL(**VAE_CONFIG)
    pipeline = LipsyncPipeline(vae, default.audio_encoder, unet, released_scheduler(), resolution=256)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def measure(name: str, way: int) -> None:
    """One window in this way; prints foretold and taken bytes as JSON."""
    pipeline, batching = model(name), WAYS[way]
    plan = plan_memory(pipeline, budget_bytes=2**50, batching=batching, has_device=False)
    weights = weight_bytes(pipeline.unet, pipeline.vae, pipeline.audio_encoder)
    pipeline.batching = batching
    tokens = int(pipeline.unet.config.audio_tokens or 50), int(pipeline.unet.config.cross_attention_dim)
    faces, windows = torch.zeros(16, 3, *[pipeline.resolution] * 2), torch.zeros(16, *tokens)
    read = resident_reader()
    before, meter = read(), SampledMemory(read)
    meter.take()
    pipeline(faces, windows, num_inference_steps=1, guidance_scale=1.5)
    taken = meter.take() - before
    meter.close()
    foretold = (plan.need_bytes - weights) / MARGIN
    print(json.dumps({"weights": weights, "foretold": foretold, "taken": taken}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", nargs=2, metavar=("MODEL", "WAY"), help="one way, in this process")
    flags = parser.parse_args()
    if flags.measure:
        measure(flags.measure[0], int(flags.measure[1]))
        return
    print(f"{'model':<10}{'way':<44}{'weights':>9}{'foretold':>10}{'taken':>8}{'ratio':>7}")
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed leaves at once
    for name in ("embedded", "mid-size"):
        for way, batching in enumerate(WAYS):
            command = [sys.executable, __file__, "--measure", name, str(way)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            told = json.loads(done.stdout.splitlines()[-1])
            label = (
                f"{batching.frames} frames, guidance in {'one pass' if batching.joint_guidance else 'two'}"
            )
            weights, foretold, taken = (told[key] / MIB for key in ("weights", "foretold", "taken"))
            ratio = taken / foretold
            print(f"{name:<10}{label:<44}{weights:9.0f}{foretold:10.0f}{taken:8.0f}{ratio:7.2f}", flush=True)


if __name__ == "__main__":
    main()
