"""Draws docs/figures.jpg, the picture of the README, one action of the figures a row: `make docs`."""

from itertools import islice
from pathlib import Path

from PIL import Image

from muybridge.data.figures import ClipPlan, frames

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "figures.jpg"
ROWS = ("walk", "jumping_jack", "wave_one_hand", "bend", "box", "step_left")
COLUMNS = 8
FRAME_STEP = 4


def picture() -> Image.Image:
    """One person and one place a row, time from left to right."""
    strips = []
    for group, action in enumerate(ROWS):
        clip = frames(ClipPlan(action=action, group=group, clip=0, seed=0))
        strips.append([Image.fromarray(frame) for frame in islice(clip, 0, COLUMNS * FRAME_STEP, FRAME_STEP)])
    width, height = strips[0][0].size
    sheet = Image.new("RGB", (width * COLUMNS, height * len(ROWS)))
    for row, strip in enumerate(strips):
        for column, image in enumerate(strip):
            sheet.paste(image, (column * width, row * height))
    return sheet


if __name__ == "__main__":
    picture().save(PICTURE, quality=82)
    print(f"docs/{PICTURE.name}: {PICTURE.stat().st_size // 1000} kB")
