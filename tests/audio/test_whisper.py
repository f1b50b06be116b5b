"""Hidden states of Whisper: against reference numbers, and at the joints of windows."""

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperModel

from latentsync.audio.mel import WHISPER_HOP, whisper_mel
from latentsync.audio.whisper import (
    encode,
    encode_blocks,
    encoder_config,
    from_openai,
    inner_context,
    rename_openai,
    rename_to_openai,
)
from latentsync.audio.windows import frame_count, frame_windows, stream_windows, window_rows


def sampled(array, output):
    """The part of a full result that a golden case keeps."""
    if "sample" not in output:
        return array
    spec = output["sample"]
    return array[tuple(slice(a, None, b) for a, b in zip(spec["start"], spec["step"], strict=True))]


def close(found, wanted):
    """Within the cases' tolerance, 1e-4 * (1 + std)."""
    assert np.abs(np.asarray(found) - wanted).max() <= 1e-4 * (1 + wanted.std())


@pytest.fixture(scope="module")
def reference(golden):
    info, weights, tensors = golden("latentsync", "audio2feature")
    state = {key: torch.from_numpy(value) for key, value in weights["whisper"].items()}
    model = from_openai(info["config"]["dims"], state)
    return info, tensors, model


def heard(tensors, name):
    return torch.from_numpy(tensors[f"input.{name}"].astype(np.float32) / 32768)


@pytest.mark.golden
def test_mel_and_features_agree_with_upstream(reference):
    info, tensors, model = reference
    waveform = heard(tensors, "waveform")
    mel = whisper_mel(waveform, info["config"]["dims"]["n_mels"]).numpy()
    close(sampled(mel, info["outputs"]["log_mel"]), tensors["output.log_mel"])
    features = encode(waveform, model)
    assert list(features.shape) == info["outputs"]["features"]["shape"]
    close(sampled(features.numpy(), info["outputs"]["features"]), tensors["output.features"])


@pytest.mark.golden
def test_a_recording_of_two_windows_agrees_with_upstream_at_the_joint_and_the_end(reference):
    info, tensors, model = reference
    features = encode(heard(tensors, "waveform_long"), model).numpy()
    assert list(features.shape) == info["outputs"]["long_features"]["shape"]
    close(sampled(features, info["outputs"]["long_features"]), tensors["output.long_features"])
    tail = info["outputs"]["long_features_tail"]
    close(sampled(features[-tail["shape"][0] :], tail), tensors["output.long_features_tail"])
    seam = info["outputs"]["long_features_seam"]
    positions = info["config"]["dims"]["n_audio_ctx"]
    around = features[positions - seam["shape"][0] // 2 : positions + seam["shape"][0] // 2]
    close(sampled(around, seam), tensors["output.long_features_seam"])


@pytest.mark.golden
def test_windows_agree_with_upstream_and_end_with_the_sound(reference):
    info, tensors, model = reference
    left, right = info["config"]["audio_feat_length"]
    features = encode(heard(tensors, "waveform"), model)
    rates = [
        key.removeprefix("num_chunks_").removesuffix("fps")
        for key in info["scalars"]
        if key.startswith("num_chunks_")
    ]
    assert rates
    for rate in rates:
        windows = frame_windows(features, float(rate), left=left, right=right)
        surplus = info["scalars"][f"num_chunks_{rate}fps"] - len(windows)
        assert surplus in (1, 2)  # upstream's fault: frames that the sound does not last for
        indices = tensors[f"output.chunk_indices_{rate}fps"][: len(windows)]
        rows = np.array([list(window_rows(index, float(rate), left, right)) for index in range(len(windows))])
        np.testing.assert_array_equal(rows.clip(0, len(features) - 1), indices)
        wanted = info["outputs"][f"chunks_{rate}fps"]
        for row, chunk in zip(
            info["scalars"][f"chunk_rows_{rate}fps"], tensors[f"output.chunks_{rate}fps"], strict=True
        ):
            if row < len(windows):
                found = sampled(windows[row][None].numpy(), wanted)[0]
                close(found, chunk)


@pytest.mark.golden
def test_an_openai_state_dict_of_another_model_is_refused_by_name(reference, golden):
    info, weights, _ = golden("latentsync", "audio2feature")
    state = {key: torch.from_numpy(value) for key, value in weights["whisper"].items()}
    state.pop("encoder.conv1.weight")
    with pytest.raises(KeyError, match=r"encoder\.conv1\.weight"):
        from_openai(info["config"]["dims"], state)


@pytest.fixture(scope="module")
def small_model():
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_layers=0,
        vocab_size=1,
        max_source_positions=64,
        max_target_positions=1,
        decoder_attention_heads=4,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
    )
    return WhisperModel(config).eval()


@pytest.mark.parametrize("seconds", [0.05, 1.28, 1.3, 5.01])
def test_there_is_a_row_for_every_20_ms(small_model, seconds):
    samples = int(seconds * 16000)
    waveform = torch.randn(samples, generator=torch.Generator().manual_seed(1)) * 0.1
    for context in (0, inner_context(small_model)):
        features = encode(waveform, small_model, context=context)
        assert features.shape == (samples // WHISPER_HOP // 2, 3, 32)
        assert torch.isfinite(features).all()


def test_context_hides_the_joint_of_windows(small_model):
    """Issue LS#151: a glitch every 30 s. A row beside a joint must be near what a window around it says."""
    waveform = torch.randn(16000 * 4, generator=torch.Generator().manual_seed(2)) * 0.1
    plain = encode(waveform, small_model)
    joined = encode(waveform, small_model, context=16)
    shifted = encode(waveform, small_model, context=24)  # joints elsewhere: an independent opinion
    rows = slice(60, 68)  # around the first joint of the plain cut
    glitch = (plain[rows, 0] - shifted[rows, 0]).abs().mean()
    assert (joined[32:100, 1:] - joined[32:100, 1:].mean(0)).abs().max() < 10
    assert (joined[rows, 0] - shifted[rows, 0]).abs().mean() <= glitch


def test_blocks_add_up_to_the_whole(small_model):
    waveform = torch.randn(16000 * 3, generator=torch.Generator().manual_seed(3)) * 0.1
    blocks = list(encode_blocks(waveform, small_model, context=16))
    assert len(blocks) > 2
    assert torch.equal(torch.cat(blocks), encode(waveform, small_model, context=16))


@pytest.mark.parametrize("fps", [25, 30, 23.976, 59.94])
@pytest.mark.parametrize("rows", [1, 7, 165])
def test_streamed_windows_are_the_windows(fps, rows):
    features = torch.arange(rows * 3 * 4, dtype=torch.float32).reshape(rows, 3, 4)
    whole = frame_windows(features, fps)
    assert len(whole) == frame_count(rows, fps)
    streamed = torch.stack(list(stream_windows(features.split(5), fps, frames=len(whole) + 3)))
    assert torch.equal(streamed[: len(whole)], whole)
    assert torch.equal(streamed, frame_windows(features, fps, frames=len(whole) + 3))


def test_windows_hold_the_rows_around_a_frame_and_repeat_the_ends():
    features = torch.arange(100.0).reshape(100, 1, 1)
    windows = frame_windows(features, 25)[..., 0]
    assert windows[10].tolist() == list(range(16, 26))
    assert windows[0].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 4, 5]
    assert windows[-1].tolist()[-4:] == [99, 99, 99, 99]


def test_loudness_does_not_change_what_is_heard():
    waveform = torch.randn(16000, generator=torch.Generator().manual_seed(4)) * 0.5
    mel, quiet = whisper_mel(waveform), whisper_mel(waveform * 0.1)
    assert torch.allclose(mel - mel.max(), quiet - quiet.max(), atol=1e-4)


def test_a_sound_shorter_than_a_window_of_the_spectrum_is_refused():
    with pytest.raises(ValueError, match="400"):
        whisper_mel(torch.zeros(200))


def test_names_go_to_openai_and_back():
    dims = {"n_mels": 80, "n_audio_ctx": 16, "n_audio_state": 16, "n_audio_head": 2, "n_audio_layer": 2}
    keys = [f"encoder.{key}" for key in WhisperModel(encoder_config(dims)).encoder.state_dict()]
    theirs = [rename_to_openai(key) for key in keys]
    assert "encoder.blocks.0.attn.query.weight" in theirs and "encoder.ln_post.bias" in theirs
    assert [rename_openai(key) for key in theirs] == keys
