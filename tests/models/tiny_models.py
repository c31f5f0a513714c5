"""Every network of the registry, as small as it goes, and inputs for it."""

import inspect

import torch
from torch import Tensor

from muybridge.config import ClipSpec
from muybridge.models.contract import VideoModel
from muybridge.models.registry import build, find

WIDTH = 1 / 32
FRAMES = 4
SIDE = 32
# Networks that need more frames than four, or a picture of more pixels, to have something left at their end.
FRAMES_OF = {
    "i3d_rgb": 16,
    "i3d_flow": 16,
    "i3d_two_stream": 16,
    "c3d": 16,
    "c3d_small": 16,
    "i3d_convnet_3d": 16,
    "deepvideo_single": 1,
    "deepvideo_slow": 10,
    "tsn": 1,
    "short_snippets_time_conv": 10,
}
ARGUMENTS: dict[str, dict[str, object]] = {"inflated": {"backbone": "timm/lcnet_035", "width": 1}}


def tiny(name: str, *, num_classes: int = 5) -> VideoModel:
    """The network of this name with random weights, in eval mode."""
    taken = inspect.signature(find(name).builder).parameters
    arguments: dict[str, object] = dict(ARGUMENTS.get(name, {}))
    if "num_frames" in taken:
        arguments.setdefault("num_frames", FRAMES_OF.get(name, 8 if "alpha" in taken else FRAMES))
    if "crop" in taken:
        arguments.setdefault("crop", SIDE)
    torch.manual_seed(0)
    return build(name, num_classes=num_classes, **{"width": WIDTH, **arguments}).eval()


def inputs_for(model: VideoModel, *, batch: int = 2) -> tuple[Tensor, ...]:
    """Random clips, one a modality, of the frames that the network's specs name and of few pixels."""
    side = SIDE if "crop" not in model.arguments else int(model.arguments["crop"])
    return tuple(torch.randn(batch, *clip_shape(spec, side)) for spec in model.default_specs)


def clip_shape(spec: ClipSpec, side: int) -> tuple[int, ...]:
    """[C, T, H, W], or [S, C, T, H, W] for several segments."""
    clip = (2 if spec.is_flow else 3, spec.num_frames, side, side)
    return clip if spec.num_segments == 1 else (spec.num_segments, *clip)
