"""Where the figures move: places to pass by, drawn as a strip whose right end meets its left end."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from muybridge.data.figure_drawing import Color, hsv, scaled

Rng = np.random.Generator

STRIP_HEIGHTS = 4  # length of the strip in heights of the picture
HAZE = (226, 226, 222)  # mixed into places, as air is: the figures stand out against them
HAZE_PART = 0.45
HORIZON = 0.8  # where the wall meets the floor, in heights of the picture


def random_scene(rng: Rng, kind: int, height_px: int) -> Image.Image:
    """A place of the n-th kind: an RGB strip of `height_px` rows and STRIP_HEIGHTS times as many columns."""
    strip = Image.new("RGB", (STRIP_HEIGHTS * height_px, height_px))
    canvas = ImageDraw.Draw(strip)
    SCENES[kind % len(SCENES)](canvas, rng, height_px)
    return Image.blend(strip, Image.new("RGB", strip.size, HAZE), HAZE_PART)


def _studio(canvas: ImageDraw.ImageDraw, rng: Rng, h: int) -> None:
    """A plain wall and a plain floor with marks of tape."""
    wall = _wall_color(rng)
    _fill(canvas, h, wall, scaled(wall, 0.86))
    for i in range(8):
        x, y = int((i + rng.uniform(0.1, 0.6)) * h / 2), int(h * rng.uniform(0.83, 0.95))
        canvas.line([x, y, x + h // 7, y], fill=scaled(wall, 0.35), width=max(1, h // 50))


def _gradient(canvas: ImageDraw.ImageDraw, rng: Rng, h: int) -> None:
    """A wall that darkens towards the top, with pillars, and a planked floor."""
    wall = _wall_color(rng)
    floor = hsv(rng.uniform(0.05, 0.12), rng.uniform(0.25, 0.5), rng.uniform(0.5, 0.75))
    _shade(canvas, h, 0, int(HORIZON * h), scaled(wall, 0.62), wall)
    for i in range(2 * STRIP_HEIGHTS):
        x = int((i + rng.uniform(0.0, 0.5)) * h / 2)
        canvas.rectangle(
            [x, 0, x + int(rng.uniform(0.02, 0.06) * h), int(HORIZON * h)], fill=scaled(wall, 0.7)
        )
    _shade(canvas, h, int(HORIZON * h), h, scaled(floor, 0.8), scaled(floor, 1.1))
    _planks(canvas, h, scaled(floor, 0.5))


def _bricks(canvas: ImageDraw.ImageDraw, rng: Rng, h: int) -> None:
    """A brick wall and a pavement."""
    brick = hsv(rng.uniform(0.0, 0.09), rng.uniform(0.2, 0.5), rng.uniform(0.55, 0.85))
    pavement = hsv(0.6, 0.06, rng.uniform(0.5, 0.75))
    _fill(canvas, h, scaled(brick, 1.16), pavement)
    num_rows = int(rng.integers(9, 15))
    row = HORIZON * h / num_rows
    num_columns = STRIP_HEIGHTS * int(rng.integers(4, 7))
    column = STRIP_HEIGHTS * h / num_columns
    gap = max(1, h // 110)
    for i in range(num_rows):
        for j in range(num_columns + 1):
            left, shade = (j - 0.5 * (i % 2)) * column, 0.9 + 0.2 * ((7 * i + 13 * (j % num_columns)) % 5) / 5
            box = [int(left) + gap, int(i * row) + gap, int(left + column) - gap, int((i + 1) * row) - gap]
            canvas.rectangle(box, fill=scaled(brick, shade))
    _planks(canvas, h, scaled(pavement, 0.5))


def _wallpaper(canvas: ImageDraw.ImageDraw, rng: Rng, h: int) -> None:
    """Striped wallpaper with pictures, over a carpet."""
    wall = _wall_color(rng)
    carpet = hsv(rng.uniform(), rng.uniform(0.2, 0.5), rng.uniform(0.35, 0.6))
    _fill(canvas, h, wall, carpet)
    num_stripes = STRIP_HEIGHTS * int(rng.integers(3, 7))
    stripe = STRIP_HEIGHTS * h / num_stripes
    for i in range(num_stripes):
        box = [int(i * stripe), 0, int((i + 0.5) * stripe), int(HORIZON * h)]
        canvas.rectangle(box, fill=scaled(wall, 0.9))
    for i in range(STRIP_HEIGHTS):
        _picture(canvas, rng, h, (i + rng.uniform(0.1, 0.5)) * h)
        x = int((i + rng.uniform(0.2, 0.8)) * h)
        canvas.ellipse([x, int(0.86 * h), x + h // 5, int(0.91 * h)], fill=scaled(carpet, 1.7))
    canvas.rectangle(
        [0, int((HORIZON - 0.03) * h), STRIP_HEIGHTS * h, int(HORIZON * h)], fill=scaled(wall, 1.2)
    )


def _room(canvas: ImageDraw.ImageDraw, rng: Rng, h: int) -> None:
    """Windows, shelves, cabinets and pictures."""
    wall = _wall_color(rng)
    floor = hsv(rng.uniform(0.04, 0.12), rng.uniform(0.3, 0.6), rng.uniform(0.4, 0.7))
    _fill(canvas, h, wall, floor)
    _planks(canvas, h, scaled(floor, 0.5))
    canvas.rectangle(
        [0, int((HORIZON - 0.025) * h), STRIP_HEIGHTS * h, int(HORIZON * h)], fill=scaled(wall, 0.7)
    )
    furniture = (_window, _shelf, _cabinet, _picture)
    order = rng.permutation(6) % len(furniture)
    for i, which in enumerate(order.tolist()):
        furniture[which](canvas, rng, h, (i + rng.uniform(0.08, 0.3)) * STRIP_HEIGHTS * h / len(order))


def _park(canvas: ImageDraw.ImageDraw, rng: Rng, h: int) -> None:
    """Sky, hills, trees and a path."""
    sky = hsv(rng.uniform(0.52, 0.6), rng.uniform(0.2, 0.45), rng.uniform(0.85, 0.98))
    grass = hsv(rng.uniform(0.2, 0.34), rng.uniform(0.35, 0.6), rng.uniform(0.45, 0.7))
    _shade(canvas, h, 0, int(HORIZON * h), sky, scaled(sky, 1.12))
    columns = np.arange(STRIP_HEIGHTS * h)
    turn = 2 * np.pi * columns / len(columns)
    for level, shade in ((0.42, 1.25), (0.56, 1.1)):
        waves = np.sin(2 * turn + rng.uniform(0, 6)) + 0.6 * np.sin(5 * turn + rng.uniform(0, 6))
        rows = (level + 0.05 * waves) * h
        hill = [
            (0.0, float(h)),
            *zip(columns.tolist(), rows.tolist(), strict=True),
            (float(len(columns)), float(h)),
        ]
        canvas.polygon(hill, fill=scaled(grass, shade))
    for i in range(7):
        _tree(canvas, rng, h, (i + rng.uniform(0.3, 0.7)) * len(columns) / 7, grass)
    canvas.rectangle([0, int(HORIZON * h), len(columns), h], fill=grass)
    path = hsv(0.1, 0.25, rng.uniform(0.65, 0.85))
    canvas.rectangle([0, int(0.83 * h), len(columns), int(0.97 * h)], fill=path)
    for i in range(24):
        x, y = int((i + rng.uniform(0, 0.7)) * len(columns) / 24), int(rng.uniform(0.85, 0.94) * h)
        canvas.ellipse([x, y, x + h // 25, y + h // 60], fill=scaled(path, 0.75))


def _wall_color(rng: Rng) -> Color:
    return hsv(rng.uniform(), rng.uniform(0.05, 0.3), rng.uniform(0.6, 0.92))


def _fill(canvas: ImageDraw.ImageDraw, h: int, wall: Color, floor: Color) -> None:
    canvas.rectangle([0, 0, STRIP_HEIGHTS * h, int(HORIZON * h)], fill=wall)
    canvas.rectangle([0, int(HORIZON * h), STRIP_HEIGHTS * h, h], fill=floor)


def _shade(canvas: ImageDraw.ImageDraw, h: int, top: int, bottom: int, first: Color, last: Color) -> None:
    for y in range(top, bottom):
        part = (y - top) / max(1, bottom - top - 1)
        red, green, blue = (round(a + part * (b - a)) for a, b in zip(first, last, strict=True))
        canvas.line([0, y, STRIP_HEIGHTS * h, y], fill=(red, green, blue))


def _planks(canvas: ImageDraw.ImageDraw, h: int, color: Color) -> None:
    for i in range(-2, 4 * STRIP_HEIGHTS + 1):
        x = i * h // 4
        canvas.line([x + h // 8, int(HORIZON * h), x, h], fill=color, width=max(1, h // 80))


def _picture(canvas: ImageDraw.ImageDraw, rng: Rng, h: int, x: float) -> None:
    width, height, top = (
        int(h * rng.uniform(*limits)) for limits in ((0.16, 0.3), (0.14, 0.24), (0.12, 0.25))
    )
    left, rim = int(x), max(1, h // 60)
    canvas.rectangle([left, top, left + width, top + height], fill=hsv(0.09, 0.5, rng.uniform(0.3, 0.6)))
    inner = [left + rim, top + rim, left + width - rim, top + height - rim]
    canvas.rectangle(inner, fill=hsv(rng.uniform(), rng.uniform(0.2, 0.5), rng.uniform(0.6, 0.9)))


def _window(canvas: ImageDraw.ImageDraw, rng: Rng, h: int, x: float) -> None:
    width, height, top, left, rim = int(0.36 * h), int(0.4 * h), int(0.12 * h), int(x), max(1, h // 50)
    canvas.rectangle([left, top, left + width, top + height], fill=(236, 234, 228))
    for i in range(2):
        for j in range(2):
            box_left, box_top = left + rim + i * (width - rim) // 2, top + rim + j * (height - rim) // 2
            box = [box_left, box_top, box_left + width // 2 - 2 * rim, box_top + height // 2 - 2 * rim]
            canvas.rectangle(box, fill=hsv(0.56, 0.3 - 0.1 * j, 0.9 + 0.05 * rng.uniform()))


def _shelf(canvas: ImageDraw.ImageDraw, rng: Rng, h: int, x: float) -> None:
    width, top, left, bottom = int(0.38 * h), int(0.2 * h), int(x), int((HORIZON + 0.02) * h)
    wood = hsv(0.08, rng.uniform(0.35, 0.6), rng.uniform(0.35, 0.65))
    canvas.rectangle([left, top, left + width, bottom], fill=wood)
    board = (bottom - top) // 4
    for i in range(4):
        level, book = top + i * board + h // 50, left + h // 50
        canvas.rectangle(
            [book, level, left + width - h // 50, level + board - h // 25], fill=scaled(wood, 0.6)
        )
        while book < left + width - h // 9:
            thick, tall = int(h * rng.uniform(0.02, 0.045)), int(board * rng.uniform(0.5, 0.78))
            box = [book, level + board - h // 25 - tall, book + thick, level + board - h // 25]
            canvas.rectangle(box, fill=hsv(rng.uniform(), rng.uniform(0.2, 0.55), rng.uniform(0.45, 0.8)))
            book += thick + 1


def _cabinet(canvas: ImageDraw.ImageDraw, rng: Rng, h: int, x: float) -> None:
    width, top, left, bottom = int(0.42 * h), int(0.5 * h), int(x), int((HORIZON + 0.03) * h)
    wood = hsv(rng.uniform(0.03, 0.13), rng.uniform(0.25, 0.6), rng.uniform(0.4, 0.75))
    canvas.rectangle([left, top, left + width, bottom], fill=wood)
    for i in range(2):
        door = [
            left + h // 60 + i * width // 2,
            top + h // 40,
            left + (i + 1) * width // 2 - h // 60,
            bottom - h // 40,
        ]
        canvas.rectangle(door, fill=scaled(wood, 0.85))
    canvas.rectangle(
        [left + width // 3, top - h // 7, left + width // 3 + h // 12, top], fill=hsv(rng.uniform(), 0.4, 0.7)
    )


def _tree(canvas: ImageDraw.ImageDraw, rng: Rng, h: int, x: float, grass: Color) -> None:
    top, spread = int(h * rng.uniform(0.2, 0.4)), h * rng.uniform(0.09, 0.14)
    canvas.rectangle([int(x - h / 50), top, int(x + h / 50), int((HORIZON + 0.01) * h)], fill=(104, 78, 58))
    leaves = scaled(grass, rng.uniform(0.6, 0.85))
    for dx, dy in ((-0.6, 0.25), (0.6, 0.25), (0.0, -0.3)):
        left, upper = x + dx * spread - spread, top + dy * spread - spread
        box = [int(left), int(upper), int(left + 2 * spread), int(upper + 2 * spread)]
        canvas.ellipse(box, fill=leaves)


SCENES: tuple[Callable[[ImageDraw.ImageDraw, Rng, int], None], ...] = (
    _room,
    _park,
    _bricks,
    _studio,
    _gradient,
    _wallpaper,
)
