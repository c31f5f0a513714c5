"""SlowFast Networks for Video Recognition. ICCV 2019 (arXiv:1812.03982).

Feichtenhofer, Fan, Malik, He.

Where to find the paper here:
    Fig. 1 (two pathways)                           `SlowFast`
    Table 1 (both pathways of ResNet-50)            `TABLE_1`, `Pathway`, in slowfast_pathways.py
    T x tau and alpha (Sec. 3.1, 3.2)               `num_frames` is alpha T; `slow_indices`
    Sec. 3.3 and Table 5a (lateral connections)     `LATERALS`, in slowfast_pathways.py
    Table 5b (channels of Fast)                     `beta`
    Table 5c (weaker inputs of Fast)                `INPUTS`, in slowfast_pathways.py; `SlowFastFlow`
    Slow-only and Fast-only                         `OnePathway`

Deviation: Slow's frames are a truncated linspace over the clip, as in the authors' code and so for their
    weights; the paper takes every alpha-th, which is `slow_frames="stride"`.
Deviation: Fast's frames are tau / alpha apart, those of Slow alone tau; the authors' code spreads them up to
    the last of the T x tau source frames, which is a little wider.
Deviation: before the classifier comes the mean over the whole map; the authors' tests at 256 pixels take the
    mean softmax of its four windows of 7 x 7.
Deviation: half resolution is the mean of 2 x 2 pixels, and a lateral's output is enlarged to Slow's size by
    repeating pixels; the paper does not say how.
Deviation: the time difference is between grey frames, and zero for the first one; the paper does not say, but
    its multiply-adds are nearer to one channel than to three.
Deviation: "+NL" multiplies theta, phi and g in the cheaper order: 231.1 GMAC, where the paper has 234.
Deviation: flow is TV-L1 clipped at 20 pixels, from each frame of Fast to the next; the paper does not say.

Shape letters: B clips, C channels, T frames of Slow, A alpha, H height, W width, K classes.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError
from muybridge.models.blocks import channels_last
from muybridge.models.contract import VideoModel, check_clip, check_positive
from muybridge.models.nonlocal_block import choose
from muybridge.models.slowfast_pathways import (
    FAST_T,
    INPUTS,
    LATERALS,
    SLOW_T,
    TRUNKS,
    FastInput,
    Pathway,
    PoolBoth,
    init_weights,
    make_lateral,
    output_channels,
)

SlowFrames = Literal["linspace", "stride"]
FRAME_STRIDE = 2  # tau / alpha: 16 / 8 in 4 x 16, 8 / 4 in 8 x 8 and 16 x 8
DROPOUT = 0.5


def slow_indices(num_frames: int, alpha: int, slow_frames: SlowFrames = "linspace") -> list[int]:
    """The frames of the clip that Slow sees.

    >>> slow_indices(32, 8), slow_indices(32, 8, "stride")
    ([0, 10, 20, 31], [0, 8, 16, 24])
    """
    if slow_frames == "stride":
        return list(range(0, num_frames, alpha))
    count = num_frames // alpha
    return [index * (num_frames - 1) // max(1, count - 1) for index in range(count)]


def clip_spec(num_frames: int, frame_stride: int = FRAME_STRIDE) -> ClipSpec:
    """The paper's clips at test: 256 x 256 of a short side of 256. In training it crops 224 x 224."""
    return ClipSpec(num_frames=num_frames, frame_stride=frame_stride, crop=256)


def flow_spec(num_frames: int) -> ClipSpec:
    """Flow at the same frames; half of white is no motion."""
    return ClipSpec(
        num_frames=num_frames,
        frame_stride=FRAME_STRIDE,
        crop=256,
        mean=(0.5, 0.5),
        std=(0.225, 0.225),
        modality="flow",
        flow_method="tvl1",
        flow_bound=20,
    )


class OnePathway(VideoModel):
    """Slow-only or Fast-only.

    Args:
        pathway: "slow" or "fast", a column of Table 1.
        trunk: a row of `TRUNKS`.
        num_classes: K.
        width: scales every channel count.
        num_frames: T for Slow, alpha T for Fast; it takes any number.
        frame_stride: source frames from one to the next: tau for Slow, tau / alpha for Fast.
        beta: a further factor of the channels: 1 for Slow.
        bn_eps: of every BatchNorm.

    Shape:
        input  [B, 3, T, H, W]
        output [B, K]

    >>> OnePathway("fast", num_classes=5, beta=1 / 8)(torch.zeros(2, 3, 8, 32, 32)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        pathway: str,
        trunk: str = "r50",
        *,
        num_classes: int = 400,
        width: float = 1.0,
        num_frames: int = 8,
        frame_stride: int = 8,
        beta: float = 1.0,
        bn_eps: float = 1e-5,
    ) -> None:
        choose("pathway", pathway, ("slow", "fast"))
        choose("trunk", trunk, TRUNKS)
        check_positive(width=width, num_frames=num_frames, frame_stride=frame_stride, beta=beta)
        super().__init__(
            num_classes=num_classes,
            feature_dim=output_channels(width * beta)[-1],
            default_specs=(clip_spec(num_frames, frame_stride),),
            stage_names=("stem", "stages.0", "stages.1", "stages.2", "stages.3"),
            dropout=DROPOUT,
        )
        slow, rows = pathway == "slow", TRUNKS[trunk]
        column = Pathway(
            3,
            rows,
            SLOW_T if slow else FAST_T,
            width=width * beta,
            nonlocal_after=rows.nonlocal_after if slow else (),
            bn_eps=bn_eps,
        )
        self.stem, self.stages = column.stem, column.stages

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """The last stage, averaged over time and space.

        Shape:
            input  [B, 3, T, H, W]
            output [B, feature_dim]
        """
        (x,) = inputs
        check_clip(x, channels=3, who=self._who)
        y: Tensor = self.stages(self.stem(channels_last(x)))
        return y.mean((2, 3, 4))


class SlowFast(VideoModel):
    """Two pathways over one clip: few frames in many channels, many frames in few, and laterals.

    Args:
        trunk: a row of `TRUNKS`.
        num_classes: K.
        width: scales every channel count.
        num_frames: alpha T, frames of a clip; it takes other multiples of alpha too.
        alpha: frames of Fast for each of Slow.
        beta: Fast's channels as a part of Slow's.
        lateral: a row of `LATERALS`.
        fast_input: a row of `INPUTS`.
        slow_frames: which frames Slow sees: `slow_indices`.
        bn_eps: of every BatchNorm.

    Shape:
        input  [B, 3, A T, H, W]
        output [B, K]

    >>> SlowFast("r50", num_classes=5, width=1 / 16)(torch.zeros(2, 3, 16, 32, 32)).shape
    torch.Size([2, 5])
    """

    fast_inputs: ClassVar[dict[str, FastInput]] = INPUTS

    def __init__(
        self,
        trunk: str = "r50",
        *,
        num_classes: int = 400,
        width: float = 1.0,
        num_frames: int = 32,
        alpha: int = 8,
        beta: float = 1 / 8,
        lateral: str = "t_conv",
        fast_input: str = "rgb",
        slow_frames: SlowFrames = "linspace",
        bn_eps: float = 1e-5,
    ) -> None:
        choose("trunk", trunk, TRUNKS)
        choose("lateral", lateral, LATERALS)
        choose("fast_input", fast_input, self.fast_inputs)
        choose("slow_frames", slow_frames, get_args(SlowFrames))
        check_positive(width=width, num_frames=num_frames, alpha=alpha, beta=beta)
        slow, fast = output_channels(width), output_channels(width * beta)
        rows, kind = TRUNKS[trunk], LATERALS[lateral].kind
        _check_sum(kind, slow, fast, alpha)
        super().__init__(
            num_classes=num_classes,
            feature_dim=slow[-1] + fast[-1],
            default_specs=(clip_spec(num_frames), flow_spec(num_frames))[: len(self.modalities)],
            stage_names=_stage_names(with_laterals=kind != "none"),
            dropout=DROPOUT,
        )
        self.alpha, self.slow_frames = alpha, slow_frames
        self.fast_input, self.lateral_kind = fast_input, kind
        self._check_length(num_frames)
        self.slow = Pathway(
            3,
            rows,
            SLOW_T,
            width=width,
            added=[LATERALS[lateral].added(channels, alpha) for channels in fast[:-1]],
            nonlocal_after=rows.nonlocal_after,
            bn_eps=bn_eps,
        )
        self.fast = Pathway(
            self.fast_inputs[fast_input].channels, rows, FAST_T, width=width * beta, bn_eps=bn_eps
        )
        self.lateral = nn.ModuleList()
        for channels in fast[:-1] if kind != "none" else ():
            self.lateral.append(make_lateral(LATERALS[lateral], channels, alpha=alpha, bn_eps=bn_eps))
        self.lateral.apply(init_weights)
        self.pool = PoolBoth()

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """Slow's last stage and Fast's, each averaged over time and space.

        Shape:
            inputs [B, 3, A T, H, W], and [B, 2, A T, H, W] where Fast sees flow
            output [B, feature_dim]
        """
        self._check_inputs(inputs)
        frames = slow_indices(inputs[0].shape[2], self.alpha, self.slow_frames)
        slow = self.slow.stem(channels_last(inputs[0][:, :, frames]))
        fast = self.fast.stem(channels_last(self.fast_inputs[self.fast_input].make(inputs[-1])))
        stages = zip(self.slow.stages, self.fast.stages, strict=True)
        for index, (slow_stage, fast_stage) in enumerate(stages):
            if self.lateral:
                slow = self._join(slow, self.lateral[index](fast))
            slow, fast = slow_stage(slow), fast_stage(fast)
        y: Tensor = self.pool(slow, fast)
        return y

    def _join(self, slow: Tensor, side: Tensor) -> Tensor:
        if self.fast_input == "half":
            side = F.interpolate(side, slow.shape[2:])
        return slow + side if self.lateral_kind == "ttoc_sum" else torch.cat((slow, side), 1)

    def _check_inputs(self, inputs: tuple[Tensor, ...]) -> None:
        for x, modality in zip(inputs, self.modalities, strict=True):
            check_clip(x, channels=2 if modality == "flow" else 3, who=self._who)
        self._check_length(inputs[0].shape[2])
        if inputs[0].shape[2:] != inputs[-1].shape[2:]:
            raise ConfigError(
                f"{self._who} takes a flow field for each frame and of its size, got frames "
                f"{list(inputs[0].shape[2:])} and flow {list(inputs[-1].shape[2:])}: make both specs alike"
            )

    def _check_length(self, num_frames: int) -> None:
        if num_frames % self.alpha == 0 and num_frames > 0:
            return
        below = num_frames // self.alpha * self.alpha
        fitting = f"{below} or {below + self.alpha}" if below else f"{self.alpha}"
        raise ConfigError(
            f"{self._who} takes multiples of alpha = {self.alpha} frames, got {num_frames}: "
            f"sample {fitting}, or choose another alpha"
        )


class SlowFastFlow(SlowFast):
    """Table 5c, last row: Fast sees optical flow, at the frames of the clip. Its `fast_input` is "flow".

    Shape:
        inputs [B, 3, A T, H, W], [B, 2, A T, H, W]
        output [B, K]

    >>> model = SlowFastFlow(num_classes=5, width=1 / 16, fast_input="flow")
    >>> model(torch.zeros(2, 3, 16, 32, 32), torch.zeros(2, 2, 16, 32, 32)).shape
    torch.Size([2, 5])
    """

    modalities = ("rgb", "flow")
    fast_inputs: ClassVar[dict[str, FastInput]] = {"flow": FastInput(2)}


def _stage_names(*, with_laterals: bool) -> tuple[str, ...]:
    parts = (*(("lateral.{}",) if with_laterals else ()), "slow.stages.{}", "fast.stages.{}")
    stages = (part.format(index) for index in range(4) for part in parts)
    return ("slow.stem", "fast.stem", *stages, "pool")


def _check_sum(kind: str, slow: Sequence[int], fast: Sequence[int], alpha: int) -> None:
    packed = [alpha * channels for channels in fast]
    if kind == "ttoc_sum" and packed != list(slow):
        raise ConfigError(
            f"ttoc_sum needs alpha x beta = 1: alpha frames of Fast have {packed} channels, Slow has "
            f"{list(slow)}: change alpha, beta or width, or take ttoc_concat"
        )
