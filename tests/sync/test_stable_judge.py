"""StableSyncNet as a judge: a known shift is found, batches and strides do not matter, latents work too."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from loudness_syncnet import FRAMES, SIDE, loudness_syncnet
from scipy.ndimage import gaussian_filter1d

from latentsync.audio.mel import syncnet_mel
from latentsync.audio.windows import mel_window
from latentsync.face.mask import normalize
from latentsync.sync import StableSyncNet
from latentsync.sync.face_cut import AlignedCut
from latentsync.sync.offset import levelled_curve, overlapping_distances
from latentsync.sync.stable_judge import BATCH_WINDOWS, StableSyncNetJudge

TINY = {  # 128 channels, 4 a group: of 2 values the last norm would leave only the signs
    "audio_encoder": {
        "in_channels": 1,
        "block_out_channels": [32, 128],
        "downsample_factors": [[10, 4], [8, 7]],
    },
    "visual_encoder": {
        "in_channels": 24,
        "block_out_channels": [32, 128],
        "downsample_factors": [[2, 4], [4, 4]],
    },
}


def opening(frames, seed=0):
    """How far a mouth is open, (F,) in [0, 1]."""
    noise = torch.randn(frames, generator=torch.Generator().manual_seed(seed)).numpy()
    series = torch.from_numpy(gaussian_filter1d(noise, 1.2))
    return (series - series.min()) / (series.max() - series.min())


def faces_of(mouth):
    """Faces (F, 3, SIDE, SIDE) as bright below the middle as the mouth is open; noise above it."""
    generator = torch.Generator().manual_seed(5)
    faces = torch.randint(0, 256, (len(mouth), 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    faces[:, :, SIDE // 2 :] = (40 + 180 * mouth).to(torch.uint8)[:, None, None, None]
    return faces


def sound_of(mouth):
    """Noise (640 F,) as loud as the mouth is open."""
    noise = torch.randn(len(mouth) * 640, generator=torch.Generator().manual_seed(6))
    frame = torch.arange(len(noise)) / 640
    low = frame.long().clamp(max=len(mouth) - 2)
    gain = torch.lerp(mouth[low], mouth[low + 1], (frame - low).clamp(max=1).to(mouth.dtype))
    return (noise * 10 ** (2 * gain - 3)).float()


def shifted(offset, frames=80, reach=15):
    """Faces and the sound that is `offset` frames early."""
    mouth = opening(frames + 2 * reach)
    faces = faces_of(mouth[reach : reach + frames])
    start = (reach + offset) * 640
    return faces, sound_of(mouth)[start : start + frames * 640]


@pytest.mark.parametrize("offset", [-15, -8, -1, 0, 3, 12])
def test_a_shifted_sound_moves_the_offset_by_exactly_the_shift(offset):
    judge = StableSyncNetJudge(loudness_syncnet())
    score = judge.score(*shifted(offset))
    assert score.offset_frames == offset
    assert score.min_distance < 0.2 and score.confidence > 0.5
    assert len(score.curve) == 31 and score.offsets == range(-15, 16)
    assert score.curve[offset + 15] == score.min_distance == min(score.curve)


@pytest.mark.parametrize("stride", [1, 3])
def test_a_curve_is_level_whatever_single_rows_of_lips_or_sound_are_like(stride):
    """Rows at the ends that are unlike everything, as of a silence, once gave the farthest offset."""
    generator = torch.Generator().manual_seed(3)
    mouth = F.normalize(torch.randn(36, 6, generator=generator))
    lips, sound = mouth[::stride].clone(), mouth.clone()
    plain = overlapping_distances(lips, sound, max_offset=15, distance=unlikeness, stride=stride)
    assert plain.shape == (len(lips), 31) and plain[0].isnan().tolist() == [False] * 16 + [True] * 15
    far = torch.zeros(len(lips), 1)
    far[: len(lips) // 3] = 3.0
    tilted = plain + far
    assert plain.nanmean(dim=0).argmin() == 15 and tilted.nanmean(dim=0).argmin() != 15
    level, straight = (levelled_curve(d, stride=stride) for d in (plain, tilted))
    assert level.argmin() == straight.argmin() == 15
    assert torch.allclose(level - level.mean(), straight - straight.mean(), atol=0.05)
    assert level.mean() == pytest.approx(float(plain.nanmean()), abs=0.1)


def unlikeness(first, second):
    return 1 - (first * second).sum(dim=1)


@pytest.mark.parametrize("stride", [2, 5])
def test_fewer_windows_find_the_same_offset(stride):
    judge = StableSyncNetJudge(loudness_syncnet(), stride_frames=stride)
    whole = StableSyncNetJudge(loudness_syncnet())
    faces, sound = shifted(4)
    assert judge.score(faces, sound).offset_frames == 4
    assert torch.allclose(judge.encode_faces(faces), whole.encode_faces(faces)[::stride], atol=1e-6)


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return StableSyncNet.from_upstream(TINY, num_frames=FRAMES, resolution=SIDE)


def test_windows_are_those_of_the_network_whatever_the_batches(tiny):
    judge = StableSyncNetJudge(tiny)
    count = 2 * BATCH_WINDOWS + FRAMES + 3
    faces, sound = faces_of(opening(count)), sound_of(opening(count))
    mel = syncnet_mel(sound).numpy()
    for start in (0, BATCH_WINDOWS - 1, BATCH_WINDOWS, count - FRAMES):
        window = tiny.prepare(normalize(faces[start : start + FRAMES]))[None]
        with torch.no_grad():
            vision, audio = tiny(window, mel_window(mel, start, FRAMES)[None])
        assert torch.allclose(judge.encode_faces(faces)[start], vision[0], atol=1e-5)
        assert torch.allclose(judge.encode_faces(iter(faces.split(5)))[start], vision[0], atol=1e-5)
        assert torch.allclose(judge.encode_sound(sound)[start], audio[0], atol=1e-5)
    assert len(judge.encode_faces(faces)) == len(judge.encode_sound(sound)) == count - FRAMES + 1


def test_several_sounds_are_scored_as_each_alone_and_what_is_longer_is_cut(tiny):
    judge = StableSyncNetJudge(tiny)
    faces, sound = shifted(0, frames=60)
    both = judge.score_sounds(faces, [sound, sound.flip(0)])
    assert judge.score(faces, sound.flip(0)).curve == pytest.approx(both[1].curve, abs=1e-6)
    cut = judge.score(faces[:40], sound).curve
    assert judge.score(faces[:40], sound[: 40 * 640 + 900]).curve == pytest.approx(cut, abs=1e-6)
    assert judge.score(faces, sound[: 40 * 640]).curve == pytest.approx(
        judge.score(faces[:40], sound[: 40 * 640]).curve, abs=1e-6
    )


def test_the_judge_says_what_it_wants(tiny):
    judge = StableSyncNetJudge(tiny)
    assert judge.face_cut == AlignedCut(SIDE) and judge.min_frames == FRAMES + 15 + 10 - 1
    shortest = judge.score(faces_of(opening(judge.min_frames)), sound_of(opening(judge.min_frames)))
    assert len(shortest.curve) == 31
    with pytest.raises(ValueError, match="0 windows of faces and 40 frames"):
        judge.score(faces_of(opening(FRAMES - 1)), sound_of(opening(40)))
    with pytest.raises(ValueError, match="stride_frames 9: expected 1 to 8"):
        StableSyncNetJudge(tiny, stride_frames=9)


def test_a_network_of_latents_sees_them_through_its_autoencoder():
    torch.manual_seed(1)
    vae = AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        scaling_factor=0.5,
    )
    syncnet = loudness_syncnet(latent_space=True, lower_half=False)
    with pytest.raises(ValueError, match="needs the autoencoder"):
        StableSyncNetJudge(syncnet)
    judge = StableSyncNetJudge(syncnet, vae=vae)
    faces = faces_of(opening(FRAMES))
    seen = []
    syncnet.visual_encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    judge.encode_faces(faces)
    with torch.no_grad():
        latents = vae.encode(normalize(faces)).latent_dist.mean * 0.5
    assert torch.allclose(seen[0], latents.flatten(0, 1)[None], atol=1e-5)
    assert seen[0].shape == (1, 4 * FRAMES, SIDE // 2, SIDE // 2)
