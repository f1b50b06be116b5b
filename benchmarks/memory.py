"""Peak memory of dubbing a short and a long clip, each in a fresh process: it should not grow with length.

python benchmarks/memory.py --seconds 10 100 --inference_steps 2
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from latentsync.media import VideoReader, VideoWriter, read_audio
from latentsync.media.audio import SAMPLE_RATE_HZ

ROOT = Path(__file__).resolve().parents[1]
MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024  # Linux counts kilobytes


def looped(path: Path) -> Iterator[np.ndarray]:
    """The pictures of a clip, again and again; one is held at a time."""
    with VideoReader(path) as reader:
        for _ in itertools.count():
            yield from (frame.image for frame in reader)


def make_job(folder: Path, seconds: float) -> tuple[Path, Path]:
    """A clip and a sound of that length, from the demo inputs."""
    video, sound = folder / f"{seconds:g}s.mp4", folder / f"{seconds:g}s.wav"
    source = ROOT / "assets" / "portrait.mp4"
    with VideoReader(source) as reader:
        info = reader.info
    with VideoWriter(video, fps=info.fps, width=info.width, height=info.height) as writer:
        for index, image in enumerate(itertools.islice(looped(source), round(seconds * info.fps))):
            writer.write(image, index / info.fps)
    speech = np.resize(read_audio(ROOT / "assets" / "speech.wav"), round(seconds * SAMPLE_RATE_HZ))
    wavfile.write(sound, SAMPLE_RATE_HZ, (speech * 32767).astype(np.int16))
    return video, sound


def peak_bytes(video: Path, sound: Path, inference_steps: int | None) -> int:
    """Peak resident memory of one run of scripts/inference.py."""
    command = [sys.executable, str(ROOT / "scripts" / "inference.py"), "--video_path", str(video)]
    command += ["--audio_path", str(sound), "--video_out_path", str(video.with_name("dubbed.mp4"))]
    if inference_steps is not None:
        command += ["--inference_steps", str(inference_steps)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"memory: dubbing {video.name} failed with exit code {process.returncode}")
    return usage.ru_maxrss * MAXRSS_BYTES


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, nargs=2, default=[10, 100], help="lengths (default: 10 100)")
    parser.add_argument("--inference_steps", type=int, help="sampling steps (default: the model's)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memory_") as folder:
        jobs = [make_job(Path(folder), seconds) for seconds in args.seconds]
        peaks = [peak_bytes(video, sound, args.inference_steps) for video, sound in jobs]
    ratio = peaks[1] / peaks[0]
    for seconds, peak in zip(args.seconds, peaks, strict=True):
        print(f"{seconds:6g} s clip: peak {peak / 2**20:7.0f} MiB")
    print(f"ratio {ratio:.3f}")
    print(json.dumps({"seconds": args.seconds, "peak_bytes": peaks, "ratio": round(ratio, 4)}))


if __name__ == "__main__":
    main()
