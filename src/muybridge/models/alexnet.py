"""ImageNet Classification with Deep Convolutional Neural Networks. NIPS 2012: its layers, for clips.

Krizhevsky, Sutskever, Hinton.

Where to find the paper here:
    Sec. 3.1 (ReLU behind every layer)           `ConvRelu`, `FullRelu`
    Sec. 3.3 (local response normalisation)      `LocalResponseNorm`
    Sec. 3.4 (overlapping pooling)               `Pool`
    Sec. 3.5 and Fig. 2 (layer after layer)      `Tower`, of a table of rows

The networks of 2014 are tables of such rows: DeepVideo, the CNN-M of Two-Stream, VGG-16. Each frame of a clip
goes through by itself, save where a kernel of the table spans several.

Deviation: layers start with He's standard deviations (sqrt(2 / inputs)) and biases of 0, so that signals stay
    as large as they come in at any width; the paper has 0.01 in every layer and some biases of 1.

Shape letters: B clips, C channels, T frames, H height, W width, D features; h, w are H, W inside a network.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.errors import ConfigError
from muybridge.models.blocks import Conv3d, Size3, scaled


class Conv(NamedTuple):
    """A convolution with bias, and ReLU; sizes are (time, height, width)."""

    name: str
    channels: int
    kernel: Size3
    stride: Size3 = (1, 1, 1)
    padding: Size3 = (0, 0, 0)


class Norm(NamedTuple):
    """Local response normalisation with k = 2, n = 5, alpha = 1e-4."""

    name: str
    beta: float


class Pool(NamedTuple):
    """Max pooling of each frame; it rounds up, as Caffe does: the last window may stand out.

    Of a map smaller than the window it is the largest value, so that small pictures can be used.
    """

    name: str
    kernel: int
    stride: int = 2


class Full(NamedTuple):
    """A fully connected layer over the whole map of a frame, and ReLU."""

    name: str
    units: int


class Drop(NamedTuple):
    """Dropout."""

    name: str


Row = Conv | Norm | Pool | Full | Drop


class ConvRelu(Conv3d):
    """Convolution, and ReLU.

    Shape:
        input  [B, C, T, H, W]
        output [B, O, T', H', W']
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(super().forward(input))


class FullRelu(nn.Linear):
    """A fully connected layer over the whole map of each frame, and ReLU.

    Shape:
        input  [B, C, T, h, w], C * h * w = in_features
        output [B, D, T, 1, 1]

    >>> import torch
    >>> FullRelu(8 * 6 * 6, 5)(torch.zeros(2, 8, 3, 6, 6)).shape
    torch.Size([2, 5, 3, 1, 1])
    """

    def forward(self, input: Tensor) -> Tensor:
        frames = input.transpose(1, 2).flatten(2)  # [B, T, C * h * w]
        return F.relu(super().forward(frames)).transpose(1, 2)[..., None, None]


class LocalResponseNorm(nn.Module):
    """Each value divided by what its neighbours in channel order amount to (Sec. 3.3).

        b_c = a_c / (k + alpha * sum_j a_j^2)^beta,   j from c - n / 2 to c + n / 2

    alpha is the paper's: torch's own, and Caffe's, divide theirs by n. Sums of shifted squares, and a
    gradient that is written out, are much faster on a CPU than torch's own pooling over the channels.

    Shape:
        input  [B, C, T, H, W]
        output the same

    >>> import torch
    >>> LocalResponseNorm(k=1, n=3, alpha=1, beta=1)(torch.ones(1, 4, 1, 1, 1)).flatten()
    tensor([0.3333, 0.2500, 0.2500, 0.3333])
    """

    def __init__(self, *, k: float = 2.0, n: int = 5, alpha: float = 1e-4, beta: float = 0.75) -> None:
        super().__init__()
        self.k, self.n, self.alpha, self.beta = k, n, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        a = x.float() if x.dtype.itemsize < 4 else x  # in bfloat16 k would swallow the sum
        if torch.is_grad_enabled() and a.requires_grad:
            b: Tensor = _Normalised.apply(a, self.k, self.n, self.alpha, self.beta)
        else:  # in plain operations, which can be exported
            b = a * (self.k + self.alpha * _window_sum(a * a, self.n)).pow(-self.beta)
        return b.to(x.dtype)

    def extra_repr(self) -> str:
        """The constants."""
        return f"k={self.k:g}, n={self.n}, alpha={self.alpha:g}, beta={self.beta:g}"


class _Normalised(torch.autograd.Function):
    """The same, and its gradient in two passes; torch's would keep and add up every shifted sum.

    With s_c = k + alpha * sum_j a_j^2 and a gradient g of b:

        dL / da_c = g_c s_c^-beta - 2 alpha beta a_c sum_j g_j a_j s_j^(-beta - 1)
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, k: float, n: int, alpha: float, beta: float) -> Tensor:
        s = k + alpha * _window_sum(a * a, n)
        factor = s.pow(-beta)
        ctx.save_for_backward(a, s, factor)
        ctx.constants = n, alpha, beta
        return a * factor

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        a, s, factor = ctx.saved_tensors
        n, alpha, beta = ctx.constants
        direct = grad_outputs[0] * factor
        return direct - (2 * alpha * beta) * a * _window_sum(direct * a / s, n), None, None, None, None


def _window_sum(x: Tensor, n: int) -> Tensor:
    """Of each channel and its n - 1 neighbours; there is nothing beyond the first and the last.

    Shape:
        x      [B, C, ...]
        output the same
    """
    padded = F.pad(x, (0, 0) * (x.ndim - 2) + (n // 2, n // 2))
    total = padded.narrow(1, 0, x.shape[1])
    for shift in range(1, n):
        total = total + padded.narrow(1, shift, x.shape[1])
    return total


class Tower(nn.Module):
    """The rows of a table, one after another; each is a module of the row's name.

    It can be run in part: `tower(x, until="conv5")`, and from there `tower(y, after="conv5")`. A tower of a
    part of the rows alone is made of `between(rows, ...)`.

    Args:
        rows: of the table.
        in_channels: C of the input.
        side: H and W of the input, which the fully connected layers fix.
        width: scales every channel count.
        dropout: of every `Drop`.
        first_gain: of the first layer's first weights: below 1 for inputs much larger than 1.

    Attributes:
        channels: after each row, by its name.
        sides: H and W after each row.
        out_channels, out_side: after the last row.
        layer_names: of the rows that have weights, in order.

    Shape:
        input  [B, C, T, side, side]
        output [B, D, T', h, w]; h = w = 1 behind a fully connected layer

    >>> import torch
    >>> conv1 = Conv("conv1", 96, (1, 7, 7), (1, 2, 2))
    >>> rows = (conv1, Norm("norm1", 0.75), Pool("pool1", 3), Full("full2", 64))
    >>> tower = Tower(rows, 3, side=32, width=1 / 8)
    >>> tower.sides, tower(torch.zeros(2, 3, 4, 32, 32)).shape
    ({'conv1': 13, 'norm1': 13, 'pool1': 6, 'full2': 1}, torch.Size([2, 8, 4, 1, 1]))
    >>> tower(torch.zeros(2, 3, 4, 32, 32), until="norm1").shape
    torch.Size([2, 12, 4, 13, 13])
    """

    def __init__(
        self,
        rows: Sequence[Row],
        in_channels: int,
        *,
        side: int,
        width: float = 1.0,
        dropout: float = 0.0,
        first_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.rows, self.out_channels = tuple(rows), in_channels
        self.channels: dict[str, int] = {}
        self.sides: dict[str, int] = {}
        at = side
        for row in self.rows:
            self.add_module(row.name, _layer(row, self.out_channels, at, width, dropout))
            if isinstance(row, Conv):
                self.out_channels = scaled(row.channels, width)
            elif isinstance(row, Full):
                self.out_channels = scaled(row.units, width)
            at = _side_after(row, at, whole=side)
            self.channels[row.name], self.sides[row.name] = self.out_channels, at
        self.out_side = at
        self.layer_names = tuple(row.name for row in self.rows if isinstance(row, Conv | Full))
        self.apply(he_init)
        if self.layer_names and first_gain != 1:
            with torch.no_grad():
                self.get_parameter(f"{self.layer_names[0]}.weight").mul_(first_gain)

    def forward(self, x: Tensor, *, after: str | None = None, until: str | None = None) -> Tensor:
        for row in between(self.rows, after=after, until=until):
            x = self.get_submodule(row.name)(x)
        return x


def between(rows: Sequence[Row], *, after: str | None = None, until: str | None = None) -> tuple[Row, ...]:
    """A part of a table: from behind the row `after` up to and with the row `until`; None is the end.

    Raises:
        ConfigError: there is no such row.

    >>> rows = (Full("full6", 8), Drop("drop6"), Full("full7", 8))
    >>> [row.name for row in between(rows, after="full6")], [row.name for row in between(rows, until="full6")]
    (['drop6', 'full7'], ['full6'])
    """
    names = [row.name for row in rows]
    for name in (after, until):
        if name is not None and name not in names:
            raise ConfigError(f"the tower has no layer '{name}'; its layers: {', '.join(names)}")
    start = 0 if after is None else names.index(after) + 1
    return tuple(rows[start : None if until is None else names.index(until) + 1])


def he_init(module: nn.Module) -> None:
    """He's normal distribution by the fan-in, biases 0. For `Module.apply`."""
    if isinstance(module, nn.Conv3d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        assert module.bias is not None
        nn.init.zeros_(module.bias)


def _layer(row: Row, channels: int, side: int, width: float, dropout: float) -> nn.Module:
    match row:
        case Conv():
            out = scaled(row.channels, width)
            return ConvRelu(channels, out, row.kernel, stride=row.stride, padding=row.padding, bias=True)
        case Norm():
            return LocalResponseNorm(beta=row.beta)
        case Pool():
            window = min(row.kernel, side)
            return nn.MaxPool3d((1, window, window), (1, row.stride, row.stride), ceil_mode=True)
        case Full():
            return FullRelu(channels * side * side, scaled(row.units, width))
        case Drop():
            return nn.Dropout(dropout)


def _side_after(row: Row, side: int, *, whole: int) -> int:
    match row:
        case Conv():
            side = (side + 2 * row.padding[1] - row.kernel[1]) // row.stride[1] + 1
        case Pool():
            side = math.ceil(max(0, side - row.kernel) / row.stride) + 1
        case Full():
            side = 1
        case _:
            pass
    if side < 1:
        raise ConfigError(f"{row.name} leaves nothing of a picture of {whole} x {whole}: take a larger crop")
    return side
