"""Every network by its name.

>>> build("r3d_18", num_classes=10, width=0.125).num_classes
10
"""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from muybridge.errors import ConfigError, UnknownModelError
from muybridge.models.contract import VideoModel
from muybridge.models.r2plus1d import DEPTHS, VARIANTS, VideoResNet


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A row of `muybridge models`.

    Attributes:
        builder: takes num_classes, width and its own keyword arguments; gives random weights.
        paper: its short title.
        year: of the paper.
        summary: what it is, in a few words.
        accuracy: what was published for it, with the data and the protocol; "" where nothing was.
    """

    builder: Callable[..., VideoModel]
    paper: str
    year: int
    summary: str
    accuracy: str = ""


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


MODELS: dict[str, ModelEntry] = {
    **{f"{variant}_{layers}": _closer_look(variant, layers) for layers in DEPTHS for variant in VARIANTS},
    "r2plus1d_18_torchvision": ModelEntry(
        builder=partial(VideoResNet, "r2plus1d", 18, mid_width="torchvision"),
        paper="A Closer Look at Spatiotemporal Convolutions",
        year=2018,
        summary="R(2+1)D, 18 layers, with torchvision's narrower middle: for its weights",
        accuracy="Kinetics-400 top-1 67.5: 16 frames at 15 fps, 5 clips",
    ),
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
