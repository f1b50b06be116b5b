"""VideoMAEv2 in transformers' network against its architecture written out, and the files it opens."""

import hashlib

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from tiny_auxiliary import save_videomae, videomae_state
from transformers import VideoMAEConfig

from latentsync.errors import CheckpointError
from latentsync.quality.videomae import (
    VideoMAE,
    open_videomae,
    read_config,
    rename_from_released,
    rename_to_released,
)

# of the released file, without its head: tensors, numbers, start of the sha256 of sorted "key shape" lines
RELEASED = (524, 1_011_610_752, "7adb514680ce8b06")
VIT_G = {
    "image_size": 224,
    "patch_size": 14,
    "num_frames": 16,
    "tubelet_size": 2,
    "hidden_size": 1408,
    "num_hidden_layers": 40,
    "num_attention_heads": 16,
    "intermediate_size": 6144,
    "layer_norm_eps": 1e-6,
}


def clips(frames=16, size=32, batch=2):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(batch, 3, frames, size, size, generator=generator)


def sine_table(count, width):
    """Position p, channel i: sine (even i) or cosine (odd i) of p / 10000^(2 (i // 2) / width)."""
    channels = torch.arange(width, dtype=torch.float64)
    angles = torch.arange(count, dtype=torch.float64)[:, None] / 10000 ** (2 * (channels // 2) / width)
    return torch.where(channels % 2 == 0, angles.sin(), angles.cos())


def written_out(state, video, *, heads):
    """VideoMAEv2's features of 16 frames, in float64, straight from its tensors."""
    s = {name: value.double() for name, value in state.items()}
    weight = s["patch_embed.proj.weight"]
    width, _, tubelet, patch, _ = weight.shape
    pieces = rearrange(
        video.double(), "b c (t u) (h p) (w q) -> b (t h w) (c u p q)", u=tubelet, p=patch, q=patch
    )
    x = pieces @ weight.flatten(1).T + s["patch_embed.proj.bias"]
    x = x + sine_table(x.shape[1], width)
    layers = len([name for name in s if name.endswith(".attn.q_bias")])
    for b in (f"blocks.{number}." for number in range(layers)):
        h = F.layer_norm(x, [width], s[b + "norm1.weight"], s[b + "norm1.bias"], eps=1e-6)
        bias = torch.cat([s[b + "attn.q_bias"], torch.zeros(width), s[b + "attn.v_bias"]])
        q, k, v = rearrange(
            F.linear(h, s[b + "attn.qkv.weight"], bias), "b n (three e d) -> three b e n d", three=3, e=heads
        )
        weights = (q @ k.transpose(-1, -2) * (width // heads) ** -0.5).softmax(dim=-1)
        h = rearrange(weights @ v, "b e n d -> b n (e d)")
        x = x + F.linear(h, s[b + "attn.proj.weight"], s[b + "attn.proj.bias"])
        h = F.layer_norm(x, [width], s[b + "norm2.weight"], s[b + "norm2.bias"], eps=1e-6)
        h = F.gelu(F.linear(h, s[b + "mlp.fc1.weight"], s[b + "mlp.fc1.bias"]))
        x = x + F.linear(h, s[b + "mlp.fc2.weight"], s[b + "mlp.fc2.bias"])
    return F.layer_norm(x.mean(dim=1), [width], s["fc_norm.weight"], s["fc_norm.bias"], eps=1e-6)


@pytest.mark.parametrize(("width", "heads", "patch"), [(22, 1, 2), (44, 4, 2), (24, 3, 14)])
def test_features_agree_with_the_architecture_written_out(tmp_path, width, heads, patch):
    state = videomae_state(width, patch=patch)
    torch.save({"model": state}, tmp_path / "vit.pth")
    model = open_videomae(tmp_path / "vit.pth", heads=heads, image_size=4 * patch)
    video = clips(size=4 * patch)
    with torch.no_grad():
        found = model(video)
    assert found.shape == (2, width)
    assert (found - written_out(state, video, heads=heads)).abs().max() <= 1e-5


@pytest.mark.slow
def test_keys_and_shapes_of_the_released_file_map_both_ways():
    with torch.device("meta"):
        state = VideoMAE(VideoMAEConfig(**VIT_G)).state_dict()
    released = rename_to_released(state)
    lines = "\n".join(sorted(f"{name} {tuple(value.shape)}" for name, value in released.items()))
    digest = hashlib.sha256(lines.encode()).hexdigest()[:16]
    assert (len(released), sum(value.numel() for value in released.values()), digest) == RELEASED
    head = {"head.weight": torch.empty(174, 1408, device="meta")}
    back = rename_from_released({**released, **head})
    assert {name: value.shape for name, value in back.items()} == {n: v.shape for n, v in state.items()}
    found = read_config(released)
    assert {name: getattr(found, name) for name in VIT_G} == VIT_G


@pytest.mark.parametrize("key", ["model", "module", None])
def test_the_files_own_values_come_back_whatever_they_lay_under(tmp_path, key):
    stored = videomae_state()
    model = open_videomae(save_videomae(tmp_path / "vit.pth", key=key))
    assert model.image_size == 32 and not model.training
    assert model.fc_norm.weight.dtype == torch.float32
    again = rename_to_released(model.state_dict())
    assert again.keys() == {name for name in stored if not name.startswith("head.")}
    assert all(torch.equal(value, stored[name].half().float()) for name, value in again.items())


def test_a_clip_is_seen_alone_whatever_is_beside_it(tmp_path):
    model = open_videomae(save_videomae(tmp_path / "vit.pth"), image_size=8)
    video = clips(size=8)
    assert torch.allclose(model(video)[1:], model(video[1:]), atol=1e-5)


def test_another_number_of_frames_stretches_the_positions(tmp_path):
    """The first and last tubelet stay near their own positions; frames that make no tubelet are refused."""
    model = open_videomae(save_videomae(tmp_path / "vit.pth"), image_size=8)
    assert torch.equal(model._positions(8), model.positions)
    for frames in (2, 8, 14, 18, 32):
        assert model._positions(frames // 2).shape == (1, frames // 2 * 16, 22)
        assert torch.isfinite(model(clips(frames, size=8))).all()
    between = rearrange(model.positions, "1 (t n) d -> t n d", t=8)
    halved = rearrange(model._positions(4), "1 (t n) d -> t n d", t=4)
    scale = 8 / 4.1  # upstream's: centres of 4.1 lengths over 8
    at = (0 + 0.5) * scale - 0.5
    assert torch.allclose(halved[0], between[0] * (1 - at) + between[1] * at, atol=1e-5)
    for frames in (15, 1, 0):
        with pytest.raises(ValueError, match="multiple of 2"):
            model(clips(frames, size=8))
    with pytest.raises(ValueError, match=r"8, 8\), F a multiple of 2, got \(2, 3, 16, 32, 32\)"):
        model(clips())


def test_checkpointing_changes_nothing_but_memory(tmp_path):
    path = save_videomae(tmp_path / "vit.pth")
    slopes, calls = [], []
    for saves in (False, True):
        model = open_videomae(path, image_size=8, gradient_checkpointing=saves)
        hook = model.network.encoder.layer[0].attention.register_forward_hook(lambda *_: calls.append(1))
        video = clips(size=8).requires_grad_(True)
        model(video).square().sum().backward()
        slopes.append(video.grad)
        hook.remove()
    assert torch.equal(*slopes) and slopes[0].abs().max() > 0
    assert len(calls) == 1 + 2
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_missing_or_truncated_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        open_videomae(tmp_path / "none.pth")
    path = save_videomae(tmp_path / "short.pth")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(CheckpointError, match=r"short\.pth.*cut short"):
        open_videomae(path)


def changed(**tensors):
    """The tiny state with other tensors ("." written "__"); None takes one out."""
    state = videomae_state() | {name.replace("__", "."): value for name, value in tensors.items()}
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"features.28.weight": torch.zeros(9, 9)}, "a VGG16; expected VideoMAEv2's ViT-g"),
        (changed(blocks__1__attn__qkv__weight=None), "3 tensor.s. missing"),
        (changed(blocks__1__norm1__bias=torch.zeros(9)), r"layer.1.layernorm_before.bias has shape \(9,\)"),
        (changed(cls_token=torch.zeros(9)), r"1 unknown \['cls_token'\]"),
        (changed(patch_embed__proj__weight=None), "no VideoMAEv2 of this form.*patch_embed.proj.weight"),
        (changed(patch_embed__proj__weight=torch.zeros(9)), "no VideoMAEv2 of this form"),
        (changed(patch_embed__proj__weight=torch.zeros(22, 3, 2, 0, 0)), "no VideoMAEv2 of this form"),
        (changed(blocks__0__attn__qkv__weight=torch.zeros(2)), "no VideoMAEv2 of this form"),
    ],
)
def test_foreign_files_are_named(tmp_path, state, words):
    torch.save({"module": state}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=rf"odd\.pth.*{words}"):
        open_videomae(tmp_path / "odd.pth")
