"""BN-Inception against its table: counts, shapes, and the whole network written out in float64.

Mutations that the reference must notice, by `test_the_reference_notices`: a pooling that is padded, zeros
around means that do not count, the stride in another convolution, a maximum that became a mean, exchanged
branches, a bias or a BatchNorm dropped, another eps, height and width exchanged.
"""

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from random_norms import randomize_norms
from tolerances import FLOAT64_SAME, NOTICED, relative_error
from torch import Tensor, nn

from muybridge.models.bn_inception import STAGE_NAMES, MeanPool, make_bn_inception
from muybridge.models.count import count_parameters

# The published table: channels and side of the output for 224 pixels, and the convolutions of each row as
# (kernel, channels in, channels out, side of its output).
SHAPES = {
    "conv1_7x7_s2": (64, 112),
    "pool1_3x3_s2": (64, 56),
    "conv2_3x3_reduce": (64, 56),
    "conv2_3x3": (192, 56),
    "pool2_3x3_s2": (192, 28),
    "inception_3a": (256, 28),
    "inception_3b": (320, 28),
    "inception_3c": (576, 14),
    "inception_4a": (576, 14),
    "inception_4b": (576, 14),
    "inception_4c": (608, 14),
    "inception_4d": (608, 14),
    "inception_4e": (1056, 7),
    "inception_5a": (1024, 7),
    "inception_5b": (1024, 7),
}
# 1x1 / 3x3 reduce, 3x3 / double 3x3 reduce, a, b / pool projection; 0 is none
MODULES = {
    "3a": (64, 64, 64, 64, 96, 96, 32),
    "3b": (64, 64, 96, 64, 96, 96, 64),
    "3c": (0, 128, 160, 64, 96, 96, 0),
    "4a": (224, 64, 96, 96, 128, 128, 128),
    "4b": (192, 96, 128, 96, 128, 128, 128),
    "4c": (160, 128, 160, 128, 160, 160, 128),
    "4d": (96, 128, 192, 160, 192, 192, 128),
    "4e": (0, 128, 192, 192, 256, 256, 0),
    "5a": (352, 192, 320, 160, 224, 224, 128),
    "5b": (352, 192, 320, 192, 224, 224, 128),
}


def convolutions(in_channels: int) -> list[tuple[int, int, int, int]]:
    """(kernel, in, out, side of the output) of each of the network, by the published table."""
    found = [(7, in_channels, 64, 112), (1, 64, 64, 56), (3, 64, 192, 56)]
    channels, side = 192, 28
    for one, reduce, three, double, a, b, projected in MODULES.values():
        after = side if one else side // 2
        rows = [(1, one, side)] * bool(one) + [(1, reduce, side), (1, double, side)]
        rows += [(1, projected, side)] * bool(projected)
        found += [(kernel, channels, out, size) for kernel, out, size in rows]
        found += [(3, reduce, three, after), (3, double, a, side), (3, a, b, after)]
        channels, side = one + three + b + (projected or channels), after
    return found


def small_network(in_channels: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    network = make_bn_inception(in_channels, width=1 / 16).double().eval()
    randomize_norms(network)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.normal_(module.bias, std=1.0)
    return network


def unit(x: Tensor, layer: nn.Module, stride: int = 1) -> Tensor:
    """Convolution with bias and half the kernel as padding, BatchNorm by its formula, ReLU: of one image."""
    weight = layer.conv.weight.squeeze(2)
    y = F.conv2d(x, weight, layer.conv.bias, stride, weight.shape[-1] // 2)
    mean, var, scale, shift = (
        one.view(1, -1, 1, 1)
        for one in (layer.bn.running_mean, layer.bn.running_var, layer.bn.weight, layer.bn.bias)
    )
    return ((y - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)


def caffe_pool(x: Tensor) -> Tensor:
    """3 x 3 maxima with stride 2, rounded up, in loops: the last window may stand out of the image."""
    side = -(-(x.shape[2] - 3) // 2) + 1, -(-(x.shape[3] - 3) // 2) + 1
    y = x.new_empty(*x.shape[:2], *side)
    for i, j in itertools.product(*map(range, side)):
        y[:, :, i, j] = x[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].amax((2, 3))
    return y


def caffe_mean(x: Tensor) -> Tensor:
    """Means of 3 x 3 around each position, in loops: always ninths."""
    padded, y = F.pad(x, (1, 1, 1, 1)), torch.empty_like(x)
    for i, j in itertools.product(range(x.shape[2]), range(x.shape[3])):
        y[:, :, i, j] = padded[:, :, i : i + 3, j : j + 3].sum((2, 3)) / 9
    return y


def module(x: Tensor, block: nn.Module, *, pool: str = "mean", stride: int = 1) -> Tensor:
    """A row of the table."""
    parts = [] if stride == 2 else [unit(x, block.b0)]
    parts.append(unit(unit(x, block.b1a), block.b1b, stride))
    parts.append(unit(unit(unit(x, block.b2a), block.b2b), block.b2c, stride))
    if stride == 2:
        parts.append(caffe_pool(x))
    else:
        pooled = caffe_mean(x) if pool == "mean" else F.max_pool2d(x, 3, 1, 1)
        parts.append(unit(pooled, block.b3b))
    return torch.cat(parts, 1)


def reference(x: Tensor, network: nn.Sequential) -> Tensor:
    """The network written out, of images."""
    x = caffe_pool(unit(x, network.conv1_7x7_s2, 2))
    x = caffe_pool(unit(unit(x, network.conv2_3x3_reduce), network.conv2_3x3))
    for name in MODULES:
        strided = name in ("3c", "4e")
        block = network.get_submodule(f"inception_{name}")
        x = module(x, block, pool="max" if name == "5b" else "mean", stride=2 if strided else 1)
    return x


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (64, 96), (97, 65)])
def test_the_whole_network_is_the_table_written_out(size):
    network = small_network(10)
    x = torch.randn(2, 10, 3, *size, dtype=torch.float64)
    y = network(x)
    for t in range(3):
        torch.testing.assert_close(y[:, :, t], reference(x[:, :, t], network), **FLOAT64_SAME)


@torch.no_grad()
def test_mean_pool_in_loops():
    x = torch.randn(2, 3, 2, 4, 5, dtype=torch.float64)
    expected = torch.stack([caffe_mean(x[:, :, t]) for t in range(2)], 2)
    torch.testing.assert_close(MeanPool()(x), expected, **FLOAT64_SAME)


@torch.no_grad()
def test_it_runs_where_a_module_of_stride_2_sees_an_odd_side():
    y = small_network()(torch.randn(1, 3, 1, 112, 80, dtype=torch.float64))  # 7 x 5 come to inception_4e
    assert y.shape == (1, 64, 1, 4, 3)


def padded_pool(network: nn.Sequential) -> None:
    network.pool1_3x3_s2.forward = lambda x: F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))


def means_without_zeros(network: nn.Sequential) -> None:
    for pool in network.modules():
        if isinstance(pool, MeanPool):
            pool.forward = lambda x: F.avg_pool2d(x[:, :, 0], 3, 1, 1, count_include_pad=False)[:, :, None]


def stride_in_another_convolution(network: nn.Sequential) -> None:
    block = network.inception_3c
    block.b2b.conv.stride, block.b2c.conv.stride = block.b2c.conv.stride, block.b2b.conv.stride


def no_maximum(network: nn.Sequential) -> None:
    network.inception_5b.pool = MeanPool()


def exchanged_branches(network: nn.Sequential) -> None:
    network.inception_4b.register_forward_hook(lambda block, args, y: y.roll(3, dims=1))


def no_bias(network: nn.Sequential) -> None:
    nn.init.zeros_(network.inception_4c.b1a.conv.bias)


def no_norm(network: nn.Sequential) -> None:
    network.inception_4d.b2b.bn = nn.Identity()


def other_eps(network: nn.Sequential) -> None:
    for one in network.modules():
        if isinstance(one, nn.BatchNorm3d):
            one.eps = 1e-2


def exchanged_height_and_width(network: nn.Sequential) -> None:
    network.register_forward_pre_hook(lambda _, args: (args[0].transpose(3, 4),))


MUTATIONS = [
    padded_pool,
    means_without_zeros,
    stride_in_another_convolution,
    no_maximum,
    exchanged_branches,
    no_bias,
    no_norm,
    other_eps,
    exchanged_height_and_width,
]


@torch.no_grad()
@pytest.mark.parametrize("mutate", MUTATIONS)
def test_the_reference_notices(mutate: Callable[[nn.Sequential], None]):
    network = small_network()
    x = torch.randn(2, 3, 1, 64, 64, dtype=torch.float64)
    expected = reference(x[:, :, 0], network)
    assert relative_error(network(x)[:, :, 0], expected) < 1e-10
    mutate(network)
    assert relative_error(network(x)[:, :, 0], expected) > NOTICED


@pytest.mark.parametrize(("channels", "convs"), [(3, 10_250_208), (10, 10_250_208 + 7 * 49 * 64)])
def test_counts_and_shapes_of_the_table(channels, convs):
    with torch.device("meta"):
        network = make_bn_inception(channels)
    x, found = torch.empty(1, channels, 1, 224, 224, device="meta"), {}
    for name, layer in network.named_children():
        x = layer(x)
        assert x.shape[2:] == (1, x.shape[4], x.shape[4])
        found[name] = (x.shape[1], x.shape[3])
    assert found == SHAPES
    layers = [one for one in network.modules() if isinstance(one, nn.Conv3d)]
    norms = [one for one in network.modules() if isinstance(one, nn.BatchNorm3d)]
    assert (len(layers), len(norms)) == (69, 69)
    assert sum(map(count_parameters, layers)) == convs
    assert sum(map(count_parameters, norms)) == 20_032
    by_hand = sorted((kernel**2 * c * o + o) for kernel, c, o, _ in convolutions(channels))
    assert sorted(map(count_parameters, layers)) == by_hand
    assert [name for name in SHAPES if not name.startswith("pool")] == list(STAGE_NAMES)


def test_width_scales_every_count():
    with torch.device("meta"):
        network = make_bn_inception(3, width=0.5)
    block = network.inception_4a
    units = (block.b0, block.b1a, block.b1b, block.b2a, block.b2b, block.b2c, block.b3b)
    assert [one.conv.out_channels for one in units] == [112, 32, 48, 48, 64, 64, 64]
    assert network.inception_3c.out_channels == 288


def test_bf16_steps_stay_finite_down_to_one_position():
    torch.manual_seed(0)
    network = make_bn_inception(3, width=1 / 8).train()
    for _ in range(5):
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = network(torch.randn(4, 3, 1, 32, 32))
        y.float().square().mean().backward()
        bad = [key for key, one in network.named_parameters() if not one.grad.isfinite().all()]
        assert not bad
