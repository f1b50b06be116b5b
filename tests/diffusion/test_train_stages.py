"""Two-stage training through its script: both stages, LoRA, going on, and what bad input gets."""

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from footage_clips import write_face_video, write_packed
from safetensors.torch import load_file
from synthetic import write_video
from tiny_stages import MODEL, STAGE_1, random_batch, save_stage_inputs, tiny_unet

from latentsync.checkpoint import read_weights
from latentsync.diffusion import train_stages as trainer
from latentsync.diffusion.compare_stages import losses_before_and_after
from latentsync.diffusion.lora import apply_lora
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.stage_config import load_recipe
from latentsync.diffusion.unet import UNet3DConditionModel
from latentsync.training import newest_checkpoint, read_log, state

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "train_unet.py"
NEW = "ckpt.resume_ckpt_path=''"


@pytest.fixture
def script(monkeypatch, capsys):
    """`script(yaml, *arguments) -> (exit code, last line of stderr)`, in this process."""
    spec = importlib.util.spec_from_file_location("train_unet_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    logger = logging.getLogger("latentsync")
    handlers, level = logger.handlers[:], logger.level
    logger.addHandler(logging.NullHandler())

    def run(config, *arguments):
        argv = ["train_unet.py", "--unet_config_path", str(config), "--mixed_precision", "no"]
        monkeypatch.setattr(sys, "argv", [*argv, *map(str, arguments)])
        capsys.readouterr()
        code = module.main()
        return code, (capsys.readouterr().err.strip().splitlines() or [""])[-1]

    yield run
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    path = save_stage_inputs(tmp_path_factory.mktemp("inputs"))
    start = path.parent / "start.pt"
    torch.save({"global_step": 7, "state_dict": tiny_unet().upstream_state_dict()}, start)
    config = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**config, "ckpt": {"resume_ckpt_path": str(start)}}))
    return path


@pytest.fixture
def light(monkeypatch):
    """A step that costs nothing, for tests of what lies around it."""

    def losses(model, batch, teachers, supervision):
        prediction = model(torch.randn(1, 13, 2, 8, 8), 500, batch.tokens[:1, :2]).sample
        return {"loss": (prediction * batch.faces.mean()).square().mean()}

    monkeypatch.setattr(trainer, "stage_losses", losses)


def losses_of(folder, name):
    return [row[name] for row in read_log(folder / "log.jsonl") if name in row]


def predict(unet):
    generator = torch.Generator().manual_seed(0)
    sample, tokens = torch.randn(1, 13, 16, 8, 8, generator=generator), random_batch().tokens[:1]
    with torch.no_grad():
        return unet(sample, 500, tokens).sample


@pytest.mark.slow
def test_stage_1_then_stage_2_and_their_losses_fall(script, inputs, tmp_path):
    """On footage whose mouths open with the voice, seen through the embedded model's autoencoder."""
    one, two = tmp_path / "one", tmp_path / "two"
    changes = (
        f"weights.vae={ROOT / 'checkpoints' / 'latentsync-tiny' / 'vae'}",
        "model.in_channels=49",
        "model.out_channels=16",
        "data.batch_size=2",
        "optimizer.lr=3e-3",
        "run.perceptual_loss_weight=1",
        "run.trepa_loss_weight=30",
        "run.sync_loss_weight=0.2",
        "train.ema_decay=0.9",
    )
    steps = ("run.max_train_steps=60", "ckpt.save_ckpt_steps=60", f"data.train_output_dir={one}")
    assert script(inputs, NEW, *STAGE_1, *changes, *steps, "--export_upstream")[0] == 0
    recon = losses_of(one, "recon")
    assert len(recon) == 60 and sum(recon[-10:]) < 0.8 * sum(recon[:10])
    first = f"ckpt.resume_ckpt_path={one / 'latentsync_unet.pt'}"
    steps = ("run.max_train_steps=40", "ckpt.save_ckpt_steps=40", f"data.train_output_dir={two}")
    assert script(inputs, first, *changes, *steps)[0] == 0
    assert len(losses_of(two, "trepa")) == 40 and (two / "losses.png").is_file()
    pipeline = LipsyncPipeline.from_pretrained(two / "pipeline", local_files_only=True)
    assert pipeline.unet.has_motion and pipeline.resolution == 64 and pipeline.window == 16
    cache = f"data.train_output_dir={tmp_path / 'cache'}"
    config = load_recipe(str(inputs), [*changes, first, cache])
    found = losses_before_and_after(config, two / "pipeline", samples=6, device=torch.device("cpu"), epoch=9)
    assert set(found) == {"loss", "recon", "lpips", "trepa", "sync"}
    falling = ("loss", "lpips", "trepa")  # of sync, a network of random numbers tells nothing in so few steps
    assert all(found[name].after < found[name].before for name in falling), found
    assert found["recon"].after < 1.05 * found["recon"].before  # it fell in stage 1, and gives way here


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_if_it_had_not(script, inputs, tmp_path):
    options = ("data.num_workers=1", "ckpt.save_ckpt_steps=2", "run.enable_gradient_checkpointing=true")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for folder, parts in (("whole", [4]), ("parts", [2, 4])):
            for steps in parts:
                told = (f"data.train_output_dir={tmp_path / folder}", f"run.max_train_steps={steps}")
                assert script(inputs, *options, *told)[0] == 0
    finally:
        torch.set_num_threads(threads)
    for name in ("model.safetensors", "ema.safetensors"):
        whole, parts = (load_file(tmp_path / folder / "checkpoint-4" / name) for folder in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole)
    kept = ("loss", "recon", "lpips", "trepa", "sync")
    one, other = (read_log(tmp_path / folder / "log.jsonl") for folder in ("whole", "parts"))
    assert [[row[k] for k in kept] for row in one] == [[row[k] for k in kept] for row in other]


@pytest.mark.slow
def test_two_processes_train_one_network(inputs, tmp_path):
    """As the README starts them, on the CPU: they share out footage and gradients, and one of them writes."""
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/multi.yaml",
        "--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0", str(SCRIPT),
        "--unet_config_path", str(inputs), f"data.train_output_dir={out}", "run.max_train_steps=2",
        f"data.audio_mel_cache_dir={tmp_path / 'cache'}",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [row["step"] for row in read_log(out / "log.jsonl")] == [1, 2]
    settings = json.loads((out / "checkpoint-2" / "state.json").read_text())["settings"]
    assert settings["loop.batch_size x gradient_accumulation_steps x processes"] == 2
    LipsyncPipeline.from_pretrained(out / "pipeline", local_files_only=True)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 6  # mel and tokens of 3 clips


@pytest.mark.slow
def test_the_results_hold_the_average_and_go_back_to_upstream(script, inputs, tmp_path, light):
    out = tmp_path / "run"
    steps = ("run.max_train_steps=3", "ckpt.save_ckpt_steps=2", f"data.train_output_dir={out}")
    code, _ = script(inputs, *steps, "--export_upstream")
    assert code == 0
    average = load_file(out / "checkpoint-3" / "ema.safetensors")
    pipeline = LipsyncPipeline.from_pretrained(out / "pipeline", local_files_only=True)
    state_dict = pipeline.unet.state_dict()
    assert all(torch.equal(state_dict[name], value) for name, value in average.items())
    raw = load_file(out / "checkpoint-3" / "model.safetensors")
    assert any(not torch.equal(raw[name], value) for name, value in average.items())
    upstream = read_weights(out / "latentsync_unet.pt", expect="unet")
    assert upstream.extra["global_step"] == 3
    again = UNet3DConditionModel.from_upstream(MODEL, upstream.tensors)
    assert torch.equal(predict(again), predict(pipeline.unet))
    assert not torch.equal(predict(again), predict(tiny_unet()))
    assert yaml.safe_load((out / "config.yaml").read_text())["run"]["max_train_steps"] == 3
    left = {path.name for path in out.iterdir()}
    assert left == {
        *("checkpoint-2", "checkpoint-3", "config.yaml", "log.jsonl", "losses.png"),
        *("pipeline", "latentsync_unet.pt"),
    }


def test_a_validation_leaves_the_networks_as_it_found_them(inputs, tmp_path, monkeypatch):
    """A dub wants channels last and one dtype; the gradient of the next step died of it."""
    seen, told = [], []

    def losses(model, batch, teachers, supervision):
        weights = (model.conv_in.weight, teachers.vae.decoder.conv_in.weight)
        seen.append([(weight.dtype, weight.is_contiguous()) for weight in weights])
        prediction = model(torch.randn(1, 13, 2, 8, 8), 500, batch.tokens[:1, :2]).sample
        return {"loss": prediction.square().mean()}

    def validation(pipeline, step):
        for network in (pipeline.unet, pipeline.vae):
            torch.nn.Module.to(network, torch.float64, memory_format=torch.channels_last)
        told.append(step)
        return {"lip_r": 0.5}

    monkeypatch.setattr(trainer, "stage_losses", losses)
    config = load_recipe(
        str(inputs),
        [f"data.train_output_dir={tmp_path / 'run'}", "run.max_train_steps=2", "train.validate_steps=1"],
    )
    trainer.train_stages(config, Accelerator(cpu=True), validation=validation)
    assert told == [1, 2] and seen == [[(torch.float32, True)] * 2] * 2


def test_only_the_chosen_weights_move(script, inputs, tmp_path, light):
    out = tmp_path / "run"
    code, _ = script(inputs, "run.max_train_steps=1", f"data.train_output_dir={out}", "train.ema_decay=0")
    assert code == 0
    start = tiny_unet().state_dict()
    after = load_file(out / "checkpoint-1" / "model.safetensors")
    moved = {name for name, value in after.items() if not torch.equal(value, start[name])}
    assert moved and all(".motion_modules." in name or ".attentions." in name for name in moved)


@pytest.mark.slow
def test_lora_learns_beside_frozen_weights_and_comes_back_three_ways(script, inputs, tmp_path, light):
    pytest.importorskip("peft")
    base, out = tmp_path / "base", tmp_path / "person"
    assert script(inputs, "run.max_train_steps=2", f"data.train_output_dir={base}")[0] == 0
    told = (f"ckpt.resume_ckpt_path={base / 'pipeline'}", f"data.train_output_dir={out}")
    code, _ = script(inputs, *told, "run.max_train_steps=2", "ckpt.save_ckpt_steps=2", "--lora_rank", "2")
    assert code == 0
    merged = LipsyncPipeline.from_pretrained(out / "pipeline", local_files_only=True).unet
    applied = LipsyncPipeline.from_pretrained(base / "pipeline", local_files_only=True).unet
    before = predict(applied)
    apply_lora(applied, out / "lora")
    assert torch.equal(predict(applied), predict(merged))
    assert not torch.equal(predict(applied), before)
    names = set(load_file(out / "checkpoint-2" / "ema.safetensors"))
    assert names and all(".lora_" in name for name in names)
    code, _ = script(inputs, *told, "run.max_train_steps=3", "--lora_rank", "2")  # it goes on
    assert code == 0 and newest_checkpoint(out).name == "checkpoint-3"
    code, told = script(inputs, *told, "run.max_train_steps=4", "--lora_rank", "3")
    assert code == 2 and "train.lora_rank (2 there, 3 now)" in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run.sead=3"], ["sead"]),
        (["optimizer.lr=0"], ["optimizer.lr is 0.0"]),
        (["data.video_fps=30"], ["data.video_fps is 30"]),
        (["run.trainable_modules=[atention]"], ["run.trainable_modules", "'atention'"]),
        (
            ["weights.vgg16=nowhere.pth", "weights.syncnet=nowhere.pt"],
            ["nowhere.pth", "nowhere.pt", "set run."],
        ),
        (["ckpt.resume_ckpt_path=nowhere.pt"], ["ckpt.resume_ckpt_path 'nowhere.pt' does not exist"]),
        (["data.train_data_dir=nowhere"], ["nowhere", "train_data_dir"]),
        (["data.train_data_dir=''"], ["no footage is named"]),
        (["data.train_fileslist=nowhere.txt"], ["nowhere.txt", "train_fileslist"]),
        (["data.resolution=128"], ["64 px wide and 128 px are wanted", "allow upscaling"]),
        (["data.resolution=66"], ["data.resolution is 66"]),
        (["weights.audio_encoder=nowhere"], ["audio encoder 'nowhere' does not exist"]),
        (["data.val_video_path=nowhere.mp4", "data.val_audio_path=nowhere.wav"], ["nowhere.wav"]),
    ],
)
def test_bad_input_is_one_line_before_the_first_step(script, inputs, tmp_path, arguments, words):
    out = tmp_path / "run"
    code, told = script(inputs, f"data.train_output_dir={out}", *arguments)
    assert code == 2 and told.startswith("error: ")
    assert all(word in told for word in words), told
    assert not (out / "log.jsonl").exists() and not list(out.glob("checkpoint*"))


def make_bad_footage(folder):
    """name -> a folder of footage that cannot serve, and words that the message must hold."""
    (folder / "empty").mkdir()
    (folder / "raw").mkdir()
    (folder / "raw" / "song.wav").write_bytes(b"RIFF")
    for number in range(3):
        face = write_face_video(folder / "good" / f"{number}.mp4", seed=number)
        silent = folder / "silent" / face.name
        silent.parent.mkdir(exist_ok=True)
        write_video(silent, torch.full((60, 64, 64, 3), 90, dtype=torch.uint8).numpy(), fps=25)
    write_packed(folder / "short", frames=(30, 30), side=64)
    write_packed(folder / "val", frames=(60,), splits=["val"], side=64)
    write_packed(folder / "unindexed", frames=(60,), side=64)
    (folder / "unindexed" / "clips.json").unlink()
    return {
        "empty": ["no *.mp4", "holds nothing"],
        "raw": ["1 .wav", "pack_footage.py"],
        "silent": ["3 of 3 clips would be dropped", "no sound"],
        "short": ["too short", "48 needed"],
        "val": ["no clip of the split 'train'"],
        "unindexed": ["no clips.json"],
    }


@pytest.mark.slow
def test_footage_that_cannot_serve_is_one_line(script, inputs, tmp_path):
    for name, words in make_bad_footage(tmp_path).items():
        out = tmp_path / f"{name}_run"
        code, told = script(inputs, f"data.train_output_dir={out}", f"data.train_data_dir={tmp_path / name}")
        assert code == 2 and all(word in told for word in words), (name, told)


def test_a_run_folder_of_another_configuration_is_kept_and_refused(script, inputs, tmp_path, light):
    out = f"data.train_output_dir={tmp_path / 'run'}"
    assert script(inputs, out, "run.max_train_steps=1")[0] == 0
    kept = (tmp_path / "run" / "checkpoint-1" / "model.safetensors").read_bytes()
    code, told = script(inputs, out, "run.max_train_steps=2", "run.sync_loss_weight=1", "optimizer.lr=1e-3")
    assert code == 2 and "another configuration" in told
    assert "run.sync_loss_weight (0.05 there, 1.0 now)" in told and "loop.learning_rate" in told
    assert (tmp_path / "run" / "checkpoint-1" / "model.safetensors").read_bytes() == kept
    more = tmp_path / "more"
    shutil.copytree(inputs.parent / "packed", more)
    clips = json.loads((more / "clips.json").read_text())
    (more / "clips.json").write_text(json.dumps([*clips, {**clips[0], "speaker": "twice"}]))
    code, told = script(inputs, out, "run.max_train_steps=2", f"data.train_data_dir={more}")
    assert code == 2 and "data.clips (3 there, 4 now)" in told


@pytest.mark.slow
def test_a_full_disk_keeps_what_was_there(script, inputs, tmp_path, light, monkeypatch):
    out = f"data.train_output_dir={tmp_path / 'run'}"
    assert script(inputs, out, "run.max_train_steps=1")[0] == 0

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(state, "save_model", full)
        code, told = script(inputs, out, "run.max_train_steps=2")
    assert code == 2 and "No space left" in told and "make room" in told
    assert newest_checkpoint(tmp_path / "run").name == "checkpoint-1"
    with monkeypatch.context() as patch:
        patch.setattr(LipsyncPipeline, "save_pretrained", full)
        code, told = script(inputs, out, "run.max_train_steps=2")
    assert code == 2 and "run/pipeline" in told and "No space left" in told
    pipeline = LipsyncPipeline.from_pretrained(tmp_path / "run" / "pipeline", local_files_only=True)
    first = load_file(tmp_path / "run" / "checkpoint-1" / "ema.safetensors")
    assert all(torch.equal(pipeline.unet.state_dict()[name], value) for name, value in first.items())
    assert script(inputs, out, "run.max_train_steps=2")[0] == 0  # with room again, it is written
    pipeline = LipsyncPipeline.from_pretrained(tmp_path / "run" / "pipeline", local_files_only=True)
    second = load_file(tmp_path / "run" / "checkpoint-2" / "ema.safetensors")
    assert all(torch.equal(pipeline.unet.state_dict()[name], value) for name, value in second.items())


@pytest.mark.slow
def test_videos_in_a_folder_and_in_a_list_train_as_well(script, inputs, tmp_path, light):
    for number in range(2):
        write_face_video(tmp_path / "videos" / f"{number}.mp4", seed=number)
    (tmp_path / "list.txt").write_text("videos/0.mp4\nvideos/1.mp4\n")
    for name, source in (
        ("folder", f"data.train_data_dir={tmp_path / 'videos'}"),
        ("list", f"data.train_fileslist={tmp_path / 'list.txt'}"),
    ):
        out = f"data.train_output_dir={tmp_path / name}"
        assert script(inputs, source, out, "run.max_train_steps=1")[0] == 0
