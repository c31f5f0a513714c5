"""AlexNet's layers and the towers made of them: loops in float64, torch's own, torchvision's AlexNet.

Mutations that a test here must notice: alpha divided by n, a window of another size, the sum over positions
instead of channels, a pooling that rounds down, a fully connected layer that sees frames mixed.
"""

import pytest
import torch
import torchvision
from tolerances import FLOAT32_PEER, FLOAT64_SAME, relative_error
from torch import Tensor, nn

from muybridge.errors import ConfigError
from muybridge.models.alexnet import (
    Conv,
    ConvRelu,
    Drop,
    Full,
    FullRelu,
    LocalResponseNorm,
    Norm,
    Pool,
    Tower,
    between,
    he_init,
)

# torchvision's AlexNet is the one of two columns made one (Krizhevsky 2014): without normalisation.
ONE_COLUMN = (
    Conv("conv1", 64, (1, 11, 11), (1, 4, 4), (0, 2, 2)),
    Pool("pool1", 3),
    Conv("conv2", 192, (1, 5, 5), padding=(0, 2, 2)),
    Pool("pool2", 3),
    Conv("conv3", 384, (1, 3, 3), padding=(0, 1, 1)),
    Conv("conv4", 256, (1, 3, 3), padding=(0, 1, 1)),
    Conv("conv5", 256, (1, 3, 3), padding=(0, 1, 1)),
    Pool("pool5", 3),
)
SMALL = (
    Conv("conv1", 32, (1, 3, 3), (1, 2, 2)),
    Norm("norm1", 0.75),
    Pool("pool1", 3),
    Full("full2", 24),
    Drop("drop2"),
    Full("full3", 16),
)


def norm_in_loops(x: Tensor, *, k: float, n: int, alpha: float, beta: float) -> Tensor:
    """The equation of Sec. 3.3, channel by channel."""
    y = torch.empty_like(x)
    for c in range(x.shape[1]):
        total = torch.zeros_like(x[:, 0])
        for j in range(max(0, c - n // 2), min(x.shape[1] - 1, c + n // 2) + 1):
            total += x[:, j] ** 2
        y[:, c] = x[:, c] / (k + alpha * total) ** beta
    return y


@pytest.mark.parametrize("beta", [0.5, 0.75])
@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("channels", [1, 3, 9])
def test_normalisation_is_the_equation_in_loops(channels: int, n: int, beta: float):
    torch.manual_seed(0)
    x = 60 * torch.randn(2, channels, 2, 3, 4, dtype=torch.float64)
    constants = {"k": 2.0, "n": n, "alpha": 1e-3, "beta": beta}
    torch.testing.assert_close(
        LocalResponseNorm(**constants)(x), norm_in_loops(x, **constants), **FLOAT64_SAME
    )


def test_normalisation_and_its_gradient_are_torch_s_whose_alpha_is_n_times_as_large():
    torch.manual_seed(0)
    x = 60 * torch.randn(2, 9, 2, 3, 4, dtype=torch.float64)
    ours, theirs = LocalResponseNorm(), nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2)
    weights, gradients = torch.randn_like(x), []
    for norm in (ours, theirs):
        given = x.clone().requires_grad_()
        (norm(given) * weights).sum().backward()
        gradients.append(given.grad)
    torch.testing.assert_close(ours(x), theirs(x), **FLOAT64_SAME)
    torch.testing.assert_close(*gradients, **FLOAT64_SAME)
    assert relative_error(x / 2**0.75, ours(x)) > 0.1  # the sum matters


def test_the_gradient_of_the_normalisation_is_that_of_its_values():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    for beta in (0.5, 0.75):
        norm = LocalResponseNorm(k=1.0, n=3, alpha=0.5, beta=beta)
        assert torch.autograd.gradcheck(norm, x)
        assert torch.equal(norm(x.detach()), norm(x).detach())  # with a gradient and without one


def test_normalisation_is_exact_in_bfloat16_and_in_channels_last_memory():
    torch.manual_seed(0)
    x, norm = 60 * torch.randn(2, 16, 2, 3, 4), LocalResponseNorm()
    rounded = x.bfloat16()
    found = norm(rounded)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, norm(rounded.float()).bfloat16(), rtol=0, atol=0)
    last = x.contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(norm(last), norm(x), rtol=0, atol=0)
    assert norm(last).is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(
    ("side", "kernel", "windows"), [(7, 3, 3), (8, 3, 4), (27, 2, 14), (2, 3, 1), (1, 2, 1)]
)
def test_poolings_round_up_and_the_last_window_stands_out(side: int, kernel: int, windows: int):
    torch.manual_seed(0)
    tower = Tower((Pool("pool1", kernel),), 4, side=side)
    x = torch.randn(2, 4, 3, side, side, dtype=torch.float64)
    rows = [slice(2 * i, min(side, 2 * i + kernel)) for i in range(windows)]
    expected = torch.stack([torch.stack([x[..., a, b].amax((3, 4)) for b in rows], -1) for a in rows], -2)
    torch.testing.assert_close(tower(x), expected, rtol=0, atol=0)
    assert tower.sides == {"pool1": windows}


def test_a_fully_connected_layer_sees_each_frame_by_itself():
    torch.manual_seed(0)
    full = FullRelu(4 * 3 * 3, 5).double()
    x = torch.randn(2, 4, 6, 3, 3, dtype=torch.float64)
    found = full(x)
    for t in range(6):
        expected = (x[:, :, t].flatten(1) @ full.weight.T + full.bias).clamp(min=0)
        torch.testing.assert_close(found[:, :, t, 0, 0], expected, **FLOAT64_SAME)


@torch.no_grad()
def test_a_tower_is_torchvision_s_alexnet_on_copied_weights():
    torch.manual_seed(0)
    with torch.device("meta"):  # its classifier takes seconds to make
        theirs = torchvision.models.AlexNet().features
    theirs = theirs.to_empty(device="cpu")
    ours = Tower(ONE_COLUMN, 3, side=63)  # 63 leaves poolings nothing to round
    for name, conv in zip(ours.layer_names, [m for m in theirs if isinstance(m, nn.Conv2d)], strict=True):
        layer = ours.get_submodule(name)
        nn.init.normal_(layer.bias)
        conv.weight.copy_(layer.weight.squeeze(2))
        conv.bias.copy_(layer.bias)
    x = torch.randn(1, 3, 2, 63, 63)
    for t in range(2):
        assert relative_error(ours(x)[:, :, t], theirs(x[:, :, t])) < FLOAT32_PEER


@torch.no_grad()
def test_a_tower_in_parts_is_the_whole_tower():
    torch.manual_seed(0)
    tower = Tower(SMALL, 3, side=24, dropout=0.5).double().eval()
    x = torch.randn(2, 3, 4, 24, 24, dtype=torch.float64)
    whole = tower(x)
    for name in tower.channels:
        part = tower(x, until=name)
        assert part.shape == (2, tower.channels[name], 4, tower.sides[name], tower.sides[name])
        torch.testing.assert_close(tower(part, after=name), whole, rtol=0, atol=0)
        upper = Tower(between(SMALL, after=name), tower.channels[name], side=tower.sides[name]).double()
        upper.load_state_dict({key: v for key, v in tower.state_dict().items() if key in upper.state_dict()})
        torch.testing.assert_close(upper(part), whole, rtol=0, atol=0)
        assert (upper.out_channels, upper.out_side) == (16, 1)


def test_dropout_and_width_are_as_given():
    tower = Tower(SMALL, 3, side=24, width=1 / 4, dropout=0.7)
    assert tower.drop2.p == 0.7
    assert list(tower.channels.values()) == [8, 8, 8, 6, 6, 4]
    assert tower.layer_names == ("conv1", "full2", "full3")
    assert tower.sides["pool1"] == 5


def test_first_weights_are_he_s_and_the_first_layer_s_have_their_gain():
    torch.manual_seed(0)
    rows = (Conv("conv1", 64, (2, 5, 5)), Conv("conv2", 64, (1, 3, 3)), Full("full3", 64))
    tower = Tower(rows, 3, side=16, first_gain=1 / 8)
    for name, inputs, gain in (("conv1", 3 * 50, 1 / 8), ("conv2", 64 * 9, 1), ("full3", 64 * 100, 1)):
        layer = tower.get_submodule(name)
        assert float(layer.weight.detach().std()) == pytest.approx(gain * (2 / inputs) ** 0.5, rel=0.05)
        assert not layer.bias.detach().any()
    conv = ConvRelu(3, 4, (1, 1, 1), bias=True)
    conv.apply(he_init)
    assert not conv.bias.detach().any()


def test_what_is_not_there_and_what_does_not_fit():
    tower = Tower(SMALL, 3, side=24)
    with pytest.raises(ConfigError, match=r"the tower has no layer 'conv9'; its layers: conv1, norm1, pool1"):
        tower(torch.zeros(1, 3, 1, 24, 24), until="conv9")
    with pytest.raises(ConfigError, match=r"the tower has no layer 'fc6'"):
        between(SMALL, after="fc6")
    with pytest.raises(ConfigError, match="conv1 leaves nothing of a picture of 2 x 2: take a larger crop"):
        Tower(SMALL, 3, side=2)
