"""Released files become pipelines: whole, lean, and refused where they do not belong together."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from tiny_released import (
    MODEL,
    save_config,
    save_released,
    save_unet,
    save_vae,
    save_whisper,
    unet_state,
    whisper_state,
)

from latentsync.checkpoint import RELEASES, Weights, identify, known_release, read_weights
from latentsync.diffusion import original
from latentsync.diffusion.original import open_original, open_vae
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.released_config import load_released_config
from latentsync.diffusion.unet import UNet3DConditionModel
from latentsync.errors import CheckpointError, ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    return save_released(tmp_path_factory.mktemp("released"))


@pytest.fixture(scope="module")
def config(released) -> Path:
    return released / "unet.yaml"


def test_the_folder_gives_a_pipeline_with_the_files_own_tensors(released, config):
    pipeline = LipsyncPipeline.from_original(released / "latentsync_unet.pt", config=config)
    stored = torch.load(released / "latentsync_unet.pt", weights_only=True)["state_dict"]
    held = pipeline.unet.upstream_state_dict()
    assert held.keys() == stored.keys()
    assert all(torch.equal(held[key], stored[key]) for key in stored)
    heard = whisper_state()
    assert torch.equal(pipeline.audio_encoder.encoder.conv1.weight, heard["encoder.conv1.weight"])
    assert (pipeline.resolution, pipeline.window, pipeline.fps, pipeline.overlap) == (64, 16, 25, 0)
    assert (pipeline.sampling().steps, pipeline.sampling().guidance_scale) == (20, 1.5)
    assert pipeline.vae.config.scaling_factor == 0.18215
    faces, tokens = torch.rand(2, 3, 64, 64) * 2 - 1, torch.randn(2, 20, 384)
    drawn = pipeline(faces, tokens, num_inference_steps=1, generator=torch.Generator().manual_seed(0)).faces
    assert drawn.shape == faces.shape
    assert torch.isfinite(drawn).all()


@pytest.mark.parametrize("form", ["bare", "module prefix", "safetensors"])
def test_the_same_tensors_in_other_wrappings_give_the_same_network(released, config, tmp_path, form):
    state = torch.load(released / "latentsync_unet.pt", weights_only=True)["state_dict"]
    path = tmp_path / "latentsync_unet.pt"
    if form == "bare":
        torch.save(state, path)
    elif form == "module prefix":
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    else:
        path = path.with_suffix(".safetensors")
        safetensors.torch.save_file({key: value.clone() for key, value in state.items()}, path)
    parts = {"whisper": released / "whisper/tiny.pt", "vae": released / "vae"}
    held = open_original(path, config=config, **parts).unet.upstream_state_dict()
    assert all(torch.equal(held[key], state[key]) for key in state)


def test_a_folder_of_the_hubs_layout_opens_by_from_pretrained(released, config):
    pipeline = LipsyncPipeline.from_pretrained(released, config=config)
    assert isinstance(pipeline.unet, UNet3DConditionModel)
    assert pipeline.resolution == 64


def test_the_tensors_are_the_files_pages_until_something_writes(released, config):
    path = released / "latentsync_unet.pt"
    network = open_original(path, config=config).unet
    before = path.read_bytes()
    with torch.no_grad():
        network.conv_in.weight.add_(1)
    assert path.read_bytes() == before
    assert not any(tensor.is_meta for tensor in network.state_dict().values())


def test_position_tables_that_a_file_lacks_are_computed(released, config, tmp_path):
    state = unet_state()
    path = save_unet(tmp_path / "u.pt", {k: v for k, v in state.items() if not k.endswith("pos_encoder.pe")})
    parts = {"whisper": released / "whisper/tiny.pt", "vae": released / "vae"}
    held = open_original(path, config=config, **parts).unet.upstream_state_dict()
    assert held.keys() == state.keys()
    assert all(torch.allclose(held[key], state[key]) for key in state)


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage2_efficient"])
def test_without_a_yaml_the_network_is_read_off_its_tensors(name, tmp_path):
    wanted = load_released_config(CONFIGS / f"unet/{name}.yaml").model
    with torch.device("meta"):
        state = UNet3DConditionModel.from_upstream(asdict(wanted)).upstream_state_dict()
    weights = Weights(tmp_path / "u.pt", state, identify(state))
    assert original._model_config(weights, None) == wanted


def test_half_precision_is_the_rounded_weights(released, config):
    network = open_original(released / "latentsync_unet.pt", config=config, dtype=torch.float16).unet
    stored = torch.load(released / "latentsync_unet.pt", weights_only=True)["state_dict"]
    assert torch.equal(network.conv_in.weight, stored["conv_in.weight"].half())


def test_an_autoencoder_with_old_attention_names_and_without_a_scale(released, tmp_path):
    folder = shutil.copytree(released / "vae", tmp_path / "vae")
    path = folder / "diffusion_pytorch_model.safetensors"
    state = safetensors.torch.load_file(path)
    old = {}
    for key, value in state.items():
        for new_name, old_name in (
            ("to_q", "query"),
            ("to_k", "key"),
            ("to_v", "value"),
            ("to_out.0", "proj_attn"),
        ):
            key = key.replace(f".{new_name}.", f".{old_name}.") if ".attentions." in key else key
        old[key] = value.clone()
    assert old.keys() != state.keys()
    safetensors.torch.save_file(old, path)
    new = open_vae(folder).state_dict()
    assert all(torch.equal(new[key], state[key]) for key in state)


# ---- which release it is ----


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_a_release_is_known_by_size_by_cache_hash_and_by_hub_id(tmp_path, release):
    sized = tmp_path / "any.pt"
    with sized.open("wb") as file:
        file.truncate(release.file_bytes)  # sparse: no disk is used
    cached = tmp_path / "blobs" / release.sha256
    cached.parent.mkdir()
    cached.write_bytes(b"x")
    link = tmp_path / "snapshot.pt"
    link.symlink_to(cached)
    named = tmp_path / release.hub_id.split("/")[1] / "latentsync_unet.pt"
    named.parent.mkdir()
    named.write_bytes(b"x")
    assert [known_release(path) for path in (sized, link, named)] == [release] * 3
    assert known_release(cached.parent) is None


# ---- what does not belong together: one clear error each ----

# name: (files to make, arguments, what the message must say)
WRONG = {
    "1.5 at 512 px": (
        lambda d: save_unet(d / "LatentSync-1.5/u.pt", unet_state()),
        {"config": None, "resolution": 512},
        ["LatentSync 1.5", "256 px", "512", "stage2.yaml"],
    ),
    "no resolution said": (
        lambda d: save_unet(d / "u.pt", unet_state()),
        {"config": None},
        ["resolution", "256 or 512"],
    ),
    "two resolutions": (lambda d: save_unet(d / "u.pt", unet_state()), {"resolution": 128}, ["128", "64"]),
    "odd resolution": (
        lambda d: save_unet(d / "u.pt", unet_state()),
        {"config": lambda d: save_config(d / "c.yaml", resolution=100)},
        ["100", "multiple of 8"],
    ),
    "stage 1 weights, stage 2 YAML": (
        lambda d: save_unet(d / "u.pt", unet_state(motion=False)),
        {},
        ["stage 1", "stage 2", "YAML"],
    ),
    "stage 2 weights, stage 1 YAML": (
        lambda d: save_unet(d / "u.pt", unet_state()),
        {"config": lambda d: save_config(d / "c.yaml", use_motion_module=False)},
        ["stage 2", "wants stage 1"],
    ),
    "decoder-only weights, full YAML": (
        lambda d: save_unet(d / "u.pt", unet_state(decoder_only=True)),
        {},
        ["up blocks only", "motion_module_decoder_only"],
    ),
    "other widths": (
        lambda d: save_unet(d / "u.pt", unet_state(block_out_channels=[32, 64, 64, 64])),
        {},
        ["widths [32, 64, 64, 64]", "[32, 32, 64, 64]"],
    ),
    "no audio layers": (
        lambda d: save_unet(d / "u.pt", unet_state(add_audio_layer=False)),
        {},
        ["no audio layers", "audio layers: True"],
    ),
    "whisper small with 384": (
        lambda d: save_unet(d / "u.pt", unet_state()),
        {"whisper": lambda d: save_whisper(d / "small.pt", width=768)},
        ["width 768", "384", "tiny.pt"],
    ),
    "whisper as U-Net": (lambda d: save_whisper(d / "u.pt"), {}, ["a Whisper encoder", "LatentSync U-Net"]),
    "U-Net as whisper": (
        lambda d: save_unet(d / "u.pt", unet_state()),
        {"whisper": lambda d: save_unet(d / "w.pt", unet_state())},
        ["LatentSync U-Net of stage 2", "whisper/tiny.pt"],
    ),
    "SyncNet as U-Net": (
        lambda d: save_unet(d / "u.pt", {"visual_encoder.conv_in.weight": torch.zeros(32, 48, 3, 3)}),
        {},
        ["StableSyncNet", "latentsync_unet.pt"],
    ),
    "Stable Diffusion's U-Net": (
        lambda d: save_unet(
            d / "u.pt",
            unet_state(motion=False, in_channels=4, cross_attention_dim=768),
        ),
        {},
        ["Stable Diffusion U-Net", "4 input channels"],
    ),
    "a tensor missing": (
        lambda d: save_unet(d / "u.pt", {k: v for k, v in unet_state().items() if k != "conv_out.bias"}),
        {},
        ["1 missing", "conv_out.bias"],
    ),
    "a tensor too many": (
        lambda d: save_unet(d / "u.pt", {**unet_state(), "surprise": torch.zeros(2)}),
        {},
        ["1 unknown", "surprise"],
    ),
    "a tensor of another shape": (
        lambda d: save_unet(d / "u.pt", {**unet_state(), "conv_out.bias": torch.zeros(5)}),
        {},
        ["conv_out.bias", "shape"],
    ),
    "no whisper beside it": (
        lambda d: save_unet(d / "lone/u.pt", unet_state()),
        {"whisper": None},
        ["whisper/tiny.pt", "checkpoints/README.md"],
    ),
    "autoencoder of other latents": (
        lambda d: save_unet(d / "u.pt", unet_state()),
        {"vae": lambda d: save_vae(d / "v", latent_channels=16)},
        ["16 latent channels", "expects 4"],
    ),
    "autoencoder folder without weights": (
        lambda d: save_unet(d / "u.pt", unet_state()),
        {"vae": lambda d: _config_only(d / "v")},
        ["has no diffusion_pytorch_model.safetensors"],
    ),
    "U-Net as autoencoder": (
        lambda d: save_unet(d / "u.pt", unet_state()),
        {"vae": lambda d: save_unet(d / "v.pt", unet_state())},
        ["LatentSync U-Net", "autoencoder"],
    ),
    "whisper without a tensor": (
        lambda d: save_unet(d / "u.pt", unet_state()),
        {"whisper": lambda d: _whisper(d / "w.pt", without="encoder.ln_post.bias")},
        ["w.pt", "layer_norm.bias"],
    ),
    "whisper of other dims than its tensors": (
        lambda d: save_unet(d / "u.pt", unet_state()),
        {"whisper": lambda d: _whisper(d / "w.pt", n_audio_head=-6)},
        ["w.pt", "n_audio_head is -6"],
    ),
    "whisper of unreadable dims": (
        lambda d: save_unet(d / "u.pt", unet_state()),
        {"whisper": lambda d: _whisper(d / "w.pt", n_mels=None)},
        ["w.pt", "n_mels is None"],
    ),
    "autoencoder of nonsense": (
        lambda d: save_unet(d / "u.pt", unet_state()),
        {"vae": lambda d: _vae_config(d / "v", norm_num_groups=0)},
        ["does not fit its configuration", "/v"],
    ),
    "autoencoder with a word for a shift": (
        lambda d: save_unet(d / "u.pt", unet_state()),
        {"vae": lambda d: _vae_config(d / "v", shift_factor="abc")},
        ["/v", "'abc'"],
    ),
    "no heads": (
        lambda d: save_unet(d / "u.pt", unet_state()),
        {"config": lambda d: save_config(d / "c.yaml", attention_head_dim=0)},
        ["u.pt", "does not fit its configuration"],
    ),
    "more frames than positions": (
        lambda d: save_unet(d / "u.pt", unet_state()),
        {"config": lambda d: _with_data(d / "c.yaml", num_frames=99)},
        ["num_frames 99", "1 to 24"],
    ),
    "resolution nought": (
        lambda d: save_unet(d / "u.pt", unet_state()),
        {"config": lambda d: save_config(d / "c.yaml", resolution=0)},
        ["resolution 0 is not"],
    ),
    "a vector where a convolution should be": (
        lambda d: save_unet(d / "u.pt", {**unet_state(), "conv_in.weight": torch.zeros(3)}),
        {},
        ["u.pt", "shapes that no network here has"],
    ),
    "complex numbers": (
        lambda d: save_unet(
            d / "u.pt", {**unet_state(), "conv_out.bias": torch.zeros(4, dtype=torch.complex64)}
        ),
        {},
        ["conv_out.bias has complex64", "float32"],
    ),
    "tensors without values": (
        lambda d: save_unet(d / "u.pt", {**unet_state(), "conv_out.bias": torch.zeros(4, device="meta")}),
        {},
        ["conv_out.bias has no values"],
    ),
    "a pipe for a file": (lambda d: _pipe(d / "u.pt"), {}, ["are no file"]),
    "other audio context": (
        lambda d: save_unet(d / "u.pt", unet_state()),
        {"config": lambda d: _with_data(d / "c.yaml", audio_feat_length=[3, 3])},
        ["audio_feat_length [3, 3]"],
    ),
}


def _config_only(folder: Path) -> Path:
    save_vae(folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    return folder


def _vae_config(folder: Path, **changes: object) -> Path:
    save_vae(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def _whisper(path: Path, *, without: str = "", **dims: object) -> Path:
    held = torch.load(save_whisper(path), weights_only=True)
    held["model_state_dict"].pop(without, None)
    torch.save({**held, "dims": {**held["dims"], **dims}}, path)
    return path


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _with_data(path: Path, **data: object) -> Path:
    path.write_text(yaml.safe_dump({"data": {"resolution": 64, **data}, "model": MODEL}))
    return path


def refusal(case: str, folder: Path, released: Path) -> str:
    """What the door says to a wrong pair."""
    make, arguments, _ = WRONG[case]
    options = {"config": released / "unet.yaml", "whisper": released / "whisper/tiny.pt"}
    options["vae"] = released / "vae"
    options |= {name: value(folder) if callable(value) else value for name, value in arguments.items()}
    path = make(folder)
    with pytest.raises((CheckpointError, FileNotFoundError)) as caught:
        open_original(path, **options)
    return str(caught.value)


@pytest.fixture(scope="module")
def refusals(released, tmp_path_factory):
    """`refusals(case)`: what the door says, each case tried once."""
    told = {}

    def ask(case: str) -> str:
        if case not in told:
            folder = tmp_path_factory.mktemp("wrong")
            told[case] = refusal(case, folder, released).replace(str(folder), "")
        return told[case]

    return ask


@pytest.mark.parametrize("case", WRONG)
def test_wrong_pairs_are_named(refusals, case):
    message = refusals(case)
    assert all(word in message for word in WRONG[case][2]), message
    assert "\n" not in message and len(message) < 500


@pytest.mark.slow
def test_twenty_wrong_pairs_get_twenty_messages(refusals):
    assert len(set(map(refusals, WRONG))) == len(WRONG) >= 20


# ---- configurations ----


@pytest.mark.parametrize(
    ("name", "resolution", "keys"),
    [
        ("unet/stage1", 256, 686),
        ("unet/stage1_512", 512, 686),
        ("unet/stage2", 256, 1246),
        ("unet/stage2_512", 512, 1246),
        ("unet/stage2_efficient", 256, 1022),
        ("unet", 256, 1246),
    ],
)
def test_the_committed_yamls_are_the_released_networks(name, resolution, keys):
    config = load_released_config(CONFIGS / f"{name}.yaml")
    assert config.data.resolution == resolution
    with torch.device("meta"):
        network = UNet3DConditionModel.from_upstream(config.model_section())
    assert len(network.upstream_state_dict()) == keys


def test_a_typo_in_a_yaml_is_named(tmp_path):
    path = save_config(tmp_path / "c.yaml", block_out_chanels=[32])
    with pytest.raises(ConfigError, match="block_out_chanels"):
        load_released_config(path)


# ---- the Hub, by a fake ----


def test_a_hub_id_is_fetched_at_its_pinned_revision(released, monkeypatch):
    asked = {}

    def fake(hub_id, **options):
        asked[hub_id] = options
        return str(released)

    monkeypatch.setattr(original, "snapshot_download", fake)
    release = RELEASES[1]
    pipeline = LipsyncPipeline.from_pretrained(release.hub_id, config=released / "unet.yaml")
    assert pipeline.resolution == 64
    assert asked[release.hub_id]["revision"] == release.revision
    assert not any(pattern.endswith((".bin", ".onnx")) for pattern in asked[release.hub_id]["allow_patterns"])


def test_offline_without_a_cache_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"ByteDance/LatentSync-1.6.*neither a folder"):
        original.download("ByteDance/LatentSync-1.6")


def test_the_identity_says_what_a_file_is(released):
    identity = read_weights(released / "latentsync_unet.pt").identity
    assert (identity.stage, identity.audio_width, identity.in_channels) == (2, 384, 13)
    assert "stage 2" in str(identity)
    assert read_weights(released / "whisper/tiny.pt").extra["dims"]["n_audio_state"] == 384
