"""3D ResNets against the counts of their public weights, torchvision's skeleton, and identities."""

import pytest
import torch
from random_norms import randomize_norms
from tolerances import FLOAT32_PEER, FLOAT64_GRADIENT, FLOAT64_PEER, NOTICED, relative_error
from torch import nn
from torchvision.models.video import resnet as peer

from muybridge.errors import ConfigError
from muybridge.models.contract import VideoModel
from muybridge.models.count import count_macs, count_parameters
from muybridge.models.registry import build
from muybridge.models.resnet import ZeroPadding
from muybridge.models.resnet3d import BLOCKS
from muybridge.weights.convert import convert, mismatches

CLIP = (3, 16, 64, 64)


class PeerStem(nn.Sequential):
    """conv1 and the pooling of Table 1, as torchvision's skeleton takes a stem."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv3d(3, 64, 7, stride=(1, 2, 2), padding=3, bias=False),
            nn.BatchNorm3d(64),
            nn.ReLU(),
            nn.MaxPool3d(3, stride=2, padding=1),
        )


def peers(layers: int) -> tuple[VideoModel, nn.Module]:
    """Ours and torchvision's with the same random weights, which go through the authors' names."""
    torch.manual_seed(layers)
    block = peer.BasicBlock if layers < 50 else peer.Bottleneck
    theirs = peer.VideoResNet(block, [peer.Conv3DSimple] * 4, list(BLOCKS[layers]), PeerStem, num_classes=7)
    randomize_norms(theirs)
    state = {authors_name(name): value.clone() for name, value in theirs.state_dict().items()}
    found = convert(state)
    assert found.format == "kenshohara"
    model = build(f"resnet3d_{layers}", num_classes=7, **found.arguments)
    assert mismatches(found.tensors, model) == []
    model.load_state_dict(found.tensors)
    return model, theirs


def authors_name(name: str) -> str:
    """torchvision's name of a tensor -> that of the authors' code: stem.0 is conv1, convN.1 is bnN."""
    name = name.replace("stem.0", "conv1").replace("stem.1", "bn1")
    for n in "123":
        name = name.replace(f".conv{n}.0.", f".conv{n}.").replace(f".conv{n}.1.", f".bn{n}.")
    return name


@pytest.mark.parametrize(
    ("layers", "classes", "parameters", "gmac"),
    [(18, 700, 33_563_004, 8.31), (50, 700, 47_633_276, 10.07)],
)
def test_counts_are_those_of_the_public_weights(layers: int, classes: int, parameters: int, gmac: float):
    with torch.device("meta"):
        model = build(f"resnet3d_{layers}", num_classes=classes)
    assert count_parameters(model) == parameters
    # conv1 alone: 7 x 7 x 7 x 3 x 64 at 16 x 56 x 56 places
    conv1 = 343 * 3 * 64 * 16 * 56 * 56
    assert conv1 < count_macs(model, (3, 16, 112, 112))
    assert round(count_macs(model, (3, 16, 112, 112)) / 1e9, 2) == gmac


@pytest.mark.parametrize("layers", [18, 50])
def test_parity_with_torchvision_s_skeleton(layers: int):
    model, theirs = peers(layers)
    x = torch.randn(2, *CLIP)
    model.eval()
    theirs.eval()
    with torch.no_grad():
        expected = theirs(x)
        assert relative_error(model(x), expected) < FLOAT32_PEER
        assert relative_error(model(x.flip(2)), expected) > NOTICED
        model.double()
        theirs.double()
        assert relative_error(model(x.double()), theirs(x.double())) < FLOAT64_PEER
        model.train()
        theirs.train()  # statistics of the batch
        assert relative_error(model(x.double()), theirs(x.double())) < FLOAT64_PEER
        theirs_after = theirs.state_dict()["layer4.0.conv2.1.running_var"]
        assert relative_error(model.stages[3][0].bn_b.running_var, theirs_after) < FLOAT64_PEER


def test_gradients_are_torchvision_s():
    model, theirs = peers(18)
    model.double().train()
    theirs.double().train()
    x = torch.randn(2, 3, 8, 32, 32, dtype=torch.float64)
    model(x).square().sum().backward()
    theirs(x).square().sum().backward()
    assert relative_error(model.stem.conv.weight.grad, theirs.stem[0].weight.grad) < FLOAT64_GRADIENT


def test_a_boring_video_needs_no_more_than_time_s_borders():
    """Where no border of time is in reach, equal frames give what any longer film of them gives."""
    torch.manual_seed(0)
    model = build("resnet3d_18", num_classes=5, width=1 / 8).double().eval()
    frame = torch.randn(1, 3, 1, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        stem = model.stem(frame.expand(-1, -1, 24, -1, -1))
    inner = stem[:, :, 3:-3]
    assert relative_error(inner, inner[:, :, :1].expand_as(inner)) < FLOAT64_PEER
    assert relative_error(stem[:, :, :1], inner[:, :, :1]) > NOTICED  # zeros of the padding are seen there


def test_time_and_space_are_halved_together():
    model = build("resnet3d_50", num_classes=5, width=1 / 8)
    shapes = []
    hooks = [
        module.register_forward_hook(lambda _m, _i, output: shapes.append(tuple(output.shape[2:])))
        for module in (model.stem, *model.stages)
    ]
    model(torch.zeros(1, 3, 16, 112, 112))
    for hook in hooks:
        hook.remove()
    assert shapes == [(8, 28, 28), (8, 28, 28), (4, 14, 14), (2, 7, 7), (1, 4, 4)]


def test_a_shortcut_of_type_a_has_no_weights_and_is_a_projection_that_picks():
    """Type A is type B whose convolution is the identity in its first channels and 0 in the others."""
    torch.manual_seed(0)
    padded = build("resnet3d_34", num_classes=5, width=1 / 8, shortcut="A").double().eval()
    projected = build("resnet3d_34", num_classes=5, width=1 / 8).double().eval()
    names = [name for name in projected.state_dict() if "shortcut" in name]
    assert names
    assert not any("shortcut" in name for name in padded.state_dict())
    missing = projected.load_state_dict(padded.state_dict(), strict=False).missing_keys
    assert set(missing) == {name for name in names if "num_batches" not in name}
    for stage in projected.stages[1:]:
        shortcut = stage[0].shortcut
        nn.init.dirac_(shortcut.conv.weight)
        shortcut.bn.eps = 0.0
    x = torch.randn(2, 3, 16, 48, 48, dtype=torch.float64)
    with torch.no_grad():
        assert relative_error(padded(x), projected(x)) < FLOAT64_PEER
        padded.stages[1][0].shortcut = ZeroPadding(16, stride=(2, 2, 2)).eval()
        padded.stages[1][0].shortcut.register_forward_hook(lambda _m, _i, output: output.flip(1))
        assert relative_error(padded(x), projected(x)) > NOTICED


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shortcut": "C"}, "shortcut must be 'A' or 'B', got 'C'"),
        ({"num_frames": 0}, r"width and num_frames must be above 0, got 1\.0 and 0"),
    ],
)
def test_wrong_arguments_are_said(arguments: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        build("resnet3d_18", **arguments)
