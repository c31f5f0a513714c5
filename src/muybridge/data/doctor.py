"""Checks a data set before time is spent on it: files that do not decode, copies, leaks, lopsided classes."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from muybridge.config import ClipSpec
from muybridge.data.annotations import label_names, listed
from muybridge.data.dataset import reason_of
from muybridge.data.splits import PARTS, Splits
from muybridge.errors import VideoError, VideoTooShortError
from muybridge.types import Sample, Size, VideoInfo
from muybridge.video.decode import VideoReader
from muybridge.video.sampling import clip_span, frame_range

DECODE_SHORT_SIDE = 64  # every frame is decoded, but nothing looks at its pixels: small ones are cheaper
DECODE_FRAMES = 64  # at a time, so that memory does not grow with the video
IMBALANCE = 5  # largest class over smallest: from here on the report says that balancing may help
MIRROR_WORDS = re.compile(
    r"(left|right)(wards?|hand|handed|side)?|(counter|anti)?clockwise|c?cw|acw", re.IGNORECASE
)


class Problem(NamedTuple):
    """One file and what is wrong with it."""

    path: str
    reason: str


class Copies(NamedTuple):
    """Files with the same bytes, and the labels that they have; several labels contradict each other."""

    paths: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """What `check` found.

    Attributes:
        num_samples: pieces of video with labels.
        num_files: video files.
        decoded: every frame was decoded; otherwise files were only opened.
        hours: length of all intact files.
        classes: samples of each class, in the order of the names.
        groups: samples of each group.
        parts: samples of each split.
        sizes: files of each size, "width x height".
        fps: files of each frame rate.
        frames: fewest and most frames of a file.
        broken: files that do not open or decode.
        copies: files with the same bytes.
        leaks: what is in several splits, one sentence each.
        too_short: samples with fewer frames than a clip of the given specs needs, or none at all.
        mirror_sensitive: classes whose names say that they change when mirrored.
    """

    num_samples: int
    num_files: int
    decoded: bool
    hours: float
    classes: Mapping[str, int]
    groups: Mapping[str, int]
    parts: Mapping[str, int]
    sizes: Mapping[str, int]
    fps: Mapping[float, int]
    frames: tuple[int, int]
    broken: tuple[Problem, ...] = ()
    copies: tuple[Copies, ...] = ()
    leaks: tuple[str, ...] = ()
    too_short: tuple[Problem, ...] = ()
    mirror_sensitive: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Nothing is broken, and nothing is on both sides of a split."""
        return not self.broken and not self.leaks

    @property
    def imbalance(self) -> float:
        """Samples of the largest class for each one of the smallest."""
        return max(self.classes.values()) / min(self.classes.values()) if self.classes else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = asdict(self)
        values["fps"] = {f"{fps:g}": count for fps, count in self.fps.items()}
        for name in ("broken", "copies", "too_short"):
            values[name] = [entry._asdict() for entry in getattr(self, name)]
        return values | {"imbalance": round(self.imbalance, 3), "ok": self.ok}

    def to_text(self) -> str:
        """A page for people: what there is, then what is wrong with it, and what to do."""
        return "\n".join([*self._summary(), *self._findings()])

    def _summary(self) -> list[str]:
        what = "all frames decoded" if self.decoded else "files opened, frames not decoded"
        few, many = self.frames
        lines = [
            f"{self.num_samples} samples in {self.num_files} files, {self.hours:.2f} hours ({what})",
            f"classes  {len(self.classes)}: {_counts(self.classes)}",
            f"groups   {len(self.groups)}: {_counts(self.groups)}" if self.groups else "groups   none known",
            f"splits   {_counts(self.parts)}" if self.parts else "splits   none given",
            f"sizes    {_counts(self.sizes)}",
            f"fps      {_counts({f'{fps:g}': count for fps, count in self.fps.items()})}",
            f"frames   {few} to {many} a file",
        ]
        return lines if self.sizes else lines[:4]

    def _findings(self) -> list[str]:
        lines = [f"broken: {path}: {reason}" for path, reason in self.broken]
        lines += [f"leak: {leak}" for leak in self.leaks]
        for paths, labels in self.copies:
            contradiction = f", with different labels: {', '.join(labels)}" if len(labels) > 1 else ""
            lines.append(f"copies: the same bytes in {listed(paths)}{contradiction}")
        lines += [f"too short: {path}: {reason}" for path, reason in self.too_short]
        if self.imbalance >= IMBALANCE:
            lines.append(
                f"imbalance: the largest class has {self.imbalance:.1f} times the samples of the smallest: "
                f"`data.balanced: true` draws them equally often, and mean class accuracy counts them so"
            )
        if not self.groups:
            lines.append(
                "groups: none are known, so clips of one person may train and test: give a CSV file with a "
                "column group if there are several clips of a person or of a source video"
            )
        if self.mirror_sensitive:
            names = listed(self.mirror_sensitive)
            lines.append(f"mirror: these classes change when mirrored, so flip must be off: {names}")
        return lines or ["nothing is wrong with it"]


def check(
    samples: Sequence[Sample],
    *,
    decode: bool = True,
    specs: Sequence[ClipSpec] = (),
    splits: Splits | None = None,
    on_progress: Callable[[int, int, Path], None] | None = None,
) -> DoctorReport:
    """Looks at every file once.

    Args:
        samples: the data set.
        decode: decode every frame; otherwise files are opened and their frames counted.
        specs: say which samples are too short for a clip.
        splits: who trains and who tests; None takes the splits that the samples name.
        on_progress: is told (files done, files in all, the file that was done).
    """
    files = sorted({sample.path for sample in samples})
    infos: dict[Path, VideoInfo] = {}
    broken = []
    contents: dict[str, list[Path]] = {}
    for done, path in enumerate(files, start=1):
        try:
            contents.setdefault(_sha256(path), []).append(path)
            infos[path] = _examine(path, decode=decode)
        except (VideoError, OSError) as error:
            broken.append(Problem(str(path), reason_of(error, path)))
        if on_progress is not None:
            on_progress(done, len(files), path)
    copies = {content: paths for content, paths in contents.items() if len(paths) > 1}
    part_of = _parts(samples, splits)
    frames = [info.num_frames for info in infos.values()]
    return DoctorReport(
        num_samples=len(samples),
        num_files=len(files),
        decoded=decode,
        hours=sum(info.duration_seconds for info in infos.values()) / 3600,
        classes=_tally(samples, label_names(samples)),
        groups=dict(sorted(Counter(sample.group for sample in samples if sample.group).items())),
        parts=dict(Counter(part for part in part_of.values() if part)),
        sizes=dict(Counter(f"{info.width}x{info.height}" for info in infos.values()).most_common()),
        fps=dict(sorted(Counter(round(info.fps, 2) for info in infos.values()).items())),
        frames=(min(frames, default=0), max(frames, default=0)),
        broken=tuple(broken),
        copies=tuple(_copies(paths, samples) for paths in copies.values()),
        leaks=tuple(_leaks(part_of, copies)),
        too_short=tuple(_too_short(samples, infos, specs)),
        mirror_sensitive=mirror_sensitive(label_names(samples)),
    )


def mirror_sensitive(label_names: Iterable[str]) -> tuple[str, ...]:
    """The classes whose names speak of left and right or of a direction of turning: no flip in training.

    >>> mirror_sensitive(["wave", "SwipeLeft", "draw_circle_ccw", "turn counter-clockwise", "upright bass"])
    ('SwipeLeft', 'draw_circle_ccw', 'turn counter-clockwise')
    """
    return tuple(name for name in label_names if any(map(MIRROR_WORDS.fullmatch, _words(name))))


def _words(name: str) -> list[str]:
    """Splits at anything that is no letter, and where a capital follows a small letter."""
    return re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _examine(path: Path, *, decode: bool) -> VideoInfo:
    with VideoReader(path) as reader:
        info = reader.info
        scale = min(1.0, DECODE_SHORT_SIDE / min(info.size))
        size = Size(max(1, round(info.height * scale)), max(1, round(info.width * scale)))
        for first in range(0, info.num_frames if decode else 0, DECODE_FRAMES):
            reader.read(range(first, min(first + DECODE_FRAMES, info.num_frames)), size=size)
    return info


def _parts(samples: Sequence[Sample], splits: Splits | None) -> dict[Sample, str]:
    if splits is None:
        return {sample: sample.split for sample in samples}
    return {sample: part for part in PARTS for sample in getattr(splits, part)}


def _tally(samples: Sequence[Sample], labels: Sequence[str]) -> dict[str, int]:
    counts = Counter(label for sample in samples for label in sample.labels)
    return {label: counts[label] for label in labels}


def _copies(paths: Sequence[Path], samples: Sequence[Sample]) -> Copies:
    labels = label_names(sample for sample in samples if sample.path in paths)
    return Copies(tuple(map(str, paths)), labels)


def _leaks(part_of: Mapping[Sample, str], copies: Mapping[str, Sequence[Path]]) -> list[str]:
    """What lies in several splits: a group, pieces of one file, copies of one file."""
    content_of = {path: paths[0] for paths in copies.values() for path in paths}
    places: dict[str, set[str]] = {}
    for sample, part in part_of.items():
        if part:
            places.setdefault(f"the video {content_of.get(sample.path, sample.path)}", set()).add(part)
            places.setdefault(f"the group '{sample.group}'" if sample.group else "", set()).add(part)
    places.pop("", None)
    return [
        f"{what} is in {' and in '.join(sorted(found))}"
        for what, found in sorted(places.items())
        if len(found) > 1
    ]


def _too_short(
    samples: Sequence[Sample], infos: Mapping[Path, VideoInfo], specs: Sequence[ClipSpec]
) -> list[Problem]:
    problems = []
    for sample in samples:
        if (info := infos.get(sample.path)) is None:
            continue
        needed = max((clip_span(spec, info.fps) for spec in specs), default=1)
        try:
            first, stop = frame_range(info, sample.start_seconds, sample.end_seconds)
        except VideoTooShortError as error:
            problems.append(Problem(sample.key, reason_of(error, sample.path)))
            continue
        if stop - first < needed:
            problems.append(Problem(sample.key, f"{stop - first} frames, a clip needs {needed}"))
    return problems


def _counts(counts: Mapping[str, int]) -> str:
    return listed([f"{name} {count}" for name, count in counts.items()])
