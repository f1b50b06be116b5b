"""Recipes of U-Net training: which one a YAML is of, and what the released ones come to."""

from pathlib import Path

import pytest
import yaml

from latentsync.config import load_config
from latentsync.diffusion.released_config import ReleasedConfig, load_released_config
from latentsync.diffusion.stage_config import (
    check_stages,
    load_recipe,
    loop_config,
    precision_of,
    settings_of,
    supervision_of,
)
from latentsync.diffusion.stages import Supervision
from latentsync.diffusion.train import TrainUNetConfig
from latentsync.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "unet"
RELEASED = ("stage1", "stage1_512", "stage2", "stage2_512", "stage2_efficient")
TINY_PATHS = ["data.packed=a", "data.vae=b", "data.audio_encoder=c", "data.output=d"]


def write(folder, **sections):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(sections))
    return str(path)


@pytest.fixture
def recipe(tmp_path):
    """`recipe("run.seed=3", ...)`: stage 2 with changes."""
    return lambda *overrides: load_config(ReleasedConfig, CONFIGS / "stage2.yaml", overrides)


@pytest.mark.parametrize("name", [*RELEASED, "tiny_stage1", "tiny_stage2"])
def test_yamls_in_upstreams_words_are_of_two_stages(name):
    config = load_recipe(str(CONFIGS / f"{name}.yaml"), ["run.seed=5"])
    assert isinstance(config, ReleasedConfig) and config.run.seed == 5
    check_stages(config)
    loop_config(config, samples=100, processes=1)


def test_the_small_recipe_is_of_single_frames():
    assert isinstance(load_recipe(str(CONFIGS / "tiny.yaml"), TINY_PATHS), TrainUNetConfig)


def test_every_yaml_was_looked_at():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {*RELEASED, "tiny_stage1", "tiny_stage2", "tiny"}


def test_sections_decide_and_not_the_name_of_the_file(tmp_path):
    assert isinstance(load_recipe(write(tmp_path, loop={"steps": 3}), TINY_PATHS), TrainUNetConfig)
    assert isinstance(load_recipe(write(tmp_path, data={"packed": "x"}), TINY_PATHS), TrainUNetConfig)
    assert isinstance(load_recipe(write(tmp_path, data={"resolution": 256}), []), ReleasedConfig)
    assert isinstance(load_recipe(write(tmp_path, train={"ema_decay": 0.5}), []), ReleasedConfig)
    with pytest.raises(ConfigError, match="mixes two recipes: loop of single frames, ckpt, optimizer of two"):
        load_recipe(write(tmp_path, loop={}, ckpt={}, optimizer={}), [])
    with pytest.raises(ConfigError, match=r"train\.lora_rank=4: of two-stage training alone.*single frames"):
        load_recipe(write(tmp_path, loop={"steps": 3}), [*TINY_PATHS, "train.lora_rank=4"])


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "", "a: [1\n"])
def test_a_file_that_holds_no_sections_is_refused(tmp_path, text):
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"odd\.yaml"):
        load_recipe(str(tmp_path / "odd.yaml"), [])


@pytest.mark.parametrize(
    ("wrong", "key"),
    [("run.sead=3", "sead"), ("runs.seed=3", "runs"), ("run.seed=x", "seed"), ("train.ema=0.5", "ema")],
)
def test_a_typo_names_its_key(wrong, key):
    with pytest.raises(ConfigError, match=key):
        load_recipe(str(CONFIGS / "stage1.yaml"), [wrong])


def test_the_released_recipes_weigh_their_losses_as_in_the_original():
    stage_1 = Supervision(recon_weight=1.0)
    stage_2 = Supervision(perceptual_weight=0.1, trepa_weight=10.0, sync_weight=0.05)
    efficient = Supervision(perceptual_weight=0.1, trepa_weight=0.0, sync_weight=0.05)
    found = {name: supervision_of(load_released_config(CONFIGS / f"{name}.yaml")) for name in RELEASED}
    assert found == dict(zip(RELEASED, (stage_1, stage_1, stage_2, stage_2, efficient), strict=True))


def test_noise_is_mixed_or_repeated_and_sound_is_dropped_by_our_default(recipe):
    assert supervision_of(recipe()).mixed_noise_alpha == 1.0
    assert supervision_of(recipe("run.use_mixed_noise=false")).mixed_noise_alpha is None
    assert supervision_of(recipe()).audio_dropout == 0.1
    assert supervision_of(recipe("train.audio_dropout=0")).audio_dropout == 0


def test_the_loop_runs_as_the_yaml_says(recipe):
    loop = loop_config(recipe(), samples=100, processes=2)
    assert (loop.steps, loop.batch_size, loop.learning_rate) == (10_000_000, 1, 1e-5)
    assert (loop.lr_scheduler, loop.max_gradient_norm, loop.seed) == ("constant", 1.0, 1247)
    assert (loop.save_every, loop.num_workers, loop.scale_lr) == (10_000, 12, False)


@pytest.mark.parametrize(("processes", "steps"), [(1, 75), (2, 37), (8, 9), (400, 1)])
def test_epochs_are_counted_in_samples_of_all_processes(recipe, processes, steps):
    config = recipe(
        "run.max_train_steps=-1",
        "run.max_train_epochs=3",
        "data.batch_size=2",
        "train.gradient_accumulation_steps=2",
    )
    assert loop_config(config, samples=100, processes=processes).steps == steps


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optimizer.lr=0", r"optimizer\.lr is 0\.0; it must be more than 0"),
        ("optimizer.lr_scheduler=sine", r"optimizer\.lr_scheduler is 'sine'; known: constant"),
        ("data.batch_size=0", r"data\.batch_size is 0"),
        ("ckpt.save_ckpt_steps=0", r"ckpt\.save_ckpt_steps is 0"),
        ("train.ema_decay=1", r"train\.ema_decay is 1\.0; it must be at least 0 and below 1"),
        ("train.keep_last=-1", r"train\.keep_last is -1"),
    ],
)
def test_numbers_of_the_loop_are_refused_under_their_own_names(recipe, override, told):
    with pytest.raises(ConfigError, match=f"^{told}"):
        loop_config(recipe(override), samples=1, processes=1)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.video_fps=30", r"data\.video_fps is 30; it must be 25"),
        ("data.audio_sample_rate=44100", r"data\.audio_sample_rate is 44100; it must be 16000"),
        ("data.audio_feat_length=[1,1]", r"data\.audio_feat_length is \[1, 1\]; it must be \[2, 2\]"),
        ("data.num_frames=25", r"data\.num_frames is 25, but the motion modules know 24 positions"),
        ("data.num_frames=15", r"data\.num_frames is 15; TREPA looks at pairs"),
        ("data.num_frames=0", r"data\.num_frames is 0; it must be 1 or more"),
        ("data.train_output_dir=''", r"data\.train_output_dir"),
        ("model.in_channels=9", r"model\.in_channels is 9; it must be 13: noisy, masked"),
        ("model.add_audio_layer=false", r"model\.add_audio_layer is False"),
        ("run.trepa_loss_weight=-1", r"run\.trepa_loss_weight is -1\.0; it must be 0 or more"),
        ("run.max_train_steps=-1", r"run\.max_train_steps is -1; it must be more than 0, or -1 with"),
        ("run.max_train_steps=0", r"run\.max_train_steps is 0"),
        ("train.audio_dropout=1", r"train\.audio_dropout is 1\.0; it must be in \[0, 1\)"),
        ("train.lora_rank=-2", r"train\.lora_rank is -2"),
    ],
)
def test_what_cannot_be_trained_with_is_refused_by_name(recipe, override, told):
    with pytest.raises(ConfigError, match=f"^{told}"):
        check_stages(recipe(override))


def test_precision_is_the_flags_then_the_yamls_no_then_the_launchers(recipe):
    assert precision_of(recipe(), None) is None
    assert precision_of(recipe("run.mixed_precision_training=false"), None) == "no"
    assert precision_of(recipe("run.mixed_precision_training=false"), "bf16") == "bf16"


def test_a_run_may_move_and_last_longer_but_not_change_what_it_learns(recipe):
    settings = settings_of(recipe(), samples=10)
    free = recipe("data.train_data_dir=elsewhere", "run.max_train_steps=5", "run.inference_steps=3")
    assert settings_of(free, samples=10) == settings
    assert settings_of(recipe(), samples=11) != settings
    for change in (
        "run.sync_loss_weight=1",
        "data.resolution=512",
        "train.audio_dropout=0.2",
        "train.lora_rank=2",
    ):
        assert settings_of(recipe(change), samples=10) != settings
