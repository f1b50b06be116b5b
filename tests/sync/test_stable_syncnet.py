"""StableSyncNet against reference numbers, its committed configurations, and what training builds on."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from latentsync.sync import StableSyncNet

CONFIGS = Path(__file__).parents[2] / "configs" / "syncnet"
# of upstream's networks: tensors, parameters, start of the sha256 of the sorted "key shape" lines, width
NETWORKS = {
    "syncnet_16_pixel_attn": (266, 401_306_080, "10d95c1c31533a77", 2048),
    "syncnet_16_pixel": (178, 371_766_496, "62c781b47d18f276", 2048),
    "syncnet_16_latent": (144, 65_544_416, "94812703bff543db", 1024),
    "syncnet_25_pixel": (162, 103_742_144, "1f36215c2aea5842", 1024),
}
TINY = {
    "audio_encoder": {
        "in_channels": 1,
        "block_out_channels": [32, 32, 128],
        "downsample_factors": [[4, 2], [4, 4], [5, 6]],
        "attn_blocks": [0, 1, 0],
        "dropout": 0.0,
    },
    "visual_encoder": {
        "in_channels": 6,
        "block_out_channels": [32, 128],  # 4 a group: the last norm of 2 would leave only signs
        "downsample_factors": [[1, 2], 8],
        "attn_blocks": [1, 0],
        "dropout": 0.0,
    },
}


def tiny_syncnet():
    torch.manual_seed(0)
    return StableSyncNet.from_upstream(TINY)


def pairs(batch=3):
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(batch, 6, 8, 16, generator=generator) * 2 - 1
    return frames, torch.rand(batch, 1, 80, 52, generator=generator) * 8 - 4


def changed(encoder, **values):
    """TINY with other values in one encoder; None takes the key out."""
    section = {key: value for key, value in {**TINY[encoder], **values}.items() if value is not None}
    return {**TINY, encoder: section}


def model_section(name):
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))["model"]


@pytest.mark.golden
@pytest.mark.parametrize("case", ["syncnet_pixel", "syncnet_pixel_attn", "syncnet_latent"])
def test_embeddings_agree_with_upstream(golden, case):
    info, weights, tensors = golden("latentsync", case)
    state = {key: torch.from_numpy(value) for key, value in weights["model"].items()}
    syncnet = StableSyncNet.from_upstream(info["config"], state)
    frames = torch.from_numpy(tensors["input.image_sequences"])
    mel = torch.from_numpy(tensors["input.audio_sequences"])
    with torch.no_grad():
        vision, audio = syncnet(frames, mel)
        found = {
            "vision_raw": syncnet.visual_encoder(frames),
            "audio_raw": syncnet.audio_encoder(mel),
            "vision_embeds": vision,
            "audio_embeds": audio,
            "cosine": torch.cosine_similarity(vision, audio),
        }
    for name, value in found.items():
        wanted = tensors[f"output.{name}"]
        assert value.shape == wanted.shape
        assert np.abs(value.numpy() - wanted).max() <= 1e-4 * (1 + wanted.std()), name


@pytest.mark.parametrize("name", NETWORKS)
def test_committed_configurations_give_upstreams_tensors(name):
    keys, parameters, digest, _ = NETWORKS[name]
    with torch.device("meta"):
        syncnet = StableSyncNet.from_upstream(model_section(name))
    state = syncnet.state_dict()
    lines = "\n".join(sorted(f"{key} {tuple(value.shape)}" for key, value in state.items()))
    assert len(state) == keys
    assert sum(parameter.numel() for parameter in syncnet.parameters()) == parameters
    assert hashlib.sha256(lines.encode()).hexdigest().startswith(digest)


@pytest.mark.parametrize("name", NETWORKS)
def test_committed_configurations_bring_their_windows_down_to_one_position(name):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    data, channels = config["data"], config["model"]["visual_encoder"]["in_channels"]
    size = data["resolution"] // 8 if data["latent_space"] else data["resolution"]
    assert channels == data["num_frames"] * (4 if data["latent_space"] else 3)
    columns = -(-data["num_frames"] * 80 // data["video_fps"])  # rounded up
    with torch.device("meta"):
        syncnet = StableSyncNet.from_upstream(config["model"])
        frames = torch.zeros(1, channels, size // 2 if data["lower_half"] else size, size)
        vision, audio = syncnet(frames, torch.zeros(1, 1, 80, columns))
    assert vision.shape == audio.shape == (1, NETWORKS[name][3])


def test_a_configuration_that_forgets_attention_has_none():
    """Upstream's syncnet_25_pixel.yaml cannot be built upstream: KeyError 'attn_blocks'."""
    whole = model_section("syncnet_25_pixel")
    forgetful = {
        encoder: {key: value for key, value in section.items() if key != "attn_blocks"}
        for encoder, section in whole.items()
    }
    with torch.device("meta"):
        found = StableSyncNet.from_upstream(forgetful).state_dict()
        wanted = StableSyncNet.from_upstream(whole).state_dict()
    assert {key: value.shape for key, value in found.items()} == {
        key: value.shape for key, value in wanted.items()
    }


def test_embeddings_are_unit_vectors_without_negative_parts():
    with torch.no_grad():
        embeddings = tiny_syncnet()(*pairs())
    for embedding in embeddings:
        assert embedding.shape == (3, 128)
        assert torch.allclose(embedding.norm(dim=1), torch.ones(3), atol=1e-6)
        assert embedding.min() >= 0  # so that a cosine is a probability


def test_silence_and_a_grey_picture_have_embeddings_too():
    with torch.no_grad():
        embeddings = tiny_syncnet()(torch.zeros(1, 6, 8, 16), torch.full((1, 1, 80, 52), -4.0))
    for embedding in embeddings:
        assert torch.allclose(embedding.norm(dim=1), torch.ones(1), atol=1e-6)


def test_a_pair_is_judged_alone_whatever_is_beside_it():
    syncnet = tiny_syncnet()
    frames, mel = pairs()
    with torch.no_grad():
        together = syncnet(frames, mel)
        alone = syncnet(frames[1:2], mel[1:2])
    for whole, part in zip(together, alone, strict=True):
        assert torch.allclose(whole[1:2], part, atol=1e-6)


def test_agreement_can_be_taught_through_the_frames():
    """As a loss of the U-Net: one step along the gradient brings lips and sound together."""
    syncnet = tiny_syncnet().requires_grad_(False)
    frames, mel = pairs()
    frames.requires_grad_(True)
    before = torch.cosine_similarity(*syncnet(frames, mel))
    (slope,) = torch.autograd.grad(before.sum(), frames)
    with torch.no_grad():
        after = torch.cosine_similarity(
            *syncnet(frames + 0.01 * slope / slope.abs().amax(dim=(1, 2, 3), keepdim=True), mel)
        )
    assert (after > before).all()


def test_save_and_load_give_the_same_network(tmp_path):
    syncnet = tiny_syncnet()
    syncnet.save_pretrained(tmp_path)
    again = StableSyncNet.from_pretrained(tmp_path)
    assert not again.training
    with torch.no_grad():
        for saved, loaded in zip(syncnet(*pairs()), again(*pairs()), strict=True):
            assert torch.equal(saved, loaded)


def test_an_unknown_or_missing_configuration_key_is_named():
    with pytest.raises(ValueError, match=r"audio_encoder\.block_out_chanels"):
        StableSyncNet.from_upstream(changed("audio_encoder", block_out_chanels=[32]))
    with pytest.raises(ValueError, match="text_encoder"):
        StableSyncNet.from_upstream({**TINY, "text_encoder": {}})
    with pytest.raises(ValueError, match=r"visual_encoder\.in_channels"):
        StableSyncNet.from_upstream(changed("visual_encoder", in_channels=None))
    with pytest.raises(ValueError, match=r"visual_encoder\.in_channels"):
        StableSyncNet.from_upstream({"audio_encoder": TINY["audio_encoder"]})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"attn_blocks": [1]}, "block_out_channels has 2, downsample_factors 2, attn_blocks 1"),
        ({"downsample_factors": [2, 0]}, "got 0"),
        ({"downsample_factors": [2, [2, 2, 2]]}, r"\[2, 2, 2\]"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused_with_its_numbers(values, words):
    with pytest.raises(ValueError, match=words):
        StableSyncNet.from_upstream(changed("visual_encoder", **values))


def test_tensors_that_do_not_fit_are_counted_and_named():
    state = tiny_syncnet().state_dict()
    lacking = {key: value for key, value in state.items() if not key.startswith("audio_encoder.conv_in.")}
    with pytest.raises(RuntimeError, match=r"2 missing \['audio_encoder\.conv_in\.bias'"):
        StableSyncNet.from_upstream(TINY, lacking)
    with pytest.raises(RuntimeError, match=r"1 unknown \['surprise'\]"):
        StableSyncNet.from_upstream(TINY, {**state, "surprise": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"audio_encoder\.norm_out\.bias"):
        StableSyncNet.from_upstream(TINY, {**state, "audio_encoder.norm_out.bias": torch.zeros(7)})
