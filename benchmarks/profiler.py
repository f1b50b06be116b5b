"""What profiling costs: the same job with and without the profiler, in turns, in one process.

    python benchmarks/profiler.py --pairs 5

Seconds of the processor tell the cost on a machine that does other things as well; those of the clock say
what a user waits. The ratio is the median over the pairs of turns, each beside its neighbour in time.
"""

import argparse
import json
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from latentsync import dub
from latentsync.device import pick_device, pick_dtype
from latentsync.dubbing import load_model
from latentsync.profiling import Profiler, measure_memory, stage

ROOT = Path(__file__).resolve().parents[1]
EMPTY_STAGES = 200_000


def run_seconds(options: dict, *, profiled: bool, memory: bool) -> tuple[float, float]:
    """Seconds of processor and clock that one job took."""
    device = pick_device(options["device"])
    with measure_memory(device) if profiled and memory else nullcontext() as meter:
        profiler = Profiler(detailed=True, device=device, memory=meter) if profiled else None
        cpu, clock = time.process_time(), time.perf_counter()
        dub(**options, profiler=profiler)
        return time.process_time() - cpu, time.perf_counter() - clock


def empty_stage_seconds() -> float:
    """What a stage costs where nobody profiles."""
    began = time.process_time()
    for _ in range(EMPTY_STAGES):
        with stage("nothing"):
            pass
    return (time.process_time() - began) / EMPTY_STAGES


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    add = parser.add_argument
    add("--video", default=ROOT / "assets" / "portrait.mp4", help="the clip (default: assets/portrait.mp4)")
    add("--audio", default=ROOT / "assets" / "speech.wav", help="the sound (default: assets/speech.wav)")
    add("--pairs", type=int, default=5, help="jobs with the profiler, and as many without (default: 5)")
    add("--inference_steps", type=int, help="denoising steps (default: the model's own)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    add("--profile_memory", action="store_true", help="profile memory as well")
    args = parser.parse_args()
    device = pick_device(args.device)
    model, _ = load_model(None, device, pick_dtype("auto", device))
    ratios: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="profiler_") as folder:
        options = {"video": args.video, "audio": args.audio, "output": Path(folder) / "out.mp4"}
        options |= {"model": model, "device": args.device, "inference_steps": args.inference_steps}
        dub(**options)
        for pair in range(args.pairs):
            turns = (False, True) if pair % 2 else (True, False)  # neither is always the first
            spent = {on: run_seconds(options, profiled=on, memory=args.profile_memory) for on in turns}
            ratios.append((spent[True][0] / spent[False][0], spent[True][1] / spent[False][1]))
            print(f"pair {pair + 1}: processor {ratios[-1][0]:.4f}, clock {ratios[-1][1]:.4f}", flush=True)
    cpu, clock = (statistics.median(column) for column in zip(*ratios, strict=True))
    empty = empty_stage_seconds()
    print(f"with / without profiler: processor {cpu:.4f}, clock {clock:.4f} (median of {args.pairs} pairs)")
    print(f"a stage where nobody profiles: {1e9 * empty:.0f} ns")
    print(json.dumps({"cpu_ratio": round(cpu, 4), "clock_ratio": round(clock, 4), "pairs": args.pairs}))


if __name__ == "__main__":
    main()
