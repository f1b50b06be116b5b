"""The pipeline: against the whole original call, and what must hold whatever the weights."""

import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler

from latentsync.audio.windows import frame_windows
from latentsync.diffusion.condition import Condition
from latentsync.diffusion.noise import released_scheduler
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.sampling import Sampling
from latentsync.diffusion.unet import UNet3DConditionModel
from latentsync.face import Composer, align, crop_size, normalize, similarity, template, warp_to_crop
from latentsync.face.align import sample
from latentsync.face.mask import lips_region


def sampled(array, output):
    """The part of a full result that a golden case keeps."""
    if "sample" not in output:
        return array
    spec = output["sample"]
    return array[tuple(slice(a, None, b) for a, b in zip(spec["start"], spec["step"], strict=True))]


def close(found, wanted, factor=1e-4):
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else found
    assert np.abs(found - wanted).max() <= factor * (1 + wanted.std())


@pytest.fixture(scope="module")
def original(golden):
    """The original call's case, and our pipeline with its weights."""
    info, weights, tensors = golden("latentsync", "pipeline_loop")
    config = info["config"]
    unet = UNet3DConditionModel.from_upstream(
        config["unet"], {key: torch.from_numpy(value) for key, value in weights["unet"].items()}
    )
    vae = AutoencoderKL(**config["vae"], scaling_factor=0.18215).eval()
    vae.load_state_dict({key: torch.from_numpy(value) for key, value in weights["vae"].items()})
    scheduler = DDIMScheduler.from_config(config["scheduler"])
    pipeline = LipsyncPipeline(vae, None, unet, scheduler, resolution=config["resolution"], overlap=0)
    pipeline.set_progress_bar_config(disable=True)
    return info, tensors, pipeline


def chunks(info, tensors):
    """(number, first frame, frames) of each chunk of the original call."""
    for number, first in enumerate(
        range(0, len(tensors["output.affine_matrices"]), info["config"]["frames_per_chunk"])
    ):
        yield number, first, tensors[f"output.chunk{number}.audio_embeds"].shape[0] // 2


def upstream_matrices(info, tensors):
    """The original's matrices: ours plus its smoothing, which adds a residual in units of the template to
    pixels.
    """
    landmarks = tensors["input.landmark_2d_106"].astype(np.float64)
    groups = ([43, 48, 49, 51, 50], [101, 102, 103, 104, 105], [74, 77, 83, 86])
    points = np.stack([np.round(landmarks[:, group].mean(axis=1)) for group in groups], axis=1)
    target = template(info["config"]["resolution"]).astype(np.float64)
    matrices, previous = similarity(points, target), None
    for matrix, face in zip(matrices, points, strict=True):
        centred = [(x - x.mean(axis=0)) / (x - x.mean(axis=0)).std(ddof=1) for x in (face, target)]
        bias = centred[1][2] - centred[0][2]
        bias = bias if previous is None else 0.2 * previous + 0.8 * bias
        matrix[:, 2] += bias
        previous = bias
    count = len(matrices)
    order = [*range(count), *reversed(range(count))] * 9  # upstream doubles the turning frame
    shown = len(tensors["output.affine_matrices"])
    return matrices[order[:shown]], [tensors["input.video_frames"][index] for index in order[:shown]]


def upstream_faces(info, tensors):
    """The original's aligned faces: the crop is truncated to whole grey levels where ours is rounded."""
    matrices, frames = upstream_matrices(info, tensors)
    resolution = info["config"]["resolution"]
    crops = torch.cat(
        [warp_to_crop(f, m, crop_size(resolution)) for f, m in zip(frames, matrices, strict=True)]
    )
    crops = (crops + 1e-3).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    squares = [cv2.resize(crop, (resolution, resolution), interpolation=cv2.INTER_LANCZOS4) for crop in crops]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)


@pytest.mark.golden
def test_alignment_of_the_original_call_is_ours_plus_its_known_faults(original):
    info, tensors, _ = original
    matrices, frames = upstream_matrices(info, tensors)
    np.testing.assert_allclose(matrices, tensors["output.affine_matrices"], atol=1e-3)
    wanted = tensors["output.faces_u8"].astype(int)
    found = sampled(upstream_faces(info, tensors).numpy(), info["outputs"]["faces_u8"]).astype(int)
    assert np.abs(found - wanted).max() <= 1
    assert (found != wanted).mean() < 0.005
    ours = align(frames, matrices, info["config"]["resolution"]).numpy().astype(int)
    assert (
        np.abs(sampled(ours, info["outputs"]["faces_u8"]) - wanted).mean() <= 0.7
    )  # rounding: half a level brighter


@pytest.mark.golden
def test_windows_of_the_original_call(original):
    info, tensors, _ = original
    left, right = info["config"]["audio_feat_length"]
    shown = len(tensors["output.affine_matrices"])
    features = torch.from_numpy(tensors["input.audio_features"])
    windows = frame_windows(features, 25, left=left, right=right, frames=shown)
    for number, first, frames in chunks(info, tensors):
        wanted = tensors[f"output.chunk{number}.audio_embeds"]
        assert np.abs(wanted[:frames]).max() == 0  # nothing is heard first
        close(windows[first : first + frames], wanted[frames:])


@pytest.mark.golden
def test_condition_of_the_original_call(original, monkeypatch):
    info, tensors, pipeline = original
    faces = normalize(upstream_faces(info, tensors))
    draws = iter(torch.from_numpy(tensors[f"input.random_draw.{index}"]) for index in range(1, 99)
                 if f"input.random_draw.{index}" in tensors)  # fmt: skip
    monkeypatch.setattr("diffusers.models.autoencoders.vae.randn_tensor", lambda *_, **__: next(draws))
    noise = torch.from_numpy(tensors["input.random_draw.0"])[0]
    with torch.no_grad():
        for number, first, frames in chunks(info, tensors):
            condition = pipeline.encode_condition(
                faces[first : first + frames], pipeline.mask(), torch.Generator()
            )
            seen = torch.cat(
                [noise.expand(-1, frames, -1, -1), condition.mask, condition.masked, condition.reference]
            )
            # a grey level that differs by one in a face moves its latents by some 1e-3
            wanted = tensors[f"output.chunk{number}.unet_input_step0"]
            assert np.abs(seen.numpy() - wanted).max() < 2e-2
            assert np.abs(seen.numpy() - wanted).mean() < 1e-3 * wanted.std()


@pytest.mark.golden
def test_denoising_and_decoding_of_the_original_call(original):
    info, tensors, pipeline = original
    config, steps = info["config"], []
    channels = config["vae"]["latent_channels"]
    for number, _, frames in chunks(info, tensors):
        seen = torch.from_numpy(tensors[f"output.chunk{number}.unet_input_step0"])[0]
        noise, mask, masked, reference = seen.split([channels, 1, channels, channels])
        audio = torch.from_numpy(tensors[f"output.chunk{number}.audio_embeds"])[frames:]
        steps.clear()

        def keep(_pipe, _index, _t, found):
            steps.append(found["latents"])
            return found

        sampling = Sampling(
            config["num_inference_steps"], config["guidance_scale"], callback_on_step_end=keep
        )
        with torch.no_grad():
            latents = pipeline.denoise(noise[:, :1], Condition(mask, masked, reference), audio, sampling)
            decoded = pipeline.decode(latents)
        np.testing.assert_array_equal(pipeline.scheduler.timesteps.numpy(), tensors["output.timesteps"])
        close(torch.stack(steps), tensors[f"output.chunk{number}.latents_per_step"])
        close(
            sampled(decoded.numpy(), info["outputs"][f"chunk{number}.decoded"]),
            tensors[f"output.chunk{number}.decoded"],
        )


@pytest.mark.golden
def test_the_mouth_of_the_original_call_is_put_back_alike(original, monkeypatch):
    """Within the mask; outside it the original resamples its whole crop, which ours leaves untouched.

    The original shrinks faces without antialiasing and truncates: ours is switched to the former; the latter
    is half a level.
    """
    monkeypatch.setattr("latentsync.face.compose.matrix_scale", lambda matrix: 1.0)
    info, tensors, pipeline = original
    matrices, frames = upstream_matrices(info, tensors)
    faces = normalize(upstream_faces(info, tensors))
    composer = Composer(pipeline.resolution)
    whole = Composer(pipeline.resolution, mask=torch.zeros(1, pipeline.resolution, pipeline.resolution))
    channels = info["config"]["vae"]["latent_channels"]
    wanted, differences = tensors["output.video_frames"].astype(int), []
    with torch.no_grad():
        for number, first, count in chunks(info, tensors):
            latents = torch.from_numpy(tensors[f"output.chunk{number}.latents_per_step"][-1, 0])
            assert latents.shape[0] == channels
            drawn = pipeline.decode(latents)
            pasted = pipeline.compose(drawn, faces[first : first + count], pipeline.mask())
            close(
                sampled(pasted.numpy(), info["outputs"][f"chunk{number}.pasted"]),
                tensors[f"output.chunk{number}.pasted"],
                1e-2,
            )
            for index in range(count):
                frame = frames[first + index]
                ours = composer.compose(frame, pasted[index], matrices[first + index])
                # away from the rim of the hole, where ours fades, and of the crop, where the original's does
                size = frame.shape[1::-1]
                core = [sample(c.alpha, matrices[first + index], size)[0] >= 0.999 for c in (composer, whole)]
                core = (core[0] & core[1]).numpy()[..., None]
                spec = {
                    "sample": {key: v[1:] for key, v in info["outputs"]["video_frames"]["sample"].items()}
                }
                gap = np.abs(sampled(ours, spec).astype(int) - wanted[first + index])
                differences.append(gap[np.broadcast_to(sampled(core, spec), gap.shape)])
    differences = np.concatenate(differences)
    assert len(differences) > 100
    assert differences.mean() < 0.7
    assert (differences <= 2).mean() > 0.98


def faces_and_windows(pipeline, frames, seed=5):
    generator = torch.Generator().manual_seed(seed)
    R = pipeline.resolution
    faces = torch.rand(frames, 3, R, R, generator=generator) * 2 - 1
    width = pipeline.unet.config.cross_attention_dim
    return faces, torch.randn(frames, 20, width, generator=generator)


@pytest.mark.parametrize("frames", [1, 3, 8, 9, 14, 15, 30])
@pytest.mark.parametrize("kind", ["temporal_pipeline", "frame_pipeline"])
def test_every_frame_comes_back_once_and_only_the_hole_is_redrawn(request, kind, frames):
    pipeline = request.getfixturevalue(kind)
    faces, windows = faces_and_windows(pipeline, frames)
    result = pipeline(faces, windows, generator=torch.Generator().manual_seed(0)).faces
    assert result.shape == faces.shape
    kept = (pipeline.mask() == 1).expand_as(faces)
    assert torch.equal(result[kept], faces[kept])
    assert (result - faces)[~kept].abs().mean() > 0.05


def test_a_seed_means_the_same_faces_and_another_seed_others(frame_pipeline):
    faces, windows = faces_and_windows(frame_pipeline, 5)
    one, two, other = (
        frame_pipeline(faces, windows, generator=torch.Generator().manual_seed(s)).faces for s in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.allclose(one, other, atol=1e-3)


def test_the_window_length_does_not_matter_when_frames_are_independent(frame_pipeline, monkeypatch):
    faces, windows = faces_and_windows(frame_pipeline, 21)
    one = frame_pipeline(faces, windows, generator=torch.Generator().manual_seed(1)).faces
    monkeypatch.setattr(frame_pipeline, "window", 5)
    two = frame_pipeline(faces, windows, generator=torch.Generator().manual_seed(1)).faces
    assert torch.allclose(one, two, atol=1e-4)


@pytest.mark.slow
def test_overlapping_windows_leave_no_seam(temporal_pipeline, monkeypatch):
    """Upstream's windows stand side by side: the step between them is what cross-fading takes away."""
    pipeline = temporal_pipeline
    face, tokens = faces_and_windows(pipeline, 1)
    generator = torch.Generator().manual_seed(3)
    drift = torch.randn(40, 1, tokens.shape[-1], generator=generator).cumsum(0) * 0.2
    faces, windows = face.expand(40, -1, -1, -1), tokens + drift

    def seam(overlap):
        monkeypatch.setattr(pipeline, "overlap", overlap)
        noise = pipeline.draw_noise(torch.Generator().manual_seed(1))
        drawn = torch.stack(list(pipeline.stream(faces, windows, noise, pipeline.sampling())))
        steps = drawn.diff(dim=0).abs().mean(dim=(1, 2, 3))
        hop = pipeline.window - overlap
        joints = steps[hop - 1 :: hop] if overlap == 0 else steps[hop : hop + overlap]
        return float(joints.max() / steps.median())

    assert seam(3) < seam(0)


def test_guidance_of_one_is_no_guidance_and_silence_follows_the_deaf_branch(frame_pipeline):
    faces, windows = faces_and_windows(frame_pipeline, 2)
    deaf = torch.zeros_like(windows)
    results = [
        frame_pipeline(faces, deaf, guidance_scale=g, generator=torch.Generator().manual_seed(1)).faces
        for g in (1.0, 3.0)
    ]
    assert torch.allclose(*results, atol=1e-4)


def test_guidance_of_the_lips_alone_is_none_far_from_them(frame_pipeline):
    """At the lips it draws what guidance draws everywhere, beyond them what the sound alone does."""
    faces, windows = faces_and_windows(frame_pipeline, 2)
    mask = frame_pipeline.mask()
    condition = frame_pipeline.encode_condition(faces, mask)
    noise = frame_pipeline.draw_noise(torch.Generator().manual_seed(1))

    def drawn(guidance_scale):
        return frame_pipeline.denoise(noise, condition, windows, frame_pipeline.sampling(1, guidance_scale))

    plain, guided = drawn(1.0), drawn(3.0)
    frame_pipeline.guidance_region = "lips"
    at_lips = drawn(3.0)
    share = ((at_lips - plain) / (guided - plain))[:, :, (guided - plain).abs().amin(dim=(0, 1)) > 1e-3]
    region = lips_region(16)[(guided - plain).abs().amin(dim=(0, 1)) > 1e-3]
    torch.testing.assert_close(share, region.expand_as(share), atol=0.02, rtol=0)
    assert region.max() > 0.8 and region.min() < 0.01
    with pytest.raises(ValueError, match="guidance_region 'nose'"):
        LipsyncPipeline(**frame_pipeline.components, guidance_region="nose")


def test_callbacks_see_every_step_and_may_change_the_latents(frame_pipeline):
    faces, windows = faces_and_windows(frame_pipeline, 2)
    seen = []

    def blank(_pipe, index, t, found):
        seen.append((index, int(t)))
        return {"latents": torch.zeros_like(found["latents"])}

    result = frame_pipeline(faces, windows, num_inference_steps=3, callback_on_step_end=blank).faces
    assert [index for index, _ in seen] == [0, 1, 2]
    mask = frame_pipeline.mask()
    nothing = frame_pipeline.decode(torch.zeros(4, 1, 16, 16))
    assert torch.allclose(result * (1 - mask), (nothing * (1 - mask) + faces * mask) * (1 - mask), atol=1e-5)


@pytest.mark.parametrize(("strength", "run"), [(1.0, [0, 1, 2]), (0.67, [1, 2]), (0.34, [2]), (0.01, [2])])
def test_strength_runs_the_last_steps(frame_pipeline, strength, run):
    faces, windows = faces_and_windows(frame_pipeline, 9)
    seen = []

    def note(_pipe, index, t, found):
        seen.append((index, int(t)))
        return found

    noise = frame_pipeline.draw_noise(torch.Generator().manual_seed(3))
    settings = frame_pipeline.sampling(3, 1.0, strength=strength, callback_on_step_end=note)
    drawn = list(frame_pipeline.stream(faces, windows, noise, settings))
    times = frame_pipeline.scheduler.timesteps.tolist()
    assert seen[: len(run)] == [(index, times[index]) for index in run] and len(drawn) == 9


def test_the_less_strength_the_nearer_the_footage(frame_pipeline):
    faces, windows = faces_and_windows(frame_pipeline, 5)
    noise = frame_pipeline.draw_noise(torch.Generator().manual_seed(3))
    condition = frame_pipeline.encode_condition(faces, frame_pipeline.mask())
    shown = torch.stack([face.whole for face in frame_pipeline.encode(faces, frame_pipeline.mask())], dim=1)

    def away(strength):
        settings = frame_pipeline.sampling(50, 1.0, strength=strength)
        found = frame_pipeline.denoise_windows(noise, [condition], [windows], settings, shown=shown[None])
        return float((found - shown).abs().mean())

    near, half, whole = away(0.02), away(0.5), away(0.999)
    assert 2 * near < half < whole, (near, half, whole)
    full = frame_pipeline.denoise(noise, condition, windows, frame_pipeline.sampling(50, 1.0))
    assert away(1.0) == pytest.approx(float((full - shown).abs().mean()))


def test_strength_needs_latents_a_share_and_a_plain_sampler(frame_pipeline):
    faces, windows = faces_and_windows(frame_pipeline, 3)
    for wrong in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="the share of the steps that run"):
            frame_pipeline.sampling(strength=wrong)
    noise = frame_pipeline.draw_noise()
    condition = frame_pipeline.encode_condition(faces, frame_pipeline.mask())
    for strength in (0.5, 0.99):
        with pytest.raises(ValueError, match=f"strength {strength} starts from latents .* here is none"):
            frame_pipeline.denoise(noise, condition, windows, frame_pipeline.sampling(4, strength=strength))
    heun = LipsyncPipeline(
        **{**frame_pipeline.components, "scheduler": HeunDiscreteScheduler()}, resolution=32
    )
    with pytest.raises(ValueError, match="here is HeunDiscreteScheduler"):
        list(heun.stream(faces, windows, noise, heun.sampling(4, strength=0.5)))


def test_another_scheduler_runs(frame_pipeline):
    faces, windows = faces_and_windows(frame_pipeline, 3)
    other = LipsyncPipeline(
        **{**frame_pipeline.components, "scheduler": EulerDiscreteScheduler()}, resolution=32
    )
    other.set_progress_bar_config(disable=True)
    result = other(faces, windows, num_inference_steps=4, generator=torch.Generator().manual_seed(0)).faces
    assert torch.isfinite(result).all()


def test_save_and_load_give_the_same_faces_and_settings(temporal_pipeline, tmp_path):
    temporal_pipeline.save_pretrained(tmp_path)
    again = LipsyncPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert (again.resolution, again.window, again.overlap) == (32, 8, 2)
    assert again.sampling().steps == 2
    faces, windows = faces_and_windows(again, 9)
    one, two = (
        p(faces, windows, generator=torch.Generator().manual_seed(1)).faces
        for p in (temporal_pipeline, again)
    )
    assert torch.equal(one, two)


def test_wrong_arguments_are_refused_in_words(frame_pipeline):
    faces, windows = faces_and_windows(frame_pipeline, 3)
    with pytest.raises(ValueError, match="3 faces with 2"):
        frame_pipeline(faces, windows[:2])
    with pytest.raises(ValueError, match="inference steps must be in"):
        frame_pipeline(faces, windows, num_inference_steps=0)
    with pytest.raises(ValueError, match="guidance"):
        frame_pipeline(faces, windows, guidance_scale=-1.0)


def test_the_released_sampler_takes_the_original_steps():
    scheduler = released_scheduler()
    scheduler.set_timesteps(20)
    assert scheduler.timesteps.tolist() == list(range(951, 0, -50))
    assert float(scheduler.final_alpha_cumprod) == pytest.approx(0.99914998, abs=1e-7)


def test_skin_is_steadied_over_windows_and_lips_stay_as_they_were(frame_pipeline, monkeypatch):
    faces, windows = faces_and_windows(frame_pipeline, 21)
    settings, noise = (
        frame_pipeline.sampling(1, 1.0),
        frame_pipeline.draw_noise(torch.Generator().manual_seed(1)),
    )
    monkeypatch.setattr(frame_pipeline, "decode", lambda latents: latents.transpose(0, 1))

    def drawn(steady_frames):
        monkeypatch.setattr(frame_pipeline, "steady_frames", steady_frames)
        return torch.stack(list(frame_pipeline.stream(faces, windows, noise, settings)))

    restless, calm = drawn(0), drawn(2)
    assert calm.shape == restless.shape and len(calm) == 21
    lips = lips_region(calm.shape[-1])
    assert calm[..., lips < 0.1].diff(dim=0).std() < 0.6 * restless[..., lips < 0.1].diff(dim=0).std()
    moved = (calm - restless).abs().mean(dim=(0, 1))
    assert moved[lips > 0.8].max() < 0.3 * moved[lips < 0.1].mean()
