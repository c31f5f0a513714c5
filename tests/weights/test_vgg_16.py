"""torchvision's VGG-16 as the start of the streams and of their fusion."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tolerances import FLOAT64_PEER, NOTICED, relative_error
from torch import Tensor, nn
from torchvision.models import vgg

from muybridge.errors import WeightsError
from muybridge.models.registry import build
from muybridge.models.vgg import Vgg16, from_torchvision
from muybridge.weights.store import init_trunk

CROP, WIDTH = 64, 1 / 8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's, red first
SIZES = {"num_classes": 3, "width": WIDTH, "crop": CROP, "num_flows": 4}


@pytest.fixture
def theirs() -> nn.Module:
    """torchvision's VGG-16 at an eighth of its channels, for 64 x 64 pixels, with random weights."""
    torch.manual_seed(0)
    channels = [one if one == "M" else int(one * WIDTH) for one in vgg.cfgs["D"]]
    network = vgg.VGG(vgg.make_layers(channels), num_classes=9, init_weights=False)
    network.avgpool = nn.Identity()
    for place, sizes in ((0, (64 * 2 * 2, 512)), (3, (512, 512)), (6, (512, 9))):
        network.classifier[place] = nn.Linear(*sizes)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        else:
            nn.init.normal_(parameter, std=0.1)
    return network.double().eval()


def trunk_of(network: nn.Module, **how: tuple[float, ...]) -> dict[str, Tensor]:
    found = from_torchvision(network.state_dict(), **how)
    assert [name for name in found if name.startswith("head.")] == [
        "head.classifier.6.weight",
        "head.classifier.6.bias",
    ]
    return {name: value for name, value in found.items() if not name.startswith("head.")}


def pixels_of(picture: Tensor, mean_bgr: tuple[float, ...]) -> Tensor:
    """A picture of 0 to 255, red first, as Caffe's networks see it: blue first, less a mean."""
    return (picture.flip(1) - torch.tensor(mean_bgr, dtype=picture.dtype).view(3, 1, 1))[:, :, None]


@torch.no_grad()
def test_the_tower_computes_the_same_of_pixels(theirs: nn.Module):
    picture = 255 * torch.rand(2, 3, CROP, CROP, dtype=torch.float64)
    mean, std = (torch.tensor(one, dtype=picture.dtype).view(3, 1, 1) for one in (MEAN, STD))
    normalised = (picture / 255 - mean) / std
    expected = theirs.classifier[:5](theirs.features(normalised).flatten(1))  # until the second ReLU
    tower = Vgg16(3, width=WIDTH, crop=CROP).double().eval()
    own_mean = tuple(255 * value for value in MEAN[::-1])
    tower.load_state_dict(trunk_of(theirs, mean_bgr=own_mean))
    found = tower(pixels_of(picture, own_mean)).flatten(1)
    assert relative_error(found, expected) < FLOAT64_PEER
    tower.load_state_dict(trunk_of(theirs, mean_bgr=(104, 117, 123)))
    found = tower(pixels_of(picture, (104, 117, 123))).flatten(1)
    assert 0 < relative_error(found, expected) < 0.01  # another colour lies around the picture
    assert relative_error(tower(pixels_of(picture.flip(1), own_mean)).flatten(1), expected) > NOTICED


@torch.no_grad()
def test_without_a_mean_the_layers_are_as_they_were(theirs: nn.Module):
    tower = Vgg16(3, width=WIDTH, crop=CROP).double().eval()
    tower.load_state_dict(trunk_of(theirs))
    x = torch.randn(2, 3, CROP, CROP, dtype=torch.float64)
    assert (
        relative_error(tower(x[:, :, None], until="conv5_3")[:, :, 0], theirs.features[:30](x)) < FLOAT64_PEER
    )
    expected = theirs.classifier[:5](theirs.features(x).flatten(1))
    assert relative_error(tower(x[:, :, None]).flatten(1), expected) < FLOAT64_PEER


def test_both_streams_take_the_file(theirs: nn.Module, tmp_path: Path):
    state = theirs.float().state_dict()
    torch.save(state, tmp_path / "vgg16.pth")
    for name, adapted in (
        ("two_stream_spatial", ("tower.conv1_1.weight", "tower.conv1_1.bias")),
        ("two_stream_temporal", ("tower.conv1_1.weight",)),
    ):
        sizes = {
            key: value for key, value in SIZES.items() if name.endswith("temporal") or key != "num_flows"
        }
        model = build(name, backbone="vgg_16", **sizes)
        report = init_trunk(model, tmp_path / "vgg16.pth")
        assert report.adapted == adapted
        assert set(report.random) == {"head.fc.weight", "head.fc.bias"}
        assert report.dropped == ("head.classifier.6.weight", "head.classifier.6.bias")
        assert torch.equal(model.tower.full7.weight, state["classifier.3.weight"])
    mean = state["features.0.weight"].mean(1)
    for channel in range(8):
        torch.testing.assert_close(model.tower.conv1_1.weight[:, channel, 0], mean)


@pytest.mark.parametrize(
    ("keep", "places"),
    [
        ("temporal", {"spatial.conv5_3": 28, "temporal.conv1_2": 2, "fused.relu5.full6": 0, "kept.full7": 3}),
        ("spatial", {"spatial.conv2_1": 5, "temporal.conv5_3": 28, "fused.relu5.full7": 3, "kept.full6": 0}),
        ("none", {"spatial.conv4_2": 19, "temporal.conv3_1": 10, "fused.relu5.full6": 0}),
    ],
)
def test_the_fusion_takes_the_file_into_all_its_parts(
    theirs: nn.Module, tmp_path: Path, keep: str, places: dict[str, int]
):
    state = theirs.float().state_dict()
    torch.save(state, tmp_path / "vgg16.pth")
    model = build("two_stream_fusion", keep=keep, **SIZES)
    fusion = {name: value.clone() for name, value in model.fusion.state_dict().items()}
    report = init_trunk(model, tmp_path / "vgg16.pth")
    assert all(name.startswith(("head.", "fusion.")) for name in report.random)
    assert set(report.adapted) == {
        "spatial.conv1_1.weight",
        "spatial.conv1_1.bias",
        "temporal.conv1_1.weight",
    }
    for place, number in places.items():
        part = "classifier" if "full" in place else "features"
        found = model.get_parameter(f"{place}.weight")
        assert torch.equal(found, state[f"{part}.{number}.weight"].view_as(found))
    for name, value in model.fusion.state_dict().items():
        assert torch.equal(value, fusion[name])


def test_another_network_s_file_is_refused(theirs: nn.Module, tmp_path: Path):
    state = theirs.state_dict()
    torch.save(
        {name: value for name, value in state.items() if "features.28." not in name}, tmp_path / "x.pth"
    )
    for name, arguments in (("two_stream_fusion", {}), ("two_stream_temporal", {"backbone": "vgg_16"})):
        model = build(name, **SIZES, **arguments)
        with pytest.raises(WeightsError, match=f"does not fit {name}"):
            init_trunk(model, tmp_path / "x.pth")
    wide = build("two_stream_fusion", operator="concat", temporal="3d_pooling", **SIZES)
    torch.save(state, tmp_path / "vgg16.pth")
    with pytest.raises(
        WeightsError,
        match=r"makes fused\.relu5\.full6\.weight \[512, 512\], the file has \[512, 256\]: start",
    ):
        init_trunk(wide, tmp_path / "vgg16.pth")


@pytest.mark.parametrize("name", ["two_stream_fusion", "two_stream_temporal", "two_stream"])
def test_files_that_are_no_whole_vgg_16_are_refused(theirs: nn.Module, tmp_path: Path, name: str):
    model = build(name, **SIZES, **({} if name == "two_stream_fusion" else {"backbone": "vgg_16"}))
    whole = theirs.float().state_dict()
    features = {key: value * (torch.nan if "classifier" in key else 1) for key, value in whole.items()}
    torch.save(features, tmp_path / "features.pth")
    with pytest.raises(WeightsError, match=r"not numbers, .* take VGG16_Weights\.IMAGENET1K_V1"):
        init_trunk(model, tmp_path / "features.pth")
    grey = whole | {"features.0.weight": whole["features.0.weight"][:, :1].clone()}
    without_bias = {key: value for key, value in whole.items() if key != "features.5.bias"}
    for state in (grey, without_bias):
        torch.save(state, tmp_path / "x.pth")
        with pytest.raises(WeightsError, match=f"does not fit {name}"):
            init_trunk(model, tmp_path / "x.pth")


def test_the_order_of_the_file_does_not_matter_to_what_is_left_over(theirs: nn.Module, tmp_path: Path):
    save_file(theirs.float().state_dict(), tmp_path / "vgg16.safetensors")  # which sorts by size
    model = build("two_stream", backbone="vgg_16", **SIZES)
    report = init_trunk(model, tmp_path / "vgg16.safetensors")
    assert set(report.dropped) == {"head.classifier.6.weight", "head.classifier.6.bias"}
    assert set(report.adapted) == {"rgb.conv1_1.weight", "rgb.conv1_1.bias", "flow.conv1_1.weight"}
    assert all(name.startswith("head.") for name in report.random)


def test_a_checkpoint_of_the_fusion_that_lacks_its_fusion_is_damaged(tmp_path: Path):
    model = build("two_stream_fusion", **SIZES)
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("fusion.")}
    save_file(state, tmp_path / "damaged.safetensors")
    with pytest.raises(WeightsError, match=r"missing fusion\.relu5\.conv\.weight"):
        init_trunk(model, tmp_path / "damaged.safetensors")
