"""Synchformer's networks against reference numbers, and what must hold of any size of them."""

import pytest
import torch
import torch.nn.functional as F
from synchformer_cases import as_tensors, check, spectrogram, tiled_video

from latentsync.sync.synchformer import SegmentContrast, Synchformer
from latentsync.sync.synchformer.keys import from_original
from latentsync.sync.synchformer.motionformer import VisualExtractor
from latentsync.sync.synchformer.spectrogram_transformer import AudioExtractor
from latentsync.sync.synchformer.sync_transformer import SyncTransformer
from latentsync.sync.synchformer.upstream_config import network_arguments, with_sizes_of

TINY = {
    "visual": {"EMBED_DIM": 16, "DEPTH": 1, "NUM_HEADS": 2, "crop": 32, "frames": 4, "drop_path": 0.5},
    "audio": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    "sync": {"n_embd": 16, "n_head": 2, "n_layer": 1, "positions": 2 + 3 * (2 + 6), "classes": 5},
}
# parameters and tensors of upstream's networks, without those nobody uses
PATCH_EMBED = 590_592
UPSTREAM = {
    "stage I": (214_841_089 - PATCH_EMBED, 451 - 2),
    "stage II": (237_460_245 - PATCH_EMBED, 513 - 2),
    "synchronizability": (237_434_882 - PATCH_EMBED, 513 - 2),
}


def tiny():
    """A small network that is far from indifferent."""
    torch.manual_seed(0)
    model = Synchformer.from_upstream(TINY)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def inputs(batch=2, segments=3):
    generator = torch.Generator().manual_seed(1)
    video = torch.rand(batch, segments, 4, 3, 32, 32, generator=generator) * 2 - 1
    return video, torch.randn(batch, segments, 1, 128, 66, generator=generator)


def own(weights):
    return from_original(as_tensors(weights))


@pytest.mark.golden
@torch.no_grad()
def test_visual_features_agree_with_upstream(golden):
    info, weights, tensors = golden("synchformer", "visual_extractor")
    config = info["config"]
    extractor = VisualExtractor(**network_arguments({"visual": config})["visual"]).eval()
    extractor.load_state_dict(own(weights["model"]))
    video = tiled_video(tensors, config["tile_period_hw"], config["crop"])
    tokens, _ = extractor.encode(video.flatten(0, 1))
    features = extractor(video)
    small = extractor(tiled_video(tensors, config["tile_period_hw"], config["small_crop"]))
    check(tokens[0, :9], tensors, info, "tokens_before_norm_seg0_first9")
    check(tokens[0, -8:], tensors, info, "tokens_before_norm_seg0_last8")
    check(features, tensors, info, "segment_features")
    check(features.mean(dim=2), tensors, info, "segment_features_time_mean")
    check(small, tensors, info, "segment_features_small_crop")


@pytest.mark.golden
@torch.no_grad()
def test_audio_features_agree_with_upstream(golden):
    info, weights, tensors = golden("synchformer", "audio_extractor")
    extractor = AudioExtractor(**network_arguments({"audio": info["config"]})["audio"]).eval()
    extractor.load_state_dict(own(weights["model"]))
    audio = as_tensors(tensors)["input.spec"].transpose(2, 3)[:, :, None]
    features = extractor(audio)
    kept = torch.ones_like(audio, dtype=torch.bool)
    kept[0, 0, :, :, :26] = False
    kept[1, 2, :, :30] = False
    check(extractor.encode(audio.flatten(0, 1)), tensors, info, "ast_last_hidden_state")
    check(features, tensors, info, "segment_features")
    check(features.mean(dim=2), tensors, info, "segment_features_time_mean")
    check(extractor(audio, kept), tensors, info, "segment_features_masked")


@pytest.mark.golden
@torch.no_grad()
def test_the_transformer_agrees_with_upstream(golden):
    info, weights, tensors = golden("synchformer", "sync_transformer")
    visual, audio = (as_tensors(tensors)[f"input.{name}"] for name in ("visual", "audio"))
    for model, name, segments in (("model", "logits", 14), ("synchability", "logits_synchability", 13)):
        state = own(weights[model])
        named = {f"transformer.{key}": value for key, value in state.items()}
        arguments = with_sizes_of(network_arguments({"sync": info["config"]}), named)["sync"]
        transformer = SyncTransformer(**arguments).eval()
        transformer.load_state_dict(state)
        tokens = visual[:, : 8 * segments], audio[:, : 6 * segments]
        check(transformer(*tokens), tensors, info, name)
        if model == "model":
            check(transformer.encode(*tokens), tensors, info, "hidden")


@pytest.mark.slow
@pytest.mark.golden
@torch.no_grad()
def test_the_whole_offset_model_agrees_with_upstream(golden):
    info, weights, tensors = golden("synchformer", "synchronizer")
    model = Synchformer.from_upstream(info["config"], as_tensors(weights["model"]))
    video = tiled_video(tensors, info["config"]["tile_period_hw"], info["config"]["visual"]["crop"])[None]
    audio, target = spectrogram(tensors), torch.tensor([info["scalars"]["target"]])
    for segments in (14, 13):
        logits = model(video[:, :segments], audio[:, :segments])
        check(logits, tensors, info, f"logits_{segments}")
        check(F.cross_entropy(logits, target), tensors, info, f"loss_{segments}")
    check(logits.softmax(dim=1), tensors, info, "probs_13")
    check(model.vfeat_extractor(video[:, :13]), tensors, info, "vfeats_13")
    check(model.afeat_extractor(audio[:, :13]), tensors, info, "afeats_13")


@pytest.mark.parametrize("name", UPSTREAM)
def test_released_sizes_are_upstreams(name):
    sync = {"classes": 2, "head": "sync_head", "positions": 184} if name == "synchronizability" else {}
    with torch.device("meta"):
        network = SegmentContrast() if name == "stage I" else Synchformer(sync=sync)
    parameters, tensors = UPSTREAM[name]
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert len(network.state_dict()) == tensors


def test_a_clip_is_judged_alone_whatever_is_beside_it():
    model, (video, audio) = tiny(), inputs()
    with torch.no_grad():
        together, alone = model(video, audio), model(video[1:], audio[1:])
    assert together.shape == (2, 5)
    assert torch.allclose(together[1:], alone, atol=1e-6)


def test_the_order_of_segments_matters():
    model, (video, audio) = tiny(), inputs()
    with torch.no_grad():
        assert (model(video, audio) - model(video.flip(1), audio)).abs().max() > 1e-3


def test_what_must_not_be_heard_changes_nothing():
    extractor, (_, audio) = tiny().afeat_extractor, inputs()
    kept = torch.ones_like(audio, dtype=torch.bool)
    kept[0, 1, :, :40] = False
    louder = torch.where(kept, audio, audio + 5)
    with torch.no_grad():
        assert torch.allclose(extractor(audio, kept), extractor(louder, kept), atol=1e-5)
        assert (extractor(audio) - extractor(louder)).abs().max() > 1e-2


def test_save_and_load_give_the_same_network(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    again = Synchformer.from_pretrained(tmp_path)
    assert not again.training and again.segments == model.segments == 3
    with torch.no_grad():
        assert torch.equal(model(*inputs()), again(*inputs()))


def test_frozen_extractors_stay_in_evaluation_and_do_not_learn():
    model, (video, audio) = tiny().freeze_extractors().train(), inputs()
    assert model.transformer.training and not model.vfeat_extractor.training
    assert torch.equal(model.vfeat_extractor(video), model.vfeat_extractor(video))  # no path is dropped
    F.cross_entropy(model(video, audio), torch.tensor([0, 1])).backward()
    learning = {name.split(".")[0] for name, value in model.named_parameters() if value.grad is not None}
    assert learning == {"vproj", "aproj", "transformer"}


def test_dropped_paths_keep_the_expectation():
    branch = tiny().vfeat_extractor.blocks[0].drop_path
    branch.share = 0.5
    torch.manual_seed(0)
    many = torch.ones(4000, 2, 2)
    assert branch.train()(many).mean() == pytest.approx(1, abs=0.05)
    assert set(branch(many).unique().tolist()) == {0.0, 2.0}
    assert torch.equal(branch.eval()(many), many)


def test_upstreams_yaml_is_understood():
    tree = {
        "model": {
            "target": "model.sync_model.Synchformer",
            "params": {
                "afeat_extractor": {"params": {"max_spec_t": 66, "agg_time_module": "torch.nn.Identity"}},
                "transformer": {
                    "params": {
                        "n_layer": 2,
                        "n_head": 4,
                        "n_embd": 128,
                        "tok_pdrop": 0.0,
                        "embd_pdrop": 0.2,
                        "resid_pdrop": 0.2,
                        "attn_pdrop": 0.2,
                        "pos_emb_cfg": {"params": {"block_shape": [184], "n_embd": 128}},
                        "off_head_cfg": {"params": {"in_features": 128, "out_features": 7}},
                    }
                },
            },
        }
    }
    with torch.device("meta"):
        model = Synchformer.from_upstream(tree)
    assert (model.classes, model.segments, len(model.transformer.blocks)) == (7, 13, 2)
    assert model.vproj.weight.shape == (128, 768)


def test_a_synchronizability_model_is_known_by_its_head():
    state = tiny().state_dict()
    del state["transformer.off_head.weight"], state["transformer.off_head.bias"]
    state |= {
        "transformer.sync_head.weight": torch.zeros(2, 16),
        "transformer.sync_head.bias": torch.zeros(2),
    }
    model = Synchformer.from_upstream(TINY, state)
    assert not model.judges_offsets and model.classes == 2


def test_what_cannot_be_built_or_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"visual\.attention is 'joint'"):
        Synchformer.from_upstream({**TINY, "visual": {**TINY["visual"], "attention": "joint"}})
    with pytest.raises(ValueError, match="multiples of the patch"):
        Synchformer.from_upstream({**TINY, "visual": {**TINY["visual"], "crop": 30}})
    with pytest.raises(RuntimeError, match=r"2 missing \['aproj\.bias'"):
        state = {name: value for name, value in tiny().state_dict().items() if not name.startswith("aproj")}
        Synchformer.from_upstream(TINY, state)
    model, (video, audio) = tiny(), inputs(segments=4)
    with pytest.raises(ValueError, match="need 34 positions; this network has 26"):
        model(video, audio)
    with pytest.raises(ValueError, match=r"\(1, 128, 65\)"):
        model(video[:, :3], audio[:, :3, ..., :65])
    with pytest.raises(ValueError, match="4 frames of 3 channels"):
        model(video[:, :3, :2], audio[:, :3])
