"""Foreign state dicts: every tensor finds its place, and the network then computes what its authors' does."""

import pytest
import torch
import torchvision
from tolerances import FLOAT32_PEER, NOTICED, relative_error
from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

from muybridge.errors import WeightsError
from muybridge.models.contract import VideoModel
from muybridge.models.r2plus1d import mid_channels
from muybridge.models.registry import build
from muybridge.weights.convert import LoadReport, convert, mismatches

TORCHVISION = {"r3d_18": "r3d_18", "mc3_18": "mc3_18", "r2plus1d_18": "r2plus1d_18_torchvision"}


def ours(name: str, **arguments: object) -> VideoModel:
    with torch.device("meta"):
        return build(name, **arguments)


def theirs(name: str) -> dict[str, Tensor]:
    """Names and shapes of torchvision's network, without memory."""
    with torch.device("meta"):
        return getattr(torchvision.models.video, name)().state_dict()


def ig65m() -> VideoResNet:
    """The 34-layer network as the IG-65M weights need it: torchvision's, with the paper's middle widths."""
    blocks = {"conv_makers": [Conv2Plus1D] * 4, "layers": [3, 4, 6, 3], "stem": R2Plus1dStem}
    net = VideoResNet(block=BasicBlock, num_classes=359, **blocks)
    for stage, channels in ((net.layer2, 128), (net.layer3, 256), (net.layer4, 512)):
        stage[0].conv2[0] = Conv2Plus1D(channels, channels, mid_channels(channels, channels))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    return net


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_s_tensors_are_all_of_ours(name):
    found = convert(theirs(name))
    assert found.format == "torchvision"
    assert mismatches(found.tensors, ours(TORCHVISION[name])) == []
    assert len(found.tensors) == {"r3d_18": 122, "mc3_18": 122, "r2plus1d_18": 224}[name]
    assert found.specs is not None
    assert (found.specs[0].fps, found.specs[0].resize_filter, found.specs[0].crop) == (15, "bilinear", 112)
    assert found.arguments == {}


def test_ig65m_s_tensors_are_all_of_ours_and_bring_their_eps():
    with torch.device("meta"):
        found = convert(ig65m().state_dict())
    assert found.format == "IG-65M / VMZ"
    assert found.arguments == {"bn_eps": 1e-3}
    assert mismatches(found.tensors, ours("r2plus1d_34", num_classes=359)) == []


@torch.no_grad()
def test_ig65m_computes_what_its_authors_network_does():
    torch.manual_seed(0)
    net = ig65m().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.running_var, 0.5, 1.0)
    found = convert(net.state_dict())
    model = build("r2plus1d_34", num_classes=359, **found.arguments).eval()
    model.load_state_dict(found.tensors)
    clip = torch.randn(1, 3, 8, 32, 32)
    assert relative_error(model(clip), net(clip)) < FLOAT32_PEER
    model = build("r2plus1d_34", num_classes=359).eval()
    model.load_state_dict(found.tensors)
    assert relative_error(model(clip), net(clip)) > NOTICED  # with the other eps it is another network


def test_values_are_not_exchanged_on_the_way():
    state = {
        key: torch.full(value.shape, float(index))
        for index, (key, value) in enumerate(theirs("mc3_18").items())
    }
    pairs = {
        "stem.0.weight": "stem.conv.weight",
        "stem.1.running_var": "stem.bn.running_var",
        "layer1.1.conv2.0.weight": "stages.0.1.conv_b.weight",
        "layer1.1.conv2.1.bias": "stages.0.1.bn_b.bias",
        "layer3.0.downsample.0.weight": "stages.2.0.shortcut.conv.weight",
        "layer3.0.downsample.1.running_mean": "stages.2.0.shortcut.bn.running_mean",
        "fc.bias": "head.fc.bias",
    }
    found = convert(state).tensors
    for foreign, canonical in pairs.items():
        assert torch.equal(found[canonical], state[foreign]), foreign
    assert len(found) == len(state)


def test_no_tensor_is_left_as_it_was():
    model = build("r3d_18", num_classes=400)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))  # the canary
    state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in theirs("r3d_18").items()}
    model.load_state_dict(convert(state).tensors)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


@pytest.mark.parametrize("wrap", ["state_dict", "model", "model_state"])
def test_training_scripts_wrappings_come_off(wrap):
    state = {f"module.{key}": value for key, value in theirs("r3d_18").items()}
    found = convert({wrap: state, "epoch": 3})
    assert mismatches(found.tensors, ours("r3d_18")) == []


def test_counters_of_batches_may_be_absent():
    state = {key: value for key, value in theirs("r3d_18").items() if "num_batches_tracked" not in key}
    assert mismatches(convert(state).tensors, ours("r3d_18")) == []


def test_ours_passes_through():
    model = ours("r3d_10", width=0.25)
    found = convert(model.state_dict())
    assert found.format == "muybridge"
    assert list(found.tensors) == list(model.state_dict())


def test_tensors_that_do_not_fit_are_listed():
    tensors = convert(theirs("r3d_18")).tensors
    del tensors["stages.0.0.bn_a.weight"]
    tensors["stages.0.0.conv_c.weight"] = tensors["stem.conv.weight"]
    tensors["head.fc.bias"] = torch.zeros(3, device="meta")
    assert mismatches(tensors, ours("r3d_18")) == [
        "missing stages.0.0.bn_a.weight",
        "unexpected stages.0.0.conv_c.weight",
        "head.fc.bias is [3], the network's is [400]",
    ]
    assert len(mismatches(tensors, ours("r3d_18"), trunk_only=True)) == 2


def test_an_odd_name_among_torchvision_s_is_not_dropped():
    state = {**theirs("r3d_18"), "layer1.0.conv3.0.weight": torch.zeros(1), "aux.weight": torch.zeros(1)}
    wrong = mismatches(convert(state).tensors, ours("r3d_18"))
    assert wrong == ["unexpected layer1.0.conv3.0.weight", "unexpected aux.weight"]


def test_unknown_formats_and_other_things_are_refused():
    with pytest.raises(
        WeightsError, match=r"none of the known formats has these names .*: conv1\.weight, fc\.bias"
    ):
        convert({"fc.bias": torch.zeros(1), "conv1.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="a state dict holds tensors only, this one has others: epoch"):
        convert({"stem.0.weight": torch.zeros(1), "epoch": 3})


def test_a_report_says_what_happened():
    report = LoadReport(
        loaded=("stem.conv.weight", "stages.0.0.conv_a.weight", "stages.0.1.conv_a.weight"),
        random=("head.fc.weight", "head.fc.bias"),
        dropped=("head.fc.weight",),
        format="torchvision",
        differs=("bn_eps is 1e-05 here and 0.001 there",),
    )
    assert str(report) == (
        "torchvision weights: 3 tensors loaded (stem, stages.0); 2 tensors random (head); "
        "1 tensors dropped (head); bn_eps is 1e-05 here and 0.001 there"
    )
    assert report.rows()[1] == ("random", 2, "head")
