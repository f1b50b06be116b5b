"""Sizes of a Synchformer: an upstream configuration, or tensors -> arguments of our networks.

Two forms of configuration are understood: sections `visual` (Motionformer's names), `audio` (AST's), `sync`
(minGPT's), and the `model` tree of v-iashin/Synchformer's YAML files, which leaves the extractors' sizes to
the code. What is not said is as in the released networks.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from latentsync.sync.synchformer.sync_transformer import HEADS

VISUAL = {
    "EMBED_DIM": "width",
    "DEPTH": "layers",
    "NUM_HEADS": "heads",
    "MLP_RATIO": "mlp_ratio",
    "QKV_BIAS": "qkv_bias",
    "patch": "patch",
    "tubelet": "tubelet",
    "crop": "resolution",
    "frames": "frames",
    "drop_path": "drop_path",
}
AUDIO = {
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden",
    "num_mel_bins": "bands",
    "max_spec_t": "columns",
    "patch_size": "patch",
    "qkv_bias": "qkv_bias",
    "layer_norm_eps": "eps",
}
SYNC = {
    "n_embd": "width",
    "n_head": "heads",
    "n_layer": "layers",
    "classes": "classes",
    "pos_len_14seg": "positions",
    "positions": "positions",
}
DROPOUTS = ("embd_pdrop", "resid_pdrop", "attn_pdrop")
ASSUMED = {  # what the networks do without asking
    "visual": {"attention": "divided", "layer_norm_eps": 1e-6},
    "audio": {"hidden_act": "gelu"},
    "sync": {"layer_norm_eps": 1e-5, "tok_pdrop": 0.0},
}

Arguments = dict[str, dict[str, Any]]


def network_arguments(config: Mapping[str, Any]) -> Arguments:
    """`visual`, `audio` and `sync` arguments of `Synchformer` from an upstream configuration.

    Raises: ValueError for another attention, norm or activation than these networks have.
    """
    config = _sections(config)
    for section, assumed in ASSUMED.items():
        for name, value in assumed.items():
            given = config[section].get(name, value)
            if given != value:
                raise ValueError(
                    f"Synchformer configuration: {section}.{name} is {given!r}; only {value!r} is known"
                )
    visual = _renamed(config["visual"], VISUAL)
    audio = _renamed(config["audio"], AUDIO)
    if "frequency_stride" in config["audio"] or "time_stride" in config["audio"]:
        audio["stride"] = [config["audio"].get(f"{axis}_stride", 10) for axis in ("frequency", "time")]
    return {"visual": visual, "audio": audio, "sync": _sync_arguments(config["sync"])}


def with_sizes_of(arguments: Arguments, tensors: Mapping[str, Tensor]) -> Arguments:
    """`arguments` with what the tensors (our names) decide: positions, classes, kind of head."""
    sync = dict(arguments["sync"])
    table = tensors.get("transformer.pos_emb_cfg.pos_emb")
    if table is not None:
        sync["positions"] = table.shape[1]
    for head in HEADS:
        if (weight := tensors.get(f"transformer.{head}.weight")) is not None:
            sync |= {"head": head, "classes": weight.shape[0]}
    return {**arguments, "sync": sync}


def _sections(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The three sections, empty where nothing is said, from either form."""
    model = config.get("model", config)
    params = model.get("params", model)
    if "transformer" not in params:
        return {name: params.get(name) or {} for name in ("visual", "audio", "sync")}
    audio = params.get("afeat_extractor", {}).get("params", {})
    return {
        "visual": {},
        "audio": {"max_spec_t": audio["max_spec_t"]} if "max_spec_t" in audio else {},
        "sync": params["transformer"].get("params", {}),
    }


def _sync_arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    arguments = _renamed(section, SYNC)
    if (stored := looked_up(section, "pos_emb_cfg", "params", "block_shape")) is not None:
        arguments["positions"] = int(stored[0])
    if (classes := looked_up(section, "off_head_cfg", "params", "out_features")) is not None:
        arguments["classes"] = int(classes)
    dropouts = {section[name] for name in DROPOUTS if name in section}
    if len(dropouts) > 1:
        raise ValueError(f"Synchformer configuration: {', '.join(DROPOUTS)} differ; one dropout is known")
    if dropouts:
        arguments["dropout"] = dropouts.pop()
    return arguments


def _renamed(section: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {new: section[old] for old, new in names.items() if old in section}


def looked_up(tree: Any, *path: str) -> Any:
    """What stands in nested mappings under these names; None where one is missing."""
    for name in path:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree
