"""The frozen networks of a run: all that is missing said at once, and pairs that do not fit refused."""

import shutil

import pytest
import torch
from tiny_released import save_whisper
from tiny_stages import SIDE, STAGE_1, save_stage_inputs, tiny_syncnet, tiny_vae

from latentsync.config import load_config
from latentsync.diffusion.released_config import ReleasedConfig
from latentsync.diffusion.stage_parts import (
    find_files,
    open_audio_encoder,
    open_stage_vae,
    open_teachers,
    syncnet_at_hand,
)
from latentsync.errors import CheckpointError, ConfigError


@pytest.fixture
def inputs(tmp_path):
    """The folder of a run's inputs, and `config(*overrides)` of it."""
    path = save_stage_inputs(tmp_path / "inputs")
    return path.parent, lambda *overrides: load_config(ReleasedConfig, path, overrides)


def teachers(config):
    files = find_files(config)
    return open_teachers(config, files, open_stage_vae(files.vae, config))


def test_all_that_is_missing_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = load_config(ReleasedConfig, save_stage_inputs(tmp_path / "inputs"))
    bare = ReleasedConfig(run=config.run)
    with pytest.raises(CheckpointError) as caught:
        find_files(ReleasedConfig(run=config.run, ckpt=type(bare.ckpt)(resume_ckpt_path="gone.pt")))
    lines = str(caught.value).splitlines()
    for words in (
        ("run.perceptual_loss_weight is 0.1", "vgg16-397923af.pth"),
        ("run.trepa_loss_weight is 10", "vit_g_hybrid"),
        ("run.sync_loss_weight is 0.05", "stable_syncnet.pt"),
        ("audio encoder", "whisper/tiny.pt", "weights.audio_encoder"),
        ("ckpt.resume_ckpt_path 'gone.pt' does not exist",),
        ("sd-vae-ft-mse", "weights.vae"),
    ):
        assert any(all(word in line for word in words) for line in lines), words
    assert len(lines) == 6


def test_stage_1_needs_the_autoencoder_and_the_ears_alone(inputs):
    folder, config = inputs
    for name in ("auxiliary", "syncnet"):
        shutil.rmtree(folder / name)
    found = find_files(config(*STAGE_1))
    assert found.auxiliary.vgg16 is found.auxiliary.syncnet is found.auxiliary.videomae is None
    with pytest.raises(CheckpointError, match=r"run\.sync_loss_weight is 0\.05"):
        find_files(config())


def test_a_run_that_goes_on_needs_no_weights_to_start_from(inputs):
    _, config = inputs
    gone = config("ckpt.resume_ckpt_path=gone.pt")
    assert find_files(gone, with_initial=False).initial is None
    with pytest.raises(CheckpointError, match=r"gone\.pt"):
        find_files(gone)


def test_teachers_are_whole_and_frozen(inputs):
    _, config = inputs
    found = teachers(config())
    for network in (found.vae, found.lpips, found.videomae, found.syncnet):
        assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert found.lpips.gradient_checkpointing and found.videomae.gradient_checkpointing
    assert found.mask.shape == (1, SIDE, SIDE)
    plain = teachers(config("run.enable_gradient_checkpointing=false"))
    assert not plain.lpips.gradient_checkpointing and not plain.vae.decoder.gradient_checkpointing


def test_an_autoencoder_keeps_its_own_scale(inputs):
    folder, config = inputs
    vae = open_stage_vae(folder / "vae", config())
    assert vae.config.scaling_factor == 0.5 and vae.dtype == torch.float32
    expected = tiny_vae().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in vae.state_dict().items())
    assert "_name_or_path" not in vae.config or not vae.config["_name_or_path"]


def test_an_autoencoder_of_other_latents_is_refused(inputs):
    folder, config = inputs
    tiny_vae(channels=8).save_pretrained(folder / "vae8")
    with pytest.raises(CheckpointError, match="8 latent channels, the U-Net expects 4"):
        open_stage_vae(folder / "vae8", config())
    with pytest.raises(ConfigError, match=r"data\.resolution is 66; .* multiples of 4"):
        open_stage_vae(folder / "vae", config("data.resolution=66"))


def test_ears_are_openais_file_or_a_folder_and_of_the_right_width(inputs):
    folder, config = inputs
    assert open_audio_encoder(folder / "audio", 16).config.d_model == 16
    encoder = open_audio_encoder(save_whisper(folder / "whisper" / "tiny.pt"), 384)
    assert encoder.config.d_model == 384 and not any(p.requires_grad for p in encoder.parameters())
    with pytest.raises(CheckpointError, match=r"width of 16, but model\.cross_attention_dim is 384"):
        open_audio_encoder(folder / "audio", 384)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        open_audio_encoder(folder / "packed", 16)
    with pytest.raises(ConfigError, match=r"cross_attention_dim is 16: no published Whisper"):
        find_files(config("weights.audio_encoder=''"))


def test_a_syncnet_of_pixels_wants_pixels(inputs):
    _, config = inputs
    with pytest.raises(ConfigError, match=r"looks at pixels, but run\.pixel_space_supervise is false"):
        teachers(config("run.pixel_space_supervise=false"))


def test_a_syncnet_of_latents_serves_without_pixels(inputs):
    folder, config = inputs
    tiny_syncnet(latent_space=True).save_pretrained(folder / "latent")
    latent = config("run.pixel_space_supervise=false", f"weights.syncnet={folder / 'latent'}")
    found = teachers(latent)
    assert found.syncnet is not None and found.lpips is None
    with pytest.raises(ConfigError, match="the SyncNet does not take 16 latents of 4 x 32 x 32"):
        teachers(config(f"weights.syncnet={folder / 'latent'}", "data.resolution=128"))
    assert syncnet_at_hand(latent) is None  # it cannot look at a clip


def test_a_syncnets_file_is_described_by_its_yaml_which_may_name_it(inputs):
    folder, config = inputs
    import yaml
    from tiny_auxiliary import SYNCNET

    path = folder / "syncnet.yaml"
    told = {"model": SYNCNET, "data": {"resolution": SIDE}}
    path.write_text(yaml.safe_dump(told))
    described = f"data.syncnet_config_path={path}"
    assert teachers(config(described, f"weights.syncnet={folder / 'stable_syncnet.pt'}")).syncnet
    path.write_text(
        yaml.safe_dump({**told, "ckpt": {"inference_ckpt_path": str(folder / "stable_syncnet.pt")}})
    )
    named = config(described, "weights.syncnet=''")
    assert find_files(named).auxiliary.syncnet == folder / "stable_syncnet.pt"
    assert syncnet_at_hand(named).config.resolution == SIDE
    assert syncnet_at_hand(config("weights.syncnet=nowhere.pt")) is None
