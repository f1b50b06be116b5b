"""The original SyncNet against reference numbers; its file; what holds for it as a judge."""

import numpy as np
import pytest
import torch

from latentsync.audio.mel import syncnet_mfcc
from latentsync.errors import CheckpointError
from latentsync.sync import SyncNet
from latentsync.sync.judge import SyncScore, batches
from latentsync.sync.offset import framewise_confidence, score_of, zero_padded_distances
from latentsync.sync.syncnet_folded import FoldedSyncNet
from latentsync.sync.syncnet_judge import SyncNetJudge, open_original_syncnet

KEYS = 102  # of syncnet_v2.model


def sampled(array, output):
    """The stored part of a full result."""
    spec = output.get("sample")
    if spec is None:
        return array
    return array[tuple(slice(a, None, b) for a, b in zip(spec["start"], spec["step"], strict=True))]


def check(found, wanted, key, info, *, relative=1e-4):
    """Within 1e-4 of the standard deviation of the whole result."""
    output = info["outputs"][key]
    assert list(found.shape) == output["shape"]
    assert np.abs(sampled(found.numpy(), output) - wanted).max() <= relative * output["std"], key


def network(weights):
    syncnet = SyncNet()
    syncnet.load_state_dict({key: torch.from_numpy(value) for key, value in weights["model"].items()})
    return syncnet.eval()


@pytest.fixture(scope="module")
def reference(golden):
    """The network of the case syncnet_io, so that tests without numbers of their own need not draw it."""
    info, weights, tensors = golden("syncnet", "syncnet_io")
    return info, network(weights), tensors


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(11)


@pytest.mark.golden
def test_embeddings_agree_with_the_original(reference):
    info, syncnet, tensors = reference
    frames = torch.from_numpy(tensors["input.frames"]).float().unflatten(0, (-1, 5)).permute(0, 4, 1, 2, 3)
    mfcc = torch.from_numpy(tensors["input.mfcc"])
    with torch.no_grad():
        lips, sound = syncnet(frames, mfcc)
        found = {
            "lip_embedding": lips,
            "audio_embedding": sound,
            "lip_features": syncnet.lip_features(frames),
            "audio_features": syncnet.audio_features(mfcc),
        }
        assert torch.equal(syncnet.forward_lip(frames), lips)
        assert torch.equal(syncnet.forward_audio(mfcc), sound)
    for key, value in found.items():
        check(value, tensors[f"output.{key}"], key, info)


@pytest.mark.golden
def test_windows_of_sound_agree_with_the_original(golden):
    info, weights, tensors = golden("syncnet", "audio_windows")
    mfcc = syncnet_mfcc(torch.from_numpy(tensors["input.waveform"]))
    count = info["scalars"]["num_windows"]
    windows = mfcc.unfold(1, 20, 4).transpose(0, 1)[:count, None]
    check(windows, tensors["output.windows"], "windows", info)
    found = FoldedSyncNet(network(weights)).encode_sound(mfcc)[:count]
    check(found, tensors["output.audio_embedding"], "audio_embedding", info)


def tracks_of(case, tensors):
    """The two tracks of a case, by the rule that its note gives."""
    number, frames, shift = case["case"], case["frames"], case["audio_shift"]
    second = tensors[f"input.{number}.second"]
    source = np.pad(tensors[f"input.{number}.source"], ((1, 1), (0, 0)))
    source = (source[:-2] / 4 + source[1:-1] / 2 + source[2:] / 4).astype(np.float16).astype(np.float32)
    sound = second
    if shift is not None:
        sound = source[20 + shift : 20 + shift + frames] + np.float32(case["noise"]) * second
    return torch.from_numpy(source[20 : 20 + frames]), torch.from_numpy(sound.astype(np.float16)).float()


@pytest.mark.golden
def test_offsets_of_tracks_agree_with_the_original(golden):
    info, _, tensors = golden("syncnet", "offset_tracks")
    for case in info["config"]["cases"]:
        number = case["case"]
        lips, sound = tracks_of(case, tensors)
        distances = zero_padded_distances(lips, sound, max_offset=case["vshift"])
        compare_scores(distances, tensors, info["scalars"], f"{number}.", case["vshift"])


def compare_scores(distances, tensors, scalars, prefix, reach):
    curve = distances.mean(dim=0)
    score = score_of(curve)
    assert score.offset_frames == scalars[f"{prefix}av_offset"]
    assert score.min_distance == pytest.approx(scalars[f"{prefix}min_distance"], rel=1e-4)
    assert score.confidence == pytest.approx(scalars[f"{prefix}confidence"], rel=1e-4)
    assert score.offsets == range(-reach, reach + 1)
    wanted = tensors[f"output.{prefix}mean_distances"][::-1]  # the original's begins with the largest offset
    assert np.allclose(score.curve, wanted, rtol=1e-4, atol=0)
    framewise = tensors[f"output.{prefix}framewise_confidence"]
    # a difference of distances, so within 1e-4 of these
    assert np.abs(framewise_confidence(distances).numpy() - framewise).max() <= 1e-4 * wanted.max()


@pytest.mark.golden
def test_a_whole_evaluation_agrees_with_the_original(golden):
    info, weights, tensors = golden("syncnet", "evaluate")
    judge = SyncNetJudge(network(weights))
    bgr = torch.from_numpy(tensors["input.frames"]).permute(0, 3, 1, 2)
    faces = bgr.flip(1).contiguous()
    waveform = torch.from_numpy(tensors["input.waveform"]).float() / 32768
    lips = judge.encode_faces(faces)
    count = info["scalars"]["num_windows"]
    check(lips[:count], tensors["output.lip_embedding"], "lip_embedding", info)
    compare_scores(judge.distances(lips, waveform), tensors, info["scalars"], "", info["config"]["vshift"])
    score = judge.score(faces, waveform)
    assert score.offset_frames == info["scalars"]["av_offset"]
    assert score.confidence == pytest.approx(info["scalars"]["confidence"], rel=1e-4)


def close(first, second):
    return torch.allclose(first, second, rtol=0, atol=1e-4 * float(second.std()))


def test_folded_layers_and_sliding_give_what_single_windows_give(syncnet):
    faces = torch.randint(0, 256, (9, 3, 224, 224), dtype=torch.uint8)
    mfcc = torch.randn(13, 43) * 8  # room for 6 windows, and 3 columns that none needs
    folded = FoldedSyncNet(syncnet)
    with torch.no_grad():
        lips = torch.cat(
            [syncnet.forward_lip(faces[i : i + 5].transpose(0, 1)[None].float()) for i in range(5)]
        )
        sound = torch.cat([syncnet.forward_audio(mfcc[None, None, :, 4 * i : 4 * i + 20]) for i in range(6)])
    assert close(folded.encode_lips(faces), lips) and close(folded.encode_sound(mfcc), sound)


def test_a_long_clip_is_seen_in_batches_that_join_without_a_seam(syncnet):
    judge = SyncNetJudge(syncnet)
    faces = torch.randint(0, 256, (24, 3, 224, 224), dtype=torch.uint8)
    whole = judge.encode_faces(faces)
    assert whole.shape == (20, 1024)
    assert close(judge.encode_faces(iter(faces.split(1))), whole)
    assert close(judge.encode_faces(faces[12:]), whole[12:])


def test_red_and_blue_are_told_apart(syncnet):
    """The weights expect BGR, faces come as RGB."""
    judge = SyncNetJudge(syncnet)
    faces = torch.randint(0, 256, (5, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        wanted = syncnet.forward_lip(faces.flip(1).transpose(0, 1)[None].float())
    assert close(judge.encode_faces(faces), wanted)


def test_several_sounds_are_scored_as_each_alone_and_what_is_longer_is_cut(syncnet):
    judge = SyncNetJudge(syncnet)
    faces = torch.randint(0, 256, (8, 3, 224, 224), dtype=torch.uint8)
    sounds = [torch.randn(8 * 640) * 0.1, torch.randn(12 * 640) * 0.1, torch.randn(6 * 640) * 0.1]
    scores = judge.score_sounds(faces, sounds)
    for sound, score in zip(sounds, scores, strict=True):
        assert judge.score(faces, sound).curve == pytest.approx(score.curve, rel=1e-5)
    assert len({score.curve for score in scores}) == 3
    cut, whole = judge.score(faces[:7], sounds[1][: 7 * 640]), judge.score(faces[:7], sounds[1])
    assert cut.curve == pytest.approx(whole.curve, rel=1e-5)


def test_nothing_to_compare_is_refused_with_its_numbers(syncnet):
    judge = SyncNetJudge(syncnet)
    faces = torch.zeros((6, 3, 224, 224), dtype=torch.uint8)
    with pytest.raises(ValueError, match="6 faces and 3000 samples"):
        judge.score(faces, torch.zeros(3000))
    with pytest.raises(ValueError, match="fewer than 5 faces"):
        judge.score(faces[:4], torch.zeros(16000))
    with pytest.raises(ValueError, match=r"torch.float32 \(6, 3, 224, 224\)"):
        judge.score(faces.float(), torch.zeros(16000))


@pytest.fixture(scope="module")
def syncnet():
    """Random weights whose running statistics are not those of a new network."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = SyncNet()
        for module in network.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def test_the_released_file_opens_and_another_is_refused(syncnet, tmp_path):
    state = syncnet.state_dict()
    assert len(state) == KEYS
    torch.save(state, tmp_path / "syncnet_v2.model")
    opened = open_original_syncnet(tmp_path / "syncnet_v2.model")
    assert not opened.training
    for key, value in opened.state_dict().items():
        assert torch.equal(value, state[key]), key
    torch.save({key: value for key, value in state.items() if "tracked" not in key}, tmp_path / "old.model")
    old = open_original_syncnet(tmp_path / "old.model")
    assert torch.equal(old.netcnnlip[18].weight, state["netcnnlip.18.weight"])
    torch.save({key: value for key, value in state.items() if "18" not in key}, tmp_path / "cut.model")
    with pytest.raises(CheckpointError, match=r"4 tensor\(s\) missing .*lipsync"):
        open_original_syncnet(tmp_path / "cut.model")
    torch.save({"visual_encoder.conv_in.weight": torch.zeros(2)}, tmp_path / "other.model")
    with pytest.raises(CheckpointError, match="hold a StableSyncNet; expected the original SyncNet"):
        open_original_syncnet(tmp_path / "other.model")


def test_runs_of_faces_overlap_and_leave_none_out():
    faces = torch.arange(11, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 1, 1)
    for given in (faces, faces.split(3), [faces[:0], faces]):
        runs = [run[:, 0, 0, 0].tolist() for run in batches(given, 5, overlap=2)]
        assert runs == [[0, 1, 2, 3, 4], [3, 4, 5, 6, 7], [6, 7, 8, 9, 10]]
    assert [len(run) for run in batches(faces[:9], 5, overlap=2)] == [5, 5, 3]
    assert [len(run) for run in batches(faces[:3], 5, overlap=2)] == [3]


def test_a_score_may_come_without_its_curve():
    assert SyncScore(2, 1.5, 6.0).offsets == range(0)
    with pytest.raises(ValueError, match="not finite"):
        score_of(torch.full((31,), torch.nan))
