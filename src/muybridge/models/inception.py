"""Going Deeper with Convolutions. Szegedy et al., CVPR 2015 (arXiv:1409.4842): Inception-V1, for clips.

The network that I3D (arXiv:1705.07750) builds on: of frames, and inflated; with BatchNorm (arXiv:1502.03167).

Where to find the papers here:
    Szegedy et al., Fig. 2 (b); I3D, Fig. 3 right: a module         `InceptionBlock`
    Szegedy et al., Table 1; I3D, Fig. 3 left: the whole network    `INCEPTION_V1`, `make_trunk`
    the same for frames, as Szegedy et al. have it                  `per_frame`
    TensorFlow's padding "SAME"                                     `same_padding`, `SameConv3d`, `SamePool3d`

Deviation: branch 2 of a module has a 3 x 3 kernel where Szegedy et al. have 5 x 5: so has Fig. 3 of I3D,
    after TensorFlow's network, whose ImageNet weights it takes.
Deviation: BatchNorm has a scale and eps 1e-5; the authors' TensorFlow code of I3D has no scale and 1e-3.
    `bn_eps=1e-3` and a scale of 1 give theirs.
Deviation: weights start as MSRA's normal ones; the papers name no distribution.

Shape letters: B clips, C channels, T frames, H height, W width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.models.blocks import Conv3d, Size3, channels_last, init_msra, scaled


class Conv(NamedTuple):
    """A convolution with BatchNorm and ReLU; sizes are (time, height, width)."""

    name: str
    channels: int
    kernel: Size3
    stride: Size3 = (1, 1, 1)


class Pool(NamedTuple):
    """A max pooling."""

    name: str
    kernel: Size3
    stride: Size3


class Mixed(NamedTuple):
    """An Inception module: the output channels of each convolution."""

    name: str
    b0: int  # 1 x 1 x 1
    b1: tuple[int, int]  # 1 x 1 x 1, then the kernel
    b2: tuple[int, int]  # 1 x 1 x 1, then the kernel
    b3: int  # max pooling, then 1 x 1 x 1
    kernel: Size3 = (3, 3, 3)


Row = Conv | Pool | Mixed

# fmt: off
# I3D, Fig. 3: strides of time are 1 in the first two poolings. The names are those of TensorFlow's network.
INCEPTION_V1: tuple[Row, ...] = (
    Conv("Conv3d_1a_7x7", 64, (7, 7, 7), (2, 2, 2)),
    Pool("MaxPool3d_2a_3x3", (1, 3, 3), (1, 2, 2)),
    Conv("Conv3d_2b_1x1", 64, (1, 1, 1)),
    Conv("Conv3d_2c_3x3", 192, (3, 3, 3)),
    Pool("MaxPool3d_3a_3x3", (1, 3, 3), (1, 2, 2)),
    #     name        b0   b1          b2         b3
    Mixed("Mixed_3b", 64,  (96, 128),  (16, 32),  32),
    Mixed("Mixed_3c", 128, (128, 192), (32, 96),  64),
    Pool("MaxPool3d_4a_3x3", (3, 3, 3), (2, 2, 2)),
    Mixed("Mixed_4b", 192, (96, 208),  (16, 48),  64),
    Mixed("Mixed_4c", 160, (112, 224), (24, 64),  64),
    Mixed("Mixed_4d", 128, (128, 256), (24, 64),  64),
    Mixed("Mixed_4e", 112, (144, 288), (32, 64),  64),
    Mixed("Mixed_4f", 256, (160, 320), (32, 128), 128),
    Pool("MaxPool3d_5a_2x2", (2, 2, 2), (2, 2, 2)),
    Mixed("Mixed_5b", 256, (160, 320), (32, 128), 128),
    Mixed("Mixed_5c", 384, (192, 384), (48, 128), 128),
)
# fmt: on


def per_frame(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The 2D network of a table: every kernel and every stride is one frame long.

    >>> per_frame(INCEPTION_V1)[0]
    Conv(name='Conv3d_1a_7x7', channels=64, kernel=(1, 7, 7), stride=(1, 2, 2))
    """
    flat: list[Row] = []
    for row in rows:
        kernel = (1, *row.kernel[1:])
        if isinstance(row, Mixed):
            flat.append(row._replace(kernel=kernel))
        else:
            flat.append(row._replace(kernel=kernel, stride=(1, *row.stride[1:])))
    return tuple(flat)


def make_trunk(
    in_channels: int,
    rows: Sequence[Row] = INCEPTION_V1,
    *,
    width: float = 1.0,
    bn_eps: float = 1e-5,
) -> nn.Sequential:
    """The layers of a table one after another, each under its name.

    Args:
        in_channels: C of the clip: 3, or 2 for flow, or 2 L for a stack of L flow fields as one frame.
        rows: the inflated Inception-V1, or `per_frame` of it, or another table.
        width: scales every channel count.
        bn_eps: of every BatchNorm.

    Shape:
        input  [B, in_channels, T, H, W]
        output [B, 1024 * width, T / 8, H / 32, W / 32]; of frames: T instead of T / 8

    >>> clip = torch.zeros(1, 3, 16, 64, 64)
    >>> make_trunk(3, width=1 / 16)(clip).shape
    torch.Size([1, 64, 2, 2, 2])
    >>> make_trunk(3, per_frame(INCEPTION_V1), width=1 / 16)(clip).shape
    torch.Size([1, 64, 16, 2, 2])
    """
    layers = nn.Sequential()
    channels = in_channels
    for row in rows:
        if isinstance(row, Pool):
            layers.add_module(row.name, SamePool3d(row.kernel, row.stride))
        elif isinstance(row, Conv):
            count = scaled(row.channels, width)
            unit = ConvUnit(channels, count, row.kernel, stride=row.stride, bn_eps=bn_eps)
            layers.add_module(row.name, unit)
            channels = count
        else:
            row = scaled_row(row, width)
            layers.add_module(row.name, InceptionBlock(channels, row, bn_eps=bn_eps))
            channels = out_channels(row)
    layers.apply(init_msra)
    return layers


def stage_names(rows: Sequence[Row] = INCEPTION_V1, *, prefix: str = "") -> tuple[str, ...]:
    """The rows that have weights, as `VideoModel.stage_names` wants them.

    >>> stage_names(prefix="rgb.")[:3]
    ('rgb.Conv3d_1a_7x7', 'rgb.Conv3d_2b_1x1', 'rgb.Conv3d_2c_3x3')
    """
    return tuple(prefix + row.name for row in rows if not isinstance(row, Pool))


def feature_channels(width: float) -> int:
    """The channels of Inception-V1's last module: what its classifier sees.

    >>> feature_channels(1.0), feature_channels(1 / 16)
    (1024, 64)
    """
    last = INCEPTION_V1[-1]
    assert isinstance(last, Mixed)
    return out_channels(scaled_row(last, width))


def out_channels(row: Mixed) -> int:
    """The channels of a module's output.

    >>> out_channels(Mixed("Mixed_3b", 64, (96, 128), (16, 32), 32))
    256
    """
    return row.b0 + row.b1[1] + row.b2[1] + row.b3


def scaled_row(row: Mixed, width: float) -> Mixed:
    """A module `width` times as wide: each of its six counts is scaled by itself."""
    return row._replace(
        b0=scaled(row.b0, width),
        b1=(scaled(row.b1[0], width), scaled(row.b1[1], width)),
        b2=(scaled(row.b2[0], width), scaled(row.b2[1], width)),
        b3=scaled(row.b3, width),
    )


class InceptionBlock(nn.Module):
    """Four branches side by side; their outputs are one after another in the channels.

        y = [b0(x), b1b(b1a(x)), b2b(b2a(x)), b3b(pool(x))]

    Args:
        in_channels: C.
        row: the output channels of each convolution, and the kernel of `b1b`, `b2b` and the pooling.
        bn_eps: of every BatchNorm.

    Shape:
        input  [B, C, T, H, W]
        output [B, out_channels(row), T, H, W]

    >>> block = InceptionBlock(6, Mixed("Mixed_3b", 4, (3, 5), (2, 3), 2), bn_eps=1e-5)
    >>> block(torch.zeros(1, 6, 4, 7, 7)).shape
    torch.Size([1, 14, 4, 7, 7])
    """

    def __init__(self, in_channels: int, row: Mixed, *, bn_eps: float) -> None:
        super().__init__()
        one = (1, 1, 1)
        self.b0 = ConvUnit(in_channels, row.b0, one, bn_eps=bn_eps)
        self.b1a = ConvUnit(in_channels, row.b1[0], one, bn_eps=bn_eps)
        self.b1b = ConvUnit(row.b1[0], row.b1[1], row.kernel, bn_eps=bn_eps)
        self.b2a = ConvUnit(in_channels, row.b2[0], one, bn_eps=bn_eps)
        self.b2b = ConvUnit(row.b2[0], row.b2[1], row.kernel, bn_eps=bn_eps)
        self.pool = SamePool3d(row.kernel, one)
        self.b3b = ConvUnit(in_channels, row.b3, one, bn_eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.pool(x)))
        return torch.cat(branches, dim=1)


class ConvUnit(nn.Module):
    """A convolution with padding "SAME", BatchNorm, ReLU.

    Shape:
        input  [B, in_channels, T, H, W]
        output [B, out_channels, T / stride, H / stride, W / stride], rounded up
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Size3,
        *,
        stride: Size3 = (1, 1, 1),
        bn_eps: float,
    ) -> None:
        super().__init__()
        # With stride 1 and an odd kernel SAME is half the kernel at both ends, whatever the input's size.
        plain = stride == (1, 1, 1) and all(size % 2 for size in kernel)
        conv = Conv3d if plain else SameConv3d
        self.conv = conv(in_channels, out_channels, kernel, stride=stride)
        self.bn = nn.BatchNorm3d(out_channels, eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        # torch convolves a lone small clip in a way that loses the order in memory; in another order all that
        # follows would be slow, the poolings above all.
        y: Tensor = self.bn(channels_last(self.conv(x)))
        return F.relu(y, inplace=True)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis, so that its output is ceil(size / stride) long: padding "SAME".

    It depends on the size of the input, and the odd one comes after.

    >>> same_padding(224, 7, 2), same_padding(79, 7, 2), same_padding(56, 3, 2), same_padding(28, 2, 2)
    ((2, 3), (3, 3), (0, 1), (0, 0))
    """
    steps = -(-size // stride)
    total = max((steps - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SameConv3d(Conv3d):
    """`Conv3d` with padding "SAME", which is found anew for each input.

    Shape:
        input  [B, C, T, H, W]
        output [B, O, T / stride, H / stride, W / stride], rounded up

    >>> SameConv3d(3, 8, (7, 7, 7), stride=(2, 2, 2))(torch.zeros(1, 3, 9, 30, 31)).shape
    torch.Size([1, 8, 5, 15, 16])
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Size3, *, stride: Size3 = (1, 1, 1)
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride=stride, padding=(0, 0, 0))

    def forward(self, input: Tensor) -> Tensor:
        t, h, w = map(same_padding, input.shape[2:], self.kernel_size, self.stride)
        return super().forward(F.pad(input, (*w, *h, *t)))


class SamePool3d(nn.Module):
    """Max pooling with padding "SAME": what lies outside is never the largest.

    Args:
        kernel: (time, height, width); odd along an axis of stride 1.
        stride: (time, height, width).

    Shape:
        input  [B, C, T, H, W]
        output [B, C, T / stride, H / stride, W / stride], rounded up

    >>> SamePool3d((2, 2, 2), (2, 2, 2))(torch.zeros(1, 4, 1, 7, 8)).shape
    torch.Size([1, 4, 1, 4, 4])
    """

    def __init__(self, kernel: Size3, stride: Size3) -> None:
        super().__init__()
        assert all(k % 2 or s > 1 for k, s in zip(kernel, stride, strict=True)), (kernel, stride)
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        # The padding before is symmetric in torch; where SAME has one more after, the rounding up adds it.
        # So nothing is copied.
        front = [same_padding(*axis)[0] for axis in zip(x.shape[2:], self.kernel, self.stride, strict=True)]
        return F.max_pool3d(x, self.kernel, self.stride, front, ceil_mode=True)
