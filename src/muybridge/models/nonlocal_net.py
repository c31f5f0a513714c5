"""Non-local Neural Networks. CVPR 2018 (arXiv:1711.07971).

Wang, Girshick, Gupta, He.

Where to find the paper here:
    Sec. 3, Fig. 2 (the block)                          `NonLocalBlock`, in nonlocal_block.py
    Table 1 (ResNet-50 C2D)                             `CHANNELS`, `TRUNKS["c2d_r50"]`, `LAYOUTS["paper"]`
    Sec. 4 (inflated 3D ConvNets, 3x3x3 and 3x1x1)      `TRUNKS`
    Sec. 4.1, Table 2b-c (where the blocks go)          `PLACES`
    Table 2a, 2d (pairwise function, scope)             `nl_kind`, `nl_scope`
    All networks of Tables 2 and 3                      `NonLocalNet`

Deviation: the default layout is that of pytorchvideo and PySlowFast, which their weights need. Table 1 of the
    paper is `layout="paper"`; the authors' released code is "caffe2" (32 or 128 frames) and "caffe2_8x8".
Deviation: the mean before the classifier is over the whole map; the authors' tests at 256 pixels average the
    softmax of windows of 7 x 7.
Deviation: ten blocks in ResNet-101 stand behind res4's blocks 2, 6, 9, 13, 16 and 20. The paper has "the
    corresponding blocks"; this is the spacing that the authors' code has for five.

Shape letters: B clips, C channels, T frames, H height, W width, K classes.
"""

from functools import partial
from itertools import count
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError
from muybridge.models.blocks import Conv3d, Size3, channels_last, init_msra, scaled
from muybridge.models.contract import VideoModel, check_clip, check_positive
from muybridge.models.nonlocal_block import NonLocalBlock, choose, insert_nonlocal
from muybridge.models.resnet import bottleneck


class Trunk(NamedTuple):
    """A ResNet of Sec. 4. A digit of res2 .. res5 is a residual block: 1 where it is inflated over time."""

    conv1: int  # temporal kernel of conv1
    inflated: tuple[int, int]  # temporal kernels of the first and the second convolution of an inflated block
    res2: str
    res3: str
    res4: str
    res5: str


class Pool(NamedTuple):
    """A max pooling, in (time, height, width)."""

    kernel: Size3
    stride: Size3
    padding: Size3

    def out(self, size: int, axis: int) -> int:
        """The output's extent along an axis; 0 or less where the kernel does not fit."""
        return (size + 2 * self.padding[axis] - self.kernel[axis]) // self.stride[axis] + 1


class Layout(NamedTuple):
    """Where the public implementations differ: in time and pools, and in two details of the blocks."""

    num_frames: int  # of its own clips
    conv1_stride: int  # in time
    pool1: Pool  # behind conv1
    pool2: Pool  # behind res2
    nl_pool: str  # keys and values are pooled before or after phi and g
    nl_scaled: bool  # the logits of the embedded Gaussian are divided by the root of D


class Places(NamedTuple):
    """Behind which residual blocks the non-local ones stand, counted from 0."""

    res2: tuple[int, ...]
    res3: tuple[int, ...]
    res4_r50: tuple[int, ...]
    res4_r101: tuple[int, ...]
    res5: tuple[int, ...]


# fmt: off
# Table 1: channels of conv1, then the inner ones of res2 .. res5; a block's output has four times as many
CHANNELS = (64, 64, 128, 256, 512)

FLAT, CONV_A, CONV_B = (1, 1), (3, 1), (1, 3)
TRUNKS = {
    #                    conv1  inflated  res2   res3    res4                       res5
    "c2d_r50":         Trunk(1, FLAT,    "000", "0000", "000000",                  "000"),  # Table 1
    "c2d_r101":        Trunk(1, FLAT,    "000", "0000", "00000000000000000000000", "000"),
    "i3d_r50":         Trunk(5, CONV_A,  "111", "1010", "101010",                  "010"),  # 3 x 1 x 1
    "i3d_r101":        Trunk(5, CONV_A,  "111", "1010", "10101010101010101010101", "010"),
    "i3d_r50_3x3x3":   Trunk(5, CONV_B,  "111", "1010", "101010",                  "010"),
    "i3d_r101_3x3x3":  Trunk(5, CONV_B,  "111", "1010", "10101010101010101010101", "010"),
    # res4 as in ResNet-50, then flat: later papers' counts of "NL I3D R101" are of this one
    "i3d_r101_first6": Trunk(5, CONV_A,  "111", "1010", "10101000000000000000000", "010"),
}

HALF = Pool((2, 1, 1), (2, 1, 1), (0, 0, 0))
LAYOUTS = {
    "paper": Layout(
        32, 2, Pool((3, 3, 3), (2, 2, 2), (1, 1, 1)), Pool((3, 1, 1), (2, 1, 1), (1, 0, 0)), "before", False),
    "caffe2": Layout(32, 2, Pool((2, 3, 3), (2, 2, 2), (0, 0, 0)), HALF, "before", True),
    "caffe2_8x8": Layout(8, 1, Pool((1, 3, 3), (1, 2, 2), (0, 0, 0)), HALF, "before", True),
    "pytorchvideo": Layout(8, 1, Pool((1, 3, 3), (1, 2, 2), (0, 1, 1)), HALF, "before", True),
    "mmaction2": Layout(32, 2, Pool((1, 3, 3), (2, 2, 2), (0, 1, 1)), HALF, "after", False),
}

PLACES: dict[int | str, Places] = {
    #              res2  res3          R50's res4          R101's res4              res5
    0:      Places((),   (),           (),                 (),                      ()),
    1:      Places((),   (),           (4,),               (21,),                   ()),  # before the last
    5:      Places((),   (1, 3),       (1, 3, 5),          (6, 13, 20),             ()),  # every other
    10:     Places((),   (0, 1, 2, 3), (0, 1, 2, 3, 4, 5), (2, 6, 9, 13, 16, 20),   ()),  # every
    "res2": Places((1,), (),           (),                 (),                      ()),  # Table 2b
    "res3": Places((),   (2,),         (),                 (),                      ()),
    "res4": Places((),   (),           (4,),               (21,),                   ()),
    "res5": Places((),   (),           (),                 (),                      (1,)),
}
# fmt: on
DEFAULT_BLOCK = ("embedded_gaussian", "spacetime", None)  # nl_kind, nl_scope, nl_pool
RAW_FRAMES = 64  # Sec. 4.1: consecutive frames of the video, of which a clip takes every so many


class MaxPool(nn.Module):
    """Max pooling, first of each frame and then over time: the same maxima, and a quicker gradient.

    Shape:
        input  [B, C, T, H, W]
        output [B, C, T', H', W']
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride, pad = self.pool
        if kernel[1:] != (1, 1):
            frames = x.transpose(1, 2)  # [B, T, C, H, W]
            y = F.max_pool2d(frames.flatten(0, 1), kernel[1:], stride[1:], pad[1:])
            x = y.view(*frames.shape[:2], *y.shape[1:]).transpose(1, 2)
        if kernel[0] == stride[0] == 1:
            return x
        y = F.max_pool2d(x.flatten(3), (kernel[0], 1), (stride[0], 1), (pad[0], 0))
        return y.view(*y.shape[:3], *x.shape[3:])


class Stem(nn.Module):
    """conv1 and pool1 of Table 1.

    Shape:
        input  [B, 3, T, H, W]
        output [B, channels, T', about H / 4, about W / 4]
    """

    def __init__(self, channels: int, *, temporal_kernel: int, layout: Layout, bn_eps: float) -> None:
        super().__init__()
        self.conv = Conv3d(3, channels, (temporal_kernel, 7, 7), stride=(layout.conv1_stride, 2, 2))
        self.bn = nn.BatchNorm3d(channels, eps=bn_eps)
        self.relu = nn.ReLU(inplace=True)
        self.pool = MaxPool(layout.pool1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pool(self.relu(self.bn(self.conv(x))))
        return y


class NonLocalNet(VideoModel):
    """C2D and I3D ResNets, with or without non-local blocks.

    Args:
        trunk: a row of `TRUNKS`.
        num_classes: K.
        width: scales every channel count.
        num_frames: of a clip; None takes the layout's own. The network runs on any, from `smallest_clip` on.
        layout: a row of `LAYOUTS`.
        nl_blocks: a row of `PLACES`: how many, at the paper's places, or "res2" .. "res5" for one in there.
        nl_kind: their pairwise function: `kind` of `NonLocalBlock`.
        nl_scope: the positions that one looks at: `scope` of `NonLocalBlock`.
        nl_pool: where keys and values are pooled, `pool` of `NonLocalBlock`; None is the layout's.
        bn_eps: of every BatchNorm.

    Shape:
        input  [B, 3, T, H, W]
        output [B, K]
    """

    def __init__(
        self,
        trunk: str,
        *,
        num_classes: int = 400,
        width: float = 1.0,
        num_frames: int | None = None,
        layout: str = "pytorchvideo",
        nl_blocks: int | str = 0,
        nl_kind: str = "embedded_gaussian",
        nl_scope: str = "spacetime",
        nl_pool: str | None = None,
        bn_eps: float = 1e-5,
    ) -> None:
        _check(trunk, layout, nl_blocks, width, num_frames, (nl_kind, nl_scope, nl_pool))
        rows, plan = TRUNKS[trunk], LAYOUTS[layout]
        super().__init__(
            num_classes=num_classes,
            feature_dim=scaled(4 * CHANNELS[-1], width),
            default_specs=(clip_spec(plan.num_frames if num_frames is None else num_frames),),
            stage_names=("stem", "stages.0", "stages.1", "stages.2", "stages.3"),
            dropout=0.5,
        )
        self.trunk, self.layout = trunk, layout
        n = scaled(CHANNELS[0], width)
        self.stem = Stem(n, temporal_kernel=rows.conv1, layout=plan, bn_eps=bn_eps)
        self.stem.apply(init_msra)
        self.pool2 = MaxPool(plan.pool2)
        self.stages = nn.Sequential()
        for number, after in enumerate(_places(rows, nl_blocks)):
            inner, half, out = (scaled(times * CHANNELS[number + 1], width) for times in (1, 2, 4))
            make = partial(
                NonLocalBlock,
                out,
                half,
                kind=nl_kind,
                scope=nl_scope,
                pool=plan.nl_pool if nl_pool is None else nl_pool,
                logit_scale=half**-0.5 if plan.nl_scaled else 1.0,
                bn_eps=bn_eps,
            )
            stage = _residual_stage(rows, number, (n, inner, out), bn_eps=bn_eps)
            self.stages.append(insert_nonlocal(stage, after, make))
            n = out

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """The last stage, averaged over time and space.

        Shape:
            input  [B, 3, T, H, W]
            output [B, feature_dim]
        """
        (x,) = inputs
        who = self.name or self.trunk
        check_clip(x, channels=3, who=who)
        (t, h, w), (frames, pixels) = x.shape[2:], smallest_clip(self.layout)
        if t < frames or min(h, w) < pixels:
            raise ConfigError(
                f"{who} in the layout '{self.layout}' takes at least {frames} frames of {pixels} x {pixels} "
                f"pixels, got {t} of {h} x {w}: sample more frames or a larger crop, or choose another layout"
            )
        y = self.pool2(self.stages[0](self.stem(channels_last(x))))
        y = self.stages[1:](y)
        pooled: Tensor = y.mean((2, 3, 4))
        return pooled


def clip_spec(num_frames: int) -> ClipSpec:
    """Sec. 4.1: frames spread evenly over 64 of the video, short side 256, a 224 x 224 crop.

    >>> [clip_spec(num_frames).frame_stride for num_frames in (8, 32, 128)]
    [8, 2, 1]
    """
    return ClipSpec(num_frames=num_frames, frame_stride=max(1, RAW_FRAMES // num_frames))


def smallest_clip(layout: str) -> tuple[int, int]:
    """The fewest frames, and the smallest height and width, of which the poolings leave anything.

    >>> smallest_clip("pytorchvideo"), smallest_clip("caffe2")
    ((2, 1), (7, 5))
    """
    plan = LAYOUTS[layout]
    frames = next(n for n in count(1) if plan.pool2.out(plan.pool1.out(-(-n // plan.conv1_stride), 0), 0) > 0)
    pixels = next(n for n in count(1) if plan.pool1.out(-(-n // 2), 1) > 0)
    return frames, pixels


def _residual_stage(rows: Trunk, number: int, channels: Size3, *, bn_eps: float) -> nn.Sequential:
    """Stage `number`, 0 for res2; the channels are its input's, the inner ones, and its output's."""
    n, inner, out = channels
    stage = nn.Sequential()
    for index, digit in enumerate((rows.res2, rows.res3, rows.res4, rows.res5)[number]):
        kernels = rows.inflated if digit == "1" else FLAT
        stride = 2 if number > 0 and index == 0 else 1
        block = bottleneck(n, inner, out, temporal_kernels=kernels, stride=stride, bn_eps=bn_eps)
        block.apply(init_msra)
        last_scale = block.get_parameter("bn_c.weight")
        nn.init.zeros_(last_scale)  # as the authors' code; ImageNet's weights, if any, overwrite it
        stage.append(block)
        n = out
    return stage


def _places(rows: Trunk, nl_blocks: int | str) -> tuple[tuple[int, ...], ...]:
    row = PLACES[nl_blocks]
    return row.res2, row.res3, row.res4_r50 if len(rows.res4) == 6 else row.res4_r101, row.res5


def _check(
    trunk: str,
    layout: str,
    nl_blocks: int | str,
    width: float,
    num_frames: int | None,
    block: tuple[str, str, str | None],
) -> None:
    choose("trunk", trunk, TRUNKS)
    choose("layout", layout, LAYOUTS)
    choose("nl_blocks", nl_blocks, PLACES)
    check_positive(width=width, num_frames=1 if num_frames is None else num_frames)
    if nl_blocks == 0 and block != DEFAULT_BLOCK:
        raise ConfigError(
            "nl_kind, nl_scope and nl_pool describe non-local blocks and there are none: "
            "add nl_blocks=1, 5 or 10, or leave them out"
        )
