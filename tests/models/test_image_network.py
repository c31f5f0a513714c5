"""2D networks of torchvision and timm as towers: the same numbers as the library's, and other inputs."""

import pytest
import torch
import torchvision
from tolerances import FLOAT32_PEER, NOTICED, relative_error
from torch import nn

from muybridge.errors import ConfigError
from muybridge.models.image_network import ImageNetwork


def settled(channels: int = 3) -> ImageNetwork:
    """In eval mode, its statistics those of a batch, so that signals neither vanish nor grow."""
    torch.manual_seed(0)
    tower = ImageNetwork("torchvision/resnet18", channels)
    norms = [one for one in tower.modules() if isinstance(one, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    tower(torch.randn(8, channels, 1, 32, 32))
    return tower.eval()


@torch.no_grad()
def test_it_is_torchvision_s_network_up_to_its_classifier_frame_by_frame():
    ours, theirs = settled(), torchvision.models.resnet18(weights=None).eval()
    classifier = {f"fc.{key}": value for key, value in theirs.fc.state_dict().items()}
    theirs.load_state_dict(ours.network.state_dict() | classifier)
    x = torch.randn(2, 3, 2, 32, 32)
    y = ours(x)
    assert y.shape == (2, 512, 2, 1, 1)
    assert relative_error(y[:, :, 0], y[:, :, 1]) > NOTICED
    for t in range(2):
        assert relative_error(theirs.fc(y[:, :, t].flatten(1)), theirs(x[:, :, t])) < FLOAT32_PEER


@pytest.mark.parametrize(
    ("backbone", "features"),
    [
        ("torchvision/resnet50", 2048),
        ("torchvision/efficientnet_b0", 1280),
        ("torchvision/googlenet", 1024),
        ("torchvision/densenet121", 1024),
        ("timm/tf_efficientnet_lite0", 1280),
        ("timm/vit_tiny_patch16_224", 192),
    ],
)
def test_any_network_takes_a_stack_of_flow(backbone: str, features: int):
    if backbone.startswith("timm"):
        pytest.importorskip("timm")
    with torch.device("meta"):
        tower = ImageNetwork(backbone, 20).eval()
    assert tower(torch.empty(2, 20, 1, 224, 224, device="meta")).shape == (2, features, 1, 1, 1)
    assert tower.out_channels == features
    assert (tower.spec.num_frames, tower.spec.frame_stride, tower.spec.crop) == (1, 1, 224)


@torch.no_grad()
def test_the_first_convolution_sees_every_channel():
    tower = settled(channels=4)
    x = torch.randn(1, 4, 1, 32, 32)
    before = tower(x)
    for channel in range(4):
        changed = x.clone()
        changed[:, channel] *= -1
        assert relative_error(tower(changed), before) > NOTICED
    first = next(one for one in tower.modules() if isinstance(one, nn.Conv2d))
    assert float(first.weight.std()) == pytest.approx(
        (2 / (49 * 64)) ** 0.5, rel=0.05
    )  # He's, by the fan-out


def test_what_cannot_be_a_tower():
    with pytest.raises(ConfigError, match="torchvision/squeezenet1_1 has no linear layer as its classifier"):
        ImageNetwork("torchvision/squeezenet1_1")
    with pytest.raises(
        ConfigError, match="torchvision has no network 'resnet51'; did you mean 'torchvision/resnet50'"
    ):
        ImageNetwork("torchvision/resnet51")
