"""Redraws the mouth of a talking person so that it says a new soundtrack.

    python scripts/inference.py --video assets/portrait.mp4 --audio assets/speech.wav --output result.mp4

Exit codes: 0 done, 2 something in the input must be mended (one line says what), 130 interrupted.
"""

import argparse
import logging

from latentsync.command import Parser, leave, run_command


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--video", "--video_path", required=True, help="the talking clip")
    add("--audio", "--audio_path", required=True, help="the soundtrack: any sound file, or a video's sound")
    add("--output", "--video_out_path", required=True, help="the result: .mp4, .mov or .mkv")
    add(
        "--model",
        "--inference_ckpt_path",
        help="model folder, latentsync_unet.pt or Hub id (default: the embedded checkpoints/latentsync-tiny)",
    )
    add("--unet_config_path", dest="unet_config", help="YAML of a released U-Net (default: by its tensors)")
    add("--whisper", help="whisper/tiny.pt of a released U-Net (default: beside it)")
    add("--vae", help="autoencoder of a released U-Net (default: beside it, else sd-vae-ft-mse of the Hub)")
    add("--resolution", type=int, help="pixels of a face, for a released U-Net that nothing else identifies")
    add("--lora", help="folder or file of LoRA matrices that a training run left (runs/person/lora)")
    add("--overlap", type=int, help="frames that neighbouring windows share (default: the model's own)")
    presets = ("reference", "balanced", "fast")
    add("--preset", choices=presets, help="steps, sampler and cache at once (default: the model's own)")
    add("--inference_steps", type=int, help="denoising steps (default: the model's own)")
    add("--enable_deepcache", action="store_true", help="reuse the U-Net's deep features between steps")
    add(
        "--cache_interval",
        type=int,
        help="with the cache: whole U-Net every n-th step (default 3, less for few steps, or the preset's)",
    )
    add("--cache_branch_id", type=int, help="with the cache: layers run anew, less 1 (default 0)")
    add("--batch_size", type=int, help="frames at a time, above 16 several windows (default: a window, 16)")
    add("--vram", help="memory of the device to keep to, such as 8GB (default: as it comes)")
    offloads = ("none", "model", "group", "sequential")
    add("--offload", choices=offloads, help="keep weights off the GPU until needed (default: none)")
    add("--sync_guidance", action="store_true", help="a SyncNet chooses the guidance, from 1 to 2")
    add("--syncnet", help="with --sync_guidance: its file or folder (default: beside the model)")
    add("--vae_tiling", action="store_true", help="pieces of a frame through the autoencoder: least memory")
    add("--attention", default="sdpa", choices=("sdpa", "xformers"), help="kernels (default sdpa: torch's)")
    add("--compile", action="store_true", help="compile the U-Net: a minute or more at first, then faster")
    add(
        "--guidance_window",
        type=float,
        nargs=2,
        metavar=("START", "STOP"),
        help="share of the steps that are guided (default: 0 1)",
    )
    add(
        "--guidance_scale",
        type=float,
        help="how strongly to follow the sound, 1 to 3 (default: the model's own)",
    )
    add(
        "--seed",
        type=int,
        default=1247,
        help="of the noise; the same seed gives the same result, -1 draws one (default 1247)",
    )
    durations = ("audio", "video", "shortest")
    add("--duration", default="audio", choices=durations, help="how long it lasts (default: audio)")
    detectors = ("auto", "mediapipe", "insightface")
    add(
        "--detector",
        default="auto",
        choices=detectors,
        help="face finder (default: auto, which is mediapipe)",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    add(
        "--dtype",
        default="auto",
        help="auto, fp32, fp16 or bf16 (auto: 16 bits where the device is quick at it)",
    )
    add("--crf", type=int, default=18, help="H.264 quality, 0 to 51, lower is better (default 18)")
    add("--temp_dir", help="existing folder for the unfinished result (default: beside the output)")
    add("--profile", action="store_true", help="print seconds by stage and save them to OUTPUT.report.json")
    add(
        "--num_profile_runs",
        type=int,
        default=0,
        help="with --profile: measure so many runs first, in detail, into OUTPUT.profile/ (default 0)",
    )
    add(
        "--profile_memory", action="store_true", help="with --profile: also memory by stage, of 1 run or more"
    )
    add("--with_stack", action="store_true", help="with --profile: also a torch.profiler trace with stacks")
    return parser.parse_args()


def run(flags: argparse.Namespace) -> None:
    """Dub with a progress bar, then say where the result is."""
    from tqdm import tqdm

    from latentsync import dub
    from latentsync.dubbing import Progress, profile_dub, report_place

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("latentsync").setLevel(logging.INFO)
    options = dict(vars(flags))
    is_profiled, memory, with_stack = map(options.pop, ("profile", "profile_memory", "with_stack"))
    runs = options.pop("num_profile_runs") or int(memory or with_stack)
    if runs and not is_profiled:
        raise ValueError("--num_profile_runs, --profile_memory and --with_stack belong to --profile: add it")
    report_path = report_place(flags.output) if is_profiled else None
    with tqdm(unit="frame", disable=None) as bar:

        def show(progress: Progress) -> None:
            bar.total = progress.frames_total
            bar.update(progress.frames - bar.n)

        if is_profiled and runs:
            profile = profile_dub(**options, progress=show, runs=runs, memory=memory, with_stack=with_stack)
            report, told = profile.report, f"{profile.table()}\nplots and numbers: {profile.folder}"
        else:
            report = dub(**options, progress=show)
            told = report.table()
    if report_path is not None:
        report.save(report_path)
        print(told)
    if skipped := report.frames_passed_through:
        print(f"{skipped} of {report.frames} frames had no face to redraw and were left as they were")
    print(f"{report.output}: {report.frames} frames, {report.duration_seconds:.2f} s")


def main() -> int:
    return run_command(run, parse(), interrupted="interrupted: nothing was written")


if __name__ == "__main__":
    leave(main())
