"""Very Deep Convolutional Networks for Large-Scale Image Recognition. ICLR 2015 (arXiv:1409.1556).

Simonyan, Zisserman: their network of 16 layers, of each frame of a clip.

Where to find the paper here:
    Table 1, column D        `VGG_16`, `Vgg16`

Shape letters: B clips, C channels, T frames, H height, W width; h, w are H, W inside the network.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from muybridge.errors import WeightsError
from muybridge.models.alexnet import Conv, Drop, Full, Pool, Row, Tower
from muybridge.models.inflate.backbones import IMAGENET_MEAN, IMAGENET_STD


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


def from_torchvision(
    state: Mapping[str, Tensor], *, mean_bgr: tuple[float, ...] | None = None
) -> dict[str, Tensor]:
    """The tensors of torchvision's VGG-16 by the names of `VGG_16`; {} if the file is another network's.

    Args:
        state: of a file: features.0 .. features.28, classifier.0, .3 and .6. The last layer keeps its name,
            below "head.".
        mean_bgr: for pixels of 0 to 255 less this, blue first; the first layer is rescaled from the
            normalised ones of torchvision, which is exact but for a border pixel, whose padding is this mean
            and not torchvision's. None leaves the first layer as it is.

    Raises:
        WeightsError: its fully connected layers are not numbers: it is the file of the features alone.

    >>> from_torchvision({"fc.weight": torch.zeros(2, 3)})
    {}
    """
    rows = [row for row in VGG_16 if isinstance(row, Conv | Full)]
    layers = sorted({key.rpartition(".")[0] for key in state}, key=_place)
    if [name.partition(".")[0] for name in layers] != ["features"] * 13 + ["classifier"] * 3:
        return {}
    if set(state) != {f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")}:
        return {}
    first = state[f"{layers[0]}.weight"]
    if first.ndim != 4 or first.shape[1] != 3:
        return {}
    if not all(state[f"{layer}.weight"].isfinite().all() for layer in layers):
        raise WeightsError(
            "the file of VGG-16 has values that are not numbers, as torchvision's IMAGENET1K_FEATURES has, "
            "which is without fully connected layers: take VGG16_Weights.IMAGENET1K_V1"
        )
    tensors: dict[str, Tensor] = {}
    for row, layer in zip(rows, layers, strict=False):
        weight = state[f"{layer}.weight"]
        tensors[f"{row.name}.weight"] = weight.unsqueeze(2) if isinstance(row, Conv) else weight
        tensors[f"{row.name}.bias"] = state[f"{layer}.bias"]
    if mean_bgr is not None:
        weight, bias = tensors["conv1_1.weight"], tensors["conv1_1.bias"]
        white = torch.tensor(IMAGENET_STD[::-1], dtype=weight.dtype) * 255
        own_mean = torch.tensor(IMAGENET_MEAN[::-1], dtype=weight.dtype) * 255
        apart = torch.tensor(mean_bgr, dtype=weight.dtype) - own_mean
        tensors["conv1_1.weight"] = weight.flip(1) / white[:, None, None, None]
        tensors["conv1_1.bias"] = bias + (tensors["conv1_1.weight"].sum((2, 3, 4)) * apart).sum(1)
    return tensors | {
        f"head.{layers[-1]}.{leaf}": state[f"{layers[-1]}.{leaf}"] for leaf in ("weight", "bias")
    }


def _place(layer: str) -> tuple[bool, int]:
    part, _, number = layer.partition(".")
    return part != "features", int(number) if number.isdigit() else 0
