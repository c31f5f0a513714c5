"""Temporal Segment Networks (arXiv:1608.00859, arXiv:1705.02953): the network of one snippet, and its input.

Where to find the papers here:
    RGB, RGB difference, optical flow, warped flow     `MODALITIES`, `clip_spec`
    BN-Inception; any other network                    `make_backbone`

Deviation: an RGB difference has no mean taken off, as in training with tsn-pytorch; its tests take it off.
Deviation: in a video shorter than a snippet the last frame stands still, so that the last fields are zero;
    the authors' code repeats the last field.
Deviation: pictures for backbones of torchvision and timm look as their images do, and flow has their scale.
    Networks of the registry see clips as they do by themselves.

Shape letters: B clips, C channels, T frames or fields of a snippet, H height, W width, D features.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from torch import nn

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError
from muybridge.models.blocks import Conv3d, init_msra, scaled
from muybridge.models.bn_inception import STAGE_NAMES, BnInceptionBlock, make_bn_inception
from muybridge.models.contract import VideoModel
from muybridge.models.image_network import ImageNetwork
from muybridge.models.resnet import bottleneck_stage
from muybridge.models.two_stream_inputs import FLOW_BOUND, IMAGENET_MEAN_BGR

Modality = Literal["rgb", "rgb_diff", "flow", "warped_flow"]

# Builds a network of the registry: its name, width, frames of a clip (None is its own number), BatchNorm eps.
NetworkBuilder = Callable[[str, float, int | None, float], VideoModel]


class Input(NamedTuple):
    """What a snippet of a modality is."""

    channels: int
    num_frames: int  # T, for a network of frames: differences of six frames, or five fields
    like: str  # what a network of clips must have been made for


MODALITIES: dict[Modality, Input] = {
    "rgb": Input(3, 1, "rgb"),
    "rgb_diff": Input(3, 5, "rgb"),
    "flow": Input(2, 5, "flow"),
    "warped_flow": Input(2, 5, "flow"),
}
FLOW_MEAN = 128.0

# He et al., Table 1: blocks of each stage, and its inner channels; a block gives four times as many.
RESNETS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
RESNET_CHANNELS = (64, 128, 256, 512)
OWN_BACKBONES = ("bn_inception", *RESNETS)


class Backbone(NamedTuple):
    """What sees one snippet.

    Attributes:
        network: of frames, which gives maps; or of clips, a `VideoModel` without a classifier.
        feature_dim: D.
        spec: how a snippet is made of a video.
        stage_names: the parts that have weights; "" is the whole.
    """

    network: nn.Module
    feature_dim: int
    spec: ClipSpec
    stage_names: tuple[str, ...]


def make_backbone(
    name: str,
    modality: Modality,
    build_network: NetworkBuilder,
    *,
    width: float = 1.0,
    num_frames: int | None = None,
    bn_eps: float = 1e-5,
) -> Backbone:
    """The network of one snippet, without its classifier, with random weights.

    Args:
        name: see `TSN`.
        modality: a key of `MODALITIES`.
        build_network: for networks of the registry.
        width: scales every channel count.
        num_frames: T; None is the modality's, or that of a network of clips.
        bn_eps: of every BatchNorm; torchvision's and timm's keep their own.

    Raises:
        ConfigError: there is no such backbone, or it does not go with the modality, the width, or T.
    """
    if name in OWN_BACKBONES or "/" in name:
        return _of_frames(name, modality, width=width, num_frames=num_frames, bn_eps=bn_eps)
    video = build_network(name, width, num_frames, bn_eps)
    if video.modalities != (MODALITIES[modality].like,):
        raise ConfigError(
            f"backbone {name} sees {' and '.join(video.modalities)}, got modality '{modality}': take another "
            f"modality, or {', '.join(OWN_BACKBONES)}, torchvision/NAME or timm/NAME, which take all"
        )
    (spec,) = video.default_specs
    if num_frames not in (None, spec.num_frames):
        raise ConfigError(
            f"backbone {name} sees clips of {spec.num_frames}, got num_frames={num_frames}: leave it out"
        )
    changed: dict[str, Any] = {"modality": modality}
    if modality == "rgb_diff":
        changed["mean"] = (0.0, 0.0, 0.0)
    video.head = nn.Identity()
    return Backbone(video, video.feature_dim, spec.model_copy(update=changed), video.stage_names)


def clip_spec(modality: Modality, *, num_frames: int | None = None, like: ClipSpec | None = None) -> ClipSpec:
    """A crop of 224 of pictures of 340 x 256: blue, green, red less a mean of each; or TV-L1 flow less 128.

    Args:
        modality: a key of `MODALITIES`.
        num_frames: T; None is the modality's.
        like: images whose size, mean and scale are taken instead.

    >>> spec = clip_spec("flow")
    >>> spec.num_frames, spec.resize, spec.mean, spec.std
    (5, (256, 340), (128.0, 128.0), (1.0, 1.0))
    """
    channels, frames, _ = MODALITIES[modality]
    picture = like or ClipSpec(
        num_frames=1,
        resize=(256, 340),
        crop=224,
        scale=255,
        channel_order="bgr",
        mean=IMAGENET_MEAN_BGR,
        std=(1, 1, 1),
        short_policy="repeat_last",
    )
    changed: dict[str, Any] = {"num_frames": num_frames or frames, "modality": modality}
    if modality == "rgb_diff":
        changed["mean"] = (0.0, 0.0, 0.0)
    if channels == 2:
        changed |= {
            "channel_order": "rgb",
            "mean": (FLOW_MEAN / 255 * picture.scale,) * 2,
            "std": (sum(picture.std) / 3,) * 2,
            "flow_method": "tvl1",
            "flow_bound": FLOW_BOUND,
        }
    return ClipSpec(**{**picture.to_dict(), **changed})


def _of_frames(
    name: str, modality: Modality, *, width: float, num_frames: int | None, bn_eps: float
) -> Backbone:
    """A network of frames: the T frames or fields of a snippet are the channels of one."""
    channels, frames, _ = MODALITIES[modality]
    if modality == "rgb" and num_frames not in (None, 1):
        raise ConfigError(
            f"an RGB snippet is one frame for backbone {name}, got num_frames={num_frames}: take it as many "
            "segments, or take a network of clips, such as r2plus1d_18"
        )
    in_channels = channels * (num_frames or frames)
    if "/" in name:
        if width != 1:
            raise ConfigError(f"width must be 1 for {name}, got {width}: choose a narrower backbone")
        tower = ImageNetwork(name, in_channels)
        spec = clip_spec(modality, num_frames=num_frames, like=tower.spec)
        return Backbone(tower, tower.out_channels, spec, ("",))
    spec = clip_spec(modality, num_frames=num_frames)
    if name in RESNETS:
        network = make_resnet(name, in_channels, width=width, bn_eps=bn_eps)
        stages = ("stem", *(f"stages.{index}" for index in range(len(RESNET_CHANNELS))))
        return Backbone(network, scaled(4 * RESNET_CHANNELS[-1], width), spec, stages)
    network = make_bn_inception(in_channels, width=width, bn_eps=bn_eps)
    last = network[-1]
    assert isinstance(last, BnInceptionBlock)
    return Backbone(network, last.out_channels, spec, STAGE_NAMES)


def make_resnet(name: str, in_channels: int, *, width: float = 1.0, bn_eps: float = 1e-5) -> nn.Sequential:
    """The ResNet of a row of `RESNETS`, of each frame, up to its last stage.

    Its 3 x 3 convolutions have the strides, as in torchvision and mmaction2.

    Shape:
        input  [B, in_channels, T, H, W]
        output [B, 2048 * width, T, H / 32, W / 32]

    >>> import torch
    >>> make_resnet("resnet50", 10, width=1 / 32)(torch.zeros(1, 10, 2, 64, 64)).shape
    torch.Size([1, 64, 2, 2, 2])
    """
    channels = scaled(RESNET_CHANNELS[0], width)
    stem = OrderedDict[str, nn.Module](
        conv=Conv3d(in_channels, channels, (1, 7, 7), stride=(1, 2, 2)),
        bn=nn.BatchNorm3d(channels, eps=bn_eps),
        relu=nn.ReLU(inplace=True),
        pool=nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    )
    stages = nn.Sequential()
    for count, blocks in zip(RESNET_CHANNELS, RESNETS[name], strict=True):
        inner, out = scaled(count, width), scaled(4 * count, width)
        kernels, stride = (1,) * blocks, 2 if len(stages) else 1
        stages.append(
            bottleneck_stage(channels, inner, out, temporal_kernels=kernels, stride=stride, bn_eps=bn_eps)
        )
        channels = out
    network = nn.Sequential(OrderedDict[str, nn.Module](stem=nn.Sequential(stem), stages=stages))
    network.apply(init_msra)
    return network
