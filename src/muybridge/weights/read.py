"""Tensors of a file, whoever wrote it: .safetensors, .pth / .pyth / .pt, .pkl, .npz. Nothing in it is run."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from muybridge.errors import WeightsError
from muybridge.weights.arrays import is_npz, read_npz, read_pickle
from muybridge.weights.formats import StateDict

BEST = "model.safetensors"  # the file of a run folder that is taken
CUBE = "mean_cube."  # opens the names of mean cubes among a file's tensors; their digests follow
# How torch's files of before 1.6 begin: a pickle of this number.
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


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


def read_tensors(path: Path | str) -> dict[str, Any]:
    """The tensors of a file, or the dictionary of a training script that has them somewhere in it.

    Raises:
        WeightsError: no such file, it cannot be read, or it claims more than it holds.
    """
    path = checkpoint_file(path)
    if is_safetensors(path):
        return dict(read_safetensors(path))
    with path.open("rb") as file:
        start = file.read(len(OLD_TORCH))
    if start.startswith(b"PK") and is_npz(path):
        return {name: torch.from_numpy(value) for name, value in read_npz(path).items()}
    if path.suffix == ".pkl" and start != OLD_TORCH and not zipfile.is_zipfile(path):
        return {name: torch.from_numpy(value) for name, value in read_pickle(path).items()}
    return _read_torch(path)


def is_safetensors(path: Path) -> bool:
    """By its name, or by its start: eight bytes of length, then the header's JSON."""
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def read_safetensors(path: Path) -> StateDict:
    """The tensors of a file without mean cubes.

    Raises:
        WeightsError: it is not whole.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if not name.startswith(CUBE)]  # noqa: SIM118 -- not a mapping
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise not_safetensors(path, error) from None


def not_safetensors(path: Path, error: Exception) -> WeightsError:
    """What to say of a file that is no safetensors one, or no whole one."""
    return WeightsError(
        f"{path} ({path.stat().st_size} bytes) is not a whole safetensors file: {error}. "
        "If it was copied or downloaded, it is probably cut short: get it again."
    )


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"{path} is not a file of weights alone, or not one at all: {reason} "
            "Save its state dict with safetensors or torch.save and try that."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"{path} cannot be read, it is probably cut short: {reason}") from None
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path} holds a {type(state).__name__}, not a state dict")
    _check_sizes(path, state)
    return dict(state)


def _check_sizes(path: Path, state: Mapping[object, object]) -> None:
    """A view may repeat a few numbers without end: refused, before anything copies it."""
    for name, value in state.items():
        if isinstance(value, Mapping):
            _check_sizes(path, value)
        elif isinstance(value, Tensor) and not _is_whole(value):
            raise WeightsError(
                f"{path} is damaged or malicious: {name} claims {list(value.shape)} numbers and holds fewer"
            )


def _is_whole(tensor: Tensor) -> bool:
    """Whether each of its numbers is in the file."""
    if tensor.layout != torch.strided:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
