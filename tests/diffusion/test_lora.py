"""LoRA: what learns, what it does to the network, and that its file needs no PEFT."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_stages import tiny_unet

from latentsync.diffusion import lora
from latentsync.diffusion.lora import FILE, add_lora, apply_lora, attention_layers, merged_state, save_lora
from latentsync.errors import CheckpointError, ConfigError


def predict(unet, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(1, 13, 4, 8, 8, generator=generator)
    with torch.no_grad():
        return unet(sample, 500, torch.randn(1, 4, 5, 16, generator=generator)).sample


@pytest.fixture
def adapted():
    """A U-Net whose LoRA of rank 3 has learned something."""
    pytest.importorskip("peft")
    unet = tiny_unet()
    add_lora(unet, 3)
    generator = torch.Generator().manual_seed(1)
    for parameter in unet.parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return unet


def test_only_the_matrices_learn_and_at_first_they_change_nothing():
    pytest.importorskip("peft")
    unet, plain = tiny_unet(), tiny_unet()
    add_lora(unet, 3)
    assert torch.equal(predict(unet), predict(plain))
    trained = {name: p for name, p in unet.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(attention_layers(plain))
    assert all(".lora_" in name and 3 in p.shape for name, p in trained.items())


def test_layers_can_be_chosen_by_upstreams_names():
    unet = tiny_unet()
    everywhere, hearing = attention_layers(unet), attention_layers(unet, ["attn2."])
    assert all(".attn2." in name and ".motion_modules." not in name for name in hearing)
    moving = attention_layers(unet, ["motion_modules."])
    assert len(everywhere) == len(moving) + len(attention_layers(unet, ["attentions."]))
    assert 0 < len(hearing) < len(everywhere)


def test_no_layer_is_an_error():
    pytest.importorskip("peft")
    with pytest.raises(ConfigError, match="no attention of this U-Net has resnets in its name"):
        add_lora(tiny_unet(), 3, within=["resnets"])


def test_the_merged_weights_and_the_saved_file_do_what_the_matrices_do(adapted, tmp_path):
    expected = predict(adapted)
    assert not torch.allclose(expected, predict(tiny_unet()), atol=0.05)
    merged = tiny_unet()
    merged.load_state_dict(merged_state(adapted))
    assert torch.allclose(predict(merged), expected, atol=1e-5)  # (W + BA) x for W x + BA x, float32
    applied = tiny_unet()
    apply_lora(applied, save_lora(adapted, tmp_path))
    assert torch.allclose(predict(applied), expected, atol=1e-5)
    from_folder = tiny_unet()
    apply_lora(from_folder, tmp_path)
    assert torch.equal(predict(from_folder), predict(applied))


def test_diffusers_loads_the_file(adapted, tmp_path):
    save_lora(adapted, tmp_path)
    unet = tiny_unet()
    unet.load_lora_adapter(str(tmp_path), prefix=None, weight_name=FILE)
    assert torch.allclose(predict(unet), predict(adapted), atol=1e-5)


def write_file(folder, *, alpha=None, layers=("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",)):
    """A LoRA as PEFT would write it, made without PEFT."""
    generator = torch.Generator().manual_seed(2)
    tensors = {}
    for layer in layers:
        tensors[f"{layer}.lora_A.weight"] = torch.randn(2, 32, generator=generator)
        tensors[f"{layer}.lora_B.weight"] = torch.randn(32, 2, generator=generator)
    metadata = {} if alpha is None else {"lora_adapter_metadata": json.dumps({"r": 2, "lora_alpha": alpha})}
    save_file(tensors, folder / FILE, metadata=metadata)
    return folder / FILE


def test_the_effect_is_alpha_over_rank_times_the_product(tmp_path):
    tensors = load_file(write_file(tmp_path, alpha=6))
    (layer,) = {name.partition(".lora_")[0] for name in tensors}
    unet, plain = tiny_unet(), tiny_unet()
    apply_lora(unet, tmp_path / FILE)
    product = tensors[layer + ".lora_B.weight"] @ tensors[layer + ".lora_A.weight"]
    moved = unet.get_parameter(layer + ".weight") - plain.get_parameter(layer + ".weight")
    assert torch.allclose(moved, 3 * product, atol=1e-5)


def test_files_that_are_no_lora_of_this_network_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        apply_lora(tiny_unet(), tmp_path)
    write_file(tmp_path, alpha=2, layers=["down_blocks.9.attentions.0.to_q"])
    with pytest.raises(CheckpointError, match=r"of another network: down_blocks\.9"):
        apply_lora(tiny_unet(), tmp_path)
    write_file(tmp_path)
    with pytest.raises(CheckpointError, match="does not say its alpha"):
        apply_lora(tiny_unet(), tmp_path)
    save_file({"a.weight": torch.ones(8)}, tmp_path / FILE)
    with pytest.raises(CheckpointError, match="holds no LoRA of a U-Net"):
        apply_lora(tiny_unet(), tmp_path)


def test_without_peft_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install 'latentsync\[lora\]'"):
        lora.add_lora(tiny_unet(), 3)
