"""The values that travel along the road: frozen, checked when made, short when printed.

Shape letters: T frames, H height, W width. No torch here: sampling and the command line stay light.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]


class Size(NamedTuple):
    """Height and width in pixels, in this order everywhere."""

    height: int
    width: int


class Box(NamedTuple):
    """A rectangle of pixels: rows [top, top + height), columns [left, left + width)."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a file says about its video, or what counting its frames found.

    Attributes:
        path: where it came from; "<bytes>", "<file object>" or "<arrays>" where there is no path.
        num_frames: frames in display order.
        exact: `num_frames` was counted, not taken from the container's word.
        fps: mean frames per second.
        height: pixels, after rotation.
        width: pixels, after rotation.
        duration_seconds: from the first frame to the end of the last.
        codec: FFmpeg's name of it, such as "h264"; "raw" for arrays.
        pixel_format: FFmpeg's name of it, such as "yuv420p".
        rotation_degrees: clockwise turn that the container asks for and the reader applies: 0, 90, 180, 270.
        has_audio: the container has a sound track.
    """

    path: str
    num_frames: int
    exact: bool
    fps: float
    height: int
    width: int
    duration_seconds: float
    codec: str
    pixel_format: str = "rgb24"
    rotation_degrees: int = 0
    has_audio: bool = False

    @property
    def size(self) -> Size:
        """Height and width, after rotation."""
        return Size(self.height, self.width)

    def __repr__(self) -> str:
        count = f"{self.num_frames}" if self.exact else f"about {self.num_frames}"
        return (
            f"VideoInfo({Path(self.path).name}: {count} frames, {self.width}x{self.height}, "
            f"{self.fps:g} fps, {self.duration_seconds:.2f} s, {self.codec})"
        )


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Colour changes of one clip, decided once and applied to all its frames: 1, 1, 1, 0 changes nothing.

    Attributes:
        brightness: factor on the pixels.
        contrast: factor on the distance from the frame's mean grey.
        saturation: factor on the distance from grey.
        hue: turn of the colour circle, in [-0.5, 0.5].
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


@dataclass(frozen=True)
class MeanCube:
    """A mean clip: subtracted from every clip, position by position, before the crop is cut out (C3D).

    Files name it by its digest alone; its numbers lie in the checkpoint, beside the weights.

    Attributes:
        digest: eight hex digits of the numbers. Cubes of one digest are equal.
        values: float32 [3, T, H, W], channels and white as the clip spec has them; None where not at hand.
    """

    digest: str
    values: npt.NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Self:
        """The cube of these numbers, [3, T, H, W].

        >>> MeanCube.of(np.zeros((3, 16, 128, 171)))
        MeanCube(digest='019bb702')
        """
        cube = np.ascontiguousarray(values, np.float32)
        if cube.ndim != 4 or cube.shape[0] != 3 or not np.isfinite(cube).all():
            raise ValueError(f"a mean cube is [3, T, H, W] of finite numbers, got {list(cube.shape)}")
        return cls(hashlib.sha256(str(cube.shape).encode() + cube.tobytes()).hexdigest()[:8], cube)

    @classmethod
    def named(cls, value: object) -> "MeanCube":
        """As a file names it."""
        if isinstance(value, MeanCube):
            return value
        if isinstance(value, str) and re.fullmatch("[0-9a-f]{8}", value):
            return cls(value)
        raise ValueError("mean_cube is the digest of a mean cube, eight hex digits")

    def __str__(self) -> str:
        return self.digest


@dataclass(frozen=True, kw_only=True)
class View:
    """One look at a video, fully decided: nothing about it is random any more.

    A network of several modalities has one `indices` entry a modality, and one crop, flip and instant for
    all of them.

    Attributes:
        indices: for each modality, the source frames in the order the network sees them, duplicates allowed.
            With S segments of T frames it has S * T entries, segment after segment.
        size: the whole frame is resized to this.
        box: what is cut from the resized frame; if its size is not the spec's crop, it is resized to that.
        flip: mirrored left to right (the x component of a flow changes its sign).
        color: colour changes, or None.
        name: position among the views of its video, such as "clip 3/10, left": for reports and errors.
    """

    indices: tuple[tuple[int, ...], ...]
    size: Size
    box: Box
    flip: bool = False
    color: ColorJitter | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not self.indices or not all(self.indices):
            raise ValueError("a view needs at least one frame index for each modality")
        if min(min(one) for one in self.indices) < 0:
            raise ValueError(f"frame indices must not be negative, got {self.indices}")
        top, left, height, width = self.box
        fits = top >= 0 and left >= 0 and top + height <= self.size.height and left + width <= self.size.width
        if not fits or height < 1 or width < 1:
            raise ValueError(f"the box {self.box} does not lie inside the resized frame {self.size}")

    def __repr__(self) -> str:
        frames = " + ".join(f"{len(one)} frames {one[0]}..{one[-1]}" for one in self.indices)
        flip = ", flipped" if self.flip else ""
        return (
            f"View({self.name + ': ' if self.name else ''}{frames}, {self.box.width}x{self.box.height}{flip})"
        )


@dataclass(frozen=True)
class Clip:
    """Decoded frames of one video.

    Attributes:
        frames: uint8 [T, H, W, 3], RGB.
        seconds: float64 [T], when each frame is shown.
    """

    frames: UInt8Array
    seconds: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[-1] != 3 or self.frames.dtype != np.uint8:
            raise ValueError(
                f"frames must be uint8 [T, H, W, 3], got {self.frames.dtype} {list(self.frames.shape)}"
            )
        if len(self.seconds) != len(self.frames):
            raise ValueError(f"{len(self.frames)} frames but {len(self.seconds)} times")

    def __len__(self) -> int:
        return len(self.frames)

    def __repr__(self) -> str:
        t, h, w, _ = self.frames.shape
        return f"Clip({t} frames, {w}x{h}, {self.seconds[0]:.2f}-{self.seconds[-1]:.2f} s)"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled piece of a video.

    Attributes:
        path: the video file.
        labels: class names, one or several; empty where unknown.
        start_seconds: where the piece starts.
        end_seconds: where it ends, exclusive; None is the end of the file.
        group: what must not be split between training and test: a subject, a source video.
        split: the split the data set itself assigns, such as "train", "val" or "test"; "" if it has none.
    """

    path: Path
    labels: tuple[str, ...] = ()
    start_seconds: float = 0.0
    end_seconds: float | None = None
    group: str = ""
    split: str = ""

    def __post_init__(self) -> None:
        if self.start_seconds < 0 or (
            self.end_seconds is not None and self.end_seconds <= self.start_seconds
        ):
            raise ValueError(
                f"{self.path}: [{self.start_seconds}, {self.end_seconds}) s is empty or negative"
            )

    @property
    def label(self) -> str:
        """The only label; an error where there are none or several."""
        if len(self.labels) != 1:
            raise ValueError(f"{self.path} has {len(self.labels)} labels, one was expected")
        return self.labels[0]

    @property
    def key(self) -> str:
        """Names the sample in score files: its path, with the seconds where it is a piece of a file.

        >>> Sample(path=Path("a/b.mp4"), start_seconds=1.5, end_seconds=3).key
        'a/b.mp4@1.5-3'
        """
        if not self.start_seconds and self.end_seconds is None:
            return self.path.as_posix()
        end = "" if self.end_seconds is None else f"{self.end_seconds:g}"
        return f"{self.path.as_posix()}@{self.start_seconds:g}-{end}"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a network says about one video.

    Attributes:
        path: the video.
        labels: class names, best first.
        scores: probabilities in the order of `labels`.
        protocol: name of the protocol.
        views: digest of the temporal positions, crops and aggregation.
        spec: digest of the ClipSpecs.
        num_views: how many views were averaged.
    """

    path: str
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    protocol: str
    views: str
    spec: str
    num_views: int

    @property
    def label(self) -> str:
        """The best label."""
        return self.labels[0]

    @property
    def score(self) -> float:
        """The probability of the best label."""
        return self.scores[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; labels and scores side by side under "top"."""
        return {
            "video": self.path,
            "label": self.label,
            "score": round(self.score, 6),
            "top": [
                {"label": label, "score": round(score, 6)}
                for label, score in zip(self.labels, self.scores, strict=True)
            ],
            "protocol": self.protocol,
            "views": self.views,
            "spec": self.spec,
            "num_views": self.num_views,
        }

    def __repr__(self) -> str:
        return f"Prediction({Path(self.path).name}: {self.label} {self.score:.3f}, {self.num_views} views)"
