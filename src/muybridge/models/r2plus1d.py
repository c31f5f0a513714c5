"""A Closer Look at Spatiotemporal Convolutions for Action Recognition. CVPR 2018 (arXiv:1711.11248).

Tran, Wang, Torresani, Ray, LeCun, Paluri.

Where to find the paper here:
    Table 1 (the ResNets of 18 and 34 layers)        `DEPTHS`, `CHANNELS`, `VideoResNet`
    Fig. 1 (a)-(d) and Sec. 3.1-3.4 (R2D .. rMCx)    `VARIANTS`, one row a network
    Fig. 1 (e), Fig. 2 and Sec. 3.5 (R(2+1)D)        `Conv2Plus1d`
    M_i, Sec. 3.5                                    `mid_channels`

Deviation: BatchNorm eps is 1e-5; the authors' Caffe2 code has 1e-3. `bn_eps=1e-3` gives theirs.
Deviation: `layout="mmaction2"` is for that code base's weights of R(2+1)D: M of the stem by the formula, a
    max pooling behind it, shortcuts that are (2+1)D too, and eps 1e-5 inside of (2+1)D convolutions.
Deviation: networks of 10 layers (one block a stage) are ours, for laptops; the paper has 18 and 34.
Deviation: clips are normalised with torchvision's mean and std for Kinetics; the paper does not give its own.

Shape letters: B clips, C channels, T frames, H height, W width, K classes.
"""

from typing import Literal, NamedTuple

from torch import Tensor, nn

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError
from muybridge.models.blocks import Conv3d, Size3, channels_last, init_msra, scaled
from muybridge.models.contract import VideoModel, check_clip
from muybridge.models.resnet import Projection, ResidualBlock, Stem

Kind = Literal["2d", "3d", "2+1d"]
StemKind = Literal["all", "2d", "3d", "2+1d"]  # "all": one kernel over all frames, Sec. 3.1
MidWidth = Literal["paper", "torchvision"]
Layout = Literal["paper", "mmaction2"]


class Variant(NamedTuple):
    """A row of Fig. 1: how each group of layers convolves."""

    conv1: StemKind
    conv2: Kind
    conv3: Kind
    conv4: Kind
    conv5: Kind


# fmt: off
VARIANTS = {
    #                   conv1   conv2   conv3   conv4   conv5
    "r2d":      Variant("all",  "2d",   "2d",   "2d",   "2d"),    # Sec. 3.1: time is gone after conv1
    "fr2d":     Variant("2d",   "2d",   "2d",   "2d",   "2d"),    # Sec. 3.2: f-R2D
    "r3d":      Variant("3d",   "3d",   "3d",   "3d",   "3d"),    # Sec. 3.3
    "mc2":      Variant("3d",   "2d",   "2d",   "2d",   "2d"),    # Sec. 3.4: MCx, 2D from group x on
    "mc3":      Variant("3d",   "3d",   "2d",   "2d",   "2d"),
    "mc4":      Variant("3d",   "3d",   "3d",   "2d",   "2d"),
    "mc5":      Variant("3d",   "3d",   "3d",   "3d",   "2d"),
    "rmc2":     Variant("2d",   "3d",   "3d",   "3d",   "3d"),    # Sec. 3.4: rMCx, 3D from group x on
    "rmc3":     Variant("2d",   "2d",   "3d",   "3d",   "3d"),
    "rmc4":     Variant("2d",   "2d",   "2d",   "3d",   "3d"),
    "rmc5":     Variant("2d",   "2d",   "2d",   "2d",   "3d"),
    "r2plus1d": Variant("2+1d", "2+1d", "2+1d", "2+1d", "2+1d"),  # Sec. 3.5
}

# Table 1: blocks in conv2_x .. conv5_x
DEPTHS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
}
CHANNELS = (64, 128, 256, 512)
# fmt: on
STEM_MID_CHANNELS = 45  # the formula would give 83
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)


def mid_channels(in_channels: int, out_channels: int, *, side: int = 3) -> int:
    """M: as many 2D filters as make a (2+1)D convolution cost what the 3 x d x d one costs (Sec. 3.5).

    Args:
        in_channels: N_{i-1}.
        out_channels: N_i.
        side: d.

    >>> mid_channels(64, 64), mid_channels(64, 128), mid_channels(512, 512)
    (144, 230, 1152)
    """
    filter_size = side**2 * in_channels
    return 3 * filter_size * out_channels // (filter_size + 3 * out_channels)


class Conv2Plus1d(nn.Module):
    """Fig. 2 (b): a 1 x d x d convolution, BatchNorm, ReLU, then a t x 1 x 1 convolution.

    Args:
        in_channels: N_{i-1}.
        out_channels: N_i.
        mid: M_i, the 2D filters.
        kernel: t and d.
        stride: (time, height, width): the spatial part in the first convolution, the temporal in the second.
        bn_eps: of the BatchNorm between them.

    Shape:
        input  [B, in_channels, T, H, W]
        output [B, out_channels, T', H', W']
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        mid: int,
        kernel: tuple[int, int] = (3, 3),
        stride: Size3 = (1, 1, 1),
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        t, d = kernel
        self.spatial = Conv3d(in_channels, mid, (1, d, d), stride=(1, *stride[1:]))
        self.mid_bn = nn.BatchNorm3d(mid, eps=bn_eps)
        self.relu = nn.ReLU(inplace=True)
        self.temporal = Conv3d(mid, out_channels, (t, 1, 1), stride=(stride[0], 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.temporal(self.relu(self.mid_bn(self.spatial(x))))
        return y


class VideoResNet(VideoModel):
    """One ResNet skeleton (Table 1), five ways to convolve in it (Fig. 1).

    Args:
        variant: a row of `VARIANTS`.
        layers: 10, 18 or 34.
        num_classes: K.
        width: scales every channel count; M follows from the scaled counts.
        num_frames: L, frames of a clip. R2D takes no other number; the others take any.
        bn_eps: of every BatchNorm.
        mid_width: "paper" has M for each convolution from its own channels; "torchvision" takes a block's
            (input, output) channels for both its convolutions, and so is smaller.
        layout: "mmaction2" for its weights of R(2+1)D, see the top; "paper" for all others.

    Shape:
        input  [B, 3, T, H, W]
        output [B, K]
    """

    def __init__(
        self,
        variant: str,
        layers: int = 18,
        *,
        num_classes: int = 400,
        width: float = 1.0,
        num_frames: int = 16,
        bn_eps: float = 1e-5,
        mid_width: MidWidth = "paper",
        layout: Layout = "paper",
    ) -> None:
        _check(variant, layers, width, num_frames, mid_width)
        _check_layout(layout, variant)
        channels = [scaled(count, width) for count in CHANNELS]
        super().__init__(
            num_classes=num_classes,
            feature_dim=channels[-1],
            default_specs=(clip_spec(num_frames, torchvision=mid_width == "torchvision"),),
            stage_names=("stem", "stages.0", "stages.1", "stages.2", "stages.3"),
        )
        self.num_frames = num_frames
        self.mid_width = mid_width
        self.bn_eps = bn_eps
        self.variant = variant
        self.layout = layout
        stem_kind, *kinds = VARIANTS[variant]
        pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)) if layout == "mmaction2" else nn.Identity()
        conv = self._stem_conv(stem_kind, channels[0], width)
        self.stem = Stem(conv, channels[0], bn_eps=bn_eps, pool=pool)
        self.stages = nn.Sequential()
        in_channels = channels[0]
        for number, (kind, count, blocks) in enumerate(zip(kinds, channels, DEPTHS[layers], strict=True)):
            space, time = (1, 1) if number == 0 else (2, 1 if kind == "2d" else 2)
            self.stages.append(self._stage(kind, in_channels, count, blocks, (time, space, space)))
            in_channels = count
        self.apply(init_msra)

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """The last stage, averaged over time and space.

        Shape:
            input  [B, 3, T, H, W]
            output [B, feature_dim]
        """
        (x,) = inputs
        who = self.name or self.variant
        check_clip(x, channels=3, who=who)
        if self.variant == "r2d" and x.shape[2] != self.num_frames:
            raise ConfigError(
                f"{who} was built for clips of exactly {self.num_frames} frames, got {x.shape[2]}: "
                f"build it with num_frames={x.shape[2]}, or sample {self.num_frames} frames"
            )
        y: Tensor = self.stages(self.stem(channels_last(x)))
        return y.mean((2, 3, 4))

    def _stem_conv(self, kind: StemKind, channels: int, width: float) -> nn.Module:
        if kind == "2+1d":
            by_formula = self.layout == "mmaction2"
            mid = mid_channels(3, channels, side=7) if by_formula else scaled(STEM_MID_CHANNELS, width)
            return Conv2Plus1d(3, channels, mid=mid, kernel=(3, 7), stride=(1, 2, 2), bn_eps=self._mid_eps)
        t = {"all": self.num_frames, "2d": 1, "3d": 3}[kind]
        pad = 1 if kind == "3d" else 0
        return Conv3d(3, channels, (t, 7, 7), stride=(1, 2, 2), padding=(pad, 3, 3))

    def _stage(
        self, kind: Kind, in_channels: int, channels: int, blocks: int, stride: Size3
    ) -> nn.Sequential:
        stage = nn.Sequential()
        for index in range(blocks):
            n, s = (in_channels, stride) if index == 0 else (channels, (1, 1, 1))
            conv_a = self._conv(kind, n, channels, stride=s, block_in=n)
            conv_b = self._conv(kind, channels, channels, stride=(1, 1, 1), block_in=n)
            block = ResidualBlock(n, (conv_a, conv_b), (channels, channels), stride=s, bn_eps=self.bn_eps)
            if self.layout == "mmaction2" and isinstance(block.shortcut, Projection):
                mid = mid_channels(n, channels, side=1)
                block.shortcut.conv = Conv2Plus1d(
                    n, channels, mid=mid, kernel=(1, 1), stride=s, bn_eps=self._mid_eps
                )
            stage.append(block)
        return stage

    @property
    def _mid_eps(self) -> float:
        return 1e-5 if self.layout == "mmaction2" else self.bn_eps

    def _conv(self, kind: Kind, n_in: int, n_out: int, *, stride: Size3, block_in: int) -> nn.Module:
        if kind == "2+1d":
            mid = mid_channels(n_in if self.mid_width == "paper" else block_in, n_out)
            return Conv2Plus1d(n_in, n_out, mid=mid, stride=stride, bn_eps=self._mid_eps)
        return Conv3d(n_in, n_out, (1 if kind == "2d" else 3, 3, 3), stride=stride)


def clip_spec(num_frames: int = 16, *, torchvision: bool = False) -> ClipSpec:
    """Sec. 4.1: L consecutive frames of 128 x 171, a 112 x 112 crop; torchvision samples at 15 fps.

    >>> clip_spec(8).span
    8
    """
    return ClipSpec(
        num_frames=num_frames,
        fps=15 if torchvision else None,
        resize=(128, 171),
        resize_filter="bilinear" if torchvision else "antialias",
        crop=112,
        mean=KINETICS_MEAN,
        std=KINETICS_STD,
    )


def _check(variant: str, layers: int, width: float, num_frames: int, mid_width: str) -> None:
    if variant not in VARIANTS:
        raise ConfigError(f"no variant '{variant}': choose from {', '.join(VARIANTS)}")
    if layers not in DEPTHS:
        raise ConfigError(f"layers must be one of {', '.join(map(str, DEPTHS))}, got {layers}")
    if width <= 0 or num_frames < 1:
        raise ConfigError(f"width and num_frames must be above 0, got {width} and {num_frames}")
    if mid_width not in ("paper", "torchvision"):
        raise ConfigError(f"mid_width must be 'paper' or 'torchvision', got '{mid_width}'")


def _check_layout(layout: str, variant: str) -> None:
    if layout not in ("paper", "mmaction2"):
        raise ConfigError(f"layout must be 'paper' or 'mmaction2', got '{layout}'")
    if layout == "mmaction2" and variant != "r2plus1d":
        raise ConfigError(f"layout 'mmaction2' is one of r2plus1d alone, got {variant}: leave it out")
