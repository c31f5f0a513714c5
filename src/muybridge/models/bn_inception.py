"""Batch Normalization. Ioffe, Szegedy, ICML 2015 (arXiv:1502.03167): BN-Inception, of the frames of a clip.

The network that Temporal Segment Networks (arXiv:1608.00859) build on, as its authors released it.

Where to find the paper here:
    the variant of Inception in its appendix                      `BN_INCEPTION`, `make_bn_inception`
    a module: 3 x 3 twice for 5 x 5, pooling of means or maxima   `BnInceptionBlock`

Deviation: the table is that of the released network, convolutions with biases too; it was not compared with
    the paper's.
Deviation: where a map has an odd side, the pooling in a module of stride 2 is padded. Caffe's is not: it
    gives one position less than the convolutions beside it, and there the released network does not run.
Deviation: weights start as MSRA's normal ones; the paper names no distribution.

Shape letters: B clips, C channels, T frames, H height, W width.
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.models.blocks import Conv3d, Size3, init_msra, scaled
from muybridge.models.inception import Conv, ConvUnit, Pool, SamePool3d


class Module(NamedTuple):
    """An Inception module: the output channels of each convolution; 0 where there is none.

    With stride 2 the last convolution of each branch has it, and the pooling passes through.
    """

    name: str
    b0: int  # 1 x 1
    b1: tuple[int, int]  # 1 x 1, then 3 x 3
    b2: tuple[int, int, int]  # 1 x 1, then 3 x 3 twice
    b3: int  # pooling, then 1 x 1
    pool: str = "mean"  # of the 3 x 3 around each position, or "max"
    stride: int = 1


# fmt: off
BN_INCEPTION: tuple[Conv | Pool | Module, ...] = (
    Conv("conv1_7x7_s2", 64, (1, 7, 7), (1, 2, 2)),
    Pool("pool1_3x3_s2", (1, 3, 3), (1, 2, 2)),
    Conv("conv2_3x3_reduce", 64, (1, 1, 1)),
    Conv("conv2_3x3", 192, (1, 3, 3)),
    Pool("pool2_3x3_s2", (1, 3, 3), (1, 2, 2)),
    #      name            b0   b1          b2               b3
    Module("inception_3a", 64,  (64, 64),   (64, 96, 96),    32),
    Module("inception_3b", 64,  (64, 96),   (64, 96, 96),    64),
    Module("inception_3c", 0,   (128, 160), (64, 96, 96),    0, "max", stride=2),
    Module("inception_4a", 224, (64, 96),   (96, 128, 128),  128),
    Module("inception_4b", 192, (96, 128),  (96, 128, 128),  128),
    Module("inception_4c", 160, (128, 160), (128, 160, 160), 128),
    Module("inception_4d", 96,  (128, 192), (160, 192, 192), 128),
    Module("inception_4e", 0,   (128, 192), (192, 256, 256), 0, "max", stride=2),
    Module("inception_5a", 352, (192, 320), (160, 224, 224), 128),
    Module("inception_5b", 352, (192, 320), (192, 224, 224), 128, "max"),
)
# fmt: on
STAGE_NAMES = tuple(row.name for row in BN_INCEPTION if not isinstance(row, Pool))


def make_bn_inception(in_channels: int, *, width: float = 1.0, bn_eps: float = 1e-5) -> nn.Sequential:
    """The layers one after another, up to the last module, each under its name in the table.

    Args:
        in_channels: C: 3, or 2 L for a stack of L flow fields as one frame.
        width: scales every channel count.
        bn_eps: of every BatchNorm.

    Shape:
        input  [B, in_channels, T, H, W]
        output [B, 1024 * width, T, H / 32, W / 32]

    >>> make_bn_inception(10, width=1 / 16)(torch.zeros(1, 10, 2, 64, 64)).shape
    torch.Size([1, 64, 2, 2, 2])
    """
    layers = nn.Sequential()
    channels = in_channels
    for row in BN_INCEPTION:
        if isinstance(row, Pool):  # Caffe's rounds up
            layers.add_module(row.name, nn.MaxPool3d(row.kernel, row.stride, ceil_mode=True))
        elif isinstance(row, Conv):
            count = scaled(row.channels, width)
            unit = BiasedUnit(channels, count, row.kernel, stride=row.stride, bn_eps=bn_eps)
            layers.add_module(row.name, unit)
            channels = count
        else:
            block = BnInceptionBlock(channels, row, width=width, bn_eps=bn_eps)
            layers.add_module(row.name, block)
            channels = block.out_channels
    layers.apply(init_msra)
    return layers


class BnInceptionBlock(nn.Module):
    """Up to four branches side by side; their outputs are one after another in the channels.

        y = [b0(x), b1b(b1a(x)), b2c(b2b(b2a(x))), b3b(pool(x))]

    Args:
        in_channels: C.
        row: of the table.
        width: scales its counts.
        bn_eps: of every BatchNorm.

    Shape:
        input  [B, C, T, H, W]
        output [B, out_channels, T, H / stride, W / stride]

    >>> block = BnInceptionBlock(6, Module("", 0, (3, 5), (2, 3, 3), 0, "max", 2), width=1.0, bn_eps=1e-5)
    >>> block(torch.zeros(1, 6, 1, 7, 7)).shape, block.out_channels
    (torch.Size([1, 14, 1, 4, 4]), 14)
    """

    def __init__(self, in_channels: int, row: Module, *, width: float, bn_eps: float) -> None:
        super().__init__()
        unit = partial(BiasedUnit, bn_eps=bn_eps)
        one, three, stride = (1, 1, 1), (1, 3, 3), (1, row.stride, row.stride)
        b0, b3 = (scaled(count, width) if count else 0 for count in (row.b0, row.b3))
        b1, b2 = ([scaled(count, width) for count in branch] for branch in (row.b1, row.b2))
        self.b0 = unit(in_channels, b0, one) if b0 else None
        self.b1a = unit(in_channels, b1[0], one)
        self.b1b = unit(b1[0], b1[1], three, stride=stride)
        self.b2a = unit(in_channels, b2[0], one)
        self.b2b = unit(b2[0], b2[1], three)
        self.b2c = unit(b2[1], b2[2], three, stride=stride)
        self.pool = MeanPool() if row.pool == "mean" else SamePool3d(three, stride)
        self.b3b = unit(in_channels, b3, one) if b3 else None
        self.out_channels = b0 + b1[1] + b2[2] + (b3 or in_channels)

    def forward(self, x: Tensor) -> Tensor:
        branches = [] if self.b0 is None else [self.b0(x)]
        branches += [self.b1b(self.b1a(x)), self.b2c(self.b2b(self.b2a(x)))]
        pooled = self.pool(x)
        branches.append(pooled if self.b3b is None else self.b3b(pooled))
        return torch.cat(branches, dim=1)


class MeanPool(nn.Module):
    """The mean of the 3 x 3 positions around each one of a frame, zeros outside of it counted, as in Caffe.

    As pooling of images: on a CPU torch's pooling of clips is much slower.

    Shape:
        input  [B, C, T, H, W]
        output the same

    >>> MeanPool()(torch.full((1, 1, 1, 3, 3), 9.0)).flatten()
    tensor([4., 6., 4., 6., 9., 6., 4., 6., 4.])
    """

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2)
        y = F.avg_pool2d(frames.flatten(0, 1), 3, stride=1, padding=1)
        return y.view(frames.shape).transpose(1, 2)


class BiasedUnit(ConvUnit):
    """A convolution with bias and half the kernel as padding, BatchNorm, ReLU: a layer of Caffe's network.

    The bias does nothing where BatchNorm takes its mean off, and something where that is frozen.

    Shape:
        input  [B, in_channels, T, H, W]
        output [B, out_channels, T, H / stride, W / stride], rounded up
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
        super().__init__(in_channels, out_channels, (1, 1, 1), bn_eps=bn_eps)
        self.conv = Conv3d(in_channels, out_channels, kernel, stride=stride, bias=True)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)
