"""A released model of full size, of made-up weights, through upstream's command line on this machine's CPU.

    python benchmarks/full_size.py [--folder /tmp] [--frames 2] [--inference_steps 1]

Makes files of exactly the released layout (5.07 GB U-Net, Whisper tiny, the autoencoder), filled by the rule
of the reference cases (tests/goldens/recipe.py), dubs a clip of a few frames with configs/unet/
stage2_512.yaml, prints seconds and peak memory, and removes everything.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from diffusers import AutoencoderKL
from scipy.io import wavfile

from latentsync.audio.whisper import encoder_config, rename_to_openai
from latentsync.diffusion.original import VAE_CONFIG
from latentsync.diffusion.released_config import load_released_config
from latentsync.diffusion.unet import UNet3DConditionModel
from latentsync.media import VideoReader, VideoWriter

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "unet" / "stage2_512.yaml"
TINY = {"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 384, "n_audio_head": 6, "n_audio_layer": 4}


def load_recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_recipe", ROOT / "tests" / "goldens" / "recipe.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fill(recipe: ModuleType, state: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """The recipe's values for every tensor of `state` (names and shapes)."""
    return {
        key: torch.from_numpy(np.ascontiguousarray(recipe.tensor(key, tuple(value.shape), seed))).float()
        for key, value in state.items()
    }


def make(folder: Path) -> None:
    """The released layout, full size."""
    from transformers import WhisperModel

    recipe = load_recipe()
    with torch.device("meta"):
        unet = UNet3DConditionModel.from_upstream(load_released_config(CONFIG).model_section())
        whisper = WhisperModel(encoder_config(TINY)).encoder.state_dict()
        vae = AutoencoderKL(**VAE_CONFIG)
    state = fill(recipe, {k: v for k, v in unet.upstream_state_dict().items() if not k.endswith(".pe")}, 1)
    torch.save({"global_step": 0, "state_dict": state}, folder / "latentsync_unet.pt")
    del state
    (folder / "whisper").mkdir()
    heard = {rename_to_openai(f"encoder.{key}"): value for key, value in whisper.items()}
    torch.save({"dims": TINY, "model_state_dict": fill(recipe, heard, 2)}, folder / "whisper" / "tiny.pt")
    vae.load_state_dict(fill(recipe, dict(vae.state_dict()), 3), assign=True)
    vae.save_pretrained(folder / "vae")


def make_job(folder: Path, frames: int) -> None:
    with VideoReader(ROOT / "assets" / "portrait.mp4") as reader:
        info = reader.info
        images = [frame.image for frame, _ in zip(reader, range(frames), strict=False)]
    with VideoWriter(folder / "clip.mp4", fps=info.fps, width=info.width, height=info.height) as writer:
        for index, image in enumerate(images):
            writer.write(image, index / info.fps)
    rate = 16_000
    noise = np.random.default_rng(0).normal(0, 2000, round(frames / float(info.fps) * rate))
    wavfile.write(folder / "sound.wav", rate, noise.astype(np.int16))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where 6 GB fit (default: temporary)")
    parser.add_argument("--frames", type=int, default=2, help="frames to dub (default 2)")
    parser.add_argument("--inference_steps", type=int, default=1, help="denoising steps (default 1)")
    parser.add_argument("--dtype", default="float32", help="number type (default float32)")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.make:
        make(flags.make)
        return
    with tempfile.TemporaryDirectory(prefix="latentsync-full-", dir=flags.folder) as name:
        folder = Path(name)
        subprocess.run([sys.executable, __file__, "--make", folder], check=True)  # its memory is not ours
        make_job(folder, flags.frames)
        command = [sys.executable, ROOT / "scripts" / "inference.py", "--unet_config_path", CONFIG]
        command += ["--inference_ckpt_path", folder / "latentsync_unet.pt", "--guidance_scale", "1.5"]
        command += ["--video_path", folder / "clip.mp4", "--audio_path", folder / "sound.wav"]
        command += ["--video_out_path", folder / "out.mp4", "--profile", "--dtype", flags.dtype]
        command += ["--inference_steps", str(flags.inference_steps)]
        began = time.perf_counter()
        process = subprocess.Popen(list(map(str, command)))
        _, status, usage = os.wait4(process.pid, 0)
        if code := os.waitstatus_to_exitcode(status):
            raise SystemExit(f"full_size: exit code {code}")
        report = json.loads((folder / "out.mp4.report.json").read_text())
        print(
            f"{report['model']}: {report['frames']} frames, {flags.inference_steps} guided step(s) in "
            f"{flags.dtype}, {time.perf_counter() - began:.0f} s, peak {usage.ru_maxrss / 1e6:.1f} GB"
        )


if __name__ == "__main__":
    main()
