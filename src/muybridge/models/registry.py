"""Every network by its name.

>>> build("r3d_18", num_classes=10, width=0.125).num_classes
10
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from muybridge.errors import ConfigError, UnknownModelError
from muybridge.models.c3d import C3D
from muybridge.models.contract import VideoModel
from muybridge.models.deepvideo import FUSIONS, DeepVideo
from muybridge.models.i3d import I3D, FlowI3D, TwoStreamI3D
from muybridge.models.i3d_baselines import ConvNet3D, ConvNetLSTM, FusedTwoStream, TwoStreamConvNet
from muybridge.models.inflate.network import InflatedNetwork
from muybridge.models.nonlocal_net import NonLocalNet
from muybridge.models.r2plus1d import DEPTHS, VARIANTS, VideoResNet
from muybridge.models.resnet3d import BLOCKS, ResNet3D
from muybridge.models.short_snippets import FeaturePooling
from muybridge.models.short_snippets_lstm import SnippetLSTM
from muybridge.models.slowfast import OnePathway, SlowFast, SlowFastFlow
from muybridge.models.tsn import TSN
from muybridge.models.tsn_backbones import OWN_BACKBONES
from muybridge.models.two_stream import SpatialStream, TemporalStream, TwoStream
from muybridge.models.two_stream_fusion import TwoStreamFusion

TakesImages = Literal["no", "too", "only"]


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A row of `muybridge models`.

    Attributes:
        builder: takes num_classes, width and its own keyword arguments; gives random weights.
        paper: its short title.
        year: of the paper.
        summary: what it is, in a few words.
        accuracy: what was published for it, with the data and the protocol; "" where nothing was.
        takes_images: whether a file of weights may be a 2D network's, by that network's own names, beside the
            files of videos' networks ("too") or always ("only"): see `adapt`.
    """

    builder: Callable[..., VideoModel]
    paper: str
    year: int
    summary: str
    accuracy: str = ""
    takes_images: TakesImages = "no"


Row = tuple[Callable[..., VideoModel], str, str]  # a network, what it is, what was published for it


def _rows(
    table: dict[str, Row], paper: str, year: int, accuracy: str, *, takes_images: TakesImages = "no"
) -> dict[str, ModelEntry]:
    """An entry for each row of a table; in `accuracy` its number stands for {}."""
    return {
        name: ModelEntry(
            builder=builder,
            paper=paper,
            year=year,
            summary=summary,
            accuracy=accuracy.format(published),
            takes_images=takes_images,
        )
        for name, (builder, summary, published) in table.items()
    }


# Published top-1 on Kinetics-400's validation videos: from scratch, 10 clips a video.
CLOSER_LOOK = {
    18: {  # 16 frames
        "r2d": 58.9, "fr2d": 60.5, "r3d": 64.2, "mc2": 64.2, "mc3": 64.7, "mc4": 65.1, "mc5": 65.1,
        "rmc2": 64.9, "rmc3": 65.0, "rmc4": 65.1, "rmc5": 63.1, "r2plus1d": 68.0,
    },
    34: {"r2plus1d": 72.0},  # 32 frames
}  # fmt: skip


def _closer_look(variant: str, layers: int) -> ModelEntry:
    num_frames = 32 if layers == 34 else 16  # the paper's own for each depth
    top1 = CLOSER_LOOK.get(layers, {}).get(variant)
    return ModelEntry(
        builder=partial(VideoResNet, variant, layers, num_frames=num_frames),
        paper="A Closer Look at Spatiotemporal Convolutions",
        year=2018,
        summary=f"{_title(variant)}, {layers} layers" + ("; small, not the paper's" if layers == 10 else ""),
        accuracy=f"Kinetics-400 top-1 {top1}: {num_frames} frames, 10 clips" if top1 else "",
    )


def _title(variant: str) -> str:
    """As the paper writes it: r2plus1d is R(2+1)D, fr2d is f-R2D, rmc3 is rMC3."""
    odd = {"r2plus1d": "R(2+1)D", "fr2d": "f-R2D"}
    return odd.get(variant) or variant.upper().replace("RMC", "rMC")


# Published top-1 on Kinetics-400's validation videos: the paper's layout, from ImageNet's weights.
NONLOCAL = {
    "c2d_r50": ("C2D, ResNet-50: convolutions of single frames, time pooled", 71.8),
    "c2d_r101": ("C2D, ResNet-101", 73.1),
    "i3d_r50": ("I3D, ResNet-50, a 3 x 1 x 1 kernel in every second block", 73.3),
    "i3d_r101": ("I3D, ResNet-101, a 3 x 1 x 1 kernel in every second block", 74.4),
    "i3d_r50_3x3x3": ("I3D, ResNet-50, a 3 x 3 x 3 kernel in every second block", None),
    "i3d_r101_3x3x3": ("I3D, ResNet-101, a 3 x 3 x 3 kernel in every second block", 74.1),
    "i3d_r101_first6": ("I3D, ResNet-101, res4 inflated in its first 6 blocks alone, as in ResNet-50", None),
    "c2d_r50_nl5": ("C2D, ResNet-50, with 5 non-local blocks", 73.8),
    "i3d_r50_nl5": ("I3D, ResNet-50, with 5 non-local blocks", 74.9),
}


def _nonlocal(name: str) -> ModelEntry:
    summary, top1 = NONLOCAL[name]
    trunk, _, blocks = name.partition("_nl")
    return ModelEntry(
        builder=partial(NonLocalNet, trunk, nl_blocks=int(blocks or 0)),
        paper="Non-local Neural Networks",
        year=2018,
        summary=summary,
        accuracy=f"Kinetics-400 top-1 {top1}: layout='paper', 32 frames, 10 clips" if top1 else "",
    )


# Top-1 on Kinetics-400's test videos, each seen whole; trained from ImageNet's weights, (b) from scratch.
I3D_PAPER: dict[str, Row] = {
    "i3d_rgb": (I3D, "the inflated Inception-V1, RGB stream", "71.1: 250 frames"),
    "i3d_flow": (FlowI3D, "the inflated Inception-V1, flow stream", "63.4: 250 fields"),
    "i3d_two_stream": (TwoStreamI3D, "(e) Two-Stream I3D", "74.2: 250 frames, 250 fields"),
    "i3d_convnet_lstm": (ConvNetLSTM, "(a) ConvNet+LSTM: Inception-V1 of each frame", "63.3: 50 frames"),
    "i3d_convnet_3d": (ConvNet3D, "(b) 3D-ConvNet: C3D with BatchNorm", "56.1: 240 frames"),
    "i3d_2d_two_stream": (TwoStreamConvNet, "(c) Two-Stream, Inception-V1", "65.6: 25 frames, 250 fields"),
    "i3d_fused_two_stream": (FusedTwoStream, "(d) 3D-Fused Two-Stream", "67.2: 25 frames, 250 fields"),
}


# Published top-1 on Kinetics-400's validation videos: from scratch, crops of 256 pixels.
SLOWFAST: dict[str, Row] = {
    "slow_r50_4x16": (
        partial(OnePathway, "slow", "r50", num_frames=4, frame_stride=16),
        "the Slow pathway alone, ResNet-50, T x tau = 4 x 16",
        "72.6: 10 clips x 3 crops",
    ),
    "slow_r50_8x8": (
        partial(OnePathway, "slow", "r50", num_frames=8, frame_stride=8),
        "the Slow pathway alone, ResNet-50, T x tau = 8 x 8",
        "74.8: PySlowFast's weights",
    ),
    "fast_r50": (
        partial(OnePathway, "fast", "r50", num_frames=32, frame_stride=2, beta=1 / 8),
        "the Fast pathway alone, ResNet-50 of an eighth of the width",
        "51.7: 10 clips x 3 crops",
    ),
    "slowfast_r50_4x16": (
        partial(SlowFast, "r50", num_frames=32, alpha=8),
        "SlowFast, ResNet-50, T x tau = 4 x 16, alpha 8",
        "75.6: 10 clips x 3 crops",
    ),
    "slowfast_r50_4x16_flow": (
        partial(SlowFastFlow, "r50", num_frames=32, alpha=8, fast_input="flow"),
        "SlowFast, ResNet-50, 4 x 16, the Fast pathway sees optical flow",
        "73.8: 10 clips x 3 crops",
    ),
    "slowfast_r50_8x8": (
        partial(SlowFast, "r50", num_frames=32, alpha=4, lateral="t_conv7"),
        "SlowFast, ResNet-50, T x tau = 8 x 8, alpha 4",
        "77.0: 10 clips x 3 crops",
    ),
    "slowfast_r101_8x8": (
        partial(SlowFast, "r101", num_frames=32, alpha=4),
        "SlowFast, ResNet-101, 8 x 8, as PyTorchVideo: temporal kernels in all of res4",
        "77.9: PyTorchVideo's weights",
    ),
    "slowfast_r101_8x8_first6": (
        partial(SlowFast, "r101_first6", num_frames=32, alpha=4),
        "SlowFast, ResNet-101, 8 x 8, as the paper: temporal kernels in 6 blocks of res4",
        "77.9: 10 clips x 3 crops",
    ),
    "slowfast_r101_16x8": (
        partial(SlowFast, "r101_first6", num_frames=64, alpha=4),
        "SlowFast, ResNet-101, T x tau = 16 x 8, alpha 4",
        "78.9: 10 clips x 3 crops",
    ),
    "slowfast_r101_16x8_nl": (
        partial(SlowFast, "r101_first6_nl", num_frames=64, alpha=4),
        "SlowFast, ResNet-101, 16 x 8, with 3 non-local blocks",
        "79.8: 10 clips x 3 crops",
    ),
}


# Hit@1 and Hit@5 on Sports-1M's test videos: the full frame, 20 clips, each seen 4 times.
DEEPVIDEO = {
    "single": ("DeepVideo, one frame", 59.3, 77.7),
    "early": ("DeepVideo, early fusion: the first convolution spans 10 frames", 57.7, 76.8),
    "late": ("DeepVideo, late fusion: two frames, 15 apart, meet in fc6", 59.3, 78.7),
    "slow": ("DeepVideo, slow fusion: 10 frames become 4, 2 and 1", 60.9, 80.2),
}


def _deepvideo(fusion: str) -> ModelEntry:
    summary, hit1, hit5 = DEEPVIDEO[fusion]
    return ModelEntry(
        builder=partial(DeepVideo, fusion, num_frames=FUSIONS[fusion].num_frames),
        paper="Large-scale Video Classification with Convolutional Neural Networks",
        year=2014,
        summary=summary,
        accuracy=f"Sports-1M video Hit@1 {hit1}, Hit@5 {hit5}: 20 clips, 4 views of each",
    )


# Mean accuracy of the three splits of UCF101: 25 frames or stacks x 10 crops.
TWO_STREAM: dict[str, Row] = {
    "two_stream_spatial": (
        SpatialStream,
        "the spatial stream: CNN-M of one RGB frame",
        "73.0: from ImageNet",
    ),
    "two_stream_temporal": (
        TemporalStream,
        "the temporal stream: CNN-M of 10 flow fields",
        "83.7: multi-task",
    ),
    "two_stream": (TwoStream, "both streams, the mean of their softmax scores", "86.9; 88.0 with an SVM"),
}


# Mean accuracy of UCF101's three splits, with a second network of flow; "" where there is Sports-1M alone.
SHORT_SNIPPETS = {
    "conv_pooling": ("conv", "the largest value of all frames before fc6", "88.2: RGB and flow, 120 frames"),
    "late_pooling": ("late", "the largest value of all frames behind fc7", ""),
    "slow_pooling": ("slow", "the largest value of 10 frames before fc6, of these before fc7", ""),
    "local_pooling": ("local", "the largest value of 10 frames before fc6, one classifier of these", ""),
    "time_conv": ("time_conv", "a convolution of 10 frames, the largest value of these before fc6", ""),
    "lstm": ("", "five layers of LSTM on the CNN of each frame, an answer a step", "88.6: RGB and flow"),
}


def _short_snippets(name: str) -> ModelEntry:
    pooling, summary, top1 = SHORT_SNIPPETS[name]
    return ModelEntry(
        builder=partial(FeaturePooling, pooling) if pooling else SnippetLSTM,
        paper="Beyond Short Snippets: Deep Networks for Video Classification",
        year=2015,
        summary=summary,
        accuracy=f"UCF101 top-1 {top1}; 3 splits" if top1 else "",
    )


def _tsn_backbone(name: str, width: float, num_frames: int | None, bn_eps: float) -> VideoModel:
    """A network of this registry as what TSN shows each snippet."""
    if name not in MODELS:
        known = (*OWN_BACKBONES, *MODELS)
        close = difflib.get_close_matches(name, known, n=1)
        others = "torchvision/NAME, timm/NAME and the networks of one modality of: muybridge models"
        hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(OWN_BACKBONES)}, {others}"
        raise ConfigError(f"no backbone '{name}'; {hint}")
    wanted: dict[str, Any] = {"bn_eps": bn_eps}
    if num_frames is not None:
        wanted["num_frames"] = num_frames
    return build(name, width=width, **taken_by(name, wanted))


MODELS: dict[str, ModelEntry] = {
    "inflated": ModelEntry(
        builder=InflatedNetwork,
        paper="Quo Vadis, Action Recognition?",
        year=2017,
        summary="a 2D network of torchvision or timm, inflated: backbone='timm/NAME'",
        takes_images="only",
    ),
    **{f"{variant}_{layers}": _closer_look(variant, layers) for layers in DEPTHS for variant in VARIANTS},
    "r2plus1d_18_torchvision": ModelEntry(
        builder=partial(VideoResNet, "r2plus1d", 18, mid_width="torchvision"),
        paper="A Closer Look at Spatiotemporal Convolutions",
        year=2018,
        summary="R(2+1)D, 18 layers, with torchvision's narrower middle: for its weights",
        accuracy="Kinetics-400 top-1 67.5: 16 frames at 15 fps, 5 clips",
    ),
    # DeepVideo
    **{f"deepvideo_{fusion}": _deepvideo(fusion) for fusion in DEEPVIDEO},
    # Two-Stream
    **_rows(
        TWO_STREAM,
        "Two-Stream Convolutional Networks for Action Recognition in Videos",
        2014,
        "UCF101 top-1 {}; 3 splits, 25 frames x 10 crops",
        takes_images="too",
    ),
    # Beyond Short Snippets
    **{f"short_snippets_{name}": _short_snippets(name) for name in SHORT_SNIPPETS},
    # Two-stream fusion
    "two_stream_fusion": ModelEntry(
        builder=TwoStreamFusion,
        paper="Convolutional Two-Stream Network Fusion for Video Action Recognition",
        year=2016,
        summary="two VGG-16 that meet at ReLU5 in a 3D convolution; two branches",
        takes_images="too",
        accuracy="UCF101 top-1 92.5: 20 clips, 3 splits",
    ),
    # Non-local
    **{name: _nonlocal(name) for name in NONLOCAL},
    # C3D
    "c3d": ModelEntry(
        builder=partial(C3D, "deep"),
        paper="Learning Spatiotemporal Features with 3D Convolutional Networks",
        year=2015,
        summary="C3D: 8 convolutions, 2 fully connected layers; fc6 is the descriptor",
        accuracy="UCF101 top-1 82.3: fc6 of all clips, linear SVM, 3 splits",
    ),
    "c3d_small": ModelEntry(
        builder=partial(C3D, "small"),
        paper="Learning Spatiotemporal Features with 3D Convolutional Networks",
        year=2015,
        summary="the network of the study of kernel depths: 5 convolutions",
    ),
    # I3D
    **_rows(I3D_PAPER, "Quo Vadis, Action Recognition?", 2017, "Kinetics-400 test top-1 {}"),
    # TSN
    "tsn": ModelEntry(
        builder=partial(TSN, _tsn_backbone),
        paper="Temporal Segment Networks",
        year=2016,
        summary="one answer of a snippet from each of K segments; any backbone, BN-Inception by default",
        accuracy="UCF101 top-1 86.4, flow 90.1, both 94.9: K = 7, 25 snippets x 10 crops, 3 splits",
        takes_images="too",
    ),
    # 3D ResNets
    **{
        f"resnet3d_{layers}": ModelEntry(
            builder=partial(ResNet3D, layers),
            paper="Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?",
            year=2018,
            summary=f"a ResNet of {layers} layers, 3D throughout, for kenshohara's weights",
        )
        for layers in BLOCKS
    },
    # SlowFast
    **_rows(SLOWFAST, "SlowFast Networks for Video Recognition", 2019, "Kinetics-400 top-1 {}"),
}


def build(name: str, *, num_classes: int = 400, width: float = 1.0, **arguments: Any) -> VideoModel:
    """The network of this name with random weights.

    Args:
        name: a key of `MODELS`.
        num_classes: K, the length of the logits.
        width: scales every channel count.
        **arguments: further arguments of its class, such as `num_frames`.

    Raises:
        UnknownModelError: no such network.
        ConfigError: it has no such argument.
    """
    entry = find(name)
    signature = inspect.signature(entry.builder)
    unknown = [key for key in arguments if key not in signature.parameters]
    if unknown:
        known = [key for key in signature.parameters if key not in ("num_classes", "width")]
        raise ConfigError(f"{name} has no argument '{unknown[0]}'; it has: {', '.join(known)}")
    bound = signature.bind(num_classes=num_classes, width=width, **arguments)
    bound.apply_defaults()
    model = entry.builder(**bound.arguments)
    model.name, model.arguments = name, dict(bound.arguments)
    return model


def taken_by(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some arguments that a network has.

    >>> taken_by("resnet3d_18", {"shortcut": "A", "layout": "mmaction2"})
    {'shortcut': 'A'}
    """
    known = defaults_of(name)
    return {key: value for key, value in arguments.items() if key in known}


def defaults_of(name: str) -> dict[str, Any]:
    """The arguments of a network, and what they are where nobody says otherwise.

    >>> defaults_of("resnet3d_18")["shortcut"]
    'B'
    """
    return {key: one.default for key, one in inspect.signature(find(name).builder).parameters.items()}


def find(name: str) -> ModelEntry:
    """The entry of this name.

    Raises:
        UnknownModelError: no such network; names the nearest.
    """
    if name in MODELS:
        return MODELS[name]
    close = difflib.get_close_matches(name, MODELS, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    raise UnknownModelError(f"no model '{name}'{hint} All names: muybridge models")
