"""LPIPS: what must hold of any distance of pictures, the formula written out, and the files it opens."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_auxiliary import lpips_state, save_lpips, save_vgg16, vgg16_state

from latentsync.errors import CheckpointError
from latentsync.quality.lpips import RELEASED_WEIGHTS, WIDTHS, Lpips


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    return save_vgg16(folder / "vgg16.pth"), save_lpips(folder / "vgg.pth")


@pytest.fixture(scope="module")
def judge(files):
    return Lpips.from_files(*files)


def picture(size=64):
    """A disc with a sharp edge, a bar and a slope of grey, (1, 3, size, size) in [-1, 1]."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    red = torch.where(x**2 + y**2 < 0.4, 0.9, -0.6)
    green = torch.where(x.abs() < 0.1, 1.0, -0.2)
    return torch.stack([red, green, y])[None]


def blurred(image, radius):
    kernel = 2 * radius + 1
    return F.avg_pool2d(F.pad(image, [radius] * 4, mode="reflect"), kernel, stride=1)


def noise(seed, shape=(2, 3, 32, 48)):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_equal_pictures_are_0_apart_and_others_are_not(judge):
    a, b = noise(0), noise(1)
    assert judge(a, a).tolist() == [0, 0]
    assert (judge(a, b) > 0).all()
    assert torch.equal(judge(a, b), judge(b, a))


def test_a_picture_is_judged_alone_whatever_is_beside_it(judge):
    a, b = noise(0), noise(1)
    assert torch.allclose(judge(a, b)[1:], judge(a[1:], b[1:]), rtol=1e-5)


def test_more_blur_is_farther(judge):
    """Near the picture; with random weights nothing is promised of pictures that have little in common."""
    sharp = picture()
    distances = [judge(blurred(sharp, radius), sharp).item() for radius in range(5)]
    assert distances[0] == 0
    assert distances == sorted(distances)


def test_the_formula_written_out_over_the_files_tensors(judge):
    """Scaling, five taps behind a ReLU, unit vectors, weighted squares, spatial mean, sum."""
    trunk, lins = vgg16_state(), lpips_state()
    a, b = noise(0), noise(1)
    taps = {2: 0, 7: 1, 14: 2, 21: 3, 28: 4}  # a level's last convolution
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    streams = [((x + 1) / 2 - mean[:, None, None]) / spread[:, None, None] for x in (a, b)]
    total = torch.zeros(2)
    for index in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28):
        weight, bias = trunk[f"features.{index}.weight"], trunk[f"features.{index}.bias"]
        streams = [F.relu(F.conv2d(x, weight, bias, padding=1)) for x in streams]
        if index in taps:
            lengths = [x.square().sum(1, keepdim=True).sqrt() + 1e-10 for x in streams]
            difference = streams[0] / lengths[0] - streams[1] / lengths[1]
            total += F.conv2d(difference**2, lins[f"lin{taps[index]}.model.1.weight"]).mean((1, 2, 3))
            streams = [F.max_pool2d(x, 2) for x in streams]
    assert torch.allclose(judge(a, b), total, rtol=1e-4)


def test_the_gradient_flows_into_the_pictures_alone(judge):
    prediction = noise(0).requires_grad_(True)
    judge(prediction, noise(1)).sum().backward()
    assert torch.isfinite(prediction.grad).all()
    assert (prediction.grad.abs().amax(dim=(1, 2, 3)) > 0).all()
    assert not any(parameter.requires_grad for parameter in judge.parameters())


def test_a_step_along_the_gradient_brings_the_pictures_nearer(judge):
    prediction, target = blurred(picture(), 2).requires_grad_(True), picture()
    before = judge(prediction, target)
    (slope,) = torch.autograd.grad(before.sum(), prediction)
    with torch.no_grad():
        assert judge(prediction - 0.01 * slope / slope.abs().max(), target) < before


def test_places_where_nothing_fires_have_a_gradient(files):
    """The root of a sum of zeros has none: NaN."""
    judge = Lpips.from_files(*files)
    for name, parameter in judge.features.named_parameters():
        if name.endswith("bias"):
            parameter.fill_(-100.0)
    prediction = noise(0).requires_grad_(True)
    judge(prediction, noise(1)).sum().backward()
    assert prediction.grad.abs().max() == 0


def test_checkpointing_changes_nothing_but_memory(files, judge):
    saving = Lpips.from_files(*files, gradient_checkpointing=True)
    slopes, calls = [], []
    saving.features[0].register_forward_hook(lambda *_: calls.append(1))
    for network in (judge, saving):
        prediction = noise(0).requires_grad_(True)
        network(prediction, noise(1)).sum().backward()
        slopes.append(prediction.grad)
    assert torch.allclose(*slopes, rtol=1e-4, atol=1e-8)  # sums of one picture and of two
    assert len(calls) == 8  # two predictions and two targets, and all of them again on the way back


def test_half_precision_gives_nearly_the_same(files, judge):
    """bfloat16 keeps 8 bits: 1/256 a layer, 13 layers."""
    half = Lpips.from_files(*files).to(torch.bfloat16)
    a, b = noise(0), noise(1)
    assert half(a, b).dtype == torch.float32
    assert torch.allclose(half(a, b), judge(a, b), rtol=0.05)


def test_pictures_that_cannot_be_compared_are_refused_with_their_shapes(judge):
    with pytest.raises(ValueError, match=r"\(2, 3, 32, 48\) and \(1, 3, 32, 48\)"):
        judge(noise(0), noise(1)[:1])
    with pytest.raises(ValueError, match="two"):
        judge(noise(0)[:, :1], noise(1)[:, :1])
    with pytest.raises(ValueError, match=r"\(8, 8\) px"):
        judge(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="5 levels, got 2"):
        Lpips((4, 4))


def test_the_released_1x1_layers_come_along_and_fit_the_real_trunk():
    released = load_file(RELEASED_WEIGHTS)
    assert [value.shape for value in released.values()] == [(1, width, 1, 1) for width in WIDTHS]
    assert all((value >= 0).all() for value in released.values())
    with torch.device("meta"):
        judge = Lpips()
    state = judge.state_dict()
    assert {name for name in state if name.startswith("lin")} == released.keys()
    assert sum(value.numel() for value in state.values()) == 14_714_688 + 1472


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_or_truncated_file_is_named(files, tmp_path, which):
    pair = list(files)
    pair[which] = tmp_path / "short.pth"
    with pytest.raises(FileNotFoundError, match=r"short\.pth"):
        Lpips.from_files(*pair)
    pair[which].write_bytes(files[which].read_bytes()[:-500])
    with pytest.raises(CheckpointError, match=r"short\.pth.*download"):
        Lpips.from_files(*pair)


def test_foreign_files_are_named(files, tmp_path):
    trunk, weights = files
    with pytest.raises(CheckpointError, match=r"1x1 layers of LPIPS; expected torchvision's VGG16"):
        Lpips.from_files(weights, trunk)
    with pytest.raises(CheckpointError, match=r"weigh \[64, .*\] channels, but .* has \[4, 4, 6, 8, 8\]"):
        Lpips.from_files(trunk)  # the released layers over a tiny trunk
    lacking = {name: value for name, value in vgg16_state().items() if name != "features.5.bias"}
    torch.save(lacking, tmp_path / "lacking.pth")
    with pytest.raises(CheckpointError, match=r"1 tensor\(s\) missing \['features.5.bias'\].*pytorch\.org"):
        Lpips.from_files(tmp_path / "lacking.pth", weights)
    torch.save({**vgg16_state(), "features.30.weight": torch.zeros(2)}, tmp_path / "deeper.pth")
    with pytest.raises(CheckpointError, match=r"1 unknown \['features.30.weight'\]"):
        Lpips.from_files(tmp_path / "deeper.pth", weights)
    torch.save({**vgg16_state(), "features.5.bias": torch.zeros(3)}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"features\.5\.bias has shape \(3,\), expected \(4,\)"):
        Lpips.from_files(tmp_path / "odd.pth", weights)
    torch.save({"features.28.weight": torch.zeros(4, 4, 3, 3)}, tmp_path / "tail.pth")
    with pytest.raises(CheckpointError, match=r"lack features\.2\.weight"):
        Lpips.from_files(tmp_path / "tail.pth", weights)
