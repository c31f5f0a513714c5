"""SlowFast's laterals, the weaker inputs of its Fast pathway and its non-local block, in float64 loops."""

import pytest
import torch
from tolerances import FLOAT64_SAME
from torch import Tensor, nn

from muybridge.models.slowfast_pathways import (
    LATERALS,
    PooledNonLocalBlock,
    TimeConv,
    TimeSample,
    TimeToChannel,
    difference,
    grey,
    half,
    make_lateral,
)


def clip(frames: int, *, size: int) -> Tensor:
    return torch.randn(2, 3, frames, size, size, dtype=torch.float64)


def randomize(norm: nn.BatchNorm3d) -> None:
    """A fresh BatchNorm is nearly the identity, or 0."""
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 1.5)


@torch.no_grad()
@pytest.mark.parametrize("kernel", [5, 7])
@pytest.mark.parametrize("alpha", [4, 8])
def test_time_strided_convolution_in_loops(alpha, kernel):
    torch.manual_seed(0)
    lateral = TimeConv(3, alpha=alpha, kernel=kernel, bn_eps=1e-3).double().eval()
    randomize(lateral.bn)
    x, bn = clip(3 * alpha, size=2), lateral.bn
    y = torch.zeros(2, 6, 3, 2, 2, dtype=torch.float64)
    for t in range(3):
        for tap in range(kernel):
            frame = t * alpha + tap - kernel // 2
            if 0 <= frame < 3 * alpha:
                for c in range(6):
                    for n in range(3):
                        y[:, c, t] += lateral.conv.weight[c, n, tap, 0, 0] * x[:, n, frame]
    for c in range(6):
        scale = bn.weight[c] / (bn.running_var[c] + 1e-3).sqrt()
        y[:, c] = ((y[:, c] - bn.running_mean[c]) * scale + bn.bias[c]).clamp(min=0)
    torch.testing.assert_close(lateral(x), y, **FLOAT64_SAME)


@torch.no_grad()
def test_time_to_channel_and_sampling_in_loops():
    x = clip(12, size=2)
    packed, sampled = TimeToChannel(4)(x), TimeSample(4)(x)
    assert packed.shape == (2, 12, 3, 2, 2)
    for t in range(3):
        assert torch.equal(sampled[:, :, t], x[:, :, 4 * t])
        for frame in range(4):
            for channel in range(3):
                assert torch.equal(packed[:, 3 * frame + channel, t], x[:, channel, 4 * t + frame])


@torch.no_grad()
def test_sampling_is_a_bare_convolution_whose_kernel_sees_one_frame():
    x = clip(24, size=2)
    bare = make_lateral(LATERALS["t_conv_mmaction2"], 3, alpha=8, bn_eps=1e-5).double()
    weight = torch.zeros(6, 3, 5, 1, 1, dtype=torch.float64)
    weight[range(3), range(3), 2] = 1
    bare.load_state_dict({"conv.weight": weight})
    torch.testing.assert_close(bare(x)[:, :3], TimeSample(8)(x), **FLOAT64_SAME)


def test_weaker_inputs_in_loops():
    x = clip(4, size=5)
    luma, smaller, moved = grey(x), half(x), difference(x)
    assert smaller.shape == (2, 3, 4, 3, 3)
    for t in range(4):
        expected = 0.299 * x[:, 0, t] + 0.587 * x[:, 1, t] + 0.114 * x[:, 2, t]
        torch.testing.assert_close(luma[:, 0, t], expected, **FLOAT64_SAME)
        before = luma[:, 0, max(t - 1, 0)]
        torch.testing.assert_close(moved[:, 0, t], expected - before, **FLOAT64_SAME)
        for i in range(3):
            for j in range(3):
                pixels = x[:, :, t, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3))
                torch.testing.assert_close(smaller[:, :, t, i, j], pixels, **FLOAT64_SAME)
    assert not moved[:, :, 0].any()
    assert torch.allclose(grey(torch.full((1, 3, 1, 1, 1), 0.7)), torch.tensor(0.7))


@torch.no_grad()
def test_nonlocal_block_in_loops():
    torch.manual_seed(0)
    block = PooledNonLocalBlock(4, 2).double().eval()
    randomize(block.bn)
    x = torch.randn(1, 4, 4, 4, 2, dtype=torch.float64)
    keys = [
        x[0, :, 2 * t : 2 * t + 2, 2 * i : 2 * i + 2, 0:2].amax((1, 2, 3)) for t in range(2) for i in range(2)
    ]

    def project(conv: nn.Conv3d, vector: Tensor) -> Tensor:
        assert conv.bias is not None
        return conv.weight[:, :, 0, 0, 0] @ vector + conv.bias

    y = torch.zeros(1, 2, *x.shape[2:], dtype=torch.float64)
    for t, i, j in torch.cartesian_prod(*(torch.arange(n) for n in x.shape[2:])).tolist():
        theta = project(block.theta, x[0, :, t, i, j])
        for key in keys:
            y[0, :, t, i, j] += float(theta @ project(block.phi, key)) * project(block.g, key) / len(keys)
    torch.testing.assert_close(block(x), x + block.bn(block.out(y)), **FLOAT64_SAME)
