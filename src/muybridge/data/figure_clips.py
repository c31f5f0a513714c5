"""One clip of the figures: from its place in the set to its frames.

All that is random about a clip hangs on its own name and the seed of the set, whatever else is rendered.
"""

import functools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from muybridge.data.figure_drawing import Body, Camera, draw, random_body
from muybridge.data.figure_motions import MOTIONS, Style
from muybridge.data.figure_scenes import STRIP_HEIGHTS, random_scene
from muybridge.data.figure_skeleton import Array, Joints, joints
from muybridge.types import UInt8Array

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
class Take:
    """A clip before it is drawn.

    Attributes:
        skeleton: the figure in each frame.
        camera: from where.
        lefts_px: [T], which column of the place's strip is at the left of each frame.
        gain: [3], of the sensor's red, green and blue.
        noise: deviation of its noise, in levels.
    """

    skeleton: Joints
    camera: Camera
    lefts_px: Array
    gain: Array
    noise: float


def take(plan: ClipPlan) -> Take:
    """Decides everything about a clip; pixels are those of the supersampled drawing."""
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
    build = _body(plan.seed, plan.group).build
    height_px = plan.short_side_px * SUPERSAMPLING
    camera, sway_px = _camera(rng, motion.view_degrees, seconds, height_px)
    travel_px = camera.across(*motion.travel) * pace * seconds * (-1 if motion.is_backwards else 1)
    strip_px = STRIP_HEIGHTS * height_px
    start_px = rng.uniform() * strip_px  # anywhere: what has been passed must tell nothing
    return Take(
        skeleton=joints(pose, build, num_frames=plan.num_frames, follow_hips=follow_hips),
        camera=camera,
        lefts_px=(start_px + travel_px - sway_px) % strip_px,
        gain=rng.uniform(0.85, 1.1) * rng.uniform(0.95, 1.05, 3),
        noise=rng.uniform(0.8, 2.2),
    )


def frames(plan: ClipPlan) -> Iterator[UInt8Array]:
    """The clip as RGB frames, each [H, W, 3]."""
    shot = take(plan)
    pictures = _places(plan, shot.lefts_px)
    draw(pictures, _body(plan.seed, plan.group), shot.skeleton, shot.camera)
    gain, noise = shot.gain.astype(np.float32), _noise(plan, shot.noise)
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


def _places(plan: ClipPlan, lefts_px: Array) -> list[Image.Image]:
    """What is behind the figure in each frame."""
    width_px, height_px = (SUPERSAMPLING * side for side in (_width(plan.short_side_px), plan.short_side_px))
    strip = _strip(plan.seed, plan.group, plan.clip, height_px, width_px)
    return [
        strip.crop((left, 0, left + width_px, height_px)) for left in np.rint(lefts_px).astype(int).tolist()
    ]


def _camera(
    rng: np.random.Generator, view_degrees: tuple[float, float], seconds: Array, height_px: int
) -> tuple[Camera, Array]:
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


def _noise(plan: ClipPlan, deviation: float) -> Iterator[npt.NDArray[np.float32]]:
    """Noise of a sensor, around 1/2 to round what follows: each frame is another cut from one large field."""
    rng = _rng(plan.seed, "noise", plan.action, plan.group, plan.clip)
    margin, width_px = 64, _width(plan.short_side_px)
    shape = (plan.short_side_px + margin, width_px + margin, 3)
    field = 0.5 + np.float32(deviation) * rng.standard_normal(shape, np.float32)
    while True:
        top, left = rng.integers(margin, size=2).tolist()
        yield field[top : top + plan.short_side_px, left : left + width_px]


def _width(short_side_px: int) -> int:
    """Four thirds of the height, even.

    >>> _width(96)
    128
    """
    return 2 * round(short_side_px * 2 / 3)
