"""Waveform -> hidden states of a Whisper encoder at 50 Hz, as LatentSync's U-Net hears them.

`T` samples at 16 kHz or feature rows, `L` encoder layers, `D` width. Follows Audio2Feature of
bytedance/LatentSync over openai/whisper: all hidden states *before* the final layer norm, mel windows
zero-padded in the mel domain.
"""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from latentsync.audio.mel import whisper_mel

COLUMNS_PER_ROW = 2  # the encoder's second convolution has stride 2: 100 mel columns/s -> 50 rows/s
OPENAI_KEYS = (  # openai/whisper name -> transformers name; applied in this order
    ("positional_embedding", "embed_positions.weight"),
    ("ln_post", "layer_norm"),
    (".blocks.", ".layers."),
    ("attn_ln", "self_attn_layer_norm"),
    (".attn.", ".self_attn."),
    (".query.", ".q_proj."),
    (".key.", ".k_proj."),
    (".value.", ".v_proj."),
    (".out.", ".out_proj."),
    ("mlp_ln", "final_layer_norm"),
    (".mlp.0.", ".fc1."),
    (".mlp.2.", ".fc2."),
)


def encode(waveform: Tensor, model: WhisperModel, *, context: int = 0) -> Tensor:
    """Hidden states (T50, L + 1, D) of `waveform` (T,) at 16 kHz, 50 rows a second, float32.

    `context` rows are added on either side of an inner window and thrown away, so that nothing is heard at
    the joint; 0 cuts the sound as upstream does. Raises: ValueError for a waveform shorter than 25 ms.
    """
    return torch.cat(list(encode_blocks(waveform, model, context=context)))


def inner_context(model: WhisperModel) -> int:
    """Rows of context that hide the joints of windows: one second, or a quarter of a short window."""
    return min(50, int(model.config.max_source_positions) // 4)


def encode_blocks(waveform: Tensor, model: WhisperModel, *, context: int = 0) -> Iterator[Tensor]:
    """`encode` window by window: blocks (t, L + 1, D) whose lengths add up to T50."""
    positions = int(model.config.max_source_positions)
    if not 0 <= 2 * context < positions:
        raise ValueError(f"context must be in [0, {positions // 2}) rows, got {context}")
    weight = model.encoder.conv1.weight
    mel = whisper_mel(waveform, int(model.config.num_mel_bins)).to(weight)
    start = 0
    while start * COLUMNS_PER_ROW < mel.shape[1]:
        first = max(0, start - context)
        piece = mel[:, first * COLUMNS_PER_ROW : (first + positions) * COLUMNS_PER_ROW]
        is_last = (first + positions) * COLUMNS_PER_ROW >= mel.shape[1]
        rows = piece.shape[1] // COLUMNS_PER_ROW
        stop = first + rows - (0 if is_last else context)
        states = _hidden_states(F.pad(piece, (0, positions * COLUMNS_PER_ROW - piece.shape[1])), model)
        if stop > start:
            yield states[start - first : stop - first].float()
        if is_last:
            return
        start = stop


@torch.no_grad()
def _hidden_states(mel: Tensor, model: WhisperModel) -> Tensor:
    """All states (positions, L + 1, D) of one padded mel window: the embedding, then each block, before the
    layer norm.
    """
    encoder = model.encoder
    return torch.stack(hidden_states(mel[None], encoder), dim=2)[0]


def hidden_states(mel: Tensor, encoder: WhisperEncoder) -> list[Tensor]:
    """The L + 1 states (B, positions, D) of mel windows (B, bands, 2 positions), with gradient when it is
    enabled.
    """
    states: list[Tensor] = []

    def keep_input(_module: nn.Module, args: tuple, kwargs: dict) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    def keep_output(_module: nn.Module, _args: tuple, output: Tensor | tuple) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    hooks = [encoder.layers[0].register_forward_pre_hook(keep_input, with_kwargs=True)]
    hooks += [layer.register_forward_hook(keep_output) for layer in encoder.layers]
    try:
        encoder(mel)
    finally:
        for hook in hooks:
            hook.remove()
    return states


def from_openai(dims: Mapping[str, int], state_dict: Mapping[str, Tensor]) -> WhisperModel:
    """The encoder of an openai/whisper checkpoint (`dims`, `model_state_dict`) as a transformers model.

    The text decoder is left out: nothing here hears with it. Raises: KeyError naming an encoder tensor that
    is missing or unknown, RuntimeError for a wrong shape.
    """
    model = WhisperModel(encoder_config(dims)).eval()
    tensors = {rename_openai(key): value for key, value in state_dict.items() if key.startswith("encoder.")}
    table = model.encoder.embed_positions.weight
    tensors.setdefault("encoder.embed_positions.weight", sinusoids(*table.shape))
    expected = {f"encoder.{key}" for key in model.encoder.state_dict()}
    if wrong := sorted(expected ^ set(tensors)):
        raise KeyError(
            f"not the encoder of a Whisper with {dims['n_audio_layer']} layers: {', '.join(wrong[:5])}"
        )
    model.load_state_dict(tensors, strict=False)
    return model


def encoder_config(dims: Mapping[str, int]) -> WhisperConfig:
    """transformers' configuration for openai's `dims`, with an empty text decoder."""
    return WhisperConfig(
        num_mel_bins=dims["n_mels"],
        max_source_positions=dims["n_audio_ctx"],
        d_model=dims["n_audio_state"],
        encoder_attention_heads=dims["n_audio_head"],
        encoder_layers=dims["n_audio_layer"],
        encoder_ffn_dim=4 * dims["n_audio_state"],
        decoder_attention_heads=dims["n_audio_head"],
        decoder_layers=0,
        decoder_ffn_dim=1,
        vocab_size=1,
        max_target_positions=1,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
    )


def rename_openai(key: str) -> str:
    """transformers' name of a tensor of openai/whisper's encoder."""
    for theirs, ours in OPENAI_KEYS:
        key = key.replace(theirs, ours)
    return key


def rename_to_openai(key: str) -> str:
    """openai/whisper's name of a tensor of transformers' encoder: `rename_openai` backwards."""
    for theirs, ours in reversed(OPENAI_KEYS):
        key = key.replace(ours, theirs)
    return key


def sinusoids(length: int, channels: int) -> Tensor:
    """Whisper's fixed table (length, channels): sines, then cosines, of wavelengths from 2 pi to 20000 pi."""
    half = channels // 2
    scale = torch.exp(-torch.arange(half) * (torch.log(torch.tensor(10000.0)) / (half - 1)))
    angle = torch.arange(length)[:, None] * scale[None]
    return torch.cat([angle.sin(), angle.cos()], dim=1)
