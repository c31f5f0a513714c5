"""Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset. CVPR 2017 (arXiv:1705.07750).

Carreira, Zisserman.

Where to find the paper here:
    Fig. 2 (e), Sec. 2.4: Two-Stream I3D, and each stream        `TwoStreamI3D`, `I3D`, `FlowI3D`
    Fig. 3: the Inflated Inception-V1                            `inception.INCEPTION_V1`
    Sec. 2.4: the predictions of two streams become one          `JointHead`
    Sec. 2.5 and Table 1: how clips are made                     `clip_spec`
    Fig. 2 (a)-(d), Sec. 2.1-2.3: what I3D is compared with      i3d_baselines.py

Deviation: the classifier sees the mean over time once; the authors' code classifies each step and averages
    the scores. Equal, but for dropout, which is here the same at all steps.
Deviation: the last average pooling spans the whole frame; Fig. 3 has 7 x 7, which is the whole frame at
    224 x 224.
Deviation: the logits of the two streams are added, as in the authors' code; the paper averages predictions:
    `fusion="probabilities"`.

Shape letters: B clips, C channels, T frames, H height, W width, D features, K classes; t, h, w are what is
left of T, H, W at the end of a trunk.
"""

from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError
from muybridge.models.blocks import channels_last
from muybridge.models.contract import VideoModel, check_clip, check_positive
from muybridge.models.inception import feature_channels, make_trunk, stage_names
from muybridge.models.two_stream_heads import MeanOfSoftmax

Fusion = Literal["logits", "probabilities"]

CHANNELS = {"rgb": 3, "flow": 2}
SHORTEST = 9  # frames: of fewer the trunk leaves one step, and the last average pooling spans two


class I3D(VideoModel):
    """One stream of Fig. 2 (e), the RGB one: the Inflated Inception-V1.

    Args:
        num_classes: K.
        width: scales every channel count.
        num_frames: of a clip as it is sampled; the network takes any number from 9 on.
        bn_eps: of every BatchNorm.
        dropout: before the classifier.

    Shape:
        input  [B, 3, T, H, W]
        output [B, K]

    >>> I3D(num_classes=5, width=1 / 16)(torch.zeros(2, 3, 16, 32, 32)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        *,
        num_classes: int = 400,
        width: float = 1.0,
        num_frames: int = 64,
        bn_eps: float = 1e-5,
        dropout: float = 0.5,
    ) -> None:
        check_positive(width=width, num_frames=num_frames)
        (modality,) = self.modalities
        super().__init__(
            num_classes=num_classes,
            feature_dim=feature_channels(width),
            default_specs=(clip_spec(modality, num_frames),),
            stage_names=stage_names(),
            dropout=dropout,
        )
        trunk = make_trunk(CHANNELS[modality], width=width, bn_eps=bn_eps)
        self._rows = [name for name, _ in trunk.named_children()]
        for name, layer in trunk.named_children():
            self.add_module(name, layer)

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """The last module's output, averaged as `mean_of_windows` says.

        Shape:
            input  [B, 3, T, H, W]; of flow [B, 2, T, H, W]
            output [B, feature_dim]
        """
        (x,) = inputs
        check_frames(x, channels=CHANNELS[self.modalities[0]], who=self._who)
        x = channels_last(x)
        for name in self._rows:
            x = self.get_submodule(name)(x)
        return mean_of_windows(x)


class FlowI3D(I3D):
    """The other stream of Fig. 2 (e): the same network of flow fields.

    Shape:
        input  [B, 2, T, H, W]
        output [B, K]
    """

    modalities = ("flow",)


class TwoStreamI3D(VideoModel):
    """Fig. 2 (e): an RGB and a flow stream, each with its own classifier; `model(rgb, flow)`.

    The paper trains the streams by themselves. The logits of one of them are
    `model.embed(rgb, flow, layer="head.rgb")`.

    Args:
        num_classes: K.
        width: scales every channel count.
        num_frames: frames, and flow fields, of a clip as it is sampled; the network takes any from 9 on.
        bn_eps: of every BatchNorm.
        dropout: before each classifier.
        fusion: how `JointHead` makes one answer of two.

    Shape:
        inputs [B, 3, T, H, W] and [B, 2, T, H, W]
        output [B, K]

    >>> model = TwoStreamI3D(num_classes=5, width=1 / 16)
    >>> model(torch.zeros(2, 3, 16, 32, 32), torch.zeros(2, 2, 16, 32, 32)).shape
    torch.Size([2, 5])
    """

    modalities = ("rgb", "flow")

    def __init__(
        self,
        *,
        num_classes: int = 400,
        width: float = 1.0,
        num_frames: int = 64,
        bn_eps: float = 1e-5,
        dropout: float = 0.5,
        fusion: Fusion = "logits",
    ) -> None:
        check_positive(width=width, num_frames=num_frames)
        feature_dim = 2 * feature_channels(width)
        super().__init__(
            num_classes=num_classes,
            feature_dim=feature_dim,
            default_specs=(clip_spec("rgb", num_frames), clip_spec("flow", num_frames)),
            stage_names=stage_names(prefix="rgb.") + stage_names(prefix="flow."),
            make_head=partial(JointHead, feature_dim, dropout=dropout, fusion=fusion),
        )
        self.rgb = make_trunk(3, width=width, bn_eps=bn_eps)
        self.flow = make_trunk(2, width=width, bn_eps=bn_eps)

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """The features of the RGB stream, then those of the flow stream.

        Shape:
            inputs [B, 3, T, H, W] and [B, 2, T, H, W]
            output [B, feature_dim]
        """
        who = self._who
        rgb, flow = two_inputs(inputs, who)
        check_frames(rgb, channels=3, who=who)
        check_frames(flow, channels=2, who=who)
        streams = (self.rgb(channels_last(rgb)), self.flow(channels_last(flow)))
        return torch.cat([mean_of_windows(x) for x in streams], dim=1)


class JointHead(MeanOfSoftmax):
    """The classifiers of two streams, and one answer of both.

    Args:
        feature_dim: D, of both streams together.
        num_classes: K.
        dropout: before each classifier.
        fusion: "logits" are added; of "probabilities" the answer is the logarithm of their mean.

    Shape:
        input  [B, D], the RGB stream's half first
        output [B, K]
    """

    def __init__(self, feature_dim: int, num_classes: int, *, dropout: float, fusion: Fusion) -> None:
        super().__init__(feature_dim // 2, num_classes, dropout=dropout)
        if fusion not in get_args(Fusion):
            raise ConfigError(f"fusion must be 'logits' or 'probabilities', got '{fusion}'")
        self.fusion = fusion

    def forward(self, x: Tensor) -> Tensor:
        if self.fusion == "probabilities":
            return super().forward(x)
        rgb, flow = self.each(x)
        return rgb + flow


def mean_of_windows(x: Tensor) -> Tensor:
    """The average pooling of Fig. 3, 2 x 7 x 7 with stride 1, and the mean over the steps that it leaves.

    The first and the last step weigh half, since only one window has them.

    Shape:
        x      [B, D, t, h, w], t at least 2
        output [B, D]

    >>> mean_of_windows(torch.tensor([4.0, 1.0, 1.0]).view(1, 1, 3, 1, 1))    # of 2.5 and 1
    tensor([[1.7500]])
    """
    return F.avg_pool1d(x.mean((3, 4)), 2, stride=1).mean(2)


def clip_spec(modality: str, num_frames: int, *, frame_stride: int = 1, crop: int = 224) -> ClipSpec:
    """Sec. 2.5: 25 frames a second, short side 256, a crop of 224; values in [-1, 1].

    Flow is TV-L1, cut off at 20 pixels.

    >>> clip_spec("rgb", 25, frame_stride=5).span / 25
    4.84
    """
    flow = modality == "flow"
    half = (0.5,) * CHANNELS[modality]
    return ClipSpec(
        num_frames=num_frames,
        frame_stride=frame_stride,
        fps=25,
        resize=round(crop * 256 / 224),
        crop=crop,
        mean=half,
        std=half,
        modality="flow" if flow else "rgb",
        flow_method="tvl1" if flow else None,
        flow_bound=20 if flow else None,
    )


def two_inputs(inputs: tuple[Tensor, ...], who: str) -> tuple[Tensor, Tensor]:
    """The RGB and the flow input of a network of two streams.

    Raises:
        ConfigError: there are not two, or they are not of the same number of clips.
    """
    if len(inputs) != 2:
        raise ConfigError(f"{who} takes two inputs, model(rgb, flow), got {len(inputs)}")
    rgb, flow = inputs
    if len(rgb) != len(flow):
        raise ConfigError(f"{who} takes RGB and flow of the same clips, got {len(rgb)} and {len(flow)} clips")
    return rgb, flow


def check_frames(x: Tensor, *, channels: int, who: str) -> None:
    """An input that the inflated network cannot take.

    Raises:
        ConfigError: not [B, channels, T, H, W], or T is too short for the strides of time.
    """
    check_clip(x, channels=channels, who=who)
    if x.shape[2] < SHORTEST:
        raise ConfigError(
            f"{who} takes {SHORTEST} frames or more, got {x.shape[2]}: of 8 its strides leave one step, and "
            "its last pooling spans two; sample more frames"
        )
