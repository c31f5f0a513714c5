"""Very Deep Convolutional Networks for Large-Scale Image Recognition. ICLR 2015 (arXiv:1409.1556).

Simonyan, Zisserman: their network of 16 layers, of each frame of a clip.

Where to find the paper here:
    Table 1, column D        `VGG_16`, `Vgg16`

Shape letters: B clips, C channels, T frames, H height, W width; h, w are H, W inside the network.
"""

from muybridge.models.alexnet import Conv, Drop, Full, Pool, Row, Tower


def _conv(name: str, channels: int) -> Conv:
    return Conv(name, channels, (1, 3, 3), padding=(0, 1, 1))


# fmt: off
# Table 1, D
VGG_16: tuple[Row, ...] = (
    _conv("conv1_1", 64),
    _conv("conv1_2", 64),
    Pool("pool1", 2),
    _conv("conv2_1", 128),
    _conv("conv2_2", 128),
    Pool("pool2", 2),
    _conv("conv3_1", 256),
    _conv("conv3_2", 256),
    _conv("conv3_3", 256),
    Pool("pool3", 2),
    _conv("conv4_1", 512),
    _conv("conv4_2", 512),
    _conv("conv4_3", 512),
    Pool("pool4", 2),
    _conv("conv5_1", 512),
    _conv("conv5_2", 512),
    _conv("conv5_3", 512),
    Pool("pool5", 2),
    Full("full6", 4096),
    Drop("drop6"),
    Full("full7", 4096),
)
# fmt: on


class Vgg16(Tower):
    """VGG-16 up to full7, of each frame.

    `tower(x, until="conv5_3")` is ReLU5, and `tower(y, after="conv5_3")` goes on from there.

    Args:
        in_channels: C of the input: 3, or 2L of a stack of L flow fields.
        width: scales every channel count.
        crop: H and W of the picture, which full6 fixes.
        dropout: behind full6.
        first_gain: of the first layer's first weights: below 1 for pixels of 0 to 255.

    Shape:
        input  [B, in_channels, T, crop, crop]
        output [B, 4096, T, 1, 1]

    >>> import torch
    >>> tower = Vgg16(3, width=1 / 64, crop=32)
    >>> tower(torch.zeros(2, 3, 1, 32, 32)).shape, tower(torch.zeros(2, 3, 1, 32, 32), until="conv5_3").shape
    (torch.Size([2, 64, 1, 1, 1]), torch.Size([2, 8, 1, 2, 2]))
    """

    def __init__(
        self,
        in_channels: int,
        *,
        width: float = 1.0,
        crop: int = 224,
        dropout: float = 0.5,
        first_gain: float = 1.0,
    ) -> None:
        super().__init__(VGG_16, in_channels, side=crop, width=width, dropout=dropout, first_gain=first_gain)
