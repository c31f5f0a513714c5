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
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from muybridge.data.figure_drawing import Body, Camera, draw, random_body
from muybridge.data.figure_motions import MOTIONS, Style
from muybridge.data.figure_scenes import STRIP_HEIGHTS, random_scene
from muybridge.data.figure_skeleton import joints
from muybridge.errors import DataError
from muybridge.files import atomic_path
from muybridge.types import Sample, UInt8Array
from muybridge.video.encode import write_video

ACTIONS: tuple[str, ...] = tuple(MOTIONS)
MOTION_PAIRS: tuple[tuple[str, str], ...] = (
    ("arm_circle_clockwise", "arm_circle_counter_clockwise"),
    ("step_left", "step_right"),
)

TEST_PART = 0.3  # of the groups: the last ones
MARKER = "figures.json"
LABELS = "labels.csv"
VERSION = 1  # of the drawing: raise it when the same arguments give other pixels
SUPERSAMPLING = 3  # drawn so much larger, then averaged: smooth edges and motion below one pixel


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """Everything that decides one clip.

    Attributes:
        action: a key of MOTIONS.
        group: which person, from 0.
        clip: which of their clips of the action, from 0; clips of one number share a place.
        seed: of the whole set.
        short_side_px: height; the width is 4/3 of it.
        num_frames: frames.
        fps: frames a second.
    """

    action: str
    group: int
    clip: int
    seed: int = 0
    short_side_px: int = 96
    num_frames: int = 40
    fps: float = 25.0

    @property
    def group_name(self) -> str:
        """Such as "person03"."""
        return f"person{self.group + 1:02d}"

    @property
    def file_name(self) -> str:
        """Where the clip lies in the folder of the set.

        >>> ClipPlan(action="walk", group=2, clip=0).file_name
        'walk/person03_1.mp4'
        """
        return f"{self.action}/{self.group_name}_{self.clip + 1}.mp4"


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


def frames(plan: ClipPlan) -> Iterator[UInt8Array]:
    """The clip as RGB frames, each [H, W, 3]."""
    motion = MOTIONS[plan.action]
    rng = _rng(plan.seed, "clip", plan.action, plan.group, plan.clip)
    style = Style(
        amplitude=rng.uniform(0.85, 1.12),
        stance=rng.uniform(2.0, 9.0),
        slack=rng.uniform(2.0, 22.0),
        is_mirrored=bool(rng.integers(2)),
    )
    seconds = np.arange(plan.num_frames) / plan.fps
    # Any phase may come first: a cycle that always began at the same pose would give its direction away.
    pace = motion.cycles_per_second * rng.uniform(0.8, 1.25)
    pose = motion.perform(rng.uniform() + pace * seconds, style)
    follow_hips = motion.travel != (0.0, 0.0)
    height_px = plan.short_side_px * SUPERSAMPLING
    camera, sway_px = _camera(rng, motion.view_degrees, seconds, height_px)
    body = _body(plan.seed, plan.group)
    skeleton = joints(pose, body.build, num_frames=plan.num_frames, follow_hips=follow_hips)
    travel_px = camera.across(*motion.travel) * pace * seconds * (-1 if motion.is_backwards else 1)
    start_px = rng.uniform() * STRIP_HEIGHTS * height_px  # anywhere: what has been passed must tell nothing
    pictures = _places(plan, start_px + travel_px - sway_px, height_px)
    draw(pictures, body, skeleton, camera)
    gain = (rng.uniform(0.85, 1.1) * rng.uniform(0.95, 1.05, 3)).astype(np.float32)
    noise = _noise(rng, plan)
    for picture in pictures:
        pixels = np.asarray(picture.reduce(SUPERSAMPLING)) * gain
        pixels += next(noise)
        yield np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)


def _rng(*key: int | str) -> np.random.Generator:
    """Randomness that belongs to one thing, whatever else is rendered."""
    return np.random.default_rng(
        [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    )


@functools.lru_cache(maxsize=64)
def _body(seed: int, group: int) -> Body:
    # Hues that follow each other at the golden section stay apart, however many there are.
    return random_body(_rng(seed, "body", group), top_hue=_rng(seed, "hue").uniform() + 0.618 * group)


@functools.lru_cache(maxsize=4)
def _strip(seed: int, group: int, clip: int, height_px: int, width_px: int) -> Image.Image:
    """The place of a group's n-th clips, whatever the action; its start once more at its end."""
    kind = group + 3 * clip  # neighbours in another place, and each clip of a person as well
    strip = random_scene(_rng(seed, "scene", group, clip), kind, height_px)
    longer = Image.new("RGB", (strip.width + width_px, height_px))
    longer.paste(strip, (0, 0))
    longer.paste(strip.crop((0, 0, width_px, height_px)), (strip.width, 0))
    return longer


def _places(plan: ClipPlan, offsets_px: Iterable[float], height_px: int) -> list[Image.Image]:
    """What is behind the figure in each frame."""
    width_px = _width(plan.short_side_px) * SUPERSAMPLING
    strip = _strip(plan.seed, plan.group, plan.clip, height_px, width_px)
    lefts = [round(offset) % (strip.width - width_px) for offset in offsets_px]
    return [strip.crop((left, 0, left + width_px, height_px)) for left in lefts]


def _camera(
    rng: np.random.Generator, view_degrees: tuple[float, float], seconds: np.ndarray, height_px: int
) -> tuple[Camera, np.ndarray]:
    """A camera in somebody's hand, and how far it sways, in pixels a frame."""
    width_px = height_px * 4 / 3
    turn = rng.uniform(*view_degrees) * rng.choice([-1, 1])
    sway = 0.006 * height_px * np.sin(2 * np.pi * (rng.uniform(0.2, 0.6) * seconds + rng.uniform()))
    camera = Camera(
        turn_degrees=turn,
        tilt_degrees=rng.uniform(0, 12),
        height_px=height_px * rng.uniform(0.65, 0.74),
        floor_px=height_px * rng.uniform(0.92, 0.96),
        center_px=width_px * rng.uniform(0.44, 0.56) + sway,
    )
    return camera, sway


def _noise(rng: np.random.Generator, plan: ClipPlan) -> Iterator[npt.NDArray[np.float32]]:
    """Noise of a sensor, around 1/2 to round what follows: each frame is another cut from one large field."""
    margin, width_px = 64, _width(plan.short_side_px)
    shape = (plan.short_side_px + margin, width_px + margin, 3)
    field = 0.5 + np.float32(rng.uniform(0.8, 2.2)) * rng.standard_normal(shape, np.float32)
    while True:
        top, left = rng.integers(margin, size=2).tolist()
        yield field[top : top + plan.short_side_px, left : left + width_px]


def _width(short_side_px: int) -> int:
    """Four thirds of the height, even.

    >>> _width(96)
    128
    """
    return 2 * round(short_side_px * 2 / 3)


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
