"""Redraws the mouth as scripts/inference.py does, with the flags of VidLab7's profiler; with --profile it
measures every stage over several runs first.

    python scripts/inference_profiler_optimized.py --video_path assets/portrait.mp4 \
        --audio_path assets/speech.wav --video_out_path result.mp4 --profile --profile_memory

Table, JSON, CSV and plots go to VIDEO_OUT_PATH.profile/. Exit codes: 0 done, 2 the input must be mended.
"""

import argparse

from latentsync.command import Parser, leave, run_command


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--unet_config_path", help="YAML of the U-Net (default: what the weights say)")
    add(
        "--inference_ckpt_path", help="weights, model folder or Hub id (default: checkpoints/latentsync-tiny)"
    )
    add("--video_path", required=True, help="the talking clip")
    add("--audio_path", required=True, help="the soundtrack: any sound file, or a video's sound")
    add("--video_out_path", required=True, help="the result: .mp4, .mov or .mkv")
    add("--inference_steps", type=int, help="denoising steps (default: the model's own)")
    add("--guidance_scale", type=float, help="how strongly to follow the sound (default: the model's own)")
    add("--seed", type=int, default=1247, help="of the noise; -1 draws one (default 1247)")
    add("--temp_dir", help="folder for unfinished and profiled results (default: beside the output)")
    add("--enable_deepcache", action="store_true", help="keep deep features over steps: faster, less exact")
    add("--batch_size", type=int, help="frames at a time, above 16 several windows (default: a window)")
    add("--profile", action="store_true", help="measure one run to warm up and some more before the job")
    add("--num_profile_runs", type=int, default=3, help="with --profile: measured runs (default 3)")
    add("--profile_memory", action="store_true", help="with --profile: also memory by stage")
    add("--with_stack", action="store_true", help="with --profile: also a torch.profiler trace with stacks")
    return parser.parse_args()


def run(flags: argparse.Namespace) -> None:
    """Dub, measured before if wanted, and say where the results are."""
    from latentsync.dubbing import dub, profile_dub

    options = {
        "inference_steps": flags.inference_steps,
        "guidance_scale": flags.guidance_scale,
        "seed": flags.seed,
        "temp_dir": flags.temp_dir,
        "model": flags.inference_ckpt_path,
        "unet_config": flags.unet_config_path,
        "enable_deepcache": flags.enable_deepcache or None,
        "batch_size": flags.batch_size,
    }
    given = {key: value for key, value in options.items() if value is not None}
    paths = (flags.video_path, flags.audio_path, flags.video_out_path)
    if flags.profile:
        wanted = {"memory": flags.profile_memory, "with_stack": flags.with_stack}
        profile = profile_dub(*paths, runs=flags.num_profile_runs, **wanted, **given)
        report = profile.report
        print(f"{profile.table()}\nplots and numbers: {profile.folder}")
    else:
        report = dub(*paths, **given)
    print(f"{report.output}: {report.frames} frames, {report.duration_seconds:.2f} s, seed {report.seed}")


def main() -> int:
    return run_command(run, parse(), interrupted="interrupted: nothing was written")


if __name__ == "__main__":
    leave(main())
