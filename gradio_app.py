"""The web demo: a clip and a soundtrack go up, the same clip with matching lips and a report of the job come
back.

    python gradio_app.py                    then open http://127.0.0.1:7860

The model is loaded once and jobs wait for each other. Nothing is published, and nothing is fetched from
elsewhere.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("GLOG_minloglevel", "2")  # MediaPipe's C++ log, read when it loads
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import gradio as gr

from latentsync import DubReport, LipsyncPipeline, dub
from latentsync.device import pick_device, pick_dtype
from latentsync.dubbing import Progress, load_model
from latentsync.errors import LatentSyncError

MENDABLE = (LatentSyncError, OSError, ValueError, ImportError)
SWEEP_AND_KEEP_SECONDS = (600, 3600)  # how often gradio's copies of clips are looked at, and how old they get
WAITING = gr.Progress()  # gradio wants it as a default value, and gives every call its own
TITLE = "# LatentSync\nThe mouth of a talking person, redrawn so that it says a new soundtrack."
NOTE = "Dub only people who agreed to it, and say that a machine made the result; its metadata says so too."


def make_job(pipeline: LipsyncPipeline) -> Callable:
    """The function behind the button: one dubbing job with `pipeline`, on the device where it is."""
    device = str(pipeline.device)

    def job(
        video: str | None, audio: str | None, steps: int, guidance: float, seed: int, bar=WAITING
    ) -> Iterator[tuple[str, dict]]:
        if not video or not audio:
            raise gr.Error("Give a clip and a soundtrack first.", print_exception=False)

        def show(progress: Progress) -> None:
            bar((progress.frames, progress.frames_total), unit="frames", desc="Redrawing")

        bar(0, desc="Looking for the face")
        options = {"inference_steps": int(steps), "guidance_scale": guidance, "seed": int(seed or 0)}
        with tempfile.TemporaryDirectory(prefix="latentsync-") as folder:
            output = Path(folder) / f"{Path(video).stem}-dubbed.mp4"
            try:
                report = dub(video, audio, output, model=pipeline, device=device, progress=show, **options)
            except MENDABLE as error:
                raise gr.Error(one_line(error, video, audio, output), print_exception=False) from error
            yield str(output), public(report)  # gradio takes its copy before it comes back here

    return job


def public(report: DubReport) -> dict:
    """The report without this machine's folders."""
    names = {key: Path(getattr(report, key)).name for key in ("video", "audio", "output", "model")}
    return {**asdict(report), **names}


def one_line(error: Exception, *paths: str | Path) -> str:
    """The error's message in one line, without this machine's folders."""
    message = " ".join(str(error).split())
    for path in paths:
        message = message.replace(f"{Path(path).parent}{os.sep}", "")
    return message


def build(pipeline: LipsyncPipeline) -> gr.Blocks:
    """The page."""
    own = pipeline.config
    with gr.Blocks(title="LatentSync", analytics_enabled=False, delete_cache=SWEEP_AND_KEEP_SECONDS) as page:
        gr.Markdown(TITLE)
        with gr.Row():
            with gr.Column():
                video = gr.Video(label="Talking clip", sources=["upload"], height=280, elem_id="video")
                audio = gr.Audio(label="Soundtrack", type="filepath", buttons=["download"], elem_id="audio")
                steps = gr.Slider(1, 50, own["inference_steps"], step=1, label="Inference steps")
                guidance = gr.Slider(1, 3, own["guidance_scale"], step=0.1, label="Guidance")
                seed = gr.Number(1247, precision=0, minimum=0, label="Seed")
                button = gr.Button("Redraw the lips", variant="primary", elem_id="start")
            with gr.Column():
                result = gr.Video(label="Result", interactive=False, height=420, elem_id="result")
                report = gr.JSON(label="Report", max_height=420, elem_id="report")
        gr.Markdown(NOTE)
        inputs = [video, audio, steps, guidance, seed]
        button.click(make_job(pipeline), inputs, [result, report], concurrency_limit=1, api_name="dub")
    return page


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--model", help="model folder or Hub id (default: the embedded checkpoints/latentsync-tiny)")
    add("--host", default="127.0.0.1", help="address to listen on, 0.0.0.0 for all (default: 127.0.0.1)")
    add("--port", type=int, default=7860, help="port to listen on (default: 7860)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    return parser.parse_args(arguments)


def main() -> int:
    flags = parse()
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    look = {"theme": theme, "footer_links": [], "ssr_mode": False, "share": False, "quiet": True}
    try:
        device = pick_device(flags.device)
        pipeline, name = load_model(flags.model, device, pick_dtype("auto", device))
        print(f"{name} on {device}: open http://{flags.host}:{flags.port} (Ctrl-C ends)", flush=True)
        build(pipeline).launch(server_name=flags.host, server_port=flags.port, **look)
    except MENDABLE as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
