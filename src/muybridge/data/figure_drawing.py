"""Draws a figure: rounded limbs in the order of their distance, seen by a camera that may stand anywhere.

Shape letters: T frames, C circles of a part, K corners of an outline.
"""

import colorsys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from muybridge.data.figure_skeleton import Array, Build, Joints

Color = tuple[int, int, int]

CAMERA_DISTANCE = 5.0  # in heights of an average figure: enough perspective to tell near from far
OUTLINE = 0.012  # width of the dark line around a limb, in heights
NUM_CORNERS = 20  # K: corners of the polygon that stands for a rounded limb
SKINS = ((247, 214, 188), (234, 190, 155), (205, 150, 110), (160, 108, 74), (112, 72, 50))
HAIRS = ((38, 32, 34), (74, 48, 34), (120, 76, 40), (206, 160, 84), (150, 150, 154), (150, 62, 34))
EYES = (30, 26, 30)
SHOES = ((36, 36, 42), (240, 240, 236), (150, 44, 48), (52, 70, 110))


@dataclass(frozen=True, kw_only=True)
class Body:
    """One person: proportions, colours, clothes."""

    build: Build
    girth: float
    head_radius: float
    skin: Color
    hair: Color
    top: Color
    trousers: Color
    shoes: Color
    has_long_sleeves: bool
    has_long_trousers: bool
    has_long_hair: bool


def random_body(rng: np.random.Generator, top_hue: float) -> Body:
    """Somebody new, in a top of that hue."""
    height, legs, shoulders = rng.uniform(0.9, 1.06), rng.uniform(0.94, 1.06), rng.uniform(0.9, 1.14)
    arms, girth = rng.uniform(0.94, 1.06), rng.uniform(0.88, 1.25)
    default = Build()
    build = Build(
        hip=default.hip * (0.5 + 0.5 * girth),
        thigh=default.thigh * height * legs,
        shin=default.shin * height * legs,
        torso=default.torso * height * (2 - legs),
        shoulder=default.shoulder * shoulders * height,
        upper_arm=default.upper_arm * height * arms,
        forearm=default.forearm * height * arms,
    )
    trousers_hue = (top_hue + rng.uniform(0.25, 0.75)) % 1
    return Body(
        build=build,
        girth=girth,
        head_radius=rng.uniform(0.073, 0.085),
        skin=SKINS[rng.integers(len(SKINS))],
        hair=HAIRS[rng.integers(len(HAIRS))],
        top=hsv(top_hue, rng.uniform(0.5, 0.85), rng.uniform(0.65, 0.95)),
        trousers=hsv(trousers_hue, rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.6)),
        shoes=SHOES[rng.integers(len(SHOES))],
        has_long_sleeves=bool(rng.integers(2)),
        has_long_trousers=bool(rng.integers(2)),
        has_long_hair=bool(rng.integers(2)),
    )


def hsv(hue: float, saturation: float, value: float) -> Color:
    """A colour from numbers in [0, 1].

    >>> hsv(0, 1, 1)
    (255, 0, 0)
    """
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def scaled(color: Color, factor: float) -> Color:
    """Darker below 1, lighter above.

    >>> scaled((100, 200, 40), 1.5)
    (150, 255, 60)
    """
    red, green, blue = (min(255, round(channel * factor)) for channel in color)
    return red, green, blue


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Where a figure is seen from, and where it stands in the picture.

    Attributes:
        turn_degrees: the figure faces so far to the picture's right of the camera.
        tilt_degrees: how far the camera looks down.
        height_px: an average figure's height.
        floor_px: row of the floor under it.
        center_px: [T], its column.
    """

    turn_degrees: float
    tilt_degrees: float
    height_px: float
    floor_px: float
    center_px: Array

    def project(self, points: Array) -> tuple[Array, Array]:
        """Columns and rows in the picture, and how near: larger is nearer.

        Shape:
            points [..., T, 3] -> [..., T, 2] and [..., T]
        """
        turn, tilt = np.radians(self.turn_degrees), np.radians(self.tilt_degrees)
        x, y, z = np.moveaxis(points, -1, 0)
        x, z = x * np.cos(turn) + z * np.sin(turn), z * np.cos(turn) - x * np.sin(turn)
        y, z = y * np.cos(tilt) - z * np.sin(tilt), z * np.cos(tilt) + y * np.sin(tilt)
        scale_px = self.height_px * CAMERA_DISTANCE / (CAMERA_DISTANCE - z)
        return np.stack([self.center_px + x * scale_px, self.floor_px - y * scale_px], axis=-1), z

    def across(self, x: float, z: float) -> float:
        """How far a step of (x, z) on the floor goes to the right in the picture, in pixels."""
        turn = np.radians(self.turn_degrees)
        return float(self.height_px * (x * np.cos(turn) + z * np.sin(turn)))


class Part(NamedTuple):
    """The hull of one or more balls of one colour: one is a ball, two are a limb.

    Attributes:
        centers: [C, T, 3].
        radii: [C].
        color: in the light.
    """

    centers: Array
    radii: tuple[float, ...]
    color: Color


class Group(NamedTuple):
    """Parts that are drawn together, in this order; `bias` lifts them over others at the same distance."""

    parts: tuple[Part, ...]
    bias: float


def parts_of(body: Body, joints: Joints) -> tuple[Group, ...]:
    """A person as groups of rounded parts."""
    hips = Part(joints.hips, (0.062 * body.girth,) * 2, body.trousers)
    legs = [Group(_leg(body, joints, side), -0.08) for side in (0, 1)]
    arms = [Group(_arm(body, joints, side), 0.05) for side in (0, 1)]
    head = _head(body, joints)
    return (Group((hips,), -0.16), *legs, Group(_torso(body, joints), 0.0), *head, *arms)


def _leg(body: Body, joints: Joints, side: int) -> tuple[Part, ...]:
    g = body.girth
    hip, knee, ankle, toe = (
        points[side] for points in (joints.hips, joints.knees, joints.ankles, joints.toes)
    )
    cuff = hip + 0.85 * (knee - hip)
    skin = body.trousers if body.has_long_trousers else body.skin
    return (
        Part(np.stack([ankle, toe]), (0.032, 0.027), body.shoes),
        Part(np.stack([knee, ankle]), (0.042 * g, 0.03 * g), skin),
        Part(np.stack([hip, knee]), (0.058 * g, 0.043 * g), skin),
        Part(np.stack([hip, cuff]), (0.06 * g, 0.05 * g), body.trousers),
    )


def _arm(body: Body, joints: Joints, side: int) -> tuple[Part, ...]:
    g = body.girth
    shoulder, elbow, wrist = (points[side] for points in (joints.shoulders, joints.elbows, joints.wrists))
    hand = wrist + 0.12 * (wrist - elbow)
    sleeve = body.top if body.has_long_sleeves else body.skin
    cuff = shoulder + 0.7 * (elbow - shoulder)
    return (
        Part(np.stack([wrist, hand]), (0.026, 0.031), body.skin),
        Part(np.stack([elbow, wrist]), (0.034 * g, 0.027 * g), sleeve),
        Part(np.stack([shoulder, elbow]), (0.04 * g, 0.034 * g), sleeve),
        Part(np.stack([shoulder, cuff]), (0.043 * g, 0.041 * g), body.top),
    )


def _torso(body: Body, joints: Joints) -> tuple[Part, ...]:
    g = body.girth
    hips, shoulders = joints.hips, joints.shoulders
    middle = hips.mean(0)
    waist = [middle + 0.25 * (joints.chest - middle) + 0.9 * (hip - middle) for hip in hips]
    return (
        Part(np.stack([joints.chest, joints.head]), (0.034, 0.03), body.skin),
        Part(
            np.stack([*(0.94 * shoulders + 0.06 * middle), *waist]),
            (0.046 * g,) * 2 + (0.058 * g,) * 2,
            body.top,
        ),
    )


def _head(body: Body, joints: Joints) -> list[Group]:
    """Hair, face and eyes apart: which of them is in front depends on where the head looks."""
    r = body.head_radius
    up = (joints.head - joints.chest) / np.linalg.norm(joints.head - joints.chest, axis=-1, keepdims=True)
    front = joints.facing
    side = np.cross(up, front)
    hair = joints.head + r * (0.16 * up - 0.26 * front)
    eyes = [joints.head + r * (0.94 * front + 0.38 * sign * side + 0.05 * up) for sign in (1, -1)]
    groups = [
        Group((Part(hair[None], (1.04 * r,), body.hair),), 0.03),
        Group((Part((joints.head + 0.12 * r * front)[None], (0.95 * r,), body.skin),), 0.05),
        *(Group((Part(eye[None], (0.12 * r,), EYES),), 0.05) for eye in eyes),
    ]
    if body.has_long_hair:
        ends = joints.head - r * (0.9 * up + 0.65 * front)
        groups.append(Group((Part(np.stack([hair, ends]), (0.9 * r, 0.7 * r), body.hair),), -0.04))
    return groups


def outlines(part: Part, camera: Camera) -> tuple[Array, Array]:
    """The dark rim, the body and the light of a part as polygons, and how near it is.

    Shape:
        [3, T, K, 2] in pixels, and [T]
    """
    centers, near = camera.project(part.centers)
    radii = np.asarray(part.radii)[:, None] * camera.height_px * CAMERA_DISTANCE / (CAMERA_DISTANCE - near)
    angles = 2 * np.pi * np.arange(NUM_CORNERS) / NUM_CORNERS
    normals = np.stack([np.cos(angles), np.sin(angles)], axis=-1)  # [K, 2]
    # The hull of discs touches the line with normal n at the disc that reaches farthest along n.
    reach = np.einsum("ctd,kd->ctk", centers, normals) + radii[..., None]
    first = reach.argmax(0)  # [T, K]
    frames = np.arange(first.shape[0])[:, None]
    center, radius = centers[first, frames], radii[first, frames][..., None]
    rim = center + (radius + np.minimum(OUTLINE * camera.height_px, 0.35 * radius)) * normals
    light = center + 0.55 * radius * normals - 0.24 * radius
    return np.stack([rim, center + radius * normals, light]), near.mean(0)


def draw(pictures: Sequence[Image.Image], body: Body, joints: Joints, camera: Camera) -> None:
    """Draws a person into T pictures.

    Args:
        pictures: T RGB images; they are drawn on.
        body: who.
        joints: how.
        camera: from where.
    """
    groups = parts_of(body, joints)
    drawn = [[outlines(part, camera) for part in group.parts] for group in groups]
    corners = [[polygons.reshape(3, len(pictures), -1).tolist() for polygons, _ in group] for group in drawn]
    colors = [[_shades(part.color) for part in group.parts] for group in groups]
    depths = [
        np.mean([near for _, near in parts], axis=0) + group.bias
        for parts, group in zip(drawn, groups, strict=True)
    ]
    order = np.argsort(depths, axis=0, kind="stable")
    shadows = list(_shadows(joints, camera))
    for t, picture in enumerate(pictures):
        ImageDraw.Draw(picture, "RGBA").polygon(shadows[t], fill=(0, 0, 0, 70))
        canvas = ImageDraw.Draw(picture)
        for i in order[:, t].tolist():
            # First the rims of all parts, then the parts: a bent knee has no line across it.
            for (rim, _, _), (dark, _, _) in zip(corners[i], colors[i], strict=True):
                canvas.polygon(rim[t], fill=dark)
            for (_, whole, light), (_, color, bright) in zip(corners[i], colors[i], strict=True):
                canvas.polygon(whole[t], fill=color)
                canvas.polygon(light[t], fill=bright)


def _shades(color: Color) -> tuple[Color, Color, Color]:
    """Of the rim, the body and the light of a part."""
    return scaled(color, 0.42), color, scaled(color, 1.16)


def _shadows(joints: Joints, camera: Camera) -> Iterator[list[tuple[float, float]]]:
    """A flat ellipse on the floor below the hips, smaller when the feet leave the floor."""
    ground = joints.hips.mean(0) * [1.0, 0.0, 1.0]
    center, _ = camera.project(ground)
    lift = np.minimum(joints.ankles[..., 1].min(0), 0.5)
    angles = 2 * np.pi * np.arange(NUM_CORNERS) / NUM_CORNERS
    for (x, y), up in zip(center, lift, strict=True):
        width = camera.height_px * 0.24 * (1 - up)
        yield [(float(x + width * np.cos(a)), float(y + 0.2 * width * np.sin(a))) for a in angles]
