"""What `dub` loads: matrices of LoRA go into the U-Net of a folder, never into a pipeline that is shared."""

import json

import pytest
import torch
from safetensors.torch import save_file

from latentsync.diffusion.lora import DOWN, FILE, METADATA, UP, attention_layers
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.dubbing.model import load_model
from latentsync.errors import CheckpointError

CPU = torch.device("cpu")


@pytest.fixture
def lora(model, tmp_path):
    """The file of a LoRA of rank 2 on one attention of `model`, as a training run leaves it."""
    unet = LipsyncPipeline.from_pretrained(model, local_files_only=True).unet
    layer = attention_layers(unet)[0]
    rows, columns = unet.get_submodule(layer).weight.shape
    generator = torch.Generator().manual_seed(0)
    matrices = {
        layer + DOWN: torch.randn(2, columns, generator=generator),
        layer + UP: torch.randn(rows, 2, generator=generator),
    }
    save_file(matrices, tmp_path / FILE, metadata={METADATA: json.dumps({"lora_alpha": 2})})
    return layer, matrices, tmp_path


def test_lora_is_added_to_the_weights_it_was_trained_on(model, lora):
    layer, matrices, folder = lora
    plain, _ = load_model(model, CPU, torch.float32)
    adapted, name = load_model(model, CPU, torch.float32, lora=folder)
    added = matrices[layer + UP] @ matrices[layer + DOWN]
    for key, value in plain.unet.state_dict().items():
        wanted = value + added if key == f"{layer}.weight" else value
        torch.testing.assert_close(adapted.unet.state_dict()[key], wanted)
    assert name.endswith(f"with {folder}")


def test_lora_that_cannot_serve_is_refused(model, lora, tmp_path):
    layer, matrices, folder = lora
    pipeline, _ = load_model(model, CPU, torch.float32)
    with pytest.raises(ValueError, match="apply_lora"):
        load_model(pipeline, CPU, torch.float32, lora=folder)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_model(model, CPU, torch.float32, lora=tmp_path / "nowhere")
    wide = {layer + DOWN: torch.zeros(2, 7), layer + UP: matrices[layer + UP]}
    save_file(wide, tmp_path / FILE, metadata={METADATA: json.dumps({"lora_alpha": 2})})
    with pytest.raises(CheckpointError, match="does not fit"):
        load_model(model, CPU, torch.float32, lora=folder)
