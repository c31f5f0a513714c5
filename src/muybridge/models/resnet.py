"""Deep Residual Learning. He, Zhang, Ren, Sun, CVPR 2016 (arXiv:1512.03385): its blocks, for clips.

Where to find the paper here: Fig. 2 and Fig. 5 are `ResidualBlock` (basic with two convolutions, bottleneck
with three); of Sec. 3.3, option A is `ZeroPadding` and option B, the projection shortcut, `Projection`;
conv1 of Table 1 is `Stem`.

Shape letters: B clips, C channels, T frames, H height, W width.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.models.blocks import Conv3d, Size3


class Stem(nn.Module):
    """conv1: a convolution, BatchNorm, ReLU, and what pools behind it.

    Args:
        conv: what convolves; a plain convolution or several.
        channels: its output channels.
        bn_eps: of BatchNorm.
        pool: `nn.Identity()` where nothing pools.

    Shape:
        input  [B, C, T, H, W]
        output [B, channels, T', H', W']

    >>> import torch
    >>> stem = Stem(Conv3d(3, 8, (3, 7, 7), stride=(1, 2, 2)), 8, bn_eps=1e-5, pool=nn.Identity())
    >>> stem(torch.zeros(1, 3, 4, 32, 32)).shape
    torch.Size([1, 8, 4, 16, 16])
    """

    def __init__(self, conv: nn.Module, channels: int, *, bn_eps: float, pool: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm3d(channels, eps=bn_eps)
        self.relu = nn.ReLU(inplace=True)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pool(self.relu(self.bn(self.conv(x))))
        return y


class Projection(nn.Module):
    """The shortcut where the shape changes: a 1 x 1 x 1 convolution with the block's stride, and BatchNorm.

    Shape:
        input  [B, C, T, H, W]
        output [B, out_channels, T', H', W']
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: Size3, bn_eps: float) -> None:
        super().__init__()
        self.conv: nn.Module = Conv3d(in_channels, out_channels, (1, 1, 1), stride=stride)
        self.bn = nn.BatchNorm3d(out_channels, eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y


class ZeroPadding(nn.Module):
    """The shortcut without weights: every `stride`-th place, and zeros for the channels that are missing.

    Shape:
        input  [B, C, T, H, W]
        output [B, out_channels, T', H', W']

    >>> import torch
    >>> ZeroPadding(6, stride=(2, 2, 2))(torch.ones(1, 4, 3, 3, 3)).sum((2, 3, 4))
    tensor([[8., 8., 8., 8., 0., 0.]])
    """

    def __init__(self, out_channels: int, *, stride: Size3) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        t, h, w = self.stride
        missing = self.out_channels - x.shape[1]
        return F.pad(x[:, :, ::t, ::h, ::w], (0, 0, 0, 0, 0, 0, 0, missing))


class ResidualBlock(nn.Module):
    """Convolutions with BatchNorm and ReLU, around a shortcut.

        y = relu(shortcut(x) + bn_b(conv_b(relu(bn_a(conv_a(x))))))

    Args:
        in_channels: C.
        convs: two (a basic block) or three (a bottleneck), from the input on: `conv_a`, `conv_b`, `conv_c`.
        channels: the output channels of each of `convs`.
        stride: of the whole block, (time, height, width). The shortcut is a projection where this or the
            channels change the shape, and the identity elsewhere.
        bn_eps: of every BatchNorm.

    Shape:
        input  [B, C, T, H, W]
        output [B, channels[-1], T', H', W']

    >>> import torch
    >>> convs = [Conv3d(8, 8, (3, 1, 1)), Conv3d(8, 8, (1, 3, 3), stride=(1, 2, 2)), Conv3d(8, 32, (1, 1, 1))]
    >>> block = ResidualBlock(8, convs, (8, 8, 32), stride=(1, 2, 2), bn_eps=1e-5)
    >>> block(torch.zeros(2, 8, 4, 14, 14)).shape
    torch.Size([2, 32, 4, 7, 7])
    """

    def __init__(
        self,
        in_channels: int,
        convs: Sequence[nn.Module],
        channels: Sequence[int],
        *,
        stride: Size3,
        bn_eps: float,
    ) -> None:
        super().__init__()
        self.letters = "abc"[: len(convs)]
        for letter, conv, width in zip(self.letters, convs, channels, strict=True):
            self.add_module(f"conv_{letter}", conv)
            self.add_module(f"bn_{letter}", nn.BatchNorm3d(width, eps=bn_eps))
        self.shortcut: Projection | ZeroPadding | None = None
        if in_channels != channels[-1] or stride != (1, 1, 1):
            self.shortcut = Projection(in_channels, channels[-1], stride=stride, bn_eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for letter in self.letters:
            y = self.get_submodule(f"bn_{letter}")(self.get_submodule(f"conv_{letter}")(y))
            if letter != self.letters[-1]:
                y = F.relu(y, inplace=True)
        y += x if self.shortcut is None else self.shortcut(x)
        return F.relu(y, inplace=True)


def bottleneck(
    in_channels: int,
    inner: int,
    out_channels: int,
    *,
    temporal_kernels: tuple[int, int] = (1, 1),
    stride: int = 1,
    bn_eps: float = 1e-5,
) -> ResidualBlock:
    """t_a x 1 x 1, t_b x 3 x 3, 1 x 1 x 1; time is never strided.

    Args:
        in_channels: C of its input.
        inner: channels of the first two convolutions.
        out_channels: channels of its output.
        temporal_kernels: t_a and t_b.
        stride: of height and width, in the 3 x 3 convolution and in the projection.
        bn_eps: of every BatchNorm.

    Shape:
        input  [B, in_channels, T, H, W]
        output [B, out_channels, T, H / stride, W / stride]

    >>> import torch
    >>> bottleneck(8, 4, 16, temporal_kernels=(1, 3), stride=2)(torch.zeros(1, 8, 4, 14, 14)).shape
    torch.Size([1, 16, 4, 7, 7])
    """
    t_a, t_b = temporal_kernels
    convs = (
        Conv3d(in_channels, inner, (t_a, 1, 1)),
        Conv3d(inner, inner, (t_b, 3, 3), stride=(1, stride, stride)),
        Conv3d(inner, out_channels, (1, 1, 1)),
    )
    channels = (inner, inner, out_channels)
    return ResidualBlock(in_channels, convs, channels, stride=(1, stride, stride), bn_eps=bn_eps)


def bottleneck_stage(
    in_channels: int,
    inner: int,
    out_channels: int,
    *,
    temporal_kernels: Sequence[int],
    stride: int = 1,
    bn_eps: float = 1e-5,
) -> nn.Sequential:
    """A stage of bottlenecks t x 1 x 1, 1 x 3 x 3, 1 x 1 x 1; time is never strided.

    Args:
        in_channels: C of the stage's input.
        inner: channels of the first two convolutions of a block.
        out_channels: channels of a block's output.
        temporal_kernels: t of each block; their number is the number of blocks.
        stride: of height and width, in the 3 x 3 convolution (and the projection) of the first block.
        bn_eps: of every BatchNorm.

    Shape:
        input  [B, in_channels, T, H, W]
        output [B, out_channels, T, H / stride, W / stride]

    >>> import torch
    >>> bottleneck_stage(8, 4, 16, temporal_kernels=(3, 1), stride=2)(torch.zeros(1, 8, 4, 14, 14)).shape
    torch.Size([1, 16, 4, 7, 7])
    """
    stage = nn.Sequential()
    for index, t in enumerate(temporal_kernels):
        n, s = (in_channels, stride) if index == 0 else (out_channels, 1)
        stage.append(bottleneck(n, inner, out_channels, temporal_kernels=(t, 1), stride=s, bn_eps=bn_eps))
    return stage
