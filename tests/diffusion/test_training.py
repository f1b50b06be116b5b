"""Training: all stages run from packed clips to a pipeline that loads."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import UNet2DModel
from torch import nn

from latentsync.diffusion.articulator import Articulator
from latentsync.diffusion.augment import Proportions, apply_colour, apply_proportions, draw_colour, tinted
from latentsync.diffusion.dataset import Clip, ClipSampler, load_clips
from latentsync.diffusion.latents import ClipLatents
from latentsync.diffusion.losses import predicted_latents, region_weights
from latentsync.diffusion.noise import small_scheduler
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.train import (
    Batch,
    DataConfig,
    LatentData,
    Prepared,
    RunConfig,
    TrainUNetConfig,
    denoising_losses,
    train_unet,
)
from latentsync.diffusion.train_audio import AudioConfig, TrainAudioConfig, train_audio
from latentsync.diffusion.train_refiner import TrainRefinerConfig, train_refiner
from latentsync.diffusion.train_vae import TrainVaeConfig, VaeConfig, train_vae
from latentsync.dubbing.model import load_model
from latentsync.errors import ConfigError, MediaError
from latentsync.face import mouth_mask
from latentsync.training import LoopConfig

MEASURES = 6
SIDE = 32


def packed_clip(folder, name, speaker, split, frames, seed):
    """Noise that opens and closes with its own loudness, in the layout of a packed clip."""
    rng = np.random.default_rng(seed)
    opening = 0.5 + 0.5 * np.sin(np.arange(frames) / 3 + seed)
    (folder / name).mkdir(parents=True)
    faces = np.full((frames, SIDE, SIDE, 3), 120) + rng.integers(-30, 30, (1, SIDE, SIDE, 3))
    faces[:, 18:22, 12:20] = (200 * opening)[:, None, None, None]
    np.save(folder / name / "faces.npy", faces.clip(0, 255).astype(np.uint8))
    mouth = (opening[:, None] * np.ones(MEASURES) + 0.01 * rng.standard_normal((frames, MEASURES))).astype(
        np.float32
    )
    np.save(folder / name / "mouth.npy", mouth)
    waveform = rng.standard_normal(frames * 640) * np.repeat(opening, 640) * 0.1
    np.save(folder / name / "waveform.npy", waveform.astype(np.float32))
    return {"name": name, "speaker": speaker, "split": split, "frames": frames}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    clips = [packed_clip(folder, f"a{i}", "ann", "train", 48, i) for i in range(4)]
    clips += [
        packed_clip(folder, "b0", "bob", "train", 48, 9),
        packed_clip(folder, "v0", "vic", "val", 48, 10),
    ]
    (folder / "clips.json").write_text(json.dumps(clips))
    return folder


def test_one_much_filmed_speaker_does_not_drown_another(packed):
    clips = load_clips(packed, "train")
    picked = ClipSampler(clips).draw(20_000, np.random.default_rng(0))
    share = np.mean([clips[index].speaker == "bob" for index in picked])
    assert share == pytest.approx(
        1 / 3, abs=0.02
    )  # sqrt(1) of sqrt(1) + sqrt(4), where frames would give 1/5


def test_a_missing_collection_or_split_is_named(packed, tmp_path):
    with pytest.raises(MediaError, match=r"pack_footage\.py"):
        load_clips(tmp_path, "train")
    with pytest.raises(MediaError, match="'test'"):
        load_clips(packed, "test")


def test_clip_strides_thin_one_speaker_only(packed):
    speakers = [clip.speaker for clip in load_clips(packed, "train", stride={"ann": 2})]
    assert speakers == ["ann", "ann", "bob"]


def test_colour_keeps_the_range_and_no_strength_keeps_the_picture():
    pixels = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rng = np.random.default_rng(1)
    for _ in range(20):
        changed = apply_colour(pixels, draw_colour(rng))
        assert changed.abs().max() <= 1
    calm = apply_colour(pixels, draw_colour(rng, strength=0.0))
    assert torch.allclose(calm, pixels, atol=1e-6) or torch.allclose(calm, pixels.flip(-1), atol=1e-6)


def test_a_tint_is_smooth_and_none_is_none():
    rng, grey = np.random.default_rng(0), torch.zeros(3, SIDE, SIDE)
    assert torch.equal(tinted(grey, 0.0, rng), grey)
    found = torch.stack([tinted(grey, 0.3, rng) for _ in range(50)])
    assert 0.1 < found.std() < 0.4 and found.abs().max() <= 1
    assert found.diff(dim=-1).abs().max() < 0.2 * found.abs().max()
    black = -torch.ones(3, SIDE, SIDE)
    assert torch.equal(tinted(black, 0.3, rng), black)


def test_proportions_move_what_they_say():
    pixels = torch.zeros(1, 3, 40, 40)
    pixels[..., 18:22, 18:22] = 1
    moved = apply_proportions(pixels, Proportions(zoom=(1.0, 1.0), shift=(0.1, -0.2)))
    rows, columns = torch.where(moved[0, 0] > 0.5)
    assert rows.float().mean() == pytest.approx(19.5 - 0.2 * 40, abs=0.3)
    assert columns.float().mean() == pytest.approx(19.5 + 0.1 * 40, abs=0.3)
    larger = apply_proportions(pixels, Proportions(zoom=(2.0, 1.0), shift=(0.0, 0.0)))
    assert int((larger > 0.5).sum()) == pytest.approx(2 * int((pixels > 0.5).sum()), rel=0.15)


def test_weights_have_mean_one_and_favour_the_mouth():
    mask = mouth_mask(64)[..., ::4, ::4]
    weights = region_weights(mask, mouth=3.0, hole=1.0, kept=0.1)[0, 0]
    assert weights.mean() == pytest.approx(1)
    assert weights[10, 8] > weights[7, 2] > weights[0, 0]


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_the_right_prediction_implies_the_clean_latents(prediction_type):
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 4, 5, 5, generator=generator) for _ in range(2))
    scheduler, timesteps = small_scheduler(), torch.tensor([10, 500, 900])
    noisy = scheduler.add_noise(clean, noise, timesteps)
    right = scheduler.get_velocity(clean, noise, timesteps) if prediction_type == "v_prediction" else noise
    alpha_bar = scheduler.alphas_cumprod[timesteps].view(3, 1, 1, 1)
    found = predicted_latents(noisy, right, alpha_bar, prediction_type)
    assert torch.allclose(found, clean, atol=1e-3)


@pytest.mark.slow
def test_four_stages_lead_from_packed_clips_to_a_pipeline(packed, tmp_path, monkeypatch):
    monkeypatch.setattr("latentsync.diffusion.train_refiner.READER_STEPS", 5)
    monkeypatch.setattr("latentsync.diffusion.train_articulator.STEPS", 20)
    loop = {"steps": 2, "batch_size": 2, "log_every": 1, "save_every": 2, "warmup_steps": 1}
    vae = TrainVaeConfig(
        str(packed),
        str(tmp_path / "vae"),
        crop=16,
        model=VaeConfig([8, 8], 4, norm_num_groups=4),
        loop=LoopConfig(**loop),
    )
    train_vae(vae, Accelerator(cpu=True))
    audio = AudioConfig(width=16, heads=2, layers=1, positions=32)
    train_audio(
        TrainAudioConfig(str(packed), str(tmp_path / "audio"), model=audio, loop=LoopConfig(**loop)),
        Accelerator(cpu=True),
    )
    config = TrainUNetConfig(
        model={
            "in_channels": 13,
            "out_channels": 4,
            "block_out_channels": [32, 32],
            "layers_per_block": 1,
            "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
            "norm_num_groups": 8,
            "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
            "attention_head_dim": 4,
            "cross_attention_dim": 16,
            "use_motion_module": False,
            "use_inflated_groupnorm": True,
            "audio_tokens": 20,
        },
        loop=LoopConfig(**loop),
    )
    paths = {"packed": packed, "vae": tmp_path / "vae/vae", "audio_encoder": tmp_path / "audio/audio_encoder"}
    for name, path in {**paths, "output": tmp_path / "unet"}.items():
        object.__setattr__(config.data, name, str(path))
    train_unet(config, Accelerator(cpu=True))
    pipeline = LipsyncPipeline.from_pretrained(tmp_path / "unet/pipeline", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    clip = load_clips(packed, "val")[0]
    faces = torch.from_numpy(clip.faces[:5].copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    windows = torch.stack(list(pipeline.audio_windows(torch.from_numpy(clip.waveform), 5)))
    result = pipeline(faces, windows).faces
    assert result.shape == faces.shape and torch.isfinite(result).all()
    log = (tmp_path / "unet" / "log.jsonl").read_text()
    assert "r_aperture" in log and "mouth_shape" in log

    refining = TrainRefinerConfig(
        str(packed),
        str(tmp_path / "unet/pipeline"),
        str(tmp_path / "refiner"),
        channels=[8, 16],
        clips_per_speaker=2,
        variants=2,
        guidance_scale=7.0,
        motion_gain=2.0,
        loop=LoopConfig(**loop),
    )
    with pytest.raises(FileNotFoundError, match=r"is no model folder \(it has no model_index\.json\)"):
        train_refiner(replace(refining, pipeline=str(tmp_path)), Accelerator(cpu=True))
    train_refiner(refining, Accelerator(cpu=True))
    drafts = sorted((tmp_path / "refiner/drafts").glob("*/*"))
    looks = [(name, look) for name in ("a0", "a3", "b0") for look in (0, 1)] + [("v0", 0)]
    assert [(path.name.split(".")[0], int(path.name.split(".")[2])) for path in drafts] == looks
    assert {path.suffix for path in drafts} == {".npy"}
    whole_draft = drafts[0].read_bytes()
    drafts[0].write_bytes(whole_draft[:500])  # as a full disk leaves it
    train_refiner(refining, Accelerator(cpu=True))
    assert drafts[0].read_bytes() == whole_draft
    with pytest.raises(ConfigError, match=r"pipeline \(.* there"):  # drafts of another model are other drafts
        index = tmp_path / "unet/pipeline/model_index.json"
        told = index.read_text()
        index.write_text(told.replace('"inference_steps": 4', '"inference_steps": 2'))
        train_refiner(refining, Accelerator(cpu=True))
    index.write_text(told)
    assert "psnr_refined" in (tmp_path / "refiner" / "log.jsonl").read_text()
    whole, name = load_model(tmp_path / "refiner/pipeline", torch.device("cpu"), torch.float32)
    assert isinstance(whole.refiner, UNet2DModel) and whole.sampling().guidance_scale == 7.0
    assert isinstance(whole.articulator, Articulator) and whole.articulator.config.measures == 6
    with pytest.MonkeyPatch.context() as patch:  # a finished run: another gain, and nothing is learned
        patch.setattr("latentsync.diffusion.train_refiner.train_face_reader", None)
        train_refiner(replace(refining, motion_gain=3.0), Accelerator(cpu=True))
    larger = load_model(tmp_path / "refiner/pipeline", torch.device("cpu"), torch.float32)[0].articulator
    weights = [part.head[-1].weight for part in (larger, whole.articulator)]
    torch.testing.assert_close(weights[0], 1.5 * weights[1], rtol=0.02, atol=0.02)
    assert larger.config.least and larger.config.least == whole.articulator.config.least
    again = whole(faces, windows).faces
    assert again.shape == faces.shape and not torch.equal(again, result)


def numbered_clip(name, frames, size=2):
    """A prepared clip whose visible face of frame i is all i, and whose whole face is all -i."""
    numbers = np.arange(frames, dtype=np.float16)[:, None, None, None] * np.ones(
        (1, 1, size, size), np.float16
    )
    clip = Clip(name, "ann", "train", np.zeros(0), np.zeros((frames, 1), np.float32), np.zeros(0, np.float32))
    latents = ClipLatents(latents=-numbers, masked=numbers)
    return Prepared(clip, [latents], torch.zeros(frames, 3, 4), torch.zeros(frames, 1))


@pytest.mark.parametrize("stride", [1, 2])
def test_the_borrowed_face_comes_from_a_near_but_not_a_next_frame(stride):
    data_config = DataConfig(frame_stride=stride, context_distance_frames=(4, 10))
    config = TrainUNetConfig(data=data_config, loop=LoopConfig(batch_size=200))
    batch = LatentData([numbered_clip("a", 30)], config).draw(0)
    apart = (batch.borrowed - batch.masked).abs().amax(dim=(1, 2, 3))
    assert apart.min() == 4 // stride and apart.max() == 10 // stride
    alone = LatentData([numbered_clip("a", 2)], config).draw(0)
    assert torch.equal(alone.borrowed, alone.masked)  # too short to borrow from


@pytest.mark.parametrize(("above", "sees_borrowed"), [(0.0, True), (0.5, None), (1.0, False)])
def test_the_visible_face_is_borrowed_where_noise_is_high_only(above, sees_borrowed):
    seen = {}

    class Network(nn.Module):
        def forward(self, sample, timesteps, tokens):
            seen.update(sample=sample, timesteps=timesteps)
            return type("Out", (), {"sample": sample[:, :1]})

    own, borrowed = torch.zeros(64, 1, 2, 2), torch.ones(64, 1, 2, 2)
    batch = Batch(own, own, borrowed, own, torch.ones(64, 3, 4), torch.zeros(64, 1))
    config = TrainUNetConfig(run=RunConfig(borrowed_context_above=above, timestep_power=1.0))
    parts = {
        "mask": torch.ones(1, 2, 2),
        "weights": torch.ones(2, 2),
        "reader": lambda x: x.mean(dim=(1, 2, 3))[:, None],
    }
    torch.manual_seed(0)
    denoising_losses(Network(), batch, scheduler=small_scheduler(), config=config, **parts)
    is_borrowed = seen["sample"][:, 2, 0, 0, 0] == 1
    wanted = seen["timesteps"] > 500 if sees_borrowed is None else torch.full((64,), sees_borrowed)
    assert torch.equal(is_borrowed, wanted)
    assert 0 < (seen["timesteps"] > 500).sum() < 64
