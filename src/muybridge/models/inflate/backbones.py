"""2D networks of torchvision and timm by their names, with random weights, and how they see an image.

Neither library is imported before a network of it is asked for.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError, MissingExtraError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
FRAME_STRIDE = 4  # 16 frames span I3D's 64

# Networks with second classifiers for training, and with a slow way to make random weights.
WITH_AUXILIARY = ("googlenet", "inception_v3")


def build_backbone(name: str, *, num_frames: int) -> tuple[nn.Module, ClipSpec]:
    """A 2D network with random weights, and clips whose frames look as its images do.

    Args:
        name: the library, a slash, the network's name in it.
        num_frames: of the clips.

    Raises:
        ConfigError: no such library or network.
        MissingExtraError: timm is not installed.
    """
    library, _, model = name.partition("/")
    if library not in LIBRARIES or not model:
        raise ConfigError(
            f"backbone is 'torchvision/NAME' or 'timm/NAME', such as torchvision/resnet50, got '{name}'"
        )
    with torch.device("cpu"):  # some networks read numbers out of tensors as they are built: "meta" has none
        network, spec = LIBRARIES[library](model, num_frames)
    return network.to(torch.get_default_device()), spec


def by_own_names(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> Mapping[str, Tensor]:
    """The tensors of another port of a 2D network, which has them in the same order; else `state` itself.

    Args:
        state: of a file.
        shapes: of all tensors of the network, by its own names.

    >>> found = by_own_names({"a.weight": torch.zeros(2, 3)}, {"fc.weight": torch.Size([2, 3])})
    >>> list(found)
    ['fc.weight']
    """
    pairs = list(zip(shapes, state, strict=False))
    alike = all(
        one.rpartition(".")[2] == other.rpartition(".")[2] and shapes[one] == state[other].shape
        for one, other in pairs
    )
    if len(shapes) != len(state) or not alike or not set(shapes).isdisjoint(state):
        return state
    return {one: state[other] for one, other in pairs}


def _from_torchvision(name: str, num_frames: int) -> tuple[nn.Module, ClipSpec]:
    from torchvision import models

    _check(name, models.list_models(module=models), "torchvision")
    plain = {"aux_logits": False, "init_weights": False} if name in WITH_AUXILIARY else {}
    crop = 299 if name == "inception_v3" else 224
    spec = _clip_spec(num_frames, crop, 0.875, IMAGENET_MEAN, IMAGENET_STD)
    network: nn.Module = models.get_model(name, weights=None, **plain)
    return network, spec


def _from_timm(name: str, num_frames: int) -> tuple[nn.Module, ClipSpec]:
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError(f"backbone timm/{name} needs timm: pip install 'muybridge[timm]'") from error
    _check(name, timm.list_models(), "timm")
    network = timm.create_model(name, pretrained=False)
    card = cast(dict[str, Any], network.default_cfg)
    spec = _clip_spec(num_frames, card["input_size"][-1], card["crop_pct"], card["mean"], card["std"])
    return network, spec


def _check(name: str, known: Iterable[str], library: str) -> None:
    known = list(known)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean '{library}/{close[0]}'?" if close else ""
        raise ConfigError(f"{library} has no network '{name}'{hint}")


def _clip_spec(
    num_frames: int, crop: int, crop_part: float, mean: Iterable[float], std: Iterable[float]
) -> ClipSpec:
    return ClipSpec(
        num_frames=num_frames,
        frame_stride=FRAME_STRIDE,
        resize=max(crop, round(crop / crop_part)),
        crop=crop,
        mean=tuple(mean),
        std=tuple(std),
    )


LIBRARIES = {"torchvision": _from_torchvision, "timm": _from_timm}
