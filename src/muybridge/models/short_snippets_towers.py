"""Beyond Short Snippets (arXiv:1503.08909): the CNN of each frame, and how a clip comes to it.

What is new in the paper is in short_snippets.py and short_snippets_lstm.py.

Where to find the paper here:
    the AlexNet with kernels of 11, 9 and 5, GoogLeNet     `ALEXNET`, `make_tower`
    one frame a second; images of optical flow             `clip_spec`

Deviation: the paper gives the kernels of its AlexNet, and neither filters, strides nor paddings. Here they
    are 96, 256 and 256 filters, a stride of 4 in the first, half a kernel of zeros around each, and 3 x 3
    poolings of stride 2, which leaves AlexNet's own maps: 55, 27, 13 and 6 positions.
Deviation: local contrast normalisation, of which the paper gives no constants, is AlexNet's response
    normalisation.
Deviation: GoogLeNet has BatchNorm: it is `inception.INCEPTION_V1`.
Deviation: a flow image has two channels; the paper stores a third one, which is 0 everywhere.
Deviation: fields of flow lie evenly over the whole video, one in each part, not one second apart.
Deviation: mean and std of the input are 0.5; the paper does not say.

Shape letters: B clips, S snippets, C channels, T frames, H height, W width; h, w are H, W at the end of a
tower.
"""

from typing import Literal

from torch import Tensor, nn

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError
from muybridge.models.alexnet import Conv, Norm, Pool, Row, Tower
from muybridge.models.contract import check_clip
from muybridge.models.inception import INCEPTION_V1, feature_channels, make_trunk, per_frame, stage_names

TowerName = Literal["alexnet", "googlenet"]
Modality = Literal["rgb", "flow"]

CHANNELS = {"rgb": 3, "flow": 2}

# fmt: off
ALEXNET: tuple[Row, ...] = (
    #     name    channels kernel       stride     padding
    Conv("conv1",    96, (1, 11, 11), (1, 4, 4), (0, 5, 5)),
    Pool("pool1",          3),
    Norm("norm1",  beta=0.75),
    Conv("conv2",   256, (1, 9, 9),   (1, 1, 1), (0, 4, 4)),
    Pool("pool2",          3),
    Norm("norm2",  beta=0.75),
    Conv("conv3",   256, (1, 5, 5),   (1, 1, 1), (0, 2, 2)),
    Pool("pool3",          3),
    Norm("norm3",  beta=0.75),
)
# fmt: on


def make_tower(
    tower: TowerName, in_channels: int, *, width: float, crop: int, bn_eps: float
) -> Tower | nn.Sequential:
    """The CNN of each frame, up to its last maps.

    Shape:
        input  [B, in_channels, T, crop, crop]
        output [B, C, T, h, w], C and h as `tower_output` says; GoogLeNet's are averaged before they are used
    """
    if tower == "alexnet":
        return Tower(ALEXNET, in_channels, side=crop, width=width)
    return make_trunk(in_channels, per_frame(INCEPTION_V1), width=width, bn_eps=bn_eps)


def tower_output(tower: nn.Module, width: float) -> tuple[int, int]:
    """Channels, and h = w, of what a tower gives to the fully connected layers."""
    return (tower.out_channels, tower.out_side) if isinstance(tower, Tower) else (feature_channels(width), 1)


def tower_stages(tower: TowerName) -> tuple[str, ...]:
    """The layers of a tower that have weights.

    >>> tower_stages("alexnet")
    ('tower.conv1', 'tower.conv2', 'tower.conv3')
    """
    if tower == "alexnet":
        return tuple(f"tower.{row.name}" for row in ALEXNET if isinstance(row, Conv))
    return stage_names(prefix="tower.")


def one_clip(x: Tensor, *, channels: int, who: str, crop: int | None = None) -> Tensor:
    """Snippets one after another in time, as one clip; what is a clip already stays as it is.

    Args:
        x: a clip or snippets.
        channels: that it is to have.
        who: takes it, for the error's text.
        crop: H and W that it is to have; None takes any.

    Raises:
        ConfigError: neither layout, other channels, or another size.

    Shape:
        x      [B, channels, T, H, W] or [B, S, channels, T, H, W]
        output [B, channels, T or S * T, H, W]

    >>> import torch
    >>> one_clip(torch.zeros(1, 5, 3, 1, 8, 8), channels=3, who="it").shape
    torch.Size([1, 3, 5, 8, 8])
    """
    if x.ndim == 6:
        if x.shape[2] != channels:
            raise ConfigError(f"{who} takes snippets [B, S, {channels}, T, H, W], got {list(x.shape)}")
        x = x.transpose(1, 2).flatten(2, 3)
    check_clip(x, channels=channels, who=who)
    if crop is not None and x.shape[3:] != (crop, crop):
        raise ConfigError(
            f"{who} was built for {crop} x {crop} pixels, which its first fully connected layer fixes, got "
            f"{x.shape[3]} x {x.shape[4]}: build it with crop={x.shape[3]}, or make such clips"
        )
    return x


def clip_spec(modality: Modality, num_frames: int, *, crop: int = 220) -> ClipSpec:
    """RGB: one frame a second. Flow: fields between frames 1 / 15 s apart, TV-L1, cut off at 40 pixels.

    >>> clip_spec("rgb", 30).num_frames, clip_spec("flow", 30).num_segments
    (30, 30)
    """
    flow = modality == "flow"
    half = (0.5,) * CHANNELS[modality]
    return ClipSpec(
        num_frames=1 if flow else num_frames,
        num_segments=num_frames if flow else 1,
        fps=15 if flow else 1,
        resize=round(crop * 256 / 220),
        crop=crop,
        mean=half,
        std=half,
        modality=modality,
        flow_method="tvl1" if flow else None,
        flow_bound=40 if flow else None,
    )
