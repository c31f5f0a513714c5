"""The embedded data set: articulated figures that walk, wave and box, rendered to real video files.

    samples = render(Path("figures"))         # one folder per action, labels.csv, figures.json

A group is one person, with a body and clothes of their own; their clips differ in speed, style, viewpoint and
place. The members of a motion pair (`MOTION_PAIRS`) differ by the direction of time alone: they have the same
poses equally often at each frame index, so nothing that looks at one frame can tell them apart.

Left, right, clockwise and counter-clockwise are those of the picture: mirroring a clip changes its class.
"""

import csv
import functools
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from muybridge.data.figure_clips import ClipPlan, frames
from muybridge.data.figure_motions import MOTIONS
from muybridge.errors import DataError
from muybridge.files import atomic_path
from muybridge.types import Sample
from muybridge.video.encode import write_video

__all__ = ["ACTIONS", "MOTION_PAIRS", "ClipPlan", "frames", "render"]

ACTIONS: tuple[str, ...] = tuple(MOTIONS)
MOTION_PAIRS: tuple[tuple[str, str], ...] = (
    ("arm_circle_clockwise", "arm_circle_counter_clockwise"),
    ("step_left", "step_right"),
)

TEST_PART = 0.3  # of the groups: the last ones
MARKER = "figures.json"
LABELS = "labels.csv"
VERSION = 1  # of the drawing: raise it when the same arguments give other pixels


@dataclass(frozen=True, kw_only=True)
class _Set:
    """The arguments of `render`, checked, and what follows from them."""

    seed: int
    num_groups: int
    clips_per_group: int
    short_side_px: int
    num_frames: int
    fps: float
    actions: tuple[str, ...]

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.actions) - set(ACTIONS)):
            raise DataError(f"no figure does {', '.join(unknown)}; the actions are: {', '.join(ACTIONS)}")
        if not self.actions or len(set(self.actions)) != len(self.actions):
            raise DataError(f"name at least one action, each once; got: {', '.join(self.actions) or 'none'}")
        if self.num_groups < 2:
            raise DataError(
                f"num_groups must be at least 2: some people train, others test; got {self.num_groups}"
            )
        if self.seed < 0 or self.clips_per_group < 1 or self.num_frames < 1 or not self.fps > 0:
            raise DataError(
                "clips_per_group and num_frames must be at least 1, fps above 0 and seed not negative; got "
                f"{self.clips_per_group}, {self.num_frames}, {self.fps:g} and {self.seed}"
            )
        if self.short_side_px < 32 or self.short_side_px % 2:
            raise DataError(
                f"short_side_px must be even, for h264, and at least 32; got {self.short_side_px}"
            )

    def plans(self) -> list[ClipPlan]:
        """All clips: people and places outside, so that each is made once."""
        return [
            ClipPlan(
                action=action,
                group=group,
                clip=clip,
                seed=self.seed,
                short_side_px=self.short_side_px,
                num_frames=self.num_frames,
                fps=self.fps,
            )
            for group in range(self.num_groups)
            for clip in range(self.clips_per_group)
            for action in self.actions
        ]

    def samples(self, folder: Path) -> list[Sample]:
        """The files, by name; the last groups are the test."""
        first_test = self.num_groups - max(1, round(TEST_PART * self.num_groups))
        samples = [
            Sample(
                path=folder / plan.file_name,
                labels=(plan.action,),
                group=plan.group_name,
                split="test" if plan.group >= first_test else "train",
            )
            for plan in self.plans()
        ]
        return sorted(samples, key=lambda sample: sample.path)


def render(
    folder: Path | str,
    *,
    seed: int = 0,
    num_groups: int = 10,
    clips_per_group: int = 2,
    short_side_px: int = 96,
    num_frames: int = 40,
    fps: float = 25.0,
    actions: Sequence[str] = ACTIONS,
    num_workers: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Sample]:
    """Renders the data set into a folder; files that are there and whole are kept.

    The same arguments give the same bytes. A call that was stopped is taken up by the next one; on a
    finished folder it returns at once.

    Args:
        folder: gets one folder per action, `labels.csv` (path, label, group, split) and `figures.json`.
        seed: of everything random.
        num_groups: people, at least 2; the last 3 of 10 are the split "test", the others "train".
        clips_per_group: clips of each action by each person.
        short_side_px: height of the frames, even; they are 4/3 as wide.
        num_frames: frames a clip.
        fps: frames a second.
        actions: which of ACTIONS.
        num_workers: processes that render; 0 renders in this one. They are spawned, so a script that asks for
            them needs `if __name__ == "__main__":`.
        on_progress: called with (clips done, clips in all) after each clip.

    Raises:
        DataError: arguments out of range, or the folder holds something else.
        StorageError: the disk is full, or the folder cannot be written.
    """
    folder = Path(folder)
    wanted = _Set(
        seed=seed,
        num_groups=num_groups,
        clips_per_group=clips_per_group,
        short_side_px=short_side_px,
        num_frames=num_frames,
        fps=float(fps),
        actions=tuple(sorted(actions)),
    )
    digests = _read_marker(folder, wanted)
    plans, samples = wanted.plans(), wanted.samples(folder)
    found = {plan.file_name: _digest(folder / plan.file_name) for plan in plans}
    kept = {name: digest for name, digest in found.items() if digest and digests.get(name) == digest}
    if len(kept) == len(plans) and (folder / LABELS).is_file():
        return samples
    todo = [plan for plan in plans if plan.file_name not in kept]
    _write_marker(folder, wanted, kept)
    for i, _ in enumerate(_write_clips(folder, todo, num_workers), len(kept) + 1):
        if on_progress is not None:
            on_progress(i, len(plans))
    _write_labels(folder, samples)
    _write_marker(folder, wanted, {plan.file_name: _digest(folder / plan.file_name) for plan in plans})
    return samples


def _read_marker(folder: Path, wanted: _Set) -> dict[str, str]:
    """The digests of the files that an earlier call finished; an error if the folder is not ours to fill."""
    marker = folder / MARKER
    if not marker.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DataError(f"{folder} is not empty and holds no figures (no {MARKER}): name a new folder")
        return {}
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
        version, old, digests = found["version"], dict(found["arguments"]), dict(found["digests"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{marker} is damaged ({error!r}): delete {folder} and render again") from None
    if version != VERSION:
        raise DataError(
            f"{folder} was rendered by another version ({version}, this is {VERSION}): "
            "name a new folder or delete it"
        )
    arguments = _plain(wanted)
    changed = [
        f"{key} = {old.get(key)} there, {arguments[key]} asked"
        for key in arguments
        if old.get(key) != arguments[key]
    ]
    if changed:
        raise DataError(
            f"{folder} holds other figures ({'; '.join(changed)}): name a new folder or delete it"
        )
    return digests


def _write_marker(folder: Path, wanted: _Set, digests: dict[str, str]) -> None:
    with atomic_path(folder / MARKER) as temporary:
        values = {"version": VERSION, "arguments": _plain(wanted), "digests": digests}
        temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")


def _plain(wanted: _Set) -> dict[str, object]:
    """The arguments as they come back from JSON."""
    return {**asdict(wanted), "actions": list(wanted.actions)}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _write_labels(folder: Path, samples: list[Sample]) -> None:
    with atomic_path(folder / LABELS) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label", "group", "split"])
        for sample in samples:
            name = sample.path.relative_to(folder).as_posix()
            writer.writerow([name, sample.label, sample.group, sample.split])


def _write_clips(folder: Path, plans: list[ClipPlan], num_workers: int) -> Iterator[None]:
    """Renders clip after clip; yields once for each."""
    write = functools.partial(_write_clip, folder)
    if not num_workers:
        yield from map(write, plans)
        return
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        chunk = max(1, min(16, len(plans) // (4 * num_workers)))
        yield from pool.map(write, plans, chunksize=chunk)


def _write_clip(folder: Path, plan: ClipPlan) -> None:
    write_video(folder / plan.file_name, frames(plan), fps=plan.fps)
