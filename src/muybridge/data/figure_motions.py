"""How the figures move: each action is a pose for every phase of its cycle, in degrees (see figure_skeleton).

Nothing but the direction of time separates the members of a pair, so no single frame can: the poses of one
are the poses of the other in reverse, every performance starts at a random phase of an endless cycle, and
the camera follows a figure that travels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from muybridge.data.figure_skeleton import Array, Limb, Pose


class Style(NamedTuple):
    """How one performance differs from another of the same action.

    Attributes:
        amplitude: factor on how far the limbs swing.
        stance: degrees between each leg and the vertical.
        slack: degrees that a straight arm is bent.
        is_mirrored: the other hand (or foot) does it.
    """

    amplitude: float = 1.0
    stance: float = 4.0
    slack: float = 8.0
    is_mirrored: bool = False


@dataclass(frozen=True, kw_only=True)
class Motion:
    """One action.

    Attributes:
        pose: the body at each phase (in cycles) in a style.
        cycles_per_second: how fast.
        view_degrees: range of the turn away from the camera, to either side.
        travel: (x, z) that one cycle moves the body along; the camera follows.
        is_backwards: the cycle is played from its end to its beginning.
        is_chiral: its mirror image is its time reversal, so a mirrored performance is played the other way
            round to stay the same action.
    """

    pose: Callable[[Array, Style], Pose]
    cycles_per_second: float
    view_degrees: tuple[float, float]
    travel: tuple[float, float] = (0.0, 0.0)
    is_backwards: bool = False
    is_chiral: bool = False

    def perform(self, cycles: Array, style: Style) -> Pose:
        """The body after so many cycles of the action, in the direction of time that it has.

        Shape:
            cycles [T]
        """
        is_reversed = self.is_backwards != (self.is_chiral and style.is_mirrored)
        pose = self.pose(-cycles if is_reversed else cycles, style)
        return pose.mirrored() if style.is_mirrored else pose


def _swing(phase: Array, low: float, high: float) -> Array:
    """From `low` at phase 0 to `high` at 1/2 and back."""
    return low + (high - low) * (1 - np.cos(2 * np.pi * phase)) / 2


def _bump(phase: Array, at: float, power: float) -> Array:
    """1 at phase `at`, falling to 0 half a cycle away; the higher the power, the narrower."""
    bump: Array = ((1 + np.cos(2 * np.pi * (phase - at))) / 2) ** power
    return bump


def _standing(style: Style) -> Limb:
    return Limb(style.stance, 0.0, style.stance, 0.0)


def _hanging(style: Style) -> Limb:
    return Limb(10.0, 0.0, 6.0, style.slack)


def _walk(phase: Array, style: Style) -> Pose:
    def leg(phase: Array) -> Limb:
        thigh = 4 + 25 * style.amplitude * np.cos(2 * np.pi * phase)
        knee = 5 + 56 * _bump(phase, 0.73, 2.5) + 9 * _bump(phase, 0.12, 3)
        return Limb(1.5, thigh, 1.5, thigh - knee)

    def arm(phase: Array) -> Limb:
        shoulder = -24 * style.amplitude * np.cos(2 * np.pi * phase)
        return Limb(8.0, shoulder, 3.0, shoulder + 12 + style.slack)

    return Pose(
        left_arm=arm(phase),
        right_arm=arm(phase + 0.5),
        left_leg=leg(phase),
        right_leg=leg(phase + 0.5),
        torso_forward=3.0,
        torso_turn=-7 * np.cos(2 * np.pi * phase),
    )


def _run(phase: Array, style: Style) -> Pose:
    def leg(phase: Array) -> Limb:
        thigh = 14 + 42 * style.amplitude * np.cos(2 * np.pi * phase)
        knee = 16 + 88 * _bump(phase, 0.7, 2)
        return Limb(1.0, thigh, 1.0, thigh - knee)

    def arm(phase: Array) -> Limb:
        shoulder = -6 - 42 * style.amplitude * np.cos(2 * np.pi * phase)
        return Limb(10.0, shoulder, -10.0, shoulder + 80 + style.slack)

    return Pose(
        left_arm=arm(phase),
        right_arm=arm(phase + 0.5),
        left_leg=leg(phase),
        right_leg=leg(phase + 0.5),
        torso_forward=12.0,
        torso_turn=-11 * np.cos(2 * np.pi * phase),
        lift=0.05 * _bump(2 * phase, 0.9, 1),
    )


def _jump(phase: Array, style: Style) -> Pose:
    crouch = style.amplitude * (_bump(phase, 0.22, 4) + 0.45 * _bump(phase, 0.87, 10))
    reach = _bump(phase, 0.58, 2.5)
    flight = np.clip((phase % 1 - 0.4) / 0.38, 0, 1)
    arm = Limb(12.0, 5 - 38 * crouch + 150 * reach, 6.0, 5 + style.slack - 25 * crouch + 155 * reach)
    leg = Limb(style.stance, 58 * crouch, style.stance, -46 * crouch)
    return Pose(
        left_arm=arm,
        right_arm=arm,
        left_leg=leg,
        right_leg=leg,
        torso_forward=32 * crouch,
        lift=0.14 * style.amplitude * 4 * flight * (1 - flight),
    )


def _wave_one_hand(phase: Array, style: Style) -> Pose:
    beat = style.amplitude * np.sin(2 * np.pi * phase)
    return Pose(
        left_arm=Limb(98 + 6 * beat, 12.0, 162 + 38 * beat, 10.0),
        right_arm=_hanging(style),
        left_leg=_standing(style),
        right_leg=_standing(style),
    )


def _wave_both_hands(phase: Array, style: Style) -> Pose:
    beat = style.amplitude * np.sin(2 * np.pi * phase)
    arm = Limb(132 + 10 * beat, 8.0, 168 + 34 * beat, 6.0)
    return Pose(arm, arm, _standing(style), _standing(style))


def _box(phase: Array, style: Style) -> Pose:
    def arm(punch: Array) -> Limb:
        return Limb(14 - 18 * punch, 32 + 56 * punch, -16 + 10 * punch, 132 - 42 * punch)

    left, right = _bump(phase, 0.25, 5), _bump(phase, 0.75, 5)
    bounce = 6 * np.cos(4 * np.pi * phase)
    return Pose(
        left_arm=arm(left),
        right_arm=arm(right),
        left_leg=Limb(4.0, 20 + bounce, 4.0, 2 - bounce),
        right_leg=Limb(4.0, -6 + bounce, 4.0, -26 - bounce),
        torso_forward=9.0,
        torso_turn=26 * style.amplitude * (left - right),
    )


def _clap(phase: Array, style: Style) -> Pose:
    gap = _swing(phase, 0, style.amplitude)
    arm = Limb(10 + 34 * gap, 34.0, -72 + 128 * gap, 52.0)
    return Pose(arm, arm, _standing(style), _standing(style))


def _bend(phase: Array, style: Style) -> Pose:
    depth = _swing(phase, 0, 1)
    torso = 4 + 88 * style.amplitude * depth
    arm = Limb(8.0, torso, 3.0, torso + style.slack)
    leg = Limb(style.stance, 14 * depth, style.stance, 10 * depth)
    return Pose(arm, arm, leg, leg, torso_forward=torso)


def _jumping_jack(phase: Array, style: Style) -> Pose:
    spread = _swing(phase, 0, 1)
    arm = Limb(10 + 152 * spread, 6.0, 8 + 160 * spread, 6.0)
    leg = Limb(2 + 25 * style.amplitude * spread, 0.0, 2 + 25 * style.amplitude * spread, 0.0)
    return Pose(arm, arm, leg, leg, lift=0.06 * style.amplitude * _bump(2 * phase, 0.5, 1))


def _arm_circle(phase: Array, style: Style) -> Pose:
    """Counter-clockwise to the viewer: the left arm goes down, right in the picture, up, left."""
    turn = 360 * phase
    return Pose(
        left_arm=Limb(turn, 16.0, turn + style.slack, 16.0),
        right_arm=_hanging(style),
        left_leg=_standing(style),
        right_leg=_standing(style),
    )


def _side_step(phase: Array, style: Style) -> Pose:
    """To the picture's right: the left leg opens in the air, then the right one closes in the air."""
    spread = _swing(phase, 2.0, 2 + 25 * style.amplitude)
    open_air, close_air = (np.maximum(0, sign * np.sin(2 * np.pi * phase)) for sign in (1, -1))

    def leg(air: Array) -> Limb:
        return Limb(spread, 46 * air, spread, -44 * air)

    arm = Limb(16 + 0.9 * spread, 4.0, 8 + 0.7 * spread, 10 + style.slack)
    return Pose(arm, arm, leg(open_air), leg(close_air))


# Left, right, clockwise and counter-clockwise are those of the picture. The members of a pair share one cycle
# and differ in the direction of time alone.
MOTIONS: dict[str, Motion] = {
    "arm_circle_clockwise": Motion(
        pose=_arm_circle, cycles_per_second=0.55, view_degrees=(0, 38), is_chiral=True, is_backwards=True
    ),
    "arm_circle_counter_clockwise": Motion(
        pose=_arm_circle, cycles_per_second=0.55, view_degrees=(0, 38), is_chiral=True
    ),
    "bend": Motion(pose=_bend, cycles_per_second=0.65, view_degrees=(35, 100)),
    "box": Motion(pose=_box, cycles_per_second=1.3, view_degrees=(25, 95)),
    "clap": Motion(pose=_clap, cycles_per_second=1.9, view_degrees=(0, 60)),
    "jump": Motion(pose=_jump, cycles_per_second=0.95, view_degrees=(0, 80)),
    "jumping_jack": Motion(pose=_jumping_jack, cycles_per_second=0.95, view_degrees=(0, 50)),
    "run": Motion(pose=_run, cycles_per_second=1.45, view_degrees=(50, 97), travel=(0, 1.2)),
    "step_left": Motion(
        pose=_side_step,
        cycles_per_second=1.0,
        view_degrees=(0, 38),
        travel=(0.42, 0),
        is_chiral=True,
        is_backwards=True,
    ),
    "step_right": Motion(
        pose=_side_step, cycles_per_second=1.0, view_degrees=(0, 38), travel=(0.42, 0), is_chiral=True
    ),
    "walk": Motion(pose=_walk, cycles_per_second=0.95, view_degrees=(50, 97), travel=(0, 0.85)),
    "wave_both_hands": Motion(pose=_wave_both_hands, cycles_per_second=1.5, view_degrees=(0, 50)),
    "wave_one_hand": Motion(pose=_wave_one_hand, cycles_per_second=1.5, view_degrees=(0, 50)),
}
