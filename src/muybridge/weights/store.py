"""Checkpoints: one safetensors file that carries its card, so that loading it needs nothing else.

A file of someone else's, or a public one, goes through `build(name, weights=...)`.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from muybridge import __version__
from muybridge.config import ClipSpec
from muybridge.errors import ConfigError, MuybridgeError, WeightsError
from muybridge.files import atomic_path
from muybridge.models import registry
from muybridge.models.contract import Card, VideoModel
from muybridge.weights.cards import CARD, check_card, cubes_of, read_card, with_cubes
from muybridge.weights.convert import Converted, LoadReport, is_counter, listed, mismatches, trunk_names
from muybridge.weights.read import checkpoint_file, read_safetensors
from muybridge.weights.source import Source, differences, open_weights

__all__ = [
    "Card",
    "LoadReport",
    "build",
    "build_from",
    "init_trunk",
    "load",
    "open_weights",
    "read_card",
    "save",
    "with_cubes",
]


def save(
    path: Path | str,
    model: VideoModel,
    *,
    labels: Sequence[str],
    specs: Sequence[ClipSpec] | None = None,
    training_protocol: str = "",
    digests: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Card:
    """Writes a network with its card; a kill or a full disk leaves the old file whole.

    Args:
        path: of the file, named .safetensors by custom.
        model: made by `build` or `load`.
        labels: class names in the order of the logits.
        specs: how clips were made, one a modality; None takes the network's default.
        training_protocol: digest of the training configuration.
        digests: of anything else that the numbers depend on.
        metrics: what it reached.

    Raises:
        WeightsError: the labels or the specs do not fit the network, or it is not in the registry.
        StorageError: the file cannot be written.
    """
    specs = tuple(model.default_specs if specs is None else specs)
    if not model.name:
        raise WeightsError("only networks made by muybridge.build can be saved: this one has no name")
    card = Card(
        model=model.name,
        arguments=model.arguments,
        specs=specs,
        labels=tuple(labels),
        training_protocol=training_protocol,
        digests=dict(digests or {}),
        metrics=dict(metrics or {}),
        version=__version__,
    )
    check_card(card, num_classes=model.num_classes, modalities=model.modalities, where=str(path))
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    tensors |= cubes_of(specs)
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={CARD: json.dumps(card.to_dict())})
        except SafetensorError as error:
            raise _as_os_error(error) from error
    return card


def load(path: Path | str, *, device: str | torch.device = "cpu") -> VideoModel:
    """The network of a checkpoint, in eval mode, with its card as `model.card`.

    Args:
        path: a file that `save` wrote, or a run folder with model.safetensors in it.
        device: where its weights go.

    Raises:
        WeightsError: no such file, cut short, not ours, or it does not hold together.
    """
    path = checkpoint_file(path)
    card = read_card(path)
    try:
        model = registry.build(card.model, **card.arguments)
    except MuybridgeError as error:
        raise WeightsError(
            f"{path} was saved by muybridge {card.version} and cannot be rebuilt: {error}"
        ) from error
    check_card(card, num_classes=model.num_classes, modalities=model.modalities, where=str(path))
    tensors = read_safetensors(path)
    wrong = mismatches(tensors, model)
    if wrong:
        raise WeightsError(f"{path} is no whole {card.model}: {listed(wrong)}")
    _fill(model, tensors)
    model.default_specs, model.card = card.specs, card
    return model.to(device).eval()


def build(
    name: str,
    *,
    num_classes: int = 400,
    weights: Path | str | None = None,
    width: float = 1.0,
    **arguments: Any,
) -> VideoModel:
    """A network by its name: with random weights, those of a file, or public ones.

    Args:
        name: see `muybridge models`.
        num_classes: K, the length of the logits.
        weights: a checkpoint of ours; a file of someone else's (.pth, .pkl, .npz, .safetensors), whose format
            is found from the names in it; or a public checkpoint, such as "kinetics400", which is downloaded.
            What it needs beside the weights (BatchNorm eps, how clips are made) is set with it.
        width: scales every channel count.
        **arguments: further arguments of the network's class, such as `num_frames`.

    Raises:
        UnknownModelError: no such network.
        ConfigError: an argument that it does not have.
        WeightsError: there are no such weights, they cannot be read, or they do not fit.
    """
    if weights is None:
        return registry.build(name, num_classes=num_classes, width=width, **arguments)
    source = open_weights(weights, name)
    model, _ = build_from(source, num_classes=num_classes, width=width, **arguments)
    return model


def build_from(
    source: Source, *, num_classes: int | None = None, **arguments: Any
) -> tuple[VideoModel, LoadReport]:
    """The network that weights were opened for, with all of them, and what became of each.

    Args:
        source: from `open_weights`.
        num_classes: K; None takes the file's.
        **arguments: of the network's class; they win over what is known of the file.

    Raises:
        ConfigError: an argument that the network does not have.
        WeightsError: the weights do not fit.
    """
    if num_classes is None:
        num_classes = source.num_classes or 400
    values = {**source.arguments, **arguments}
    model = registry.build(source.network, num_classes=num_classes, **values)
    tensors = source.found.tensors
    wrong = mismatches(tensors, model)
    if wrong:
        raise WeightsError(_explain(source, model, wrong))
    _fill(model, tensors)
    model.default_specs = source.specs(model.default_specs)
    model.card = _card(source, model)
    changed = set(source.found.adapted)
    own = [key for key in model.state_dict() if key in tensors]
    return model, LoadReport(
        loaded=tuple(key for key in own if key not in changed),
        adapted=tuple(key for key in own if key in changed),
        random=tuple(key for key in model.state_dict() if key not in tensors and not is_counter(key)),
        dropped=source.found.dropped,
        format=source.found.format,
        differs=differences(source.arguments, model.arguments),
        notes=() if source.public else source.found.notes,
    )


def init_trunk(model: VideoModel, path: Path | str) -> LoadReport:
    """For fine-tuning: takes all but the head from a checkpoint; the network's head stays as it is, random.

    Args:
        model: the network to fill.
        path: a file of ours, a run folder, a file of someone else's, or a public checkpoint such as
            "kinetics400".

    Raises:
        WeightsError: the trunk of the file is not this network's, with the tensors that differ.
    """
    source = open_weights(path, model.name)
    found, card = source.found, source.card
    tensors, fitted, gained = model.adapt(found.tensors)
    wrong = mismatches(tensors, model, trunk_only=True, gained=gained)
    if wrong:
        raise WeightsError(_explain(source, model, wrong))
    own = model.state_dict()
    trunk = {key: value for key, value in tensors.items() if not key.startswith("head.")}
    adapted = {*found.adapted, *fitted}
    _fill(model, trunk)
    theirs = source.arguments if card is None else card.arguments
    return LoadReport(
        loaded=tuple(key for key in own if key in trunk and key not in adapted),
        adapted=tuple(key for key in own if key in trunk and key in adapted),
        random=tuple(key for key in own if key not in trunk and not is_counter(key)),
        dropped=tuple(key for key in tensors if key not in trunk) + found.dropped,
        format=found.format,
        differs=differences(theirs, model.arguments),
        notes=() if source.public else found.notes,
    )


def _card(source: Source, model: VideoModel) -> Card | None:
    """The card of a checkpoint of this network, or one for a public checkpoint whose classes are known."""
    if source.card is not None:
        return source.card if source.card.model == source.network else None
    if len(source.labels) != model.num_classes:
        return None
    return Card(
        model=model.name,
        arguments=model.arguments,
        specs=model.default_specs,
        labels=source.labels,
        version=__version__,
    )


def _fill(model: VideoModel, tensors: Mapping[str, Tensor]) -> None:
    """Copies tensors in; those that the file lacks (checked before) keep their values."""
    model.load_state_dict(tensors, strict=False)


def _explain(source: Source, model: VideoModel, wrong: list[str]) -> str:
    """Why a file does not fit: the likeliest mistake first, then the tensors."""
    path, classes = source.path, source.num_classes
    if all(" head." in f" {line}" for line in wrong):
        if classes is None:
            return f"{path} has no classifier: take its trunk alone (muybridge train --init)"
        return (
            f"{path} has {classes} classes, the network {model.num_classes}: build it with "
            f"num_classes={classes}, or take the trunk alone (muybridge train --init)"
        )
    fitting = _fitting_names(source.found, width=model.arguments.get("width", 1.0))
    hint = f"it fits {' and '.join(fitting)}; here" if fitting else "and no other network at this width:"
    return f"{path} does not fit {model.name}, {hint} {listed(wrong)}"


def _fitting_names(found: Converted, *, width: float) -> list[str]:
    """The networks of the registry whose trunk has just these tensors; none of them is given memory.

    With the arguments that make it so, where they are not the network's defaults.
    """
    names = trunk_names(found.tensors)
    own = [network for network, entry in registry.MODELS.items() if entry.takes_images != "only"]
    taken = {network: registry.taken_by(network, found.arguments) for network in own}
    alike = [network for network in own if _names_of(network, *taken[network].items()) == names]
    with torch.device("meta"):
        models = [registry.build(network, width=width, **taken[network]) for network in alike]
    return [
        _with_arguments(model.name, taken[model.name])
        for model in models
        if not mismatches(found.tensors, model, trunk_only=True)
    ]


def _with_arguments(network: str, arguments: Mapping[str, Any]) -> str:
    """resnet3d_18 with shortcut='A'."""
    defaults = registry.defaults_of(network)
    own = [f"{key}={value!r}" for key, value in arguments.items() if value != defaults[key]]
    return f"{network} with {', '.join(own)}" if own else network


@cache
def _names_of(network: str, *arguments: tuple[str, Any]) -> frozenset[str]:
    """The names in a network's trunk, which do not depend on its width; none if it takes other values."""
    with torch.device("meta"):
        try:
            return trunk_names(registry.build(network, **dict(arguments)).state_dict())
        except ConfigError:  # a layout that another network of this class has
            return frozenset()


def _as_os_error(error: SafetensorError) -> OSError:
    """What the system said: safetensors keeps its number, a full disk's for one, in the text alone."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))
