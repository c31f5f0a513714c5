"""Configurations: frozen, checked when made, YAML in and out. An unknown key names its neighbour.

`ClipSpec` says how a video becomes a network's input and travels inside every checkpoint.
`TrainConfig` is one run of training; the resolved one is written beside its results.
"""

import difflib
import hashlib
import json
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from muybridge.errors import ConfigError
from muybridge.types import MeanCube

Modality = Literal["rgb", "flow", "warped_flow", "rgb_diff"]
ShortPolicy = Literal["loop", "repeat_last", "error"]
ResizeFilter = Literal["antialias", "bilinear"]
PartialBatchNorm = Literal["statistics", "frozen"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Cube = Annotated[MeanCube, PlainValidator(MeanCube.named), PlainSerializer(str)]


class Config(BaseModel):
    """A frozen configuration. Values are checked; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_explain(type(self), error)) from None

    # Without this mark pydantic would build the parts of a configuration through the constructor above, and
    # an error inside a part would not say where it is.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def from_dict(cls, values: object, *, where: str = "") -> Self:
        """Checks plain values, such as those of a YAML or JSON file; `where` opens the error's text.

        Raises:
            ConfigError: an unknown key or a bad value, with its place.

        >>> ClipSpec.from_dict({"num_frames": 8, "frame_strid": 4}, where="exp.yaml")
        Traceback (most recent call last):
            ...
        muybridge.errors.ConfigError: exp.yaml: unknown key 'frame_strid'; did you mean 'frame_stride'?
        """
        if not isinstance(values, dict):
            raise ConfigError(
                f"{where or cls.__name__}: expected keys and values, got {type(values).__name__}"
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_explain(cls, error, where)) from None

    @classmethod
    def from_yaml(cls, path: Path | str) -> Self:
        """Reads a YAML file.

        Raises:
            ConfigError: no such file, not YAML, an unknown key or a bad value.
        """
        path = Path(path)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the configuration {path}: {error}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not YAML: {error}") from None
        return cls.from_dict({} if values is None else values, where=path.name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they go into YAML and JSON."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The whole configuration as YAML, in the order of its fields."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def digest(self) -> str:
        """Eight hex digits that change when any value does."""
        return short_digest(self.to_dict())


def short_digest(values: object) -> str:
    """Eight hex digits of SHA-256 over the canonical JSON of plain values.

    >>> short_digest({"b": 1, "a": 2}) == short_digest({"a": 2, "b": 1})
    True
    """
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class ClipSpec(Config):
    """How a video becomes the network's input. Stored inside every checkpoint.

    Attributes:
        num_frames: T, frames (or flow fields) of one clip or of one segment.
        frame_stride: source frames from one to the next (tau). None spreads the T frames over the whole
            piece of video: one from each of T equal parts.
        fps: sample as if the file had this rate, whatever its own is; None takes it as it is.
        num_segments: S snippets of T frames each (TSN); 1 is a plain clip.
        resize: short side in pixels, or (height, width); the crop is cut from this.
        resize_filter: "antialias" is bilinear with the support widened when it shrinks; "bilinear" is the
            plain 2 x 2 bilinear of torchvision's presets (antialias=False).
        crop: side of the square that the network sees, pixels.
        scale: the value that white has before mean and std: 1 or 255.
        channel_order: "rgb", or "bgr" for networks converted from Caffe.
        mean: subtracted from each channel, in units of `scale`.
        std: each channel is divided by this, in units of `scale`.
        mean_cube: also subtracted, position by position, before the crop (C3D); in files its digest stands
            for it, and its numbers travel in the checkpoint.
        modality: what the tensor holds.
        flow_method: how flow was computed; None for RGB.
        flow_bound: flow is clipped to [-bound, bound] pixels before it is quantised; None for RGB.
        mean_subtraction: each flow field has its mean taken off.
        short_policy: what to do with a video shorter than the clip: "loop" it, "repeat_last", or "error".

    >>> ClipSpec(num_frames=8, frame_stride=8).span
    57
    """

    num_frames: Positive
    frame_stride: Positive | None = 1
    fps: Annotated[float, Field(gt=0)] | None = None
    num_segments: Positive = 1
    resize: Positive | tuple[Positive, Positive] = 256
    resize_filter: ResizeFilter = "antialias"
    crop: Positive = 224
    scale: Literal[1, 255] = 1
    channel_order: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, ...] = (0.45, 0.45, 0.45)
    std: tuple[float, ...] = (0.225, 0.225, 0.225)
    mean_cube: Cube | None = None
    modality: Modality = "rgb"
    flow_method: str | None = None
    flow_bound: Annotated[float, Field(gt=0)] | None = None
    mean_subtraction: bool = False
    short_policy: ShortPolicy = "loop"

    @model_validator(mode="after")
    def _hold_together(self) -> Self:
        short_side = self.resize if isinstance(self.resize, int) else min(self.resize)
        if self.crop > short_side:
            raise ValueError(
                f"crop ({self.crop}) is larger than resize ({short_side}): raise resize or lower crop"
            )
        if len(self.mean) != self.num_channels or len(self.std) != self.num_channels:
            raise ValueError(
                f"mean and std need {self.num_channels} values for {self.modality}, "
                f"got {len(self.mean)} and {len(self.std)}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, got {self.std}")
        if self.is_flow and (self.flow_method is None or self.flow_bound is None):
            raise ValueError("flow needs flow_method and flow_bound: scores depend on both")
        varies = isinstance(self.resize, int) or self.num_segments > 1 or self.modality != "rgb"
        if self.mean_cube is not None and varies:
            raise ValueError("mean_cube goes with rgb, one segment and a resize to (height, width)")
        return self

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """No cube, no key: digests and files are as they were before there were cubes."""
        values: dict[str, Any] = handler(self)
        return values if self.mean_cube else {key: values[key] for key in values if key != "mean_cube"}

    @property
    def is_flow(self) -> bool:
        """Whether the tensor holds optical flow."""
        return self.modality in ("flow", "warped_flow")

    @property
    def num_channels(self) -> int:
        """C: 2 for flow (x, y), otherwise 3."""
        return 2 if self.is_flow else 3

    @property
    def span(self) -> int:
        """Frames from the first to the last one of a clip, both included; 1 where the stride is None."""
        return 1 if self.frame_stride is None else (self.num_frames - 1) * self.frame_stride + 1


def specs_digest(specs: tuple[ClipSpec, ...]) -> str:
    """The `spec` digest that goes with every number: of the ClipSpecs, in the order of the modalities."""
    return short_digest([spec.to_dict() for spec in specs])


class ModelConfig(Config):
    """Which network.

    Attributes:
        name: its name in the registry: `muybridge models`.
        width: scales every channel count.
        arguments: further arguments of its class.
    """

    name: str = "r2plus1d_18"
    width: Annotated[float, Field(gt=0)] = 1.0
    arguments: dict[str, Any] = Field(default_factory=dict)


class DataConfig(Config):
    """Which videos, and who trains and who tests.

    Attributes:
        root: a folder, or a CSV file.
        format: "auto" looks at the root: a CSV file, or a folder per class.
        train: names of the groups or splits to train on; empty takes all that is not in `val` or `test`.
        val: names of the groups or splits for the choice of the best checkpoint.
        test: names of the groups or splits that training must not touch.
        val_fraction: where `val` is empty, this part of the training groups is held out for validation.
        balanced: draw every class equally often.
        cache: folder for decoded, resized clips; None decodes each time.
        flow: folder of stored flow, as `muybridge flow` makes it; a video that has none there is computed and
            kept, the first time that it is asked for. None computes the flow of each view.
        max_broken: part of the files that may fail before the run does.
        num_workers: loader processes; 0 loads in the training process.
    """

    root: str
    format: Literal["auto", "folder", "csv", "weizmann", "utd_mhad"] = "auto"
    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    val_fraction: Fraction = 0.0
    balanced: bool = False
    cache: str | None = None
    flow: str | None = None
    max_broken: Fraction = 0.01
    num_workers: Annotated[int, Field(ge=0)] = 0


class AugmentConfig(Config):
    """Random changes of training clips; each is decided once a clip.

    Attributes:
        short_side: the short side is drawn from this range, pixels (scale jitter); None keeps the resize.
        crop: "random" place; "corners" is TSN's corner-and-scale crop; "area" cuts a box of random area and
            resizes it; "center" is no augmentation.
        crop_scales: TSN's scales of the short side, for "corners".
        crop_area: range of the box's area as a part of the square crop's, for "area".
        flip: mirror half of the clips; wrong where classes differ by left and right.
        brightness, contrast, saturation, hue: widths of the colour jitter: factors are drawn from
            [1 - w, 1 + w], the hue's turn from [-w, w].
    """

    short_side: tuple[Positive, Positive] | None = None
    crop: Literal["random", "corners", "area", "center"] = "random"
    crop_scales: tuple[Fraction, ...] = (1.0, 0.875, 0.75, 0.66)
    crop_area: tuple[float, float] = (0.6, 1.0)
    flip: bool = True
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("short_side", "crop_area"):
            pair = getattr(self, name)
            if pair is not None and not 0 < pair[0] <= pair[1]:
                raise ValueError(f"{name} must be a range (low, high) above 0, got {pair}")
        return self


class OptimConfig(Config):
    """The optimiser and its schedule.

    Attributes:
        kind: "sgd" with Nesterov momentum, or "adamw".
        lr: peak learning rate, for the whole batch as given (no hidden scaling).
        lr_factors: what the rate is multiplied by in parts of the network, by the start of their names, such
            as {"head": 10}; of several that fit the longest name counts.
        momentum: of SGD; beta1 of AdamW.
        weight_decay: on weights of convolutions and linear layers only (not on biases and norms).
        schedule: "cosine" to 0, "step" by `gamma` at each of `milestones`, or "constant".
        milestones: epochs at which "step" multiplies the rate by `gamma`.
        gamma: see milestones.
        warmup_epochs: the rate rises linearly from lr / 100 to lr over these.
        clip_grad_norm: largest norm of the whole gradient; None does not clip.
        accumulation: batches whose gradients are summed into one step (their mean loss is what one large
            batch has, BatchNorm aside).
        ema_decay: decay a step of the moving average of the weights, which is then what is tested and saved;
            None keeps the weights themselves.
        label_smoothing: of the cross entropy.
    """

    kind: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.01
    lr_factors: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    momentum: Fraction = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[float, ...] = ()
    gamma: Annotated[float, Field(gt=0)] = 0.1
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = None
    accumulation: Positive = 1
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class TrainConfig(Config):
    """One run of training.

    Attributes:
        data: the videos.
        model: the network.
        clip: how it sees them, one a modality; None takes the network's own.
        augment: random changes.
        optim: optimiser and schedule.
        epochs: passes over the training samples.
        batch_size: clips a step over all processes together, before accumulation.
        loss: "cross_entropy", or "bce" for several labels a clip.
        seed: fixes the run.
        precision: "float32", or "bf16" (autocast).
        protocol: the protocol of validation.
        eval_every: epochs between two validations; the last one always has one.
        checkpoint_every: optimiser steps between two resumable states; 0 saves one an epoch.
        init: a checkpoint to take the trunk from.
        freeze: parts of the network that do not train, by the start of their names: "stem", "stages.0".
        partial_batchnorm: what all BatchNorms but the first keep, as in TSN: "statistics", their mean and
            variance; "frozen", their scale and shift as well; None nothing.
        head_epochs: with `init`, train the head alone for so many of the epochs first.
        allow_non_finite: skip a step whose gradient is not finite, instead of stopping the run.
    """

    data: DataConfig
    model: ModelConfig = ModelConfig()
    clip: tuple[ClipSpec, ...] | None = None
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    epochs: Positive = 30
    batch_size: Positive = 16
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    seed: int = 0
    precision: Literal["float32", "bf16"] = "float32"
    protocol: str = "center"
    eval_every: Positive = 1
    checkpoint_every: Annotated[int, Field(ge=0)] = 0
    init: str | None = None
    freeze: tuple[str, ...] = ()
    partial_batchnorm: PartialBatchNorm | None = None
    head_epochs: Annotated[int, Field(ge=0)] = 0
    allow_non_finite: bool = False


def _explain(cls: type[BaseModel], error: ValidationError, where: str = "") -> str:
    """Pydantic's first complaint in one line, with the place and, for a key, its neighbour."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        owner = _config_at(cls, place[:-1])
        known = list(owner.model_fields) if owner else []
        close = difflib.get_close_matches(place[-1], known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else f"; known keys: {', '.join(known)}"
        message, place = f"unknown key '{place[-1]}'{hint}", place[:-1]
    elif first["type"] == "missing":
        message, place = f"the key '{place[-1]}' is missing", place[:-1]
    else:
        message = first["msg"].removeprefix("Value error, ")
        if not isinstance(first["input"], dict | BaseModel):
            message += f", got {first['input']!r}"
    prefix = ", ".join(part for part in (where, ".".join(place)) if part)
    return f"{prefix}: {message}" if prefix else message


def _config_at(cls: type[BaseModel], place: list[str]) -> type[BaseModel] | None:
    """The configuration class that holds the key at the end of a path of field names."""
    found: type[BaseModel] | None = cls
    for part in place:
        if found is None or part not in found.model_fields:
            continue  # an index into a tuple or the name of a union's member
        found = _config_in(found.model_fields[part].annotation)
    return found


def _config_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, tuple, Annotated):
        return next((found for part in get_args(annotation) if (found := _config_in(part))), None)
    return None
