"""Convolutions against torch's own, against float64, and in the places where bfloat16 on a CPU goes wrong."""

import platform
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from tolerances import BFLOAT16_CONV, FLOAT64_SAME, relative_error
from torch import Tensor, nn

from muybridge.models.blocks import Conv3d, channels_last, init_msra, scaled
from muybridge.models.resnet import Projection, ResidualBlock

# kernel, stride, padding (None is half the kernel)
SHAPES = [
    ((1, 3, 3), (1, 1, 1), None),
    ((1, 3, 3), (1, 2, 2), None),
    ((1, 7, 7), (1, 2, 2), None),
    ((1, 3, 3), (2, 2, 2), None),
    ((1, 1, 1), (2, 2, 2), None),
    ((1, 1, 1), (1, 1, 1), None),
    ((1, 5, 3), (1, 1, 2), None),
    ((3, 1, 1), (1, 1, 1), None),
    ((3, 1, 1), (2, 1, 1), None),
    ((3, 1, 1), (1, 2, 2), None),
    ((5, 1, 1), (1, 1, 1), None),
    ((7, 1, 1), (1, 1, 1), None),
    ((3, 1, 1), (1, 1, 1), (0, 0, 0)),
    ((3, 3, 3), (1, 1, 1), None),
    ((3, 3, 3), (2, 2, 2), None),
    ((3, 7, 7), (1, 2, 2), None),
    ((5, 7, 7), (1, 2, 2), (0, 3, 3)),
    ((3, 3, 3), (1, 1, 1), (0, 1, 1)),
]


@pytest.mark.parametrize(("kernel", "stride", "padding"), SHAPES)
@pytest.mark.parametrize("size", [(5, 9, 8), (5, 2, 3)], ids=["large", "smaller_than_the_kernel"])
@pytest.mark.parametrize("in_channels_last", [True, False])
def test_conv3d_is_torchs_conv3d_with_its_gradients(kernel, stride, padding, size, in_channels_last):
    torch.manual_seed(0)
    ours = Conv3d(3, 4, kernel, stride=stride, padding=padding, bias=True).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    x = channels_last(x) if in_channels_last else x
    peer = nn.Conv3d(3, 4, kernel, stride, ours.padding).double()
    peer.load_state_dict(ours.state_dict())
    results = []
    for conv in (ours, peer):
        leaf = x.clone().requires_grad_()
        y = conv(leaf)
        (y * torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)).sum().backward()
        results.append((y, leaf.grad, conv.weight.grad, conv.bias.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, **FLOAT64_SAME)


@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 1, 1), (3, 3, 3), (1, 1, 1)])
def test_conv3d_keeps_channels_last_memory(kernel):
    y = Conv3d(4, 6, kernel)(channels_last(torch.randn(2, 4, 5, 8, 8)))
    assert y.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 1, 1)])
def test_factorised_convolutions_take_views_and_copy_nothing(kernel, monkeypatch):
    seen = []
    conv2d = F.conv2d

    def watched(x: Tensor, *rest: object) -> Tensor:
        seen.append(x)
        return conv2d(x, *rest)

    monkeypatch.setattr(F, "conv2d", watched)
    x = channels_last(torch.randn(2, 4, 5, 8, 8))
    Conv3d(4, 6, kernel)(x)
    assert [one.data_ptr() for one in seen] == [x.data_ptr()]


def bf16_gradients(conv: Conv3d, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of input and weight in bf16, and the same in float64 through torch's own convolution."""
    leaf = channels_last(x.to(torch.bfloat16)).requires_grad_()
    conv = conv.to(torch.bfloat16)
    y = conv(leaf)
    gradient = torch.randn_like(y)
    del_me = [torch.full((1 << power,), float("nan")) for power in (10, 12, 14, 16, 18)]
    del del_me  # so that memory which is not filled is likely to hold these
    found = torch.autograd.grad(y, (leaf, conv.weight), gradient)
    exact, weight = leaf.detach().double().requires_grad_(), conv.weight.detach().double().requires_grad_()
    z = F.conv3d(exact, weight, stride=conv.stride, padding=conv.padding)
    return *found, *torch.autograd.grad(z, (exact, weight), gradient.double())


# kernel, stride, (T, H, W): each of them broke torch 2.14's own bf16 backward pass on an AVX-512 CPU
UNSAFE = [
    ((3, 1, 1), (1, 1, 1), (2, 5, 5)),
    ((3, 3, 3), (1, 1, 1), (2, 5, 5)),
    ((3, 3, 3), (1, 1, 1), (2, 3, 3)),
    ((3, 7, 7), (1, 2, 2), (2, 12, 12)),
    ((5, 1, 1), (1, 1, 1), (3, 5, 5)),
    ((5, 1, 1), (1, 1, 1), (4, 5, 5)),
    ((5, 3, 3), (2, 1, 1), (4, 5, 5)),
    ((7, 1, 1), (1, 1, 1), (4, 5, 5)),
    ((7, 3, 3), (1, 1, 1), (6, 5, 5)),
    ((1, 3, 3), (1, 2, 2), (2, 1, 1)),
    ((1, 5, 5), (1, 1, 1), (2, 1, 1)),
    ((1, 7, 7), (1, 2, 2), (2, 1, 1)),
    ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
]


@pytest.mark.parametrize(("kernel", "stride", "size"), UNSAFE)
def test_bf16_gradients_are_right_where_the_input_is_smaller_than_the_kernel(kernel, stride, size):
    torch.manual_seed(0)
    for _ in range(3):
        conv = Conv3d(32, 48, kernel, stride=stride)
        found_x, found_w, x, w = bf16_gradients(conv, torch.randn(4, 32, *size))
        assert relative_error(found_x, x) < BFLOAT16_CONV
        assert relative_error(found_w, w) < BFLOAT16_CONV


def test_bf16_gradients_stay_finite_over_100_steps_of_the_known_trap():
    torch.manual_seed(0)
    conv = Conv3d(288, 128, (3, 1, 1))
    x = torch.randn(16, 288, 2, 5, 5)
    for step in range(100):
        conv.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = conv(x)
        y.backward(torch.randn_like(y))
        assert conv.weight.grad is not None
        assert conv.weight.grad.isfinite().all(), f"step {step}"


def test_residual_block_by_hand():
    torch.manual_seed(0)
    conv_a, conv_b = Conv3d(4, 6, (3, 3, 3), stride=(2, 2, 2)), Conv3d(6, 6, (1, 3, 3))
    block = ResidualBlock(4, (conv_a, conv_b), (6, 6), stride=(2, 2, 2), bn_eps=1e-5).double()
    x = torch.randn(3, 4, 4, 6, 6, dtype=torch.float64)

    def norm(y: Tensor) -> Tensor:  # training mode, scale 1, shift 0
        mean, var = y.mean((0, 2, 3, 4), keepdim=True), y.var((0, 2, 3, 4), keepdim=True, unbiased=False)
        return (y - mean) / (var + 1e-5).sqrt()

    assert isinstance(block.shortcut, Projection)
    y = norm(F.conv3d(x, conv_a.weight, stride=2, padding=1)).relu()
    y = norm(F.conv3d(y, conv_b.weight, padding=(0, 1, 1)))
    expected = (y + norm(F.conv3d(x, block.shortcut.conv.weight, stride=2))).relu()
    torch.testing.assert_close(block(x), expected, **FLOAT64_SAME)


def test_residual_block_has_the_identity_shortcut_where_nothing_changes():
    torch.manual_seed(0)
    convs = [Conv3d(8, 2, (3, 1, 1)), Conv3d(2, 2, (1, 3, 3)), Conv3d(2, 8, (1, 1, 1))]
    block = ResidualBlock(8, convs, (2, 2, 8), stride=(1, 1, 1), bn_eps=1e-5)
    assert block.shortcut is None
    nn.init.zeros_(block.get_submodule("bn_c").weight)
    x = torch.randn(2, 8, 3, 5, 5)
    before = x.clone()
    torch.testing.assert_close(block(x), x.relu())
    torch.testing.assert_close(x, before)  # the input is not written to


def test_names_are_those_of_checkpoints():
    convs = [Conv3d(8, 2, (1, 1, 1)), Conv3d(2, 2, (1, 3, 3)), Conv3d(2, 16, (1, 1, 1))]
    block = ResidualBlock(8, convs, (2, 2, 16), stride=(1, 2, 2), bn_eps=1e-5)
    names = {name.rpartition(".")[0] for name, _ in block.named_parameters()}
    assert names == {"conv_a", "bn_a", "conv_b", "bn_b", "conv_c", "bn_c", "shortcut.conv", "shortcut.bn"}


def test_msra_is_normal_by_the_fan_out():
    torch.manual_seed(0)
    conv = Conv3d(16, 64, (3, 3, 3), stride=(1, 1, 1))
    init_msra(conv)
    expected = (2 / (64 * 27)) ** 0.5
    assert float(conv.weight.detach().std()) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("channels", "width", "expected"), [(64, 1.0, 64), (45, 0.25, 11), (64, 0.001, 1)])
def test_scaled(channels, width, expected):
    assert scaled(channels, width) == expected


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_kept_memory_is_not_taken_anew_from_the_system():
    work = """
import resource, sys, torch
from muybridge.models.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(12):
    alive = [torch.ones(1 << 24)]  # 64 MB: 16384 pages
    for _ in range(3):
        alive.append(alive[-1] + 1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    given_back, kept = (
        int(
            subprocess.run(
                [sys.executable, "-c", work, how], capture_output=True, text=True, check=True
            ).stdout
        )
        for how in ("given back", "kept")
    )
    # How the pieces come to lie in the heap differs from process to process, and with it the number of pages.
    assert kept < given_back / 2
