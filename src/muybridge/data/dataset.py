"""Labelled videos as training clips: each one a random view, decoded and normalised."""

import difflib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from muybridge.config import AugmentConfig, ClipSpec, DataConfig
from muybridge.data.cache import FrameCache
from muybridge.data.views import load_view, plan_random_view, video_info
from muybridge.errors import DataError, VideoError
from muybridge.flow.source import FlowStore
from muybridge.types import Sample


class Draw(NamedTuple):
    """Which clip to make. All that is random about it follows from these numbers and the run's seed.

    Attributes:
        epoch: pass over the data.
        sample: position in the list of samples.
        repeat: how often this sample was drawn before in this epoch: with balanced classes a sample comes
            several times, and each time shows another view.
    """

    epoch: int
    sample: int
    repeat: int = 0


@dataclass(frozen=True)
class Item:
    """One clip.

    Attributes:
        inputs: one tensor a modality, float32 [C, T, H, W], or [S, C, T, H, W] with segments.
        target: int64 scalar, or float32 [K] of zeros and ones with several labels.
        index: position in the list of samples.
    """

    inputs: tuple[Tensor, ...]
    target: Tensor
    index: int


@dataclass(frozen=True)
class Broken:
    """A video that could not be read.

    Attributes:
        path: the file.
        reason: what went wrong, in one line, without the file's name in front.
        index: position in the list of samples.
    """

    path: str
    reason: str
    index: int


def stored_flow(config: DataConfig) -> FlowStore | None:
    """The stored flow of a data set; None where its configuration names no folder."""
    if config.flow is None:
        return None
    root = Path(config.root)
    return FlowStore(config.flow, root=root if root.is_dir() else root.parent, write=True)


class ViewDataset(Dataset[Item | Broken]):
    """Random views of labelled videos. A file that does not decode comes back as `Broken`, not as an error.

    Holds only plain values, so that it travels to worker processes; nothing depends on which process asks,
    nor on what was asked before.

    Args:
        samples: the videos; their order gives each its index.
        labels: class names, in the order of the network's outputs.
        specs: how the network sees a clip, one spec a modality.
        augment: random changes.
        seed: of the run.
        cache: decoded clips on disk; None decodes each time.
        flow: stored flow; None computes it each time, where the network looks at flow.
        multi_label: a sample may have several labels, or none; targets are then vectors of zeros and ones.

    Raises:
        DataError: no samples, or a sample's label is not among `labels`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        labels: Sequence[str],
        specs: tuple[ClipSpec, ...],
        augment: AugmentConfig,
        *,
        seed: int,
        cache: FrameCache | None = None,
        flow: FlowStore | None = None,
        multi_label: bool = False,
    ) -> None:
        if not samples:
            raise DataError("no videos to train on: the list of samples is empty")
        self.samples = tuple(samples)
        self.labels = tuple(labels)
        self.specs = specs
        self.augment = augment
        self.seed = seed
        self.cache = cache
        self.flow = flow
        self.multi_label = multi_label
        self._classes = class_indices(self.samples, self.labels, multi_label=multi_label)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: tuple[int, ...]) -> Item | Broken:
        draw = Draw(*draw)
        path = self.samples[draw.sample].path
        try:
            inputs = self._load(draw)
        except (VideoError, OSError) as error:
            return Broken(str(path), reason_of(error, path), draw.sample)
        return Item(inputs, self._target(draw.sample), draw.sample)

    @property
    def classes(self) -> tuple[int, ...]:
        """The class of each sample, for drawing all classes equally often.

        Raises:
            DataError: samples may have several labels.
        """
        if self.multi_label:
            raise DataError(
                "balanced classes need exactly one label a video, but the loss allows several: "
                "set `data.balanced: false`"
            )
        return tuple(classes[0] for classes in self._classes)

    def blank(self) -> Item:
        """A clip of zeros in the shapes of a real one, index -1: stands in where none decodes."""
        inputs = tuple(torch.zeros(_input_shape(spec)) for spec in self.specs)
        target = torch.zeros(len(self.labels)) if self.multi_label else torch.tensor(0)
        return Item(inputs, target, -1)

    def _load(self, draw: Draw) -> tuple[Tensor, ...]:
        sample = self.samples[draw.sample]
        seed = f"{self.seed}/{draw.epoch}/{draw.sample}" + (f"/{draw.repeat}" if draw.repeat else "")
        rng = random.Random(seed)  # text seeds by SHA-512: the same in every process
        info = video_info(sample.path, cache=self.cache)
        view = plan_random_view(info, sample, self.specs, self.augment, rng)
        return load_view(sample.path, view, self.specs, cache=self.cache, flow=self.flow)

    def _target(self, index: int) -> Tensor:
        classes = self._classes[index]
        if not self.multi_label:
            return torch.tensor(classes[0])
        target = torch.zeros(len(self.labels))
        target[list(classes)] = 1
        return target


def reason_of(error: Exception, path: Path) -> str:
    """What is wrong with a file, in one line, without its name in front.

    >>> reason_of(VideoError("a.mp4: 3 of 64 frames decode"), Path("a.mp4"))
    '3 of 64 frames decode'
    """
    return " ".join(str(error).split()).removeprefix(str(path)).lstrip(": ")


def class_indices(
    samples: Sequence[Sample], labels: Sequence[str], *, multi_label: bool = False
) -> tuple[tuple[int, ...], ...]:
    """The positions of each sample's labels among `labels`.

    Raises:
        DataError: an unknown label, or other than one label where `multi_label` is not set.

    >>> class_indices([Sample(path=Path("a.mp4"), labels=("wave",))], ["clap", "wave"])
    ((1,),)
    """
    index_of = {label: index for index, label in enumerate(labels)}
    rows = []
    for sample in samples:
        if len(sample.labels) != 1 and not multi_label:
            found = ", ".join(sample.labels) or "none"
            raise DataError(
                f"{sample.path} needs exactly one label, it has {found}: several labels go with `loss: bce`"
            )
        for label in sample.labels:
            if label not in index_of:
                raise DataError(_unknown_label(sample, label, labels))
        rows.append(tuple(index_of[label] for label in sample.labels))
    return tuple(rows)


def _unknown_label(sample: Sample, label: str, labels: Sequence[str]) -> str:
    close = difflib.get_close_matches(label, labels, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ": mend the label, or leave the video out"
    return f"{sample.path} has the label '{label}', which is not one of the {len(labels)} known classes{hint}"


def _input_shape(spec: ClipSpec) -> tuple[int, ...]:
    shape = (spec.num_channels, spec.num_frames, spec.crop, spec.crop)
    return shape if spec.num_segments == 1 else (spec.num_segments, *shape)
