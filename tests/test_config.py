"""Configuration: what is committed loads, and a typo is named."""

from pathlib import Path

import pytest

from latentsync.config import load_config, save_config
from latentsync.diffusion.train import TrainUNetConfig
from latentsync.diffusion.train_audio import TrainAudioConfig
from latentsync.diffusion.train_refiner import TrainRefinerConfig
from latentsync.diffusion.train_vae import TrainVaeConfig
from latentsync.diffusion.unet import UNet3DConditionModel
from latentsync.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"
CASES = [
    (TrainVaeConfig, "vae/tiny.yaml", ["data=a", "output=b"]),
    (TrainAudioConfig, "audio_encoder/tiny.yaml", ["data=a", "output=b"]),
    (TrainRefinerConfig, "refiner/tiny.yaml", ["data=a", "pipeline=b", "output=c"]),
    (
        TrainUNetConfig,
        "unet/tiny.yaml",
        ["data.packed=a", "data.vae=b", "data.audio_encoder=c", "data.output=d"],
    ),
]


@pytest.mark.parametrize(("schema", "path", "overrides"), CASES)
def test_committed_configurations_load_and_survive_saving(tmp_path, schema, path, overrides):
    config = load_config(schema, CONFIGS / path, [*overrides, "loop.steps=7"])
    assert config.loop.steps == 7
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(schema, tmp_path / "saved.yaml") == config


def test_the_tiny_network_is_what_its_configuration_says():
    config = load_config(TrainUNetConfig, CONFIGS / "unet/tiny.yaml", CASES[3][2])
    unet = UNet3DConditionModel.from_upstream(config.model)
    assert not unet.is_temporal
    assert unet.config.in_channels == 3 * unet.config.out_channels + 1


@pytest.mark.parametrize("override", ["loop.stepz=3", "loop.steps=many"])
def test_a_wrong_key_or_type_is_named(override):
    with pytest.raises(ConfigError, match=r"stepz|steps"):
        load_config(TrainVaeConfig, CONFIGS / "vae/tiny.yaml", ["data=a", "output=b", override])


def test_missing_values_and_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="output"):
        load_config(TrainVaeConfig, CONFIGS / "vae/tiny.yaml", ["data=a"])
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        load_config(TrainVaeConfig, tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(TrainVaeConfig, tmp_path)
    (tmp_path / "bad.yaml").write_text("a: [1,")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config(TrainVaeConfig, tmp_path / "bad.yaml")
