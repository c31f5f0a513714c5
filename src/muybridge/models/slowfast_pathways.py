"""The parts of SlowFast (arXiv:1812.03982): Table 1, its two columns, and the laterals between them.

Where to find the paper here:
    Table 1 (both pathways of ResNet-50)            `TABLE_1`, `Stem`, `Pathway`; deeper ones `TRUNKS`
    Sec. 3.3 and Table 5a (lateral connections)     `LATERALS`, `TimeToChannel`, `TimeSample`, `TimeConv`
    Table 5c (weaker inputs of Fast)                `INPUTS`
    "+NL" (non-local blocks in Slow's res4)         `Trunk.nonlocal_after`, `PooledNonLocalBlock`

Shape letters: B clips, C channels, T frames of Slow, A alpha, H height, W width.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.models.blocks import Conv3d, init_msra, scaled
from muybridge.models.nonlocal_block import NonLocalBlock, insert_nonlocal
from muybridge.models.nonlocal_net import MaxPool, Pool
from muybridge.models.resnet import ResidualBlock, bottleneck_stage


class Row(NamedTuple):
    """A row of Table 1. Channels are Slow's; Fast has beta of them."""

    channels: int  # of conv1, or inside a bottleneck, whose output has four times as many
    slow_t: int  # temporal kernels
    fast_t: int
    stride: int  # in space; time is never strided


class Trunk(NamedTuple):
    """Bottlenecks in res2 .. res5; how many of them, from the first, have the temporal kernel."""

    blocks: tuple[int, int, int, int]
    temporal: tuple[int, int, int, int]
    nonlocal_after: tuple[int, ...] = ()  # bottlenecks of Slow's res4, counted from 0


class Lateral(NamedTuple):
    """How Fast's features come to Slow after pool1, res2, res3 and res4."""

    kind: Literal["none", "ttoc_sum", "ttoc_concat", "t_sample", "t_conv", "t_conv_bare"]
    kernel: int = 1  # frames that a time-strided convolution sees

    def added(self, channels: int, alpha: int) -> int:
        """Channels beside Slow's own, from `channels` of Fast.

        >>> LATERALS["t_conv"].added(8, alpha=8), LATERALS["ttoc_concat"].added(8, alpha=8)
        (16, 64)
        """
        times = {"none": 0, "ttoc_sum": 0, "ttoc_concat": alpha, "t_sample": 1}
        return times.get(self.kind, 2) * channels


# fmt: off
TABLE_1 = (
    #   channels slow_t fast_t stride
    Row(64,      1,     5,     2),  # conv1, then a 1 x 3 x 3 max pooling of stride 2
    Row(64,      1,     3,     1),  # res2
    Row(128,     1,     3,     2),  # res3
    Row(256,     3,     3,     2),  # res4
    Row(512,     3,     3,     2),  # res5
)
TRUNKS = {
    "r50":            Trunk((3, 4, 6, 3),  (3, 4, 6, 3)),
    "r101":           Trunk((3, 4, 23, 3), (3, 4, 23, 3)),
    "r101_first6":    Trunk((3, 4, 23, 3), (3, 4, 6, 3)),  # the paper's, by its multiply-adds
    "r101_first6_nl": Trunk((3, 4, 23, 3), (3, 4, 6, 3), (6, 13, 20)),
}
POOL_1 = Pool((1, 3, 3), (1, 2, 2), (0, 1, 1))
LATERALS = {
    "none":              Lateral("none"),
    "ttoc_sum":          Lateral("ttoc_sum"),        # Sec. 3.3 (i); alpha beta must be 1
    "ttoc_concat":       Lateral("ttoc_concat"),
    "t_sample":          Lateral("t_sample"),        # (ii)
    "t_conv":            Lateral("t_conv", 5),       # (iii), the paper's choice
    "t_conv7":           Lateral("t_conv", 7),       # of the public weights of 8 x 8, ResNet-50
    "t_conv_mmaction2":  Lateral("t_conv_bare", 5),  # without BatchNorm and ReLU, with slow_frames="stride"
    "t_conv7_mmaction2": Lateral("t_conv_bare", 7),
}
# fmt: on
RES4 = 2
SLOW_T = tuple(row.slow_t for row in TABLE_1)
FAST_T = tuple(row.fast_t for row in TABLE_1)


def output_channels(width: float) -> tuple[int, ...]:
    """Channels after conv1 and after res2 .. res5.

    >>> output_channels(1), output_channels(1 / 8)
    ((64, 256, 512, 1024, 2048), (8, 32, 64, 128, 256))
    """
    return (scaled(TABLE_1[0].channels, width), *(scaled(4 * row.channels, width) for row in TABLE_1[1:]))


class TimeToChannel(nn.Module):
    """Sec. 3.3 (i): alpha frames become the channels of one, the earliest first.

    Shape:
        input  [B, C, A T, H, W]
        output [B, A C, T, H, W]

    >>> TimeToChannel(2)(torch.arange(4).view(1, 1, 4, 1, 1)).flatten(2).tolist()
    [[[0, 2], [1, 3]]]
    """

    def __init__(self, alpha: int) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        packed = x.reshape(b, c, t // self.alpha, self.alpha, h, w)  # [B, C, T, A, H, W]
        return packed.permute(0, 3, 1, 2, 4, 5).flatten(1, 2)


class TimeSample(nn.Module):
    """Sec. 3.3 (ii): the first of every alpha frames.

    Shape:
        input  [B, C, A T, H, W]
        output [B, C, T, H, W]

    >>> TimeSample(2)(torch.arange(4).view(1, 1, 4, 1, 1)).flatten().tolist()
    [0, 2]
    """

    def __init__(self, alpha: int) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.alpha]


class TimeConv(nn.Module):
    """Sec. 3.3 (iii): a convolution over time with the stride alpha, BatchNorm, ReLU.

    Args:
        channels: C.
        alpha: the stride.
        kernel: frames that it sees; odd, so that T frames come out.
        bn_eps: of the BatchNorm.

    Shape:
        input  [B, C, A T, H, W]
        output [B, 2 C, T, H, W]

    >>> TimeConv(8, alpha=8, kernel=5)(torch.zeros(1, 8, 32, 7, 7)).shape
    torch.Size([1, 16, 4, 7, 7])
    """

    def __init__(self, channels: int, *, alpha: int, kernel: int, bn_eps: float = 1e-5) -> None:
        super().__init__()
        self.conv = Conv3d(channels, 2 * channels, (kernel, 1, 1), stride=(alpha, 1, 1))
        self.bn = nn.BatchNorm3d(2 * channels, eps=bn_eps)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.bn(self.conv(x)))
        return y


def make_lateral(lateral: Lateral, channels: int, *, alpha: int, bn_eps: float) -> nn.Module:
    """One connection, from `channels` of Fast.

    >>> make_lateral(LATERALS["ttoc_sum"], 8, alpha=8, bn_eps=1e-5)
    TimeToChannel()
    """
    if lateral.kind == "t_conv":
        return TimeConv(channels, alpha=alpha, kernel=lateral.kernel, bn_eps=bn_eps)
    if lateral.kind == "t_conv_bare":
        conv = Conv3d(channels, 2 * channels, (lateral.kernel, 1, 1), stride=(alpha, 1, 1))
        return nn.Sequential(OrderedDict(conv=conv))
    return TimeSample(alpha) if lateral.kind == "t_sample" else TimeToChannel(alpha)


class PooledNonLocalBlock(NonLocalBlock):
    """The dot-product block of "+NL": 2 x 2 x 2 max pooling comes before phi and g, as in the authors' code.

    Shape:
        input  [B, C, T, H, W]
        output [B, C, T, H, W]; equal to the input while the block is new
    """

    def __init__(self, channels: int, inner: int, *, bn_eps: float = 1e-5) -> None:
        super().__init__(channels, inner, kind="dot_product", pool="before", bn_eps=bn_eps)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t, h, w = (min(2, extent) for extent in x.shape[2:])  # what is 1 long already cannot be pooled
        pooled = F.max_pool3d(x, (t, h, w))
        return self.theta(x), self.phi(pooled), self.g(pooled)


class Stem(nn.Module):
    """conv1 and pool1 of Table 1, with BatchNorm and ReLU between them.

    Shape:
        input  [B, in_channels, T, H, W]
        output [B, channels, T, H / 4, W / 4]

    >>> Stem(3, 8, kernel_t=5)(torch.zeros(1, 3, 4, 32, 32)).shape
    torch.Size([1, 8, 4, 8, 8])
    """

    def __init__(self, in_channels: int, channels: int, *, kernel_t: int, bn_eps: float = 1e-5) -> None:
        super().__init__()
        self.conv = Conv3d(in_channels, channels, (kernel_t, 7, 7), stride=(1, 2, 2))
        self.bn = nn.BatchNorm3d(channels, eps=bn_eps)
        self.relu = nn.ReLU(inplace=True)
        self.pool = MaxPool(POOL_1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pool(self.relu(self.bn(self.conv(x))))
        return y


class Pathway(nn.Module):
    """A column of Table 1 without its head: `stem`, then the four `stages`, with new weights.

    Args:
        in_channels: of the clip.
        trunk: the bottlenecks.
        kernels_t: temporal kernels, `SLOW_T` or `FAST_T`.
        width: scales the channels of Table 1.
        added: channels that laterals add to the input of each stage.
        nonlocal_after: bottlenecks of res4 with a non-local block behind them.
        bn_eps: of every BatchNorm.
    """

    def __init__(
        self,
        in_channels: int,
        trunk: Trunk,
        kernels_t: Sequence[int],
        *,
        width: float,
        added: Sequence[int] = (0, 0, 0, 0),
        nonlocal_after: Sequence[int] = (),
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        outs = output_channels(width)
        self.stem = Stem(in_channels, outs[0], kernel_t=kernels_t[0], bn_eps=bn_eps)
        self.stem.apply(init_weights)
        self.stages = nn.Sequential()
        for index, row in enumerate(TABLE_1[1:]):
            temporal = trunk.temporal[index]
            stage = bottleneck_stage(
                outs[index] + added[index],
                scaled(row.channels, width),
                outs[index + 1],
                temporal_kernels=[kernels_t[index + 1]] * temporal + [1] * (trunk.blocks[index] - temporal),
                stride=row.stride,
                bn_eps=bn_eps,
            )
            stage.apply(init_weights)
            after = nonlocal_after if index == RES4 else ()
            inner = scaled(2 * row.channels, width)  # half of what a bottleneck puts out
            make = partial(PooledNonLocalBlock, outs[index + 1], inner, bn_eps=bn_eps)
            self.stages.append(insert_nonlocal(stage, after, make))


def init_weights(module: nn.Module) -> None:
    """He's initialisation; a bottleneck begins as its shortcut, the scale of its last BatchNorm being 0."""
    init_msra(module)
    if isinstance(module, ResidualBlock):
        nn.init.zeros_(module.get_parameter("bn_c.weight"))


class PoolBoth(nn.Module):
    """What the head takes: Slow and Fast, each averaged over time and space.

    Shape:
        slow, fast [B, C, T, H, W], [B, C', A T, H', W']
        output     [B, C + C']
    """

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        return torch.cat((slow.mean((2, 3, 4)), fast.mean((2, 3, 4))), 1)


def grey(x: Tensor) -> Tensor:
    """[B, 3, T, H, W] to [B, 1, T, H, W]: luma of BT.601; its weights sum to 1, so mean and std stay."""
    red, green, blue = x.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]


def half(x: Tensor) -> Tensor:
    """[B, C, T, H, W] to [B, C, T, H / 2, W / 2], odd sizes rounded up."""
    return F.avg_pool3d(x, (1, *(min(2, extent) for extent in x.shape[3:])), ceil_mode=True)


def difference(x: Tensor) -> Tensor:
    """[B, 3, T, H, W] to [B, 1, T, H, W]: each grey frame less the one before it."""
    y = grey(x)
    return y - torch.cat((y[:, :, :1], y[:, :, :-1]), 2)


class FastInput(NamedTuple):
    """What Fast sees: its channels, and how they come from the input."""

    channels: int
    make: Callable[[Tensor], Tensor] = lambda x: x


INPUTS = {
    "rgb": FastInput(3),
    "half": FastInput(3, half),  # the paper has beta 1/4 with it
    "grey": FastInput(1, grey),
    "difference": FastInput(1, difference),
}
