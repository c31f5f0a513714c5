"""Learning Spatiotemporal Features with 3D Convolutional Networks. ICCV 2015 (arXiv:1412.0767).

Tran, Bourdev, Fergus, Torresani, Paluri.

Where to find the paper here:
    Fig. 3 (C3D: 8 convolutions, 5 poolings, 2 fully connected layers)   `NETS["deep"]`, `C3D`
    Sec. 3.1 (the common settings of the kernel depth study)             `NETS["small"]`
    Sec. 3.2 and Fig. 2 (depth-1 ... depth-7, increasing, decreasing)    `kernel_depths` of `C3D`
    Sec. 3.3 (the C3D descriptor)                                        `C3D.embed(clip, layer="fc6")`,
                                                                         `muybridge.evaluate.svm`

Public code bases pool after conv5b in three ways, and weights of one give other numbers in another:
    "ceil"       the authors' Caffe code: the windows of 7 are {0,1} {2,3} {4,5} {6}, so 4 x 4 remain
    "symmetric"  mmaction2 and most PyTorch ports: {0} {1,2} {3,4} {5,6}: also 4 x 4, but not the same
    "floor"      VMZ: {0,1} {2,3} {4,5}: 3 x 3; and with BatchNorm, `bn_eps=1e-3`

Deviation: 128 is subtracted from every channel, as in the authors' C3D-v1.1; the paper's networks subtract a
mean cube, which a clip spec can carry too (`ClipSpec.mean_cube`).
Deviation: below full width, weights start with standard deviations larger by the root of what is missing of
a layer's inputs, so that signals start as large as at full width; at full width they are the authors'.
Deviation: biases learn at the rate of the weights; the authors' solver doubles it for biases.
Deviation: a video shorter than a clip is looped; the authors' code leaves it out.

Shape letters: B clips, C channels, T frames, H height, W width, K classes.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError
from muybridge.models.blocks import Conv3d, channels_last, scaled
from muybridge.models.contract import VideoModel, check_choices, check_clip, check_positive

Pool5 = Literal["ceil", "symmetric", "floor"]


class Group(NamedTuple):
    """Convolutions of 3 x 3 pixels, each with ReLU, then a max pooling whose stride is its kernel."""

    convs: str  # a letter each: "ab" in group 3 are conv3a and conv3b
    channels: int
    pool_t: int  # the pooling is pool_t x 2 x 2


class Net(NamedTuple):
    """A network up to its classifier."""

    groups: tuple[Group, ...]
    fc: int  # outputs of fc6 and of fc7


# fmt: off
NETS = {
    "deep": Net(               # Fig. 3
        groups=(
            #     convs channels pool_t
            Group("a",      64,    1),   # keeps time, so that it does not vanish too early
            Group("a",     128,    2),
            Group("ab",    256,    2),
            Group("ab",    512,    2),
            Group("ab",    512,    2),
        ),
        fc=4096,
    ),
    "small": Net(              # Sec. 3.1
        groups=(
            Group("a",      64,    1),
            Group("a",     128,    2),
            Group("a",     256,    2),
            Group("a",     256,    2),
            Group("a",     256,    2),
        ),
        fc=2048,
    ),
}
# fmt: on
CONV_STD = 0.01  # of the first weights at full width, in the authors' solver
FC_STD = 0.005
FIRST_BIAS = 1.0  # everywhere but in conv1a and the classifier, where it is 0


class ConvRelu(Conv3d):
    """A layer convNx of Fig. 3: convolution, BatchNorm where a port has it, ReLU.

    Args:
        in_channels: C.
        channels: of the output.
        depth: frames that the kernel spans.
        bn_eps: of the BatchNorm; None has none.

    Shape:
        input  [B, in_channels, T, H, W]
        output [B, channels, T, H, W]

    >>> import torch
    >>> ConvRelu(3, 8, depth=5, bn_eps=None)(torch.zeros(1, 3, 4, 7, 7)).shape
    torch.Size([1, 8, 4, 7, 7])
    """

    def __init__(self, in_channels: int, channels: int, *, depth: int, bn_eps: float | None) -> None:
        super().__init__(in_channels, channels, (depth, 3, 3), bias=True)
        self.bn = None if bn_eps is None else nn.BatchNorm3d(channels, eps=bn_eps)

    def forward(self, input: Tensor) -> Tensor:
        y = super().forward(input)
        return F.relu(y if self.bn is None else self.bn(y))


class LinearRelu(nn.Linear):
    """fc6 or fc7 with its ReLU: what is embedded by its name is the descriptor, after the ReLU.

    Shape:
        input  [B, D]
        output [B, D']
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(super().forward(input))


class C3D(VideoModel):
    """C3D (Fig. 3), or the smaller network of the study of kernel depths (Sec. 3.1).

    Args:
        net: a key of `NETS`.
        num_classes: K.
        width: scales every channel count.
        num_frames: T of a clip. fc6 fixes it, as it does the crop.
        crop: H and W of a clip.
        pool5: which code base's last pooling: see the top of this file.
        kernel_depths: frames that the kernels of each of the five groups span, odd; None is 3 everywhere.
        dropout: behind fc6 and fc7.
        bn_eps: of a BatchNorm behind each convolution; None has none, as in the paper.

    Shape:
        input  [B, 3, num_frames, crop, crop]
        output [B, K]
    """

    def __init__(
        self,
        net: str = "deep",
        *,
        num_classes: int = 487,
        width: float = 1.0,
        num_frames: int = 16,
        crop: int = 112,
        pool5: Pool5 = "ceil",
        kernel_depths: Sequence[int] | None = None,
        dropout: float = 0.5,
        bn_eps: float | None = None,
    ) -> None:
        depths = _checked_depths(net, kernel_depths)
        check_positive(width=width)
        check_choices(pool5=(pool5, Pool5))
        groups, fc = NETS[net]
        conv_names = [f"conv{n}{letter}" for n, group in enumerate(groups, 1) for letter in group.convs]
        super().__init__(
            num_classes=num_classes,
            feature_dim=scaled(fc, width),
            default_specs=(clip_spec(num_frames, crop, mmaction2=pool5 == "symmetric"),),
            stage_names=(*conv_names, "fc6", "fc7"),
            dropout=dropout,
        )
        self.num_frames, self.crop, self.pool5_kind = num_frames, crop, pool5
        self.layer_names: list[str] = []  # from conv1a to pool5, in order
        channels, full = 3, 3
        for n, (group, depth) in enumerate(zip(groups, depths, strict=True), 1):
            for letter in group.convs:
                conv = ConvRelu(channels, scaled(group.channels, width), depth=depth, bn_eps=bn_eps)
                _start(conv, CONV_STD * math.sqrt(full / channels), bias=0.0 if n == 1 else FIRST_BIAS)
                self._append(f"conv{n}{letter}", conv)
                channels, full = scaled(group.channels, width), group.channels
            self._append(f"pool{n}", _pool(group.pool_t, pool5, last=n == len(groups)))
        features = channels * math.prod(_last_shape(groups, num_frames, crop, pool5))
        full *= math.prod(_last_shape(groups, 16, 112, pool5))
        self.fc6 = LinearRelu(features, self.feature_dim)
        self.fc7 = LinearRelu(self.feature_dim, self.feature_dim)
        _start(self.fc6, FC_STD * math.sqrt(full / features), bias=FIRST_BIAS)
        _start(self.fc7, FC_STD * math.sqrt(fc / self.feature_dim), bias=FIRST_BIAS)
        self.dropout = nn.Dropout(dropout)

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """fc7, after its ReLU.

        Shape:
            input  [B, 3, num_frames, crop, crop]
            output [B, feature_dim]
        """
        (x,) = inputs
        self._check_clip(x)
        x = channels_last(x)
        for name in self.layer_names:
            x = self.get_submodule(name)(x)
        y: Tensor = self.fc7(self.dropout(self.fc6(x.flatten(1))))
        return y

    def _append(self, name: str, layer: nn.Module) -> None:
        self.add_module(name, layer)
        self.layer_names.append(name)

    def _check_clip(self, x: Tensor) -> None:
        who = self.name or "C3D"
        check_clip(x, channels=3, who=who)
        if x.shape[2:] == (self.num_frames, self.crop, self.crop):
            return
        found = " x ".join(map(str, x.shape[2:]))
        wrong = f"num_frames={x.shape[2]}" if x.shape[2] != self.num_frames else f"crop={x.shape[3]}"
        raise ConfigError(
            f"{who} was built for clips of exactly {self.num_frames} x {self.crop} x {self.crop}, which fc6 "
            f"fixes, got {found}: build it with {wrong}, or make clips of that size"
        )


def clip_spec(num_frames: int = 16, crop: int = 112, *, mmaction2: bool = False) -> ClipSpec:
    """Consecutive frames of 128 x 171 in Caffe's order and range, a 112 x 112 crop; others in proportion.

    mmaction2 keeps the aspect ratio and the order red, green, blue.

    >>> clip_spec().resize, clip_spec(crop=56).resize, clip_spec(mmaction2=True).resize
    ((128, 171), (64, 86), 128)
    """
    height, width = round(128 * crop / 112), round(171 * crop / 112)
    return ClipSpec(
        num_frames=num_frames,
        resize=height if mmaction2 else (height, width),
        resize_filter="bilinear",  # OpenCV's default, in both
        crop=crop,
        scale=255,
        channel_order="rgb" if mmaction2 else "bgr",
        mean=(104, 117, 128) if mmaction2 else (128, 128, 128),
        std=(1, 1, 1),
    )


def _pool(pool_t: int, pool5: Pool5, *, last: bool) -> nn.MaxPool3d:
    # The authors' Caffe rounds up after every pooling; of 16 x 112 x 112 only pool5 has an odd size to halve.
    padding = (0, 1, 1) if last and pool5 == "symmetric" else 0
    return nn.MaxPool3d((pool_t, 2, 2), padding=padding, ceil_mode=pool5 == "ceil")


def _last_shape(groups: Sequence[Group], num_frames: int, crop: int, pool5: Pool5) -> tuple[int, int, int]:
    """T, H and W after pool5.

    Raises:
        ConfigError: nothing remains.

    >>> [_last_shape(NETS["deep"].groups, 16, 112, kind) for kind in ("ceil", "symmetric", "floor")]
    [(1, 4, 4), (1, 4, 4), (1, 3, 3)]
    """
    t, side = num_frames, crop
    round_up = 1 if pool5 == "ceil" else 0
    for n, group in enumerate(groups, 1):
        t = (t + round_up) // 2 if group.pool_t == 2 else t
        side = (side + round_up) // 2 + (1 if pool5 == "symmetric" and n == len(groups) else 0)
        if t < 1 or side < 1:
            raise ConfigError(
                f"pool{n} leaves nothing of a clip of {num_frames} x {crop} x {crop} with pool5='{pool5}': "
                "take at least 16 frames of 32 x 32, or pool5='ceil'"
            )
    return t, side, side


def _start(layer: nn.Conv3d | nn.Linear, std: float, *, bias: float) -> None:
    nn.init.normal_(layer.weight, std=std)
    assert layer.bias is not None
    nn.init.constant_(layer.bias, bias)


def _checked_depths(net: str, kernel_depths: Sequence[int] | None) -> tuple[int, ...]:
    if net not in NETS:
        raise ConfigError(f"no C3D '{net}': choose from {', '.join(NETS)}")
    groups = NETS[net].groups
    depths = (3,) * len(groups) if kernel_depths is None else tuple(kernel_depths)
    if len(depths) != len(groups) or any(depth < 1 or depth % 2 == 0 for depth in depths):
        raise ConfigError(
            f"kernel_depths must be {len(groups)} odd numbers, one for each group of convolutions, such as "
            f"3, 3, 5, 5, 7; got {', '.join(map(str, depths))}"
        )
    return depths
