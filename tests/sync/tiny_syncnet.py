"""A SyncNet small enough to learn a drawn mouth in seconds, and its YAML."""

from pathlib import Path
from typing import Any

import yaml

SIDE = 32  # of the faces of footage_clips
MODEL: dict[str, Any] = {
    "audio_encoder": {  # (1, 80, 52)
        "in_channels": 1,
        "block_out_channels": [32, 32, 64, 128],
        "downsample_factors": [[5, 2], [4, 2], [2, 2], [2, 7]],
    },
    "visual_encoder": {  # (48, 16, 32)
        "in_channels": 48,
        "block_out_channels": [32, 64, 128],
        "downsample_factors": [[2, 4], [4, 4], 2],
    },
}


def tiny_config(folder: Path, footage: Path, **sections: dict[str, Any]) -> Path:
    """A YAML for `footage`; `sections` (data, run, ckpt, optimizer, model) go over the defaults."""
    settings: dict[str, Any] = {
        "model": MODEL,
        "data": {
            "train_data_dir": str(footage),
            "train_output_dir": str(folder / "run"),
            "resolution": SIDE,
            "batch_size": 4,
            "windows_per_clip": 4,
            "min_shift_frames": 5,
            "num_workers": 0,
            "num_val_samples": 40,
        },
        "ckpt": {"save_ckpt_steps": 100},
        "optimizer": {"lr": 2.0e-3},
        "run": {
            "max_train_steps": 4,
            "validation_steps": 100,
            "mixed_precision_training": False,
            "contrastive_weight": 1.0,
            "log_every": 1,
        },
    }
    for name, section in sections.items():
        settings[name] = section if name == "model" else settings[name] | section
    path = folder / "syncnet.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(settings))
    return path
