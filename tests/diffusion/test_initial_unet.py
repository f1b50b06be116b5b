"""Which weights a U-Net starts from, how strictly, and which of them learn."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_pipeline import make_pipeline
from tiny_stages import MODEL, tiny_unet

from latentsync.config import load_config
from latentsync.diffusion.initial_unet import initial_unet, select_trainable
from latentsync.diffusion.released_config import ReleasedConfig, load_released_config
from latentsync.diffusion.unet import UNet3DConditionModel
from latentsync.errors import CheckpointError, ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "unet"


@pytest.fixture
def config(tmp_path):
    """`config(motion=..., **changes)`: the recipe of the tiny network."""
    import yaml

    def make(*, motion: bool = True, **changes) -> ReleasedConfig:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({"model": {**MODEL, "use_motion_module": motion, **changes}}))
        return load_config(ReleasedConfig, path)

    return make


def save_upstream(path, unet, **extra):
    torch.save({"global_step": 7, "state_dict": {**unet.upstream_state_dict(), **extra}}, path)
    return path


def predict(unet, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(1, 13, 4, 8, 8, generator=generator)
    with torch.no_grad():
        return unet(sample, 500, torch.randn(1, 4, 5, 16, generator=generator)).sample


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_new_network_says_nothing_at_first_and_the_seed_decides_it(config):
    unet = initial_unet(config(), None)
    assert (predict(unet) == 0).all()
    assert same(unet.state_dict(), initial_unet(config(), None).state_dict())


@pytest.mark.parametrize("kind", ["pt", "safetensors", "unet folder", "pipeline folder"])
def test_weights_come_whole_from_wherever_they_lie(config, tmp_path, kind):
    source = tiny_unet()
    place = tmp_path / "weights"
    if kind == "pt":
        save_upstream(place, source)
    elif kind == "safetensors":
        save_file(source.state_dict(), place)
    elif kind == "unet folder":
        source.save_pretrained(place)
    else:
        source.save_pretrained(place / "unet")
    assert same(initial_unet(config(), place).state_dict(), source.state_dict())


def test_a_pipeline_of_ours_is_such_a_folder(tmp_path):
    pipeline = make_pipeline(temporal=True)
    pipeline.save_pretrained(tmp_path)
    import yaml

    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"model": {**MODEL, "motion_module_kwargs": {"num_attention_heads": 4}}}))
    unet = initial_unet(load_config(ReleasedConfig, path), tmp_path)
    assert same(unet.state_dict(), pipeline.unet.state_dict())


def test_stage_1_becomes_stage_2_which_at_first_predicts_the_same(config, tmp_path, caplog):
    source = tiny_unet(motion=False)
    caplog.set_level("INFO", "latentsync")
    unet = initial_unet(config(), save_upstream(tmp_path / "stage1.pt", source))
    assert unet.has_motion and not source.has_motion
    assert torch.equal(predict(unet), predict(source))
    assert "new: 6 motion modules, which add nothing at first" in caplog.text


def test_a_motion_module_that_is_there_in_part_is_damage(config, tmp_path):
    source = tiny_unet()
    state = source.upstream_state_dict()
    lost = next(name for name in state if ".motion_modules." in name and name.endswith("ff.net.2.bias"))
    del state[lost]
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(
        CheckpointError, match=r"1 missing \(down_blocks\.0\.motion.*ff\.net\.2\.bias\), 0 unk"
    ):
        initial_unet(config(), tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"layers_per_block": 2}, r"\d+ missing \(down_blocks.0.attentions.1"),
        ({"motion": False}, r"\d+ unknown \(down_blocks.0.motion_modules.0"),
        ({"block_out_channels": [32, 64]}, r"\d+ of another shape \(down_blocks.1"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(config, tmp_path, changes, told):
    place = save_upstream(tmp_path / "weights.pt", tiny_unet())
    with pytest.raises(CheckpointError, match=told) as caught:
        initial_unet(config(**changes), place)
    assert "pass the YAML that belongs to them" in str(caught.value) and str(place) in str(caught.value)


def test_a_stable_diffusion_unet_keeps_all_but_its_ends_and_what_it_hears(config, tmp_path, caplog):
    """Its names are those of stage 1; it takes 4 channels and attends to text."""
    caplog.set_level("INFO", "latentsync")
    source = tiny_unet(motion=False, in_channels=4, cross_attention_dim=768)
    torch.save(source.upstream_state_dict(), tmp_path / "sd.pt")
    unet = initial_unet(config(motion=False), tmp_path / "sd.pt")
    ours, theirs = unet.state_dict(), source.state_dict()
    other = {name for name in ours if ours[name].shape != theirs[name].shape}
    assert "conv_in.weight" in other and all(".attn2.to_" in name for name in other - {"conv_in.weight"})
    assert all(torch.equal(ours[name], theirs[name]) for name in set(ours) - other)
    assert f"{len(other)} tensors that have another shape there" in caplog.text


def test_what_is_no_unet_is_refused(config, tmp_path):
    torch.save({"features.28.weight": torch.ones(3)}, tmp_path / "vgg.pt")
    with pytest.raises(CheckpointError, match="a VGG16; expected a LatentSync U-Net"):
        initial_unet(config(), tmp_path / "vgg.pt")
    with pytest.raises(CheckpointError, match="of a finished run, pass its folder pipeline"):
        initial_unet(config(), tmp_path)


def test_a_section_that_describes_no_network_is_refused(config):
    with pytest.raises(ConfigError, match="section model describes no U-Net"):
        initial_unet(config(block_out_channels=[32, 33]), None)


@pytest.mark.parametrize(
    ("name", "millions", "tensors"),
    [
        ("stage1", 849.962, 686),
        ("stage1_512", 849.962, 686),
        ("stage2", 674.792, 936),
        ("stage2_512", 674.792, 936),
        ("stage2_efficient", 284.660, 392),
    ],
)
def test_the_released_recipes_train_what_they_train_in_the_original(name, millions, tensors):
    """Numbers counted in the original's own network."""
    config = load_released_config(CONFIGS / f"{name}.yaml")
    with torch.device("meta"):
        unet = UNet3DConditionModel.from_upstream(config.model_section())
    select_trainable(unet, config.run.trainable_modules)
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    assert (len(trained), round(sum(p.numel() for p in trained) / 1e6, 3)) == (tensors, millions)


def test_parts_are_upstreams_names_where_attn2_hears_and_never_looks_along_time():
    unet = tiny_unet()
    select_trainable(unet, ["attn2."])
    trained = [name for name, parameter in unet.named_parameters() if parameter.requires_grad]
    assert trained and all(".attn2." in name and ".motion_modules." not in name for name in trained)
    select_trainable(unet, [])
    assert all(parameter.requires_grad for parameter in unet.parameters())


def test_a_part_without_weights_is_refused():
    with pytest.raises(ConfigError, match=r"has 'motion_modules\.', which is in no name"):
        select_trainable(tiny_unet(motion=False), ["attentions.", "motion_modules."])
