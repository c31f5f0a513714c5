"""The card of a checkpoint, in the header of its safetensors file, and the mean cubes that it names."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError, WeightsError
from muybridge.models.contract import Card
from muybridge.types import MeanCube
from muybridge.weights.read import CUBE, checkpoint_file, not_safetensors

CARD = "muybridge"  # the key of the card in a file's metadata


def read_card(path: Path | str) -> Card:
    """The card alone; the weights are not read.

    Raises:
        WeightsError: no such file, not safetensors, or without a card.
    """
    path = checkpoint_file(path)
    card = find_card(path)
    if card is None:
        raise WeightsError(
            f"{path} has no card of muybridge, so it is someone else's: "
            "use muybridge.build(NAME, weights=FILE), which converts it"
        )
    return card


def find_card(path: Path) -> Card | None:
    """The card of a safetensors file; None if it has none.

    Raises:
        WeightsError: not safetensors, or the card does not hold together.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(CARD)
    except (SafetensorError, OSError) as error:
        raise not_safetensors(path, error) from None
    try:
        card = None if text is None else Card.from_dict(json.loads(text), where="its card")
    except (ConfigError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path} cannot be used: {error}") from error
    return card and card.model_copy(update={"specs": with_cubes(card.specs, _read_cubes(path, card.specs))})


def check_card(card: Card, *, num_classes: int, modalities: Sequence[str], where: str) -> None:
    """Whether a card fits its network.

    Raises:
        WeightsError: it has no labels, or other numbers of labels or of specs.
    """
    if not card.labels:
        raise WeightsError(f"{where}: labels are empty; a checkpoint names its {num_classes} classes")
    if len(card.labels) != num_classes:
        raise WeightsError(f"{where}: {len(card.labels)} labels for {num_classes} classes")
    if len(card.specs) != len(modalities):
        raise WeightsError(f"{where}: {len(card.specs)} specs for the modalities {', '.join(modalities)}")


def with_cubes(specs: tuple[ClipSpec, ...], cubes: Iterable[MeanCube]) -> tuple[ClipSpec, ...]:
    """The specs, with the numbers of their mean cubes where `cubes` has them."""
    known = {cube: cube for cube in cubes}
    return tuple(
        spec.model_copy(update={"mean_cube": known[spec.mean_cube]}) if spec.mean_cube in known else spec
        for spec in specs
    )


def cubes_of(specs: Sequence[ClipSpec]) -> dict[str, Tensor]:
    """The mean cubes as tensors of a file.

    Raises:
        WeightsError: the numbers of one are not at hand.
    """
    cubes = [spec.mean_cube for spec in specs if spec.mean_cube is not None]
    if missing := [str(cube) for cube in cubes if cube.values is None]:
        raise WeightsError(
            f"the mean cube {missing[0]} is known by its digest alone: load the spec with its numbers"
        )
    return {f"{CUBE}{cube}": torch.from_numpy(cube.values) for cube in cubes}


def _read_cubes(path: Path, specs: Sequence[ClipSpec]) -> list[MeanCube]:
    """The mean cubes of a file.

    Raises:
        WeightsError: one is not there, or is not the one that the card names.
    """
    named = {str(spec.mean_cube) for spec in specs if spec.mean_cube is not None}
    if not named:
        return []
    with safe_open(path, framework="np") as file:
        found = [MeanCube.of(file.get_tensor(key)) for key in file.keys() if key.startswith(CUBE)]  # noqa: SIM118 -- not a mapping
    if missing := named - {str(cube) for cube in found}:
        raise WeightsError(
            f"{path} names the mean cube {min(missing)} and does not have it, or it is damaged"
        )
    return found
