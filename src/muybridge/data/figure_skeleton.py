"""A figure's skeleton: a pose in joint angles, and where it puts the joints.

A figure's own axes: x to the picture's right when it faces the camera, y up, z the way it faces; the unit of
length is the height of an average figure. Its left limbs are at +x. A bone hangs down at (side, forward) =
(0, 0) degrees; `side` turns it away from the body in the plane of the shoulders (90 is level, 180 straight
up), then `forward` lifts it out of that plane towards the front.

Shape letters: T frames. A `Curve` is [T], or one number for all frames.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Curve = Array | float


class Limb(NamedTuple):
    """An arm or a leg: degrees of its upper and its lower bone, both against the body."""

    upper_side: Curve = 0.0
    upper_forward: Curve = 0.0
    lower_side: Curve = 0.0
    lower_forward: Curve = 0.0


class Pose(NamedTuple):
    """A whole body over T frames; `lift` is the height of the lower foot above the floor."""

    left_arm: Limb
    right_arm: Limb
    left_leg: Limb
    right_leg: Limb
    torso_forward: Curve = 0.0
    torso_turn: Curve = 0.0
    lift: Curve = 0.0

    def mirrored(self) -> "Pose":
        """Left and right exchanged."""
        return self._replace(
            left_arm=self.right_arm,
            right_arm=self.left_arm,
            left_leg=self.right_leg,
            right_leg=self.left_leg,
            torso_turn=-self.torso_turn,
        )


class Build(NamedTuple):
    """Lengths of a body, in heights of an average figure."""

    hip: float = 0.052
    thigh: float = 0.245
    shin: float = 0.245
    ankle: float = 0.04
    foot: float = 0.095
    torso: float = 0.285
    shoulder: float = 0.108
    upper_arm: float = 0.165
    forearm: float = 0.165
    neck: float = 0.115


class Joints(NamedTuple):
    """Where the joints of a figure are: each [T, 3], the floor at y = 0, the feet (or the hips) at x = z = 0.

    Pairs are [2, T, 3]: left, right.
    """

    hips: Array
    knees: Array
    ankles: Array
    toes: Array
    shoulders: Array
    elbows: Array
    wrists: Array
    chest: Array
    head: Array
    facing: Array


def joints(pose: Pose, build: Build, *, num_frames: int, follow_hips: bool) -> Joints:
    """Puts a body into a pose, its lower foot on the floor (or `lift` above it).

    Args:
        pose: the angles.
        build: the lengths.
        num_frames: T.
        follow_hips: keep the hips at x = z = 0, for a body that travels with its camera; otherwise the feet.
    """
    torso = _torso_axes(pose, num_frames)
    hips = [_vector(sign * build.hip, 0.0, 0.0, num_frames) for sign in (1, -1)]
    legs = [
        _chain(hip, leg, sign, (build.thigh, build.shin), num_frames)
        for hip, leg, sign in zip(hips, (pose.left_leg, pose.right_leg), (1, -1), strict=True)
    ]
    toes = [
        ankle + build.foot * _foot(leg, sign, num_frames) - [0.0, 0.6 * build.ankle, 0.0]
        for (_, ankle), leg, sign in zip(legs, (pose.left_leg, pose.right_leg), (1, -1), strict=True)
    ]
    chest = build.torso * torso[..., 1]
    shoulders = [chest + sign * build.shoulder * torso[..., 0] for sign in (1, -1)]
    arms = [
        _chain(shoulder, arm, sign, (build.upper_arm, build.forearm), num_frames, torso)
        for shoulder, arm, sign in zip(shoulders, (pose.left_arm, pose.right_arm), (1, -1), strict=True)
    ]
    ankles = np.stack([ankle for _, ankle in legs])
    lowest = np.minimum(
        ankles[..., 1].min(0) - build.ankle, np.stack(toes)[..., 1].min(0) - 0.4 * build.ankle
    )
    origin = np.zeros((num_frames, 3)) if follow_hips else ankles.mean(0)
    origin[:, 1] = lowest - pose.lift
    return Joints(
        hips=np.stack(hips) - origin,
        knees=np.stack([knee for knee, _ in legs]) - origin,
        ankles=ankles - origin,
        toes=np.stack(toes) - origin,
        shoulders=np.stack(shoulders) - origin,
        elbows=np.stack([elbow for elbow, _ in arms]) - origin,
        wrists=np.stack([wrist for _, wrist in arms]) - origin,
        chest=chest - origin,
        head=chest + build.neck * torso[..., 1] - origin,
        facing=torso[..., 2],
    )


def _vector(x: Curve, y: Curve, z: Curve, num_frames: int) -> Array:
    return np.stack(
        [np.broadcast_to(np.asarray(axis, np.float64), num_frames) for axis in (x, y, z)], axis=-1
    )


def _torso_axes(pose: Pose, num_frames: int) -> Array:
    """[T, 3, 3]: the columns are the torso's own x (to the left shoulder), y (to the head) and z (front)."""
    turn, pitch = np.radians(pose.torso_turn), np.radians(pose.torso_forward)
    across = _vector(np.cos(turn), 0.0, np.sin(turn), num_frames)
    up = _vector(0.0, np.cos(pitch), np.sin(pitch), num_frames)
    front = np.cross(across, up)
    front /= np.linalg.norm(front, axis=-1, keepdims=True)
    return np.stack([np.cross(up, front), up, front], axis=-1)


def _bone(side: Curve, forward: Curve, sign: int, num_frames: int) -> Array:
    """The unit vector along a bone, see the top of this file."""
    a, b = np.radians(side), np.radians(forward)
    return _vector(sign * np.sin(a) * np.cos(b), -np.cos(a) * np.cos(b), np.sin(b), num_frames)


def _chain(
    start: Array,
    limb: Limb,
    sign: int,
    lengths: tuple[float, float],
    num_frames: int,
    axes: Array | None = None,
) -> tuple[Array, Array]:
    """The ends of the upper and of the lower bone."""
    upper = lengths[0] * _bone(limb.upper_side, limb.upper_forward, sign, num_frames)
    lower = lengths[1] * _bone(limb.lower_side, limb.lower_forward, sign, num_frames)
    if axes is not None:
        upper, lower = (np.einsum("tij,tj->ti", axes, bone) for bone in (upper, lower))
    return start + upper, start + upper + lower


def _foot(leg: Limb, sign: int, num_frames: int) -> Array:
    """From the ankle to the toes: turned out a little, pitched down by part of the shin's lean."""
    out, pitch = np.radians(14.0) * sign, np.radians(0.75 * np.asarray(leg.lower_forward))
    return _vector(np.sin(out) * np.cos(pitch), np.sin(pitch), np.cos(out) * np.cos(pitch), num_frames)
