"""The tables of modules and functions, row by row.

Where no layer has a window over time and nothing is pooled over all of it, an inflated network does to a
moving clip what the 2D network does to each of its frames.
"""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from tolerances import FLOAT64_SAME
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from muybridge.errors import InflationError
from muybridge.models.inflate import inflate
from muybridge.models.inflate.functions import HANDLERS, NAMES
from muybridge.models.inflate.modules import ENTRIES

C, H, W = 8, 6, 5


class Does(nn.Module):
    """A network of one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(C, C, 1)  # so that it has a weight, and not the input itself
        self.scale = nn.Parameter(torch.rand(C, 1, 1))
        self.register_buffer("shift", torch.rand(1, C, H, W), persistent=False)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, self.conv(x))


def sizes(x: Tensor) -> tuple[Any, ...]:
    b, c, h, w = x.shape
    return b, c, h, w


def shuffle(net: Does, x: Tensor) -> Tensor:
    b, c, h, w = sizes(x)
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)


def channels_last_block(net: Does, x: Tensor) -> Tensor:
    y = F.layer_norm(x.permute(0, 2, 3, 1), (C,))
    return net.scale * y.permute(0, 3, 1, 2) + x


def selected(net: Does, x: Tensor) -> Tensor:
    paths = torch.stack([x, x.relu()], dim=1)
    attention = torch.softmax(paths, dim=1)
    return torch.sum(paths * attention, dim=1)


def split_and_joined(net: Does, x: Tensor) -> Tensor:
    one, other = torch.chunk(x, 2, dim=1)
    first, rest = torch.split(other, [1, 3], 1)
    return torch.cat([one, first, rest.abs()], dim=1)


def padded_and_cut(net: Does, x: Tensor) -> Tensor:
    y = F.pad(x, [1, 2, 0, 1])
    y = F.pad(y, (1, 1, 1, 1), mode="reflect")
    y = F.pad(y, (0, 0, 0, 0, 1, 2), value=3.0)
    return y[:, 2:, ..., 1:-1]


def resized(net: Does, x: Tensor) -> Tensor:
    y = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    small = F.avg_pool2d(y, 3, stride=2, padding=1)
    return F.interpolate(small, size=x.shape[-2:], mode="nearest") + x


def one_map(net: Does, x: Tensor) -> Tensor:
    """CBAM's attention over places, from the mean and the largest of the channels."""
    both = torch.cat([x.mean(1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
    return x * both.mean(dim=1).unsqueeze(1).sigmoid()


def indexed(net: Does, x: Tensor) -> Tensor:
    first = x[:, 0]
    return torch.cat((x[:, 1:3], first.unsqueeze(1), x[..., None, 2, :, :].squeeze(1)[:, None]), 1)


def largest(net: Does, x: Tensor) -> Tensor:
    values, _ = x.max(dim=1, keepdim=True)
    return values.expand(-1, C, -1, -1) + net.shift


def regrouped(net: Does, x: Tensor) -> Tensor:
    y = x.reshape(x.size(0) * 2, -1, x.size(2), x.size(-1))
    return y.type_as(x).to(x.dtype) + (net.shift * 2)[:, :4]


FRAME_BY_FRAME = [
    shuffle,
    channels_last_block,
    selected,
    split_and_joined,
    padded_and_cut,
    resized,
    one_map,
    indexed,
    largest,
    regrouped,
    lambda net, x: x.add_(1.0).clamp(min=0).mul(2) - net.scale,
    lambda net, x: F.max_pool2d(F.relu6(x), 3, 2, ceil_mode=True),
    lambda net, x: torch.max_pool2d(x, 2) * 2,
    lambda net, x: F.pixel_shuffle(x, 2),
    lambda net, x: F.local_response_norm(x, 3),
    lambda net, x: x.swapaxes(0, 1).transpose(0, 1) + net.scale[None],
    lambda net, x: F.dropout(x, 0.3, training=net.training),
    lambda net, x: F.log_softmax(x, dim=1, dtype=torch.float64),
    lambda net, x: x.mean(axis=1, keepdims=True),
    lambda net, x: torch.where(x > 0, x, x / 2),
]
MODULES = [
    nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    nn.PixelUnshuffle(1),
    nn.ZeroPad2d((1, 0, 2, 1)),
    nn.ReflectionPad2d(2),
    nn.LocalResponseNorm(3),
    nn.ChannelShuffle(4),
    nn.PReLU(C),
    nn.Hardswish(),
    nn.Dropout2d(),
    torchvision.ops.Permute([0, 2, 3, 1]),
    torchvision.ops.StochasticDepth(0.5, "row"),
    torchvision.ops.FrozenBatchNorm2d(C),
    torchvision.models.convnext.CNBlock(C, 0.5, 0.0),
    timm.layers.LayerNorm2d(C),
    timm.layers.BlurPool2d(C),
    timm.layers.DropPath(0.5),
    timm.layers.BatchNormAct2d(C, act_layer=nn.SiLU),
    timm.layers.activations.HardSwish(),
]


def name_of(case: object) -> str:
    return getattr(case, "__name__", type(case).__name__)


@torch.no_grad()
@pytest.mark.parametrize("case", [*FRAME_BY_FRAME, *MODULES], ids=name_of)
def test_each_frame_of_a_moving_clip_is_the_picture_s(case):
    torch.manual_seed(0)
    network = case if isinstance(case, nn.Module) else Does(case)
    network = network.double().eval()
    inflated = inflate(network, rule="none", image=(C, H, W))
    clip = torch.randn(2, C, 3, H, W, dtype=torch.float64)
    found = inflated(clip)
    expected = [network(frame.clone()) for frame in clip.unbind(2)]
    axis = next(axis for axis in range(1, 4) if torch.stack(expected, axis).shape == found.shape)
    torch.testing.assert_close(found, torch.stack(expected, axis), **FLOAT64_SAME)


def squeeze_excite(net: Does, x: Tensor) -> Tensor:
    return x * x.mean((2, 3), keepdim=True).sigmoid()


def squeeze_excite_of_vectors(net: Does, x: Tensor) -> Tensor:
    y = F.adaptive_avg_pool2d(x, 1).view(x.size(0), x.size(1))
    return x * y[:, :, None, None].sigmoid()


def squeeze_excite_expanded(net: Does, x: Tensor) -> Tensor:
    y = F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)
    return x * y.view(x.size(0), C, 1, 1).sigmoid().expand_as(x)


@torch.no_grad()
@pytest.mark.parametrize(
    "function", [squeeze_excite, squeeze_excite_of_vectors, squeeze_excite_expanded], ids=name_of
)
def test_squeeze_excite_squeezes_the_whole_clip(function):
    torch.manual_seed(0)
    network = Does(function).double()
    clip = torch.randn(2, C, 3, H, W, dtype=torch.float64)
    x = torch.stack([network.conv(frame) for frame in clip.unbind(2)], 2)
    found = inflate(network, rule="none", image=(C, H, W))(clip)
    torch.testing.assert_close(found, x * x.mean((2, 3, 4), keepdim=True).sigmoid(), **FLOAT64_SAME)


AVERAGED = [
    lambda net, x: x.mean((2, 3)),
    lambda net, x: x.mean([-1, -2], keepdim=True).squeeze(-1).squeeze(-1),
    lambda net, x: torch.flatten(x, 1),
    lambda net, x: x.view(x.size(0), -1),
    lambda net, x: F.adaptive_avg_pool2d(x, (2, 1)).flatten(1),
    lambda net, x: F.avg_pool2d(x, 2).reshape(x.shape[0], -1),
    lambda net, x: x.mean((1, 2, 3)),
    lambda net, x: x.mean(),
]


@torch.no_grad()
@pytest.mark.parametrize("function", AVERAGED)
def test_what_gives_up_the_map_takes_the_mean_over_time(function):
    torch.manual_seed(0)
    network = Does(function).double()
    clip = torch.randn(2, C, 3, H, W, dtype=torch.float64)
    expected = torch.stack([network(frame) for frame in clip.unbind(2)]).mean(0)
    found = inflate(network, rule="none", image=(C, H, W))(clip)
    torch.testing.assert_close(found, expected, **FLOAT64_SAME)


@torch.no_grad()
def test_the_largest_value_is_the_clip_s():
    network = Does(lambda net, x: x.amax((2, 3))).double()
    clip = torch.randn(2, C, 3, H, W, dtype=torch.float64)
    expected = torch.stack([network(frame) for frame in clip.unbind(2)]).amax(0)
    torch.testing.assert_close(inflate(network, rule="none", image=(C, H, W))(clip), expected, **FLOAT64_SAME)


REFUSED = [
    (
        lambda net, x: x.flatten(2),
        r"the method 'flatten' of Does: \[2, 8, 6, 5\] -> \[2, 8, 30\] mixes places",
    ),
    (lambda net, x: x.view(2, C, H * W), r"the method 'view' of Does: .* mixes places with channels"),
    (lambda net, x: x.view(2 * C, H * W), r"the method 'view' of Does: .* mixes places with channels"),
    (lambda net, x: x.flatten(), r"the method 'flatten' of Does: .* mixes places with channels"),
    (lambda net, x: x.squeeze(), r"the method 'squeeze' of Does: .* mixes places"),
    (
        lambda net, x: F.conv2d(x, net.conv.weight),
        r"the weight 'conv.weight' of Does: it is read from outside",
    ),
    (
        lambda net, x: F.conv2d(x, net.scale[:, None].expand(C, C, 1, 1)),
        r"the function 'torch.conv2d' of Does: it is not in the table",
    ),
    (
        lambda net, x: torch.einsum("bchw,bchw->bc", x, x),
        r"the function 'torch.functional.einsum' of Does: it is not in the table",
    ),
    (lambda net, x: x.std((2, 3)), r"the method 'std' of Does: it is not in the table of functions"),
    (lambda net, x: x.mean(2), r"the method 'mean' of Does: it works over height alone or over width alone"),
    (lambda net, x: x.sum((2, 3)), r"the method 'sum' of Does: it works over height and width, or"),
    (lambda net, x: torch.sum(x), r"the function 'torch.sum' of Does: it works over height and width, or"),
    (
        lambda net, x: F.softmax(x, dim=-1),
        r"'torch.nn.functional.softmax' of Does: it works over height or width",
    ),
    (lambda net, x: F.layer_norm(x, (H, W)), r"layer_norm' of Does: it normalises over height and width"),
    (
        lambda net, x: F.group_norm(x.permute(0, 2, 3, 1), 1),
        r"group_norm' of Does: \[2, 6, 5, 8\] is not a map",
    ),
    (
        lambda net, x: x.permute(0, 1, 3, 2),
        r"the method 'permute' of Does: width does not follow height any more",
    ),
    (lambda net, x: x.transpose(1, 2), r"the method 'transpose' of Does: width does not follow height"),
    (
        lambda net, x: x[:, :1, :1] + x.permute(0, 2, 3, 1)[..., :1],
        r"'_operator.add' of Does: its inputs have height and",
    ),
    (lambda net, x: x[:, :, 0], r"'_operator.getitem' of Does: it takes one row or one column of each frame"),
    (lambda net, x: x[:, [1, 0]], r"'_operator.getitem' of Does: it takes elements by a tensor or a list"),
    (lambda net, x: x.unsqueeze(3), r"the method 'unsqueeze' of Does: it parts height from width"),
    (lambda net, x: x.view(x.shape), r"the method 'view' of Does: it takes all the sizes of a clip at once"),
    (lambda net, x: x.view(-1, *x.shape[1:3]), r"cannot be iterated|across its number of frames"),
    (
        lambda net, x: x.new_zeros(x.shape[1:3]),
        r"'_operator.getitem' of Does: it takes sizes of a clip across",
    ),
    (lambda net, x: x.expand(1, 2, C, H, W), r"the method 'expand' of Does: it adds axes"),
    (lambda net, x: x * x.ndim, r"the function 'builtins.getattr' of Does: it reads 'ndim' of a clip"),
    (lambda net, x: F.dropout(x), r"functional.dropout' of Does: it drops in eval mode, too"),
    (lambda net, x: F.avg_pool2d(x, x.shape[-2:]), r"avg_pool2d' of Does: its arguments depend on the size"),
    (lambda net, x: F.pad(x, x.shape[-2:]), r"functional.pad' of Does: its sizes depend on the input"),
    (
        lambda net, x: F.max_pool2d(x, 2, return_indices=True),
        r"max_pool2d_with_indices' of Does: it is not in the table",
    ),
    (
        lambda net, x: torch.cat([x, net.shift], 0),
        r"'torch.cat' of Does: some of its inputs have time and some",
    ),
    (
        lambda net, x: torch.stack([x, net.shift.expand(2, -1, -1, -1)]),
        r"'torch.stack' of Does: some of its inputs have time and some",
    ),
    (
        lambda net, x: x + x.flatten(1).view(2, C, H, W),
        r"'_operator.add' of Does: \[2, 8, 6, 5\], a map without time, meets a clip",
    ),
    (lambda net, x: x if x.sum() > 0 else -x, r"torch.fx cannot follow 'network' \(Does\): .*control flow"),
]


@pytest.mark.parametrize(("function", "text"), REFUSED)
def test_a_function_that_would_lose_its_meaning_is_named(function, text):
    with pytest.raises(InflationError, match=text):
        inflate(Does(function), image=(C, H, W))


def asserts(net: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(x, Tensor), "a tensor of images is wanted"
    return x


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (Does(asserts), r"torch\.fx cannot follow 'network' \(Does\): a tensor of images is wanted\."),
        (
            nn.Sequential(nn.Module()),
            r"'0' of the 2D network does not run on .*missing the required .forward",
        ),
    ],
    ids=["asserts", "no_forward"],
)
def test_what_a_network_s_own_code_raises_is_named(network: nn.Module, text: str):
    with pytest.raises(InflationError, match=text):
        inflate(network, image=(C, H, W))


def hooked() -> nn.Module:
    conv = nn.Conv2d(C, C, 1)
    conv.register_forward_hook(lambda module, args, output: None)
    return conv


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(W, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, x, x)[0]


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class OwnConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * 2)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (
            nn.Sequential(nn.ConvTranspose2d(C, C, 2)),
            r"the module '0' \(ConvTranspose2d\) of Sequential: .* modules",
        ),
        (nn.Sequential(nn.InstanceNorm2d(C)), r"the module '0' \(InstanceNorm2d\) of Sequential: it is not"),
        (nn.Sequential(nn.SyncBatchNorm(C)), r"the module '0' \(SyncBatchNorm\)|does not run"),
        (Attention(), r"the module 'attend' \(MultiheadAttention\) of Attention: .* modules|does not run"),
        (
            nn.Sequential(nn.Linear(W, 3)),
            r"'0' \(Linear\) of Sequential: it works on the last axis, which is the width",
        ),
        (
            nn.Sequential(torchvision.ops.Permute([0, 2, 3, 1]), nn.Conv2d(H, 3, 1)),
            r"'1' \(Conv2d\) of Sequential: \[2, 6, 5, 8\] is not a map of features with the channels",
        ),
        (
            nn.Conv2d(C, C, 3, padding=1, padding_mode="reflect"),
            r"Conv2d with padding_mode='reflect' is not in",
        ),
        (nn.MaxPool2d(2, return_indices=True), r"a pooling layer that returns indices is not in the table"),
        (
            nn.AdaptiveMaxPool2d(2, return_indices=True),
            r"a pooling layer that returns indices is not in the table",
        ),
        (nn.Sequential(hooked()), r"'0' has forward hooks, which inflation would lose: remove them first"),
        (
            nn.Sequential(parametrizations.weight_norm(nn.Conv2d(C, C, 1))),
            r"'0': its weights are parametrized: call torch.nn.utils.parametrize.remove_parametrizations",
        ),
        (
            nn.Sequential(OwnConv(C, C, 1)),
            r"function 'torch.conv2d' of Sequential, in '0': it is not in the table",
        ),
        (TwoInputs(), r"torch.fx cannot follow 'network' \(TwoInputs\): .*missing 1 required positional"),
        (nn.Sequential(nn.Conv2d(C, C, 9)), r"'0' of the 2D network does not run on \[\[2, 8, 6, 5\]\]: "),
        (
            Does(lambda net, x: net.conv(x) + net.conv(x.mean((2, 3))[:, :, None, None])),
            r"the module 'conv' \(Conv2d\) of Does: it is called with frames here and with single",
        ),
    ],
    ids=lambda case: name_of(case) if isinstance(case, nn.Module) else "",
)
def test_a_module_that_is_not_in_the_table_is_named(module, text):
    with pytest.raises(InflationError, match=text):
        inflate(module, image=(C, H, W))


def test_the_tables_name_what_there_is():
    known = {*NAMES.values(), *dir(Tensor)}
    assert [name for name in HANDLERS if not name.endswith("_") and name not in known] == []
    for path in ENTRIES:
        home, _, name = path.rpartition(".")
        assert hasattr(pytest.importorskip(home), name), path


@torch.no_grad()
def test_buffers_keep_their_names_and_their_place_in_the_state_dict():
    network = Does(lambda net, x: x * net.scale + net.shift * torch.tensor(2.0))
    inflated = inflate(network, rule="none", image=(C, H, W))
    assert set(inflated.state_dict()) == set(network.state_dict())
    assert "shift" in dict(inflated.named_buffers())
    assert set(network._buffers) == {"shift"}
    clip = torch.randn(1, C, 2, H, W)
    before = inflated(clip)
    inflated.get_buffer("shift").zero_()
    assert not torch.equal(inflated(clip), before)


def test_dropout_that_is_a_function_drops_in_training_alone():
    inflated = inflate(Does(lambda net, x: F.dropout(x, 0.9, net.training)).train(), image=(C, H, W))
    clip = torch.randn(1, C, 2, H, W)
    assert float((inflated(clip) == 0).float().mean()) > 0.5
    assert float((inflated.eval()(clip) == 0).float().mean()) == 0
