"""VGG-16 against torchvision's, on copied weights, and the counts of both its uses.

Mutations that a test here must notice: a convolution left out, zeros around a convolution left out.
"""

import pytest
import torch
import torchvision
from tolerances import FLOAT32_PEER, relative_error
from torch import nn

from muybridge.models.alexnet import Tower, between
from muybridge.models.count import count_parameters
from muybridge.models.vgg import VGG_16, Vgg16


@pytest.mark.parametrize(("channels", "parameters"), [(3, 134_260_544), (20, 134_270_336)])
def test_counts(channels: int, parameters: int):
    with torch.device("meta"):
        tower = Vgg16(channels)
        convolutions = Tower(between(VGG_16, until="conv5_3"), channels, side=224)
    assert count_parameters(tower) == parameters
    assert count_parameters(tower) + 1000 * 4097 == 138_357_544 + 9 * 64 * (channels - 3)
    full = 512 * 49 * 4096 + 4096 + 4096 * 4096 + 4096
    assert count_parameters(tower) - count_parameters(convolutions) == full
    assert (tower.sides["conv5_3"], tower.sides["pool5"]) == (14, 7)


@torch.no_grad()
def test_it_is_torchvision_s_on_copied_weights():
    torch.manual_seed(0)
    theirs = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    ours = Tower(between(VGG_16, until="pool5"), 3, side=32)
    for name, conv in zip(ours.layer_names, [m for m in theirs if isinstance(m, nn.Conv2d)], strict=True):
        layer = ours.get_submodule(name)
        nn.init.normal_(layer.bias)
        conv.weight.copy_(layer.weight.squeeze(2))
        conv.bias.copy_(layer.bias)
    x = 100 * torch.randn(1, 3, 2, 32, 32)
    for t in range(2):
        assert relative_error(ours(x)[:, :, t], theirs(x[:, :, t])) < FLOAT32_PEER
