"""The web demo as a visitor meets it: Chromium uploads files, presses the button, and sees a video or a
reason.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
from synthetic import write_sound
from tiny_pipeline import make_pipeline

ROOT = Path(__file__).resolve().parents[1]
PORTRAIT = ROOT / "assets" / "portrait.mp4"
START_SECONDS = 180  # a cold import of torch and gradio on a busy machine
JOB_SECONDS = 180
SOUND_SECONDS, PORTRAIT_FPS = 0.6, 25
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
CHROMIUM_FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline of tiny random networks: 32 px faces, two steps."""
    folder = tmp_path_factory.mktemp("model")
    make_pipeline(temporal=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the app takes for temporary files."""
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def address(model_folder: Path, jobs: Path) -> Iterator[str]:
    """The running app, on a port of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "gradio_app.py",
        "--model",
        str(model_folder),
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TMPDIR": str(jobs)}
    log = model_folder.parent / "app.log"
    with log.open("w") as output:
        app = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/", app, log)
        yield f"http://127.0.0.1:{port}/"
    finally:
        app.terminate()
        app.wait(timeout=30)


def wait_for(url: str, app: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and app.poll() is None:
        try:
            with urlopen(url, timeout=5):
                return
        except URLError:
            time.sleep(0.5)
    pytest.fail(f"the app did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture
def page(address: str) -> Iterator:
    """The opened page; a request that leaves this machine fails the test."""
    chromium = shutil.which("chromium")
    if chromium is None and not os.environ.get("CI"):
        pytest.skip("needs chromium")
    from playwright.sync_api import sync_playwright

    strangers: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.on(
            "request",
            lambda request: None if is_local(request.url, address) else strangers.append(request.url),
        )
        page.goto(address)
        page.locator("#start").wait_for(timeout=60_000)
        yield page
        browser.close()
    assert strangers == []


def is_local(url: str, address: str) -> bool:
    return url.startswith((address, "data:", f"blob:{address}"))


def upload(page, where: str, path: Path) -> None:
    page.locator(f"{where} input[type=file]").first.set_input_files(str(path))
    page.locator(f"{where} button[aria-label='Clear'], {where} button[aria-label='Remove']").first.wait_for(
        timeout=60_000
    )


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    time_seconds = np.arange(round(SOUND_SECONDS * 16000)) / 16000
    sound = 0.3 * np.sin(2 * np.pi * 220 * time_seconds) * np.sin(2 * np.pi * 4 * time_seconds)
    return write_sound(tmp_path / "speech.wav", sound[None].astype(np.float32), 16000)


def test_a_clip_and_a_sound_become_a_video_and_a_report(page, speech: Path, jobs: Path):
    upload(page, "#video", PORTRAIT)
    upload(page, "#audio", speech)
    page.locator("#start").click()
    result = page.locator("#result video[src]")
    result.wait_for(timeout=JOB_SECONDS * 1000)

    with urlopen(result.get_attribute("src"), timeout=30) as answer:
        assert answer.headers["Content-Type"] == "video/mp4"
        assert answer.read()[4:8] == b"ftyp"
    report = shown_report(page)
    assert report["frames"] == round(SOUND_SECONDS * PORTRAIT_FPS)
    assert report["frames_redrawn"] == report["frames"]
    assert (report["video"], report["audio"], report["seed"]) == ("portrait.mp4", "speech.wav", 1247)
    assert (report["settings"]["inference_steps"], report["settings"]["guidance_scale"]) == (2, 1.5)
    assert list(jobs.glob("latentsync-*")) == []  # the job's own folder is gone
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "gradio_app.png", full_page=True)


def shown_report(page) -> dict:
    """What the report panel's copy button gives."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#report").get_by_role("button", name="Copy").click()
    return json.loads(page.evaluate("navigator.clipboard.readText()"))


def test_a_broken_clip_says_what_is_wrong(page, speech: Path, tmp_path: Path, jobs: Path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no video" * 100)
    upload(page, "#video", broken)
    upload(page, "#audio", speech)
    page.locator("#start").click()
    toast = page.locator(".toast-body.error").filter(
        has_text="broken.mp4"
    )  # beside the player's own complaint
    toast.wait_for(timeout=JOB_SECONDS * 1000)
    assert "video" in toast.inner_text()
    assert str(jobs) not in toast.inner_text()
    assert page.locator("#result video[src]").count() == 0
