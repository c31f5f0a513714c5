"""Bottlenecks for clips against torchvision's, pytorchvideo's and the paper's channel counts.

`ResidualBlock` itself is in test_blocks.py.
"""

import pytest
import torch
import torch.nn.functional as F
from pytorchvideo.models.resnet import create_bottleneck_block, create_res_stage
from random_norms import randomize_norms
from tolerances import FLOAT64_SAME, NOTICED, relative_error
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from muybridge.models.blocks import Conv3d
from muybridge.models.resnet import Projection, ResidualBlock, bottleneck, bottleneck_stage


def randomized(module: nn.Module) -> nn.Module:
    """With nothing left at its start value, in float64 and eval mode."""
    torch.manual_seed(0)
    randomize_norms(module)
    return module.double().eval()


def norm(block: ResidualBlock, letter: str, x: Tensor) -> Tensor:
    bn = block.get_submodule(f"bn_{letter}")
    mean, var, scale, shift = (
        one.view(1, -1, 1, 1, 1) for one in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    return (x - mean) / (var + 1e-3).sqrt() * scale + shift


@torch.no_grad()
@pytest.mark.parametrize("temporal_kernels", [(1, 1), (3, 1), (1, 3)])
def test_bottleneck_by_hand(temporal_kernels):
    block = randomized(bottleneck(16, 4, 16, temporal_kernels=temporal_kernels, bn_eps=1e-3))
    t_a, t_b = temporal_kernels
    assert [tuple(block.get_submodule(f"conv_{letter}").weight.shape) for letter in "abc"] == [
        (4, 16, t_a, 1, 1),
        (4, 4, t_b, 3, 3),
        (16, 4, 1, 1, 1),
    ]
    x = torch.randn(2, 16, 5, 6, 7, dtype=torch.float64)
    y = F.conv3d(x, block.get_parameter("conv_a.weight"), padding=(t_a // 2, 0, 0))
    y = F.conv3d(norm(block, "a", y).relu(), block.get_parameter("conv_b.weight"), padding=(t_b // 2, 1, 1))
    y = F.conv3d(norm(block, "b", y).relu(), block.get_parameter("conv_c.weight"))
    expected = (x + norm(block, "c", y)).relu()
    torch.testing.assert_close(block(x), expected, **FLOAT64_SAME)


@torch.no_grad()
@pytest.mark.parametrize(("channels", "stride"), [(8, 1), (8, 2), (16, 1)])
def test_without_temporal_kernels_each_frame_passes_torchvision_s_bottleneck(channels, stride):
    ours = randomized(bottleneck(channels, 4, 16, stride=stride))
    shortcut = None
    if channels != 16 or stride != 1:
        shortcut = nn.Sequential(nn.Conv2d(channels, 16, 1, stride, bias=False), nn.BatchNorm2d(16))
    theirs = Bottleneck(channels, 4, stride, shortcut).double().eval()
    names = {"a": "1", "b": "2", "c": "3", "shortcut.conv": "downsample.0", "shortcut.bn": "downsample.1"}
    state = {}
    for key, value in ours.state_dict().items():
        place, leaf = key.rsplit(".", 1)
        place = names[place] if place in names else place[:-2] + names[place[-1]]
        state[f"{place}.{leaf}"] = value.squeeze(2) if value.ndim == 5 else value
    theirs.load_state_dict(state)
    x = torch.randn(2, channels, 3, 7, 6, dtype=torch.float64)
    expected = torch.stack([theirs(frame) for frame in x.unbind(2)], dim=2)
    torch.testing.assert_close(ours(x), expected, **FLOAT64_SAME)


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 2])
def test_a_stage_is_pytorchvideo_s(stride):
    ours = randomized(bottleneck_stage(8, 4, 16, temporal_kernels=(3, 1, 3), stride=stride))
    theirs = create_res_stage(
        depth=3,
        dim_in=8,
        dim_inner=4,
        dim_out=16,
        bottleneck=create_bottleneck_block,
        conv_a_kernel_size=[(3, 1, 1), (1, 1, 1)],  # taken in turn
        conv_a_padding=[(1, 0, 0), (0, 0, 0)],
        conv_a_stride=(1, 1, 1),
        conv_b_kernel_size=(1, 3, 3),
        conv_b_stride=(1, stride, stride),
        conv_b_padding=(0, 1, 1),
    )
    words = {"shortcut.conv": "branch1_conv", "shortcut.bn": "branch1_norm"}
    for letter in "abc":
        words |= {f"conv_{letter}": f"branch2.conv_{letter}", f"bn_{letter}": f"branch2.norm_{letter}"}
    state = {}
    for key, value in ours.state_dict().items():
        index, rest = key.split(".", 1)
        place, leaf = rest.rsplit(".", 1)
        state[f"res_blocks.{index}.{words[place]}.{leaf}"] = value
    theirs.load_state_dict(state)
    x = torch.randn(2, 8, 4, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs.double().eval()(x), **FLOAT64_SAME)


@torch.no_grad()
def test_the_stride_is_in_the_3_x_3_convolution_of_the_first_block():
    stage = bottleneck_stage(8, 4, 16, temporal_kernels=(1, 1), stride=2)
    strides = [(name, module.stride) for name, module in stage.named_modules() if isinstance(module, Conv3d)]
    assert [name for name, stride in strides if stride == (1, 2, 2)] == ["0.conv_b", "0.shortcut.conv"]
    assert isinstance(stage[0].shortcut, Projection)
    assert stage[1].shortcut is None


@torch.no_grad()
def test_a_temporal_kernel_sees_the_order_of_frames():
    x = torch.randn(2, 8, 4, 6, 6, dtype=torch.float64)
    flat = randomized(bottleneck_stage(8, 4, 16, temporal_kernels=(1, 1)))
    torch.testing.assert_close(flat(x.flip(2)).flip(2), flat(x), **FLOAT64_SAME)
    deep = randomized(bottleneck_stage(8, 4, 16, temporal_kernels=(3, 1)))
    assert relative_error(deep(x.flip(2)).flip(2), deep(x)) > NOTICED


def test_eps_reaches_every_norm():
    stage = bottleneck_stage(8, 4, 16, temporal_kernels=(1, 3), bn_eps=1e-3)
    assert {module.eps for module in stage.modules() if isinstance(module, nn.BatchNorm3d)} == {1e-3}
