"""Checkpoints: one safetensors file that carries its card, so that loading it needs nothing else.

A file of someone else's goes through `build(name, weights=FILE)`.
"""

import json
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from muybridge import __version__
from muybridge.config import ClipSpec
from muybridge.errors import ConfigError, MuybridgeError, WeightsError
from muybridge.files import atomic_path
from muybridge.models import registry
from muybridge.models.contract import Card, VideoModel
from muybridge.weights.convert import Converted, LoadReport, StateDict, convert, listed, mismatches

__all__ = ["Card", "LoadReport", "build", "init_trunk", "load", "read_card", "save"]

BEST = "model.safetensors"  # the file of a run folder that `load` takes
CARD = "muybridge"  # the key of the card in a file's metadata
IN_TENSORS = {"num_classes", "width"}  # arguments that the shapes of a file show


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
    _check_card(card, num_classes=model.num_classes, modalities=model.modalities, where=str(path))
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
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
    _check_card(card, num_classes=model.num_classes, modalities=model.modalities, where=str(path))
    tensors = _read_safetensors(path)
    wrong = mismatches(tensors, model)
    if wrong:
        raise WeightsError(f"{path} is no whole {card.model}: {listed(wrong)}")
    _fill(model, tensors)
    model.default_specs, model.card = card.specs, card
    return model.to(device).eval()


def read_card(path: Path | str) -> Card:
    """The card alone; the weights are not read.

    Raises:
        WeightsError: no such file, not safetensors, or without a card.
    """
    path = checkpoint_file(path)
    card = _find_card(path)
    if card is None:
        raise WeightsError(
            f"{path} has no card of muybridge, so it is someone else's: "
            "use muybridge.build(NAME, weights=FILE), which converts it"
        )
    return card


def build(
    name: str,
    *,
    num_classes: int = 400,
    weights: Path | str | None = None,
    width: float = 1.0,
    **arguments: Any,
) -> VideoModel:
    """A network by its name: with random weights, or with those of a file.

    Args:
        name: see `muybridge models`.
        num_classes: K, the length of the logits.
        weights: a state dict of ours or of someone else's, .pth or .safetensors; its format is found from its
            names. What it needs beside the weights (BatchNorm eps, how clips are made) is set with it.
        width: scales every channel count.
        **arguments: further arguments of the network's class, such as `num_frames`.

    Raises:
        UnknownModelError: no such network.
        ConfigError: an argument that it does not have.
        WeightsError: the file cannot be read or does not fit.
    """
    if weights is None:
        return registry.build(name, num_classes=num_classes, width=width, **arguments)
    path = checkpoint_file(weights)
    found, card = _read_any(path)
    if card is not None and card.model != name:
        card = None  # its arguments are another network's; the tensors will tell whether it fits
    own = {} if card is None else {key: card.arguments[key] for key in set(card.arguments) - IN_TENSORS}
    arguments = {**found.arguments, **own, **arguments}
    model = registry.build(name, num_classes=num_classes, width=width, **arguments)
    wrong = mismatches(found.tensors, model)
    if wrong:
        raise WeightsError(_explain(path, model, found.tensors, wrong))
    _fill(model, found.tensors)
    model.default_specs, model.card = found.specs or model.default_specs, card
    return model


def init_trunk(model: VideoModel, path: Path | str) -> LoadReport:
    """For fine-tuning: takes all but the head from a checkpoint; the network's head stays as it is, random.

    Args:
        model: the network to fill.
        path: a file of ours, a run folder, or a state dict of someone else's.

    Raises:
        WeightsError: the trunk of the file is not this network's, with the tensors that differ.
    """
    path = checkpoint_file(path)
    found, card = _read_any(path)
    wrong = mismatches(found.tensors, model, trunk_only=True)
    if wrong:
        raise WeightsError(_explain(path, model, found.tensors, wrong))
    own = model.state_dict()
    trunk = {key: value for key, value in found.tensors.items() if not key.startswith("head.")}
    _fill(model, trunk)
    theirs = found.arguments if card is None else card.arguments
    return LoadReport(
        loaded=tuple(key for key in own if key in trunk),
        random=tuple(key for key in own if key not in trunk),
        unused=tuple(key for key in found.tensors if key not in trunk),
        format=found.format,
        differs=_differences(theirs, model.arguments),
    )


def read_tensors(path: Path | str) -> StateDict:
    """The tensors of a .safetensors or a .pth file; no code in it is run.

    Raises:
        WeightsError: no such file, or it cannot be read.
    """
    path = checkpoint_file(path)
    if _is_safetensors(path):
        return _read_safetensors(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"{path} is not a file of weights alone, or not one at all: {reason} "
            "Save its state dict with safetensors or torch.save and try that."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"{path} cannot be read, it is probably cut short: {reason}") from None
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path} holds a {type(state).__name__}, not a state dict")
    return dict(state)


def checkpoint_file(path: Path | str) -> Path:
    """The file itself, or model.safetensors of a run folder.

    Raises:
        WeightsError: there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / BEST).is_file():
            raise WeightsError(f"the folder {path} holds no {BEST}: is it a run of muybridge train?")
        return path / BEST
    if not path.is_file():
        raise WeightsError(f"there is no file {path}")
    return path


def _find_card(path: Path) -> Card | None:
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(CARD)
    except (SafetensorError, OSError) as error:
        raise _not_safetensors(path, error) from None
    try:
        return None if text is None else Card.from_dict(json.loads(text), where="its card")
    except (ConfigError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path} cannot be used: {error}") from error


def _is_safetensors(path: Path) -> bool:
    """By its name, or by its start: eight bytes of length, then the header's JSON."""
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _read_safetensors(path: Path) -> StateDict:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 -- not a mapping
    except (SafetensorError, OSError) as error:
        raise _not_safetensors(path, error) from None


def _not_safetensors(path: Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"{path} ({path.stat().st_size} bytes) is not a whole safetensors file: {error}. "
        "If it was copied or downloaded, it is probably cut short: get it again."
    )


def _read_any(path: Path) -> tuple[Converted, Card | None]:
    """Tensors by our names, and the card where there is one."""
    found = convert(read_tensors(path))
    card = _find_card(path) if _is_safetensors(path) else None
    return (found if card is None else replace(found, specs=card.specs)), card


def _fill(model: VideoModel, tensors: Mapping[str, Tensor]) -> None:
    """Copies tensors in; those that the file lacks (checked before) keep their values."""
    model.load_state_dict(tensors, strict=False)


def _check_card(card: Card, *, num_classes: int, modalities: Sequence[str], where: str) -> None:
    if not card.labels:
        raise WeightsError(f"{where}: labels are empty; a checkpoint names its {num_classes} classes")
    if len(card.labels) != num_classes:
        raise WeightsError(f"{where}: {len(card.labels)} labels for {num_classes} classes")
    if len(card.specs) != len(modalities):
        raise WeightsError(f"{where}: {len(card.specs)} specs for the modalities {', '.join(modalities)}")


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[str, ...]:
    """Arguments that change what a network computes and no tensor's shape, such as `bn_eps`."""
    keys = [key for key in theirs if key in ours and key not in IN_TENSORS | {"num_frames"}]
    return tuple(
        f"{key} is {ours[key]!r} here and {theirs[key]!r} there" for key in keys if ours[key] != theirs[key]
    )


def _explain(path: Path, model: VideoModel, tensors: Mapping[str, Tensor], wrong: list[str]) -> str:
    """Why a file does not fit: the likeliest mistake first, then the tensors."""
    weight = tensors.get("head.fc.weight")
    if weight is not None and all("head.fc." in line for line in wrong):
        return (
            f"{path} has {len(weight)} classes, the network {model.num_classes}: build it with "
            f"num_classes={len(weight)}, or take the trunk alone (muybridge train --init)"
        )
    fitting = _fitting_names(tensors, width=model.arguments.get("width", 1.0))
    hint = f"it fits {' and '.join(fitting)}; here" if fitting else "and no other network at this width:"
    return f"{path} does not fit {model.name}, {hint} {listed(wrong)}"


def _fitting_names(tensors: Mapping[str, Tensor], *, width: float) -> list[str]:
    """The networks of the registry whose trunk has just these tensors; none of them is given memory."""
    with torch.device("meta"):
        return [
            name
            for name in registry.MODELS
            if not mismatches(tensors, registry.build(name, width=width), trunk_only=True)
        ]


def _as_os_error(error: SafetensorError) -> OSError:
    """What the system said: safetensors keeps its number, a full disk's for one, in the text alone."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))
