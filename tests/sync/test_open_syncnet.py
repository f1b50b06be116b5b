"""SyncNets from files and folders: what is found is said, what does not fit is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import save_file

from latentsync.config import load_config
from latentsync.errors import CheckpointError, ConfigError
from latentsync.sync.open_syncnet import CONFIGS, open_any_syncnet, open_syncnet
from latentsync.sync.syncnet_config import SyncNetConfig

WIDTHS = {"block_out_channels": [32, 64]}
MODEL = {
    "audio_encoder": {"in_channels": 1, "downsample_factors": [[10, 4], [8, 13]], **WIDTHS},
    "visual_encoder": {"in_channels": 48, "downsample_factors": [[4, 8], [8, 8]], **WIDTHS},
}


@pytest.fixture
def tiny(tmp_path) -> tuple[Path, Path]:
    """A YAML and the file of its network, as upstream saves it."""
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump({"model": MODEL, "data": {"resolution": 64}}))
    torch.manual_seed(0)
    syncnet = load_config(SyncNetConfig, config).build()
    torch.save({"global_step": 5, "state_dict": syncnet.state_dict()}, tmp_path / "tiny.pt")
    return config, tmp_path / "tiny.pt"


STABLE = sorted(path for path in CONFIGS.glob("*.yaml") if path.stem != "wav2lip")


@pytest.mark.parametrize("path", STABLE, ids=lambda path: path.stem)
def test_a_published_network_is_told_by_its_tensors(path, tmp_path, monkeypatch):
    """Without its data: the file would be 1.6 GB."""
    config = load_config(SyncNetConfig, path)
    with torch.device("meta"):
        state = config.build().state_dict()
    weights = SimpleNamespace(tensors=state)
    monkeypatch.setattr("latentsync.sync.open_syncnet.read_weights", lambda *_, **__: weights)
    syncnet = open_syncnet(tmp_path / "stable_syncnet.pt")
    assert syncnet.config.num_frames == config.data.num_frames
    assert syncnet.config.latent_space == config.data.latent_space
    assert [t.shape for t in syncnet.state_dict().values()] == [t.shape for t in state.values()]


def test_a_file_with_its_yaml_and_a_folder_give_the_same_network(tiny, tmp_path):
    config, file = tiny
    syncnet = open_syncnet(file, config)
    syncnet.save_pretrained(tmp_path / "folder")
    again = open_syncnet(tmp_path / "folder")
    assert again.config.resolution == 64 and not again.training
    inputs = torch.randn(2, 48, 32, 64), torch.randn(2, 1, 80, 52)
    with torch.no_grad():
        for one, two in zip(syncnet(*inputs), again(*inputs), strict=True):
            assert torch.equal(one, two)


def test_prepared_faces_are_the_lower_halves_folded_frame_by_frame(tiny):
    syncnet = open_syncnet(tiny[1], tiny[0])
    faces = torch.randn(16, 3, 64, 64)
    prepared = syncnet.prepare(faces)
    assert prepared.shape == (48, 32, 64)
    assert torch.equal(prepared[3:6], faces[1, :, 32:])
    assert syncnet.prepare(torch.zeros(16, 3, 128, 128)).shape == (48, 32, 64)


def test_what_is_no_such_network_is_refused(tiny, tmp_path):
    config, file = tiny
    with pytest.raises(CheckpointError, match="network of none of syncnet_16_latent"):
        open_syncnet(file)
    with pytest.raises(FileNotFoundError):
        open_syncnet(tmp_path / "absent.pt")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError, match=r"no config.json \(it holds nothing\)"):
        open_syncnet(empty)
    (empty / "config.json").write_text('{"_class_name": "UNet3DConditionModel"}')
    with pytest.raises(CheckpointError, match="holds a UNet3DConditionModel; expected a StableSyncNet"):
        open_syncnet(empty)
    (empty / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds a list"):
        open_syncnet(empty)
    broken = tmp_path / "broken.yaml"
    broken.write_text(yaml.safe_dump({"model": {"audio_encoder": MODEL["audio_encoder"]}}))
    with pytest.raises(ConfigError, match="visual_encoder"):
        open_syncnet(file, broken)
    syncnet = open_syncnet(file, config)
    syncnet.save_pretrained(tmp_path / "cut")
    state = syncnet.state_dict()
    state.pop("audio_encoder.conv_in.weight")
    save_file(state, next((tmp_path / "cut").glob("*.safetensors")), metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"audio_encoder\.conv_in\.weight"):
        open_syncnet(tmp_path / "cut")


def test_wav2lip_is_opened_by_its_yaml_alone(tmp_path):
    torch.manual_seed(0)
    network = load_config(SyncNetConfig, CONFIGS / "wav2lip.yaml").build()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "wav2lip.pt")
    opened = open_any_syncnet(tmp_path / "wav2lip.pt", CONFIGS / "wav2lip.yaml")
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in opened.state_dict().items())
    with pytest.raises(CheckpointError, match="a Wav2Lip SyncNet"):
        open_any_syncnet(tmp_path / "wav2lip.pt")
