"""What a run keeps: the state that it resumes from, bit for bit, and the checkpoints that others load."""

import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from muybridge.config import short_digest
from muybridge.errors import TrainingError
from muybridge.files import atomic_folder
from muybridge.models.contract import VideoModel
from muybridge.train.log import Tally
from muybridge.train.optim import MovingAverage

__all__ = ["Learner", "Progress", "RunIdentity", "has_state", "load_state", "save_state"]

# What may differ when a run is resumed: none of these changes what the network learns.
FREE_KEYS = {
    *(f"data.{key}" for key in ("root", "num_workers", "cache", "flow", "max_broken")),
    "checkpoint_every",
    "allow_non_finite",
}


@dataclass(frozen=True, kw_only=True)
class Learner:
    """What a step changes.

    Attributes:
        model: the network that is trained.
        optimizer: over all its parameters that may train.
        average: the moving average of the weights; None keeps none.
    """

    model: VideoModel
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None = None

    @property
    def tested(self) -> VideoModel:
        """The network that is tested and saved."""
        return self.model if self.average is None else self.average.model


@dataclass(kw_only=True)
class Progress:
    """Where a run stands.

    Attributes:
        epoch: epochs that are done, validation included.
        batch: batches of the current epoch that are done.
        step: optimiser steps done since the start.
        tally: the clips of the current epoch so far.
        best_epoch: the best on validation, counted from 1; 0 before any validation.
        best_top1: of that epoch.
        best_loss: of that epoch; decides where top-1 is equal.
        skipped_steps: steps that moved nothing because their gradient was not finite.
        broken: files that did not decode, with the reason.
        seconds: of training and validation so far, over all starts.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    tally: Tally = field(default_factory=Tally)
    best_epoch: int = 0
    best_top1: float = 0.0
    best_loss: float = 0.0
    skipped_steps: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def is_better(self, top1: float, loss: float) -> bool:
        """Whether a validation beats the best one: by top-1, or by the loss where that is equal."""
        return self.best_epoch == 0 or (top1, -loss) > (self.best_top1, -self.best_loss)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Progress":
        """The inverse of `to_dict`."""
        return cls(**{**values, "tally": Tally(**values["tally"])})


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """What must be the same when a run is resumed.

    Attributes:
        config: the resolved configuration, as plain values.
        samples: digest of the training and validation samples, in order.
    """

    config: Mapping[str, Any]
    samples: str

    def check(self, saved: Mapping[str, Any], folder: Path) -> None:
        """Compares with what a state was saved under.

        Raises:
            TrainingError: another configuration, or other videos; says what differs.
        """
        before, now = _flat(saved["config"]), _flat(self.config)
        keys = sorted(key for key in {*before, *now} - FREE_KEYS if before.get(key) != now.get(key))
        if keys:
            changes = "; ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in keys)
            raise TrainingError(
                f"cannot resume {folder} with another configuration: {changes}. Take the one beside the run "
                f"(config.yaml), or start a new run in another folder"
            )
        if saved["samples"] != self.samples:
            raise TrainingError(
                f"cannot resume {folder}: the training or validation videos are not those it began with. "
                f"Put them back, or start a new run in another folder"
            )


def save_state(
    run_dir: Path, learner: Learner, progress: Progress, identity: RunIdentity, *, log_bytes: int
) -> None:
    """Writes `state/` under another name and renames it whole: a kill leaves the old one or the new one.

    Raises:
        StorageError: it cannot be written; the previous state is untouched.
    """
    tensors = {
        "model": learner.model.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "average": learner.average.model.state_dict() if learner.average else None,
    }
    buffer = io.BytesIO()  # torch.save to a file hides that a disk is full behind a RuntimeError
    torch.save(tensors, buffer)
    values = {
        "progress": progress.to_dict(),
        "config": identity.config,
        "samples": identity.samples,
        "log_bytes": log_bytes,
    }
    with atomic_folder(run_dir / "state") as folder:
        (folder / "tensors.pt").write_bytes(buffer.getbuffer())
        (folder / "state.json").write_text(json.dumps(values, indent=1), encoding="utf-8")


def protocol_digest(config: Mapping[str, Any]) -> str:
    """The digest of a training configuration that a checkpoint carries: of all that changes what is learned.

    >>> here, there = {"seed": 1, "data": {"root": "a"}}, {"seed": 1, "data": {"root": "b"}}
    >>> protocol_digest(here) == protocol_digest(there)
    True
    """
    return short_digest({key: value for key, value in _flat(config).items() if key not in FREE_KEYS})


def has_state(run_dir: Path) -> bool:
    """Whether a run was started here and has something to resume from."""
    return _state_folder(run_dir) is not None


def load_state(run_dir: Path, learner: Learner, identity: RunIdentity) -> tuple[Progress, int]:
    """Puts a learner into the state that was saved last.

    Returns:
        where the run stands, and how many bytes of log.jsonl belong to it.

    Raises:
        TrainingError: there is no state, it cannot be read, or it is of another configuration or of other
            videos.
    """
    folder = _state_folder(run_dir)
    if folder is None:
        raise TrainingError(
            f"nothing to resume in {run_dir}: no state was saved there; start without resuming"
        )
    try:
        values = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        identity.check(values, run_dir)
        tensors = torch.load(folder / "tensors.pt", map_location="cpu", weights_only=True)
        progress = Progress.from_dict(values["progress"])
        learner.model.load_state_dict(tensors["model"])
        learner.optimizer.load_state_dict(tensors["optimizer"])
        if learner.average:
            learner.average.model.load_state_dict(tensors["average"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise TrainingError(
            f"the state in {folder} cannot be used ({str(error).splitlines()[0]}); start a new run in "
            f"another folder, with `init: {run_dir / 'last.safetensors'}` to go on from its weights"
        ) from error
    return progress, int(values["log_bytes"])


def remove_leftovers(run_dir: Path) -> None:
    """Removes what a kill in the middle of saving left behind under temporary names."""
    for path in run_dir.glob(".*.tmp*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _state_folder(run_dir: Path) -> Path | None:
    # Between the two renames of a save only the old state has its whole name: see files.atomic_folder.
    candidates = (run_dir / "state", run_dir / "state.old")
    return next((folder for folder in candidates if (folder / "state.json").is_file()), None)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots: {"optim": {"lr": 1}} gives {"optim.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
