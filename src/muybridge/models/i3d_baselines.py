"""Quo Vadis, Action Recognition? (arXiv:1705.07750), the architectures that I3D is compared with.

Carreira, Zisserman, CVPR 2017. What is new in the paper is in i3d.py.

Where to find the paper here:
    Fig. 2 (a), Sec. 2.1: ConvNet+LSTM           `ConvNetLSTM`, `recurrent.BatchNormLSTM`
    Fig. 2 (b), Sec. 2.2: 3D-ConvNet             `ConvNet3D`, `CONVNET_3D`
    Fig. 2 (c), Sec. 2.3: Two-Stream             `TwoStreamConvNet`
    Fig. 2 (d), Sec. 2.3: 3D-Fused Two-Stream    `FusedTwoStream`
    Table 1: frames of each architecture         the defaults of each class

Deviation: in (a) the training loss is one cross entropy of the mean of all steps' logits; the paper has one
    at each step, for which `ConvNetLSTM.step_logits` gives the logits.
Deviation: in (b) pool1 takes the largest of two frames; the paper says that its temporal stride is 2, and
    nothing of its kernel. fc6 and fc7 have C3D's 4096 units; the paper says nothing of them.
Deviation: in (d) the 3 x 3 x 3 max pooling has stride 1, and its output is averaged; the paper says neither,
    only of Fig. 3 that strides which are not given are 1.
Deviation: there is no dropout unless asked for; the paper says nothing of it.

Shape letters: B clips, S snippets, C channels, T frames, L flow fields of a snippet, H height, W width,
D features, K classes; t, h, w are what is left of T, H, W at the end of a trunk.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.errors import ConfigError
from muybridge.models.blocks import channels_last, init_msra, scaled
from muybridge.models.contract import VideoModel, check_clip, check_positive
from muybridge.models.i3d import Fusion, JointHead, clip_spec, two_inputs
from muybridge.models.inception import (
    INCEPTION_V1,
    Conv,
    ConvUnit,
    Pool,
    Row,
    SamePool3d,
    feature_channels,
    make_trunk,
    per_frame,
    stage_names,
)
from muybridge.models.recurrent import BatchNormLSTM, ClipNorm

FRAME_ROWS = per_frame(INCEPTION_V1)
LSTM_UNITS = 512  # Sec. 2.1
FUSED_CHANNELS = 512  # Sec. 2.3
FULL_UNITS = 4096  # fc6 and fc7 of C3D

# fmt: off
# Sec. 2.2: C3D, with BatchNorm, and with a temporal stride of 2 in pool1 as well.
CONVNET_3D: tuple[Row, ...] = (
    Conv("conv1a", 64,  (3, 3, 3)),
    Pool("pool1",       (2, 2, 2), (2, 2, 2)),
    Conv("conv2a", 128, (3, 3, 3)),
    Pool("pool2",       (2, 2, 2), (2, 2, 2)),
    Conv("conv3a", 256, (3, 3, 3)),
    Conv("conv3b", 256, (3, 3, 3)),
    Pool("pool3",       (2, 2, 2), (2, 2, 2)),
    Conv("conv4a", 512, (3, 3, 3)),
    Conv("conv4b", 512, (3, 3, 3)),
    Pool("pool4",       (2, 2, 2), (2, 2, 2)),
    Conv("conv5a", 512, (3, 3, 3)),
    Conv("conv5b", 512, (3, 3, 3)),
    Pool("pool5",       (2, 2, 2), (2, 2, 2)),
)
CONVNET_3D_CHANNELS = 512  # of pool5
CONVNET_3D_STRIDE = 32     # of five poolings, along each axis
# fmt: on


class ConvNetLSTM(VideoModel):
    """Fig. 2 (a): Inception-V1 of each frame, an LSTM over the frames, a classifier at each step.

    It answers after the last step; in training mode the answer is the mean of all steps.

    Args:
        num_classes: K.
        width: scales every channel count, the LSTM's units as well.
        num_frames: of a clip as it is sampled, every fifth frame; the network takes any number.
        bn_eps: of every BatchNorm.
        dropout: before the classifier.

    Shape:
        input  [B, 3, T, H, W]
        output [B, K]
    """

    def __init__(
        self,
        *,
        num_classes: int = 400,
        width: float = 1.0,
        num_frames: int = 25,
        bn_eps: float = 1e-5,
        dropout: float = 0.0,
    ) -> None:
        check_positive(width=width, num_frames=num_frames)
        super().__init__(
            num_classes=num_classes,
            feature_dim=scaled(LSTM_UNITS, width),
            default_specs=(clip_spec("rgb", num_frames, frame_stride=5),),
            stage_names=(*stage_names(prefix="frames."), "lstm"),
            dropout=dropout,
        )
        self.frames = make_trunk(3, FRAME_ROWS, width=width, bn_eps=bn_eps)
        self.lstm = BatchNormLSTM(feature_channels(width), self.feature_dim, bn_eps=bn_eps)

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """The LSTM's output after the last step; in training mode the mean of all steps.

        Shape:
            input  [B, 3, T, H, W]
            output [B, feature_dim]
        """
        (x,) = inputs
        steps = self._steps(x)
        return steps.mean(2) if self.training else steps[:, :, -1]

    def step_logits(self, x: Tensor) -> Tensor:
        """The logits at every step.

        Shape:
            x      [B, 3, T, H, W]
            output [B, T, K]
        """
        logits: Tensor = self.head(self._steps(x).transpose(1, 2))
        return logits

    def _steps(self, x: Tensor) -> Tensor:
        check_clip(x, channels=3, who=self._who)
        steps: Tensor = self.lstm(self.frames(channels_last(x)).mean((3, 4)))
        return steps


class ConvNet3D(VideoModel):
    """Fig. 2 (b): a variation of C3D, trained from scratch.

    Args:
        num_classes: K.
        width: scales every channel count, fc6's and fc7's units as well.
        num_frames: T, exactly, since fc6 has a weight for every position.
        crop: H and W, exactly.
        bn_eps: of every BatchNorm.
        dropout: before the classifier.

    Shape:
        input  [B, 3, num_frames, crop, crop]
        output [B, K]
    """

    def __init__(
        self,
        *,
        num_classes: int = 400,
        width: float = 1.0,
        num_frames: int = 16,
        crop: int = 112,
        bn_eps: float = 1e-5,
        dropout: float = 0.0,
    ) -> None:
        check_positive(width=width, num_frames=num_frames, crop=crop)
        super().__init__(
            num_classes=num_classes,
            feature_dim=scaled(FULL_UNITS, width),
            default_specs=(clip_spec("rgb", num_frames, crop=crop),),
            stage_names=(*stage_names(CONVNET_3D), "fc6", "fc7"),
            dropout=dropout,
        )
        self.size = (num_frames, crop, crop)
        trunk = make_trunk(3, CONVNET_3D, width=width, bn_eps=bn_eps)
        for name, layer in trunk.named_children():
            self.add_module(name, layer)
        positions = math.prod(math.ceil(extent / CONVNET_3D_STRIDE) for extent in self.size)
        flat = positions * scaled(CONVNET_3D_CHANNELS, width)
        self.fc6 = FullUnit(flat, self.feature_dim, bn_eps=bn_eps)
        self.fc7 = FullUnit(self.feature_dim, self.feature_dim, bn_eps=bn_eps)

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """fc7.

        Shape:
            input  [B, 3, num_frames, crop, crop]
            output [B, feature_dim]
        """
        (x,) = inputs
        who = self._who
        check_clip(x, channels=3, who=who)
        if tuple(x.shape[2:]) != self.size:
            built, found = ("x".join(map(str, size)) for size in (self.size, x.shape[2:]))
            raise ConfigError(
                f"{who} was built for clips of exactly {built}, got {found}: build it with other num_frames "
                "and crop, or make such clips"
            )
        x = channels_last(x)
        for row in CONVNET_3D:
            x = self.get_submodule(row.name)(x)
        y: Tensor = self.fc7(self.fc6(x.flatten(1)))
        return y


class TwoStreamConvNet(VideoModel):
    """Fig. 2 (c): one Inception-V1 of an RGB frame, one of a stack of flow fields; `model(rgb, flow)`.

    Of several snippets the logits are averaged in each stream. The logits of one stream are
    `model.embed(rgb, flow, layer="head.rgb")`.

    Args:
        num_classes: K.
        width: scales every channel count.
        num_frames: S, RGB frames of a clip as it is sampled, one a snippet; the network takes any number.
        num_fields: L, flow fields of a snippet: from one RGB frame to the next.
        bn_eps: of every BatchNorm.
        dropout: before each classifier.
        fusion: how `JointHead` makes one answer of two.

    Shape:
        inputs [B, 3, S, H, W] and [B, 2, S * L, H, W], or [B, S, 3, 1, H, W] and [B, S, 2, L, H, W]
        output [B, K]
    """

    modalities = ("rgb", "flow")

    def __init__(
        self,
        *,
        num_classes: int = 400,
        width: float = 1.0,
        num_frames: int = 1,
        num_fields: int = 10,
        bn_eps: float = 1e-5,
        dropout: float = 0.0,
        fusion: Fusion = "probabilities",
    ) -> None:
        check_positive(width=width, num_frames=num_frames, num_fields=num_fields)
        feature_dim = 2 * feature_channels(width)
        super().__init__(
            num_classes=num_classes,
            feature_dim=feature_dim,
            default_specs=(
                clip_spec("rgb", num_frames, frame_stride=num_fields),
                clip_spec("flow", num_frames * num_fields),
            ),
            stage_names=stage_names(prefix="rgb.") + stage_names(prefix="flow."),
            make_head=partial(JointHead, feature_dim, dropout=dropout, fusion=fusion),
        )
        self.num_fields = num_fields
        self.rgb = make_trunk(3, FRAME_ROWS, width=width, bn_eps=bn_eps)
        self.flow = make_trunk(2 * num_fields, FRAME_ROWS, width=width, bn_eps=bn_eps)

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """The features of the RGB stream, then those of the flow stream, each averaged over snippets.

        Shape:
            inputs [B, 3, S, H, W] and [B, 2, S * L, H, W], or with snippets apart
            output [B, feature_dim]
        """
        rgb, flow = snippets_as_frames(inputs, self.num_fields, self._who)
        streams = (self.rgb(channels_last(rgb)), self.flow(channels_last(flow)))
        return torch.cat([x.mean((2, 3, 4)) for x in streams], dim=1)


class FusedTwoStream(VideoModel):
    """Fig. 2 (d): the streams of (c), whose last features are convolved together over space and time.

    Args:
        num_classes: K.
        width: scales every channel count.
        num_frames: S, RGB frames of a clip as it is sampled, one a snippet; the network takes any number.
        num_fields: L, flow fields of a snippet: from one RGB frame to the next.
        bn_eps: of every BatchNorm.
        dropout: before the classifier.

    Shape:
        inputs [B, 3, S, H, W] and [B, 2, S * L, H, W], or [B, S, 3, 1, H, W] and [B, S, 2, L, H, W]
        output [B, K]
    """

    modalities = ("rgb", "flow")

    def __init__(
        self,
        *,
        num_classes: int = 400,
        width: float = 1.0,
        num_frames: int = 5,
        num_fields: int = 10,
        bn_eps: float = 1e-5,
        dropout: float = 0.0,
    ) -> None:
        check_positive(width=width, num_frames=num_frames, num_fields=num_fields)
        super().__init__(
            num_classes=num_classes,
            feature_dim=scaled(FUSED_CHANNELS, width),
            default_specs=(
                clip_spec("rgb", num_frames, frame_stride=num_fields),
                clip_spec("flow", num_frames * num_fields),
            ),
            stage_names=(*stage_names(prefix="rgb."), *stage_names(prefix="flow."), "fusion"),
            dropout=dropout,
        )
        self.num_fields = num_fields
        self.rgb = make_trunk(3, FRAME_ROWS, width=width, bn_eps=bn_eps)
        self.flow = make_trunk(2 * num_fields, FRAME_ROWS, width=width, bn_eps=bn_eps)
        self.fusion = ConvUnit(2 * feature_channels(width), self.feature_dim, (3, 3, 3), bn_eps=bn_eps)
        self.pool = SamePool3d((3, 3, 3), (1, 1, 1))
        self.fusion.apply(init_msra)  # Gaussian, as the paper says

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """The fused features, pooled.

        Shape:
            inputs [B, 3, S, H, W] and [B, 2, S * L, H, W], or with snippets apart
            output [B, feature_dim]
        """
        rgb, flow = snippets_as_frames(inputs, self.num_fields, self._who)
        grids = torch.cat((self.rgb(channels_last(rgb)), self.flow(channels_last(flow))), dim=1)
        pooled: Tensor = self.pool(self.fusion(grids))  # [B, D, S, h, w]
        return pooled.mean((2, 3, 4))


class FullUnit(nn.Module):
    """A fully connected layer, BatchNorm, ReLU.

    Shape:
        input  [B, in_features]
        output [B, out_features]
    """

    def __init__(self, in_features: int, out_features: int, *, bn_eps: float) -> None:
        super().__init__()
        self.fc = nn.Linear(in_features, out_features, bias=False)
        self.bn = ClipNorm(out_features, eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.fc(x)))


def snippets_as_frames(inputs: tuple[Tensor, ...], num_fields: int, who: str) -> tuple[Tensor, Tensor]:
    """Snippets one after another in time, the L flow fields of each as the channels of one frame.

    The channels of a stack are x and y of its first field, then of the next (Simonyan and Zisserman 2014).

    Raises:
        ConfigError: shapes that are neither, or L flow fields for each RGB frame are not there.

    Shape:
        inputs [B, 3, S, H, W] and [B, 2, S * L, H, W], or [B, S, 3, 1, H, W] and [B, S, 2, L, H, W]
        output [B, 3, S, H, W] and [B, 2 * L, S, H, W]

    >>> rgb, flow = snippets_as_frames((torch.zeros(1, 3, 5, 8, 8), torch.zeros(1, 2, 50, 8, 8)), 10, "it")
    >>> rgb.shape, flow.shape
    (torch.Size([1, 3, 5, 8, 8]), torch.Size([1, 20, 5, 8, 8]))
    """
    given = two_inputs(inputs, who)
    rgb, flow = (_one_clip(x, channels, who) for x, channels in zip(given, (3, 2), strict=True))
    batch, snippets, fields = len(rgb), rgb.shape[2], flow.shape[2]
    if fields != snippets * num_fields:
        raise ConfigError(
            f"{who} takes {num_fields} flow fields for each RGB frame, got {fields} for {snippets}: build it "
            "with another num_fields, or make such clips"
        )
    stacks = flow.reshape(batch, 2, snippets, num_fields, *flow.shape[3:])
    return rgb, stacks.permute(0, 3, 1, 2, 4, 5).flatten(1, 2)


def _one_clip(x: Tensor, channels: int, who: str) -> Tensor:
    """[B, C, T, H, W]; snippets that are apart, [B, S, C, T, H, W], come one after another."""
    if x.ndim == 6 and x.shape[2] != channels:
        raise ConfigError(f"{who} takes snippets [B, S, {channels}, T, H, W], got {list(x.shape)}")
    clip = x.transpose(1, 2).flatten(2, 3) if x.ndim == 6 else x
    check_clip(clip, channels=channels, who=who)
    return clip
