"""Convolutional Two-Stream Network Fusion (arXiv:1604.06573): how two maps become one.

The networks that use these are in two_stream_fusion.py.

Where to find the paper here:
    sum, max, concatenation, conv and bilinear fusion            `Fusion`, `OPERATORS`
    conv fusion starts as two identities stacked                 `FusionConv`
    its 3D form starts as identities times a Gaussian            `FusionConv`, `gaussian_3d`
    power normalisation and L2 normalisation                     `normalise_bilinear`
    the smaller of two maps gets a row and a column of zeros     `same_size`

Deviation: concatenation puts the temporal channels behind the spatial ones, as the authors' code does; in the
    paper's formula they alternate.
Deviation: the 3D form weighs the identities with 0.25 (spatial) and 0.75 (temporal), as the authors' code
    does, so that they sum to 1; the paper says that one is three times the other.
Deviation: ReLU follows the 3D form alone; the paper's formula of the other has none.

Shape letters: B clips, D channels of each map, T frames or stacks, H height, W width of the maps.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.errors import ConfigError
from muybridge.models.blocks import Conv3d
from muybridge.models.contract import check_choices

Operator = Literal["sum", "max", "concat", "conv", "bilinear"]

SPATIAL_SHARE = 0.25  # of the two identities of the 3D form
SMALLEST = 1e-12  # keeps the slope of a square root finite


class Fusion(nn.Module):
    """One of the five ways to make one map of two.

    Args:
        operator: "sum", "max", "concat", "conv" or "bilinear".
        channels: D of the spatial and of the temporal map.
        kernel: of "conv": 1, or 3 for the 3D form.

    Attributes:
        out_channels: of the result: D, 2 D of "concat", D * D of "bilinear".

    Shape:
        inputs [B, D, T, H, W] twice; H and W may differ by 1
        output [B, out_channels, T, H, W]; of "bilinear" [B, D * D, T, 1, 1]

    >>> Fusion("concat", (8, 8))(torch.zeros(2, 8, 5, 14, 14), torch.zeros(2, 8, 5, 13, 13)).shape
    torch.Size([2, 16, 5, 14, 14])
    """

    def __init__(self, operator: Operator, channels: tuple[int, int], *, kernel: int = 1) -> None:
        super().__init__()
        check_choices(operator=(operator, Operator))
        spatial, temporal = channels
        if spatial != temporal and operator in ("sum", "max", "conv"):
            raise ConfigError(
                f"operator '{operator}' takes two maps of equal channels, got {spatial} and {temporal}: "
                "choose concat, another layer, or two equal towers"
            )
        self.operator: Operator = operator
        self.conv = FusionConv(spatial, kernel=kernel) if operator == "conv" else None
        self.out_channels = {"concat": spatial + temporal, "bilinear": spatial * temporal}.get(
            operator, spatial
        )

    def forward(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        spatial, temporal = same_size(spatial, temporal)
        if self.conv is not None:
            fused: Tensor = self.conv(torch.cat((spatial, temporal), dim=1))
            return fused
        return OPERATORS[self.operator](spatial, temporal)


class FusionConv(Conv3d):
    """Conv fusion: a filter bank over the channels of both maps, at first a sum of the two.

    Args:
        channels: D.
        kernel: 1, or 3 for a 3 x 3 x 3 kernel over time as well, with ReLU.

    Shape:
        input  [B, 2 D, T, H, W], spatial channels first
        output [B, D, T, H, W]
    """

    def __init__(self, channels: int, *, kernel: int) -> None:
        super().__init__(2 * channels, channels, (kernel, kernel, kernel), bias=True)
        identity = torch.eye(channels)[:, :, None, None, None]
        halves = torch.cat((identity, identity), dim=1)
        if kernel > 1:
            shares = torch.cat((SPATIAL_SHARE * identity, (1 - SPATIAL_SHARE) * identity), dim=1)
            halves = shares * gaussian_3d(kernel)
        with torch.no_grad():
            self.weight.copy_(halves)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        fused = super().forward(input)
        return fused if self.kernel_size == (1, 1, 1) else F.relu(fused)


def gaussian_3d(size: int, *, sigma: float = 1.0) -> Tensor:
    """A Gaussian over a cube, which sums to 1.

    Shape:
        output [size, size, size]

    >>> gaussian_3d(3)[:, 1, 1]
    tensor([0.0560, 0.0923, 0.0560])
    """
    steps = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    line = torch.exp(-(steps**2) / (2 * sigma**2))
    line = line / line.sum()
    return torch.einsum("t,h,w->thw", line, line, line).float()


def concatenate(spatial: Tensor, temporal: Tensor) -> Tensor:
    """The channels of both.

    Shape:
        inputs [B, D, T, H, W] twice
        output [B, 2 D, T, H, W]
    """
    return torch.cat((spatial, temporal), dim=1)


def bilinear(spatial: Tensor, temporal: Tensor) -> Tensor:
    """The product of each channel of one map with each of the other, summed over the positions.

    Shape:
        inputs [B, D, T, H, W] twice
        output [B, D, D, T], spatial channels first

    >>> ones = torch.ones(1, 2, 1, 3, 3)
    >>> bilinear(ones, 2 * ones).flatten()
    tensor([18., 18., 18., 18.])
    """
    return torch.einsum("bcthw,bdthw->bcdt", spatial, temporal)


def normalise_bilinear(products: Tensor) -> Tensor:
    """Signed square roots, divided by their length.

    Shape:
        products [B, D, D, T]
        output   [B, D * D, T]
    """
    products = products.flatten(1, 2)
    roots = products.sign() * (products.abs() + SMALLEST).sqrt()
    return F.normalize(roots, dim=1)


def same_size(spatial: Tensor, temporal: Tensor) -> tuple[Tensor, Tensor]:
    """The smaller of two maps with zeros at the bottom and on the right.

    Shape:
        inputs [B, D, T, H, W] and [B, D, T, H', W']
        output both of the larger height and the larger width
    """
    height, width = (max(spatial.shape[axis], temporal.shape[axis]) for axis in (3, 4))
    padded = [F.pad(x, (0, width - x.shape[4], 0, height - x.shape[3])) for x in (spatial, temporal)]
    return padded[0], padded[1]


def _normalised_products(spatial: Tensor, temporal: Tensor) -> Tensor:
    return normalise_bilinear(bilinear(spatial, temporal))[..., None, None]


OPERATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": torch.add,
    "max": torch.maximum,
    "concat": concatenate,
    "bilinear": _normalised_products,
}
