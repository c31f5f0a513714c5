"""Beyond Short Snippets: Deep Networks for Video Classification. CVPR 2015 (arXiv:1503.08909).

Yue-Hei Ng, Hausknecht, Vijayanarasimhan, Vinyals, Monga, Toderici. Its LSTM is in short_snippets_lstm.py.

Where to find the paper here:
    the CNN of each frame: AlexNet, GoogLeNet                       short_snippets_towers.py
    Conv, Late, Slow, Local Pooling, Time-Domain Convolution        `ARCHITECTURES`, `FeaturePooling`
    a network of one frame becomes one of 30, then of 120           `expand`
    images of optical flow, networks of them started from RGB       `modality` of `FeaturePooling`, `expand`

Deviation: GoogLeNet has no fully connected layers, and neither has conv pooling of it; in the other
    architectures it gets AlexNet's two.
Deviation: ReLU follows the time-domain convolution; the paper does not say.

Shape letters: B clips, C channels, T frames, H height, W width, D features, K classes, N windows;
h, w are H, W at the end of a tower.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.errors import ConfigError
from muybridge.models.alexnet import ConvRelu, FullRelu, he_init
from muybridge.models.blocks import channels_last, scaled
from muybridge.models.contract import VideoModel, check_choices, check_positive
from muybridge.models.inception import feature_channels
from muybridge.models.short_snippets_towers import (
    CHANNELS,
    Modality,
    TowerName,
    clip_spec,
    make_tower,
    one_clip,
    tower_output,
    tower_stages,
)

Pooling = Literal["conv", "late", "slow", "local", "time_conv"]

FULL_UNITS = 4096  # of fc6 and fc7
TIME_FILTERS = 256  # of the time-domain convolution


class Architecture(NamedTuple):
    """What becomes of T frames on their way.

    "max" is the largest value over all steps, "windows" that of each window, "conv" a convolution of each
    window and then the largest value; "concat" puts the steps side by side. None leaves them as they are.
    """

    before_fc6: Literal["max", "windows", "conv"] | None = None
    before_fc7: Literal["max"] | None = None
    behind_fc7: Literal["max", "concat"] | None = None


ARCHITECTURES: dict[str, Architecture] = {
    "conv": Architecture(before_fc6="max"),
    "late": Architecture(behind_fc7="max"),
    "slow": Architecture(before_fc6="windows", before_fc7="max"),
    "local": Architecture(before_fc6="windows", behind_fc7="concat"),
    "time_conv": Architecture(before_fc6="conv"),
}


class FeaturePooling(VideoModel):
    """One of the five architectures that take the largest value over time somewhere.

    With `num_frames=1` conv pooling is the paper's network of a single frame. Windows are as many as fit:
    frames behind the last one are not seen. To slow and local pooling a clip shorter than a window is one.

    Args:
        pooling: a key of `ARCHITECTURES`.
        num_classes: K.
        width: scales every channel count.
        tower: "alexnet" or "googlenet", the CNN of each frame.
        modality: "rgb" or "flow"; the paper averages the predictions of two networks.
        num_frames: T of a clip as it is sampled. Local pooling fixes it; the others take any number.
        crop: H and W, which fc6 of AlexNet fixes.
        window: frames of a window.
        window_stride: frames from one window to the next.
        dropout: behind fc6 and fc7.
        bn_eps: of every BatchNorm of GoogLeNet.

    Shape:
        input  [B, C, T, crop, crop] or [B, T, C, 1, crop, crop]; C is 3, of flow 2
        output [B, K]

    >>> net = FeaturePooling("slow", num_classes=5, width=1 / 32, num_frames=20, crop=32)
    >>> net(torch.zeros(2, 3, 20, 32, 32)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        pooling: str = "conv",
        *,
        num_classes: int = 487,
        width: float = 1.0,
        tower: TowerName = "alexnet",
        modality: Modality = "rgb",
        num_frames: int = 120,
        crop: int = 220,
        window: int = 10,
        window_stride: int = 5,
        dropout: float = 0.6,
        bn_eps: float = 1e-5,
    ) -> None:
        check_choices(pooling=(pooling, Pooling), tower=(tower, TowerName), modality=(modality, Modality))
        check_positive(width=width, num_frames=num_frames, window=window, window_stride=window_stride)
        with_full = tower == "alexnet" or pooling != "conv"
        dim = scaled(FULL_UNITS, width) if with_full else feature_channels(width)
        windows = num_windows(num_frames, window, window_stride) if pooling == "local" else 1
        own_stages = ("time_conv",) * (pooling == "time_conv") + ("fc6", "fc7") * with_full
        super().__init__(
            num_classes=num_classes,
            feature_dim=dim * windows,
            default_specs=(clip_spec(modality, num_frames, crop=crop),),
            stage_names=tower_stages(tower) + own_stages,
            dropout=dropout,
        )
        self.pooling, self.tower_name, self.modalities = pooling, tower, (modality,)
        self.window, self.window_stride = window, window_stride
        self.num_windows = windows  # side by side in the features
        self.tower = make_tower(tower, CHANNELS[modality], width=width, crop=crop, bn_eps=bn_eps)
        channels, side = tower_output(self.tower, width)
        if pooling == "time_conv":
            kernel, stride, filters = (window, 3, 3), (window_stride, 1, 1), scaled(TIME_FILTERS, width)
            self.time_conv = ConvRelu(channels, filters, kernel, stride=stride, padding=(0, 1, 1), bias=True)
            channels = filters
        self.full, self.crop = with_full, crop if tower == "alexnet" else None
        if with_full:
            self.fc6, self.fc7 = FullRelu(channels * side**2, dim), FullRelu(dim, dim)
        for name in own_stages:
            self.get_submodule(name).apply(he_init)
        self.dropout = nn.Dropout(dropout)  # behind fc6; the head has another behind fc7

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """What the classifier sees: one vector, or in local pooling those of all windows one after another.

        Shape:
            input  [B, C, T, crop, crop] or [B, T, C, 1, crop, crop]
            output [B, feature_dim]
        """
        (x,) = inputs
        channels, who = CHANNELS[self.modalities[0]], self._who
        x = one_clip(x, channels=channels, who=who, crop=self.crop)
        self._check_frames(x.shape[2])
        steps = ARCHITECTURES[self.pooling]
        x = self.tower(channels_last(x))
        if steps.before_fc6 == "conv":
            x = largest(self.time_conv(x))
        if self.tower_name == "googlenet":
            x = x.mean((3, 4), keepdim=True)
        if steps.before_fc6 == "max":
            x = largest(x)
        elif steps.before_fc6 == "windows":
            x = largest_of_windows(x, self.window, self.window_stride)
        if self.full:
            x = self.dropout(self.fc6(x))
            x = self.fc7(largest(x) if steps.before_fc7 == "max" else x)
        if steps.behind_fc7 == "max":
            x = largest(x)
        return x.transpose(1, 2).flatten(1)  # window after window

    def _check_frames(self, num_frames: int) -> None:
        who = self._who
        if self.pooling == "time_conv" and num_frames < self.window:
            raise ConfigError(
                f"{who} convolves {self.window} frames at once, got clips of {num_frames}: sample more "
                "frames, or build it with a smaller window"
            )
        found = num_windows(num_frames, self.window, self.window_stride)
        if self.pooling == "local" and found != self.num_windows:
            raise ConfigError(
                f"{who} was built for {self.num_windows} windows, which its classifier sees side by side, "
                f"got {found} of a clip of {num_frames} frames: build it with num_frames={num_frames}"
            )


@torch.no_grad()
def expand(single: VideoModel, longer: VideoModel) -> tuple[str, ...]:
    """Starts a network of many frames from one of few: what they share is copied.

    Pooling networks share all they have but for the time-domain convolution; on a video that stands still a
    longer one then answers as the network of one frame does. The classifier of local pooling gets the old one
    for each window, divided by their number. A network of flow gets the red and the green part of an RGB
    one's first filters: the blue part would meet the third channel of the paper's flow images, which is 0.

    Args:
        single: trained; in the paper conv pooling of one frame.
        longer: is filled; of the same tower and width.

    Returns:
        The names of tensors that stay as they are, random.

    Raises:
        ConfigError: they have no tower in common.

    >>> frame = FeaturePooling(num_classes=5, width=1 / 32, num_frames=1, crop=32)
    >>> expand(frame, FeaturePooling("time_conv", num_classes=5, width=1 / 32, num_frames=30, crop=32))
    ('time_conv.weight', 'time_conv.bias')
    """
    theirs, own = single.state_dict(), longer.state_dict()
    windows = (getattr(single, "num_windows", 1), getattr(longer, "num_windows", 1))
    fitted = {
        name: _fitted(theirs[name], value, windows if name == "head.fc.weight" else (1, 1))
        for name, value in own.items()
        if name in theirs
    }
    random = tuple(name for name in own if fitted.get(name) is None)
    differs = [name for name in random if name.startswith("tower.")]
    if differs:
        names = [one.name or type(one).__name__ for one in (longer, single)]
        raise ConfigError(
            f"{names[0]} cannot start from {names[1]}: {differs[0]} differs; build both with the same tower "
            "and width"
        )
    longer.load_state_dict({name: value for name, value in fitted.items() if value is not None}, strict=False)
    return random


def _fitted(found: Tensor, wanted: Tensor, windows: tuple[int, int]) -> Tensor | None:
    """A tensor of the shorter network in the shape of the longer one's; None where it does not fit."""
    old, new = windows
    if old != new and found.shape[0] == wanted.shape[0]:
        one_window = found.view(len(found), old, -1).sum(1) / new
        found = one_window.repeat(1, new)
    if found.ndim == 5 and (found.shape[1], wanted.shape[1]) == (CHANNELS["rgb"], CHANNELS["flow"]):
        found = found[:, : CHANNELS["flow"]]
    return found if found.shape == wanted.shape else None


def largest(x: Tensor) -> Tensor:
    """The largest value over time; its gradient goes to one step alone.

    Shape:
        x      [B, C, T, h, w]
        output [B, C, 1, h, w]
    """
    return x.max(dim=2, keepdim=True).values


def largest_of_windows(x: Tensor, window: int, stride: int) -> Tensor:
    """The largest value over each window of time.

    Shape:
        x      [B, C, T, h, w]
        output [B, C, N, h, w], N = num_windows(T, window, stride)

    >>> largest_of_windows(torch.arange(30.0).view(1, 1, 30, 1, 1), 10, 5).flatten().tolist()
    [9.0, 14.0, 19.0, 24.0, 29.0]
    """
    return F.max_pool3d(x, (min(window, x.shape[2]), 1, 1), (stride, 1, 1))


def num_windows(num_frames: int, window: int, stride: int) -> int:
    """Windows that fit whole; of a clip shorter than a window there is one.

    >>> num_windows(30, 10, 5), num_windows(120, 10, 5), num_windows(1, 10, 5)
    (5, 23, 1)
    """
    return max(0, num_frames - window) // stride + 1
