"""Deep Residual Learning. He, Zhang, Ren, Sun, CVPR 2016 (arXiv:1512.03385): its blocks, for clips.

Where to find the paper here: Fig. 2 and Fig. 5 are `ResidualBlock` (basic with two convolutions, bottleneck
with three); option B of Sec. 3.3, the projection shortcut, is `Projection`.

Shape letters: B clips, C channels, T frames, H height, W width.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.models.blocks import Conv3d, Size3


class Projection(nn.Module):
    """The shortcut where the shape changes: a 1 x 1 x 1 convolution with the block's stride, and BatchNorm.

    Shape:
        input  [B, C, T, H, W]
        output [B, out_channels, T', H', W']
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: Size3, bn_eps: float) -> None:
        super().__init__()
        self.conv = Conv3d(in_channels, out_channels, (1, 1, 1), stride=stride)
        self.bn = nn.BatchNorm3d(out_channels, eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y


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
        self.shortcut: Projection | None = None
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
