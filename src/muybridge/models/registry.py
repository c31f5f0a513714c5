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


def _r2plus1d_entries() -> dict[str, ModelEntry]:
    paper, year = "A Closer Look at Spatiotemporal Convolutions", 2018
    #    Table 2 of the paper: Kinetics-400 validation, 16 frames, 10 clips, top-1
    top1 = {
        "r2d": 58.9, "fr2d": 60.5, "r3d": 64.2, "mc2": 64.2, "mc3": 64.7, "mc4": 65.1, "mc5": 65.1,
        "rmc2": 64.9, "rmc3": 65.0, "rmc4": 65.1, "rmc5": 63.1, "r2plus1d": 68.0,
    }  # fmt: skip
    entries = {}
    for layers in DEPTHS:
        for variant in VARIANTS:
            entries[f"{variant}_{layers}"] = ModelEntry(
                builder=partial(VideoResNet, variant, layers),
                paper=paper,
                year=year,
                summary=_summary(variant, layers),
                accuracy=f"Kinetics-400 top-1 {top1[variant]}, 16 frames, 10 clips" if layers == 18 else "",
            )
    return entries


def _summary(variant: str, layers: int) -> str:
    return f"{variant}, {layers} layers" + (", ours" if layers == 10 else "")


MODELS: dict[str, ModelEntry] = {
    **_r2plus1d_entries(),
    "r2plus1d_18_torchvision": ModelEntry(
        builder=partial(VideoResNet, "r2plus1d", 18, mid_width="torchvision"),
        paper="A Closer Look at Spatiotemporal Convolutions",
        year=2018,
        summary="R(2+1)D with torchvision's narrower middle convolutions",
        accuracy="Kinetics-400 top-1 67.5, 16 frames at 15 fps, 5 clips",
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
