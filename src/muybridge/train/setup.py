"""What a run starts from: its videos and its network, checked before anything is computed."""

import copy
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch

from muybridge.config import ClipSpec, TrainConfig, short_digest
from muybridge.data.annotations import label_names, read_samples
from muybridge.data.dataset import ViewDataset, class_indices
from muybridge.data.loader import Batch
from muybridge.data.splits import split
from muybridge.errors import DataError, TrainingError, WeightsError
from muybridge.models.contract import VideoModel
from muybridge.models.count import count_parameters
from muybridge.models.registry import build, defaults_of
from muybridge.train.loop import forward_backward
from muybridge.train.optim import set_trainable
from muybridge.types import Sample
from muybridge.weights.store import init_trunk, open_weights, read_card, with_cubes

__all__ = ["Init", "TrainingData", "bf16_share", "build_network", "check_config", "read_data", "read_init"]

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The videos of a run.

    Attributes:
        train: the network learns from these.
        val: the best checkpoint is chosen by these; may be empty.
        labels: class names, in the order of the logits.
        val_classes: the true classes of each validation video.
        digest: of all of the above; not of where the files lie.
    """

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    labels: tuple[str, ...]
    val_classes: tuple[tuple[int, ...], ...]
    digest: str

    @property
    def num_files(self) -> int:
        """Different video files."""
        return len({sample.path for sample in (*self.train, *self.val)})

    def describe(self) -> str:
        """A line for people."""
        groups = _groups_text(self.train)
        val = f"{len(self.val)} validation clips{_groups_text(self.val)}" if self.val else "no validation"
        return f"{len(self.labels)} classes, {len(self.train)} training clips{groups}, {val}"


def read_data(config: TrainConfig) -> TrainingData:
    """Reads the samples and splits them.

    Raises:
        DataError: no videos, one class alone, or a split that does not hold together.
    """
    splits = split(read_samples(config.data), config.data, config.seed)
    train, val = tuple(splits.train), tuple(splits.val)
    labels = label_names(train)
    if len(labels) < 2 and config.loss == "cross_entropy":
        found = ", ".join(labels) or "no labels"
        raise DataError(f"{config.data.root}: training needs at least two classes, found {found}")
    multi_label = config.loss == "bce"
    return TrainingData(
        train=train,
        val=val,
        labels=labels,
        val_classes=class_indices(val, labels, multi_label=multi_label),
        digest=short_digest([[_key(sample, config.data.root) for sample in part] for part in (train, val)]),
    )


def check_config(config: TrainConfig) -> None:
    """Finds options that contradict each other, before any video is read.

    Raises:
        TrainingError: says which, and what to change.
    """
    if config.head_epochs and config.init is None:
        raise TrainingError(
            "head_epochs trains the head on a finished trunk: give init, or set head_epochs to 0"
        )
    if config.loss == "bce" and config.optim.label_smoothing:
        raise TrainingError("label_smoothing belongs to the cross entropy: set it to 0 for bce")
    if config.loss == "bce" and config.data.balanced:
        raise TrainingError("balanced draws by the one label of a clip: set data.balanced to false for bce")


def build_network(
    config: TrainConfig, labels: tuple[str, ...], say: Say
) -> tuple[VideoModel, tuple[ClipSpec, ...]]:
    """The network with its first weights and with what trains, and how it sees clips.

    Where a run starts from a checkpoint, what `config` leaves open (BatchNorm eps, clips) is as it was there.

    Raises:
        TrainingError: bf16 is asked for and the network is not safe in it; a part to freeze does not exist.
        WeightsError: the checkpoint to start from does not fit.
    """
    torch.manual_seed(config.seed)
    started = read_init(config.init, config.model.name) if config.init is not None else Init()
    started = started.for_modality(config.model.arguments.get("modality"))
    arguments = {**started.arguments, **config.model.arguments}
    clip = config.clip or (started.specs and _with_segments(started.specs, config.model.name, arguments))
    if clip is not None:
        cubes = [spec.mean_cube for spec in started.specs or () if spec.mean_cube is not None]
        clip = with_cubes(clip, cubes)  # a configuration has their digests alone
        arguments = {**sizes_taken(config.model.name, clip[0]), **arguments}
    if arguments.get("tasks"):
        arguments["tasks"] = _tasks(config, arguments["tasks"], labels)
    model = build(config.model.name, num_classes=len(labels), width=config.model.width, **arguments)
    specs = clip or model.default_specs
    _check_network(config, model, specs)
    size = f"{count_parameters(model):,} parameters"
    say(f"{model.name}, width {config.model.width:g}: {size}; {_clips_text(specs)}")
    if config.init is not None:
        report = init_trunk(model, config.init)
        say(f"{config.init}, weights of {report.format}:")
        for what, count, where in report.rows():
            say(f"  {what:<8} {count:>4} tensors  {where}")
        for note in (*report.differs, *report.notes):
            say(f"  note: {note}")
    model.partial_batchnorm = config.partial_batchnorm
    set_trainable(model, frozen=config.freeze)
    if config.partial_batchnorm is not None:
        kept = "mean and variance" + (", scale and shift" if config.partial_batchnorm == "frozen" else "")
        say(f"{len(model.partial_batchnorms())} BatchNorms, all but the first, keep their {kept}")
    if config.freeze:
        resting = sum(not one.requires_grad for one in model.parameters())
        say(f"{', '.join(config.freeze)}: {resting} of {len(list(model.parameters()))} tensors do not train")
    if config.head_epochs:
        say(f"the head alone trains in {config.head_epochs} of {config.epochs} epochs")
    return model, specs


@dataclass(frozen=True, kw_only=True)
class Init:
    """What a checkpoint to start from says beside its weights.

    Attributes:
        model: its network; "" if the file does not say.
        width: of its channels.
        arguments: of that network, without the number of classes and the width.
        specs: how it saw clips; None if the file does not say.
    """

    model: str = ""
    width: float = 1.0
    arguments: dict[str, Any] = field(default_factory=dict)
    specs: tuple[ClipSpec, ...] | None = None

    def for_modality(self, modality: str | None) -> Self:
        """Without the clips, and their length, of another modality than the one that is wanted."""
        if modality is None or self.arguments.get("modality", modality) == modality:
            return self
        kept = {key: value for key, value in self.arguments.items() if key not in ("modality", "num_frames")}
        return replace(self, arguments=kept, specs=None)


def read_init(weights: Path | str, name: str = "") -> Init:
    """Reads what a checkpoint says beside its weights: its card, or what is known of its foreign format.

    Args:
        weights: a file, a run folder, or a public checkpoint such as "kinetics400".
        name: the network that will take the weights; arguments of another one are left out. "" takes any of
            ours, and of someone else's says nothing.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        card = read_card(weights)
    except WeightsError:  # someone else's or public: less is said
        if not name and not Path(weights).exists():
            raise WeightsError(
                f"there is no file {weights}; public weights go with the name of their network (--model)"
            ) from None
        if not name:
            return Init()
        source = open_weights(weights, name)
        with torch.device("meta"):
            defaults = build(name, **source.arguments).default_specs
        return Init(arguments=source.arguments, specs=source.specs(defaults))
    arguments = dict(card.arguments)
    width = float(arguments.pop("width", 1.0))
    for of_head in ("num_classes", "tasks"):
        arguments.pop(of_head, None)
    same = name in ("", card.model)
    return Init(model=card.model, width=width, arguments=arguments if same else {}, specs=card.specs)


def sizes_taken(name: str, spec: ClipSpec) -> dict[str, int]:
    """The sizes of a clip that a network is built for, by the names of its arguments.

    What does not count segments counts as a frame what a segment holds: a picture, or a stack of flow.

    >>> spec = ClipSpec(num_frames=1, num_segments=30)
    >>> sizes_taken("tsn", spec), sizes_taken("short_snippets_lstm", spec)
    ({'num_frames': 1, 'num_segments': 30}, {'num_frames': 30, 'crop': 224})
    """
    taken = defaults_of(name)
    sizes: dict[str, int] = {
        size: getattr(spec, size) for size in ("num_frames", "num_segments", "crop") if size in taken
    }
    if "num_frames" in sizes and "num_segments" not in sizes and spec.num_segments > 1:
        sizes["num_frames"] = spec.num_segments
    return sizes


def _with_segments(
    specs: tuple[ClipSpec, ...], name: str, arguments: Mapping[str, Any]
) -> tuple[ClipSpec, ...]:
    """Clips of a checkpoint, of as many segments as the network that starts from it is built for."""
    known = {**defaults_of(name), **arguments}
    if "num_segments" not in known:
        return specs
    count = known["num_segments"]
    return tuple(spec.model_copy(update={"num_segments": count}) for spec in specs)


def _tasks(config: TrainConfig, given: object, labels: tuple[str, ...]) -> dict[str, int]:
    """The classes of each data set, in the order of the labels, which are "data set/class"."""
    if config.loss != "cross_entropy" or config.optim.label_smoothing:
        raise TrainingError(
            "a network with tasks takes the cross entropy of each clip's own data set: set loss to "
            "cross_entropy and optim.label_smoothing to 0"
        )
    if alone := next((label for label in labels if "/" not in label), None):
        raise TrainingError(
            f"a network with tasks learns from labels 'data set/class', and there is the label '{alone}': "
            "put the name of its data set in front, or leave tasks out"
        )
    found = dict(Counter(label.partition("/")[0] for label in labels))
    if found != given:
        raise TrainingError(
            f"model.arguments.tasks is {given}, and the labels of the training videos have {found}: "
            "give the latter"
        )
    return found


def bf16_share(model: VideoModel, dataset: ViewDataset, config: TrainConfig) -> float:
    """The time of a training step in bf16 as a part of float32's, measured here on two clips of noise.

    The network is left as it was.
    """
    blank = dataset.blank()
    batch = Batch(
        inputs=tuple(torch.rand(2, *one.shape) for one in blank.inputs),
        target=torch.stack([blank.target, blank.target]),
        index=torch.zeros(2, dtype=torch.int64),
        weight=torch.ones(2),
        global_count=2,
    )
    seconds = {}
    for precision in ("float32", "bf16"):
        trial = copy.deepcopy(model)
        trying = config.model_copy(update={"precision": precision})
        for _ in range(2):  # the first step prepares kernels
            started = time.perf_counter()
            forward_backward(trial, batch, trying, 2, torch.device("cpu"))
            seconds[precision] = time.perf_counter() - started
    return seconds["bf16"] / seconds["float32"]


def _check_network(config: TrainConfig, model: VideoModel, specs: tuple[ClipSpec, ...]) -> None:
    if len(specs) != len(model.modalities):
        raise TrainingError(
            f"clip: {model.name} looks at {', '.join(model.modalities)}: give one entry for each, "
            f"got {len(specs)}"
        )
    segments = model.arguments.get("num_segments", specs[0].num_segments)
    if segments != specs[0].num_segments:
        raise TrainingError(
            f"{model.name} is built for {segments} segments, and clip has {specs[0].num_segments}: give both "
            "the same num_segments"
        )
    if config.partial_batchnorm is not None and not model.partial_batchnorms():
        raise TrainingError(
            f"partial_batchnorm keeps all BatchNorms but the first, and {model.name} has no more than one: "
            "leave it out"
        )
    if config.precision == "bf16" and not model.bf16_safe:
        raise TrainingError(
            f"{model.name} cannot be trained in bf16: on some processors its convolutions give gradients "
            f"that are not finite. Set precision to float32"
        )


def _clips_text(specs: tuple[ClipSpec, ...]) -> str:
    parts = []
    for spec in specs:
        snippets = f"{spec.num_segments} snippets of " if spec.num_segments > 1 else ""
        where = (
            "spread over the whole clip" if spec.frame_stride is None else f"every {spec.frame_stride} frames"
        )
        parts.append(f"{snippets}{spec.num_frames} frames of {spec.crop}x{spec.crop}, {where}")
    return "it sees " + " and ".join(parts)


def _groups_text(samples: tuple[Sample, ...]) -> str:
    groups = {sample.group for sample in samples if sample.group}
    return f" of {len(groups)} groups" if groups else ""


def _key(sample: Sample, root: str) -> list[object]:
    """What a sample is, wherever the data set lies."""
    folder = Path(root).expanduser()
    place = os.path.relpath(sample.path, folder if folder.is_dir() else folder.parent)
    return [Path(place).as_posix(), list(sample.labels), sample.start_seconds, sample.end_seconds]
