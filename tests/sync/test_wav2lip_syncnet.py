"""Wav2Lip's SyncNet against reference numbers, and the names and sizes of upstream's tensors."""

import hashlib

import numpy as np
import pytest
import torch
from einops import rearrange

from latentsync.sync import Wav2LipSyncNet, wav2lip_syncnet

KEYS, PARAMETERS, DIGEST = 259, 65_215_360, "db2a4308a3e30b77"  # as in test_stable_syncnet


@pytest.fixture
def narrow(monkeypatch):
    """The network with a 16th of its widths."""
    for name in ("VISUAL_LEVELS", "AUDIO_LEVELS"):
        levels = getattr(wav2lip_syncnet, name)
        monkeypatch.setattr(
            wav2lip_syncnet, name, tuple(level._replace(width=level.width // 16) for level in levels)
        )
    torch.manual_seed(0)
    return lambda act_fn="leaky": Wav2LipSyncNet.from_upstream({"act_fn": act_fn})


def pairs(batch=2):
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(batch, 15, 128, 256, generator=generator) * 2 - 1
    return frames, torch.rand(batch, 1, 80, 16, generator=generator) * 8 - 4


@pytest.mark.slow
@pytest.mark.golden
def test_embeddings_agree_with_upstream(golden):
    info, weights, tensors = golden("latentsync", "wav2lip_syncnet")
    state = {key: torch.from_numpy(value) for key, value in weights["model"].items()}
    syncnet = Wav2LipSyncNet.from_upstream(info["config"], state)
    pixels = torch.from_numpy(tensors["input.pictures"]).float() / 127.5 - 1
    with torch.no_grad():
        found = syncnet(
            rearrange(pixels, "f h w c -> 1 (f c) h w"), torch.from_numpy(tensors["input.audio_sequences"])
        )
    for name, value in zip(("vision_embeds", "audio_embeds"), found, strict=True):
        wanted = tensors[f"output.{name}"]
        assert value.shape == wanted.shape
        assert np.abs(value.numpy() - wanted).max() <= 1e-4 * (1 + wanted.std()), name


def test_the_network_has_upstreams_tensors():
    with torch.device("meta"):
        syncnet = Wav2LipSyncNet.from_upstream({})
    state = syncnet.state_dict()
    lines = "\n".join(sorted(f"{key} {tuple(value.shape)}" for key, value in state.items()))
    assert len(state) == KEYS
    assert sum(parameter.numel() for parameter in syncnet.parameters()) == PARAMETERS
    assert hashlib.sha256(lines.encode()).hexdigest().startswith(DIGEST)


@pytest.mark.parametrize("act_fn", ["leaky", "relu", "silu", "tanh"])
def test_embeddings_are_unit_vectors_without_negative_parts(narrow, act_fn):
    with torch.no_grad():
        embeddings = narrow(act_fn)(*pairs())
    for embedding in embeddings:
        assert embedding.shape == (2, 64)
        assert torch.allclose(embedding.norm(dim=1), torch.ones(2), atol=1e-6)
        assert embedding.min() >= 0


def test_the_activation_matters(narrow):
    state = narrow().state_dict()
    with torch.no_grad():
        leaky, tanh = (
            Wav2LipSyncNet.from_upstream({"act_fn": act_fn}, state)(*pairs()) for act_fn in ("leaky", "tanh")
        )
    assert (leaky[0] - tanh[0]).abs().max() > 1e-3
    assert (leaky[1] - tanh[1]).abs().max() > 1e-3


def test_save_and_load_give_the_same_network(narrow, tmp_path):
    syncnet = narrow("silu")
    syncnet.save_pretrained(tmp_path)
    again = Wav2LipSyncNet.from_pretrained(tmp_path)
    assert again.config["act_fn"] == "silu"
    with torch.no_grad():
        for saved, loaded in zip(syncnet(*pairs()), again(*pairs()), strict=True):
            assert torch.equal(saved, loaded)


def test_wrong_configurations_and_tensors_are_named(narrow):
    with pytest.raises(ValueError, match="activation"):
        Wav2LipSyncNet.from_upstream({"activation": "relu"})
    with pytest.raises(ValueError, match=r"leaky, relu, silu, tanh, got 'gelu'"):
        Wav2LipSyncNet.from_upstream({"act_fn": "gelu"})
    state = narrow().state_dict()
    del state["visual_encoder.3.conv_block.1.running_var"]
    with pytest.raises(RuntimeError, match=r"1 missing \['visual_encoder\.3\.conv_block\.1\.running_var'\]"):
        Wav2LipSyncNet.from_upstream({}, state)
