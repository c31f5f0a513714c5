"""Pictures of clips, scores and runs, as Pillow images. Matplotlib is used without its global state.

Shape letters: T frames, H height, W width, K classes.
"""

import io
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from muybridge.types import Clip, Prediction

__all__ = ["confusion_figure", "contact_sheet", "learning_curve", "probability_bars", "to_image"]

PAPER = "#ffffff"
INK = "#1f2430"
MUTED = "#6b7280"
RULE = "#d9dce3"
BLUE = "#2563a8"  # right, and what was tested
ORANGE = "#d9662b"  # wrong
GREY = "#a9b4c4"  # the rest, and what was trained on
NIGHT = (20, 22, 28)  # around the frames of a contact sheet, as on the plates of 1887
NIGHT_INK = (176, 182, 194)
DPI = 160
MAX_LABEL_EM = 15.0  # width of a label, in units of its font's size
MAX_COUNTED_CLASSES = 30  # with more, the cells of a confusion matrix are too small for numbers
MAX_NAMED_CLASSES = 130  # with more, its rows are too small for names


def contact_sheet(
    clip: Clip, *, columns: int = 8, max_frames: int = 16, tile_width_px: int = 168
) -> Image.Image:
    """Frames side by side, each with the second at which it is shown.

    Args:
        clip: the frames.
        columns: frames in a row.
        max_frames: of a longer clip, so many are taken, evenly from its first to its last.
        tile_width_px: width of each frame in the picture.
    """
    if columns < 1 or max_frames < 1 or tile_width_px < 1:
        raise ValueError(
            f"columns, max_frames and tile_width_px must be at least 1, got {columns}, {max_frames}, "
            f"{tile_width_px}"
        )
    picks = _evenly(len(clip), max_frames)
    columns = min(columns, len(picks))
    rows = math.ceil(len(picks) / columns)
    height, width = clip.frames.shape[1:3]
    tile = (tile_width_px, max(1, round(tile_width_px * height / width)))
    gap, caption = max(4, tile_width_px // 24), max(14, tile_width_px // 7)
    font = _font(max(9, round(caption * 0.62)))
    sheet = Image.new(
        "RGB",
        (columns * (tile[0] + gap) + gap, rows * (tile[1] + caption) + 2 * gap),
        NIGHT,
    )
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(picks):
        left = gap + place % columns * (tile[0] + gap)
        top = gap + place // columns * (tile[1] + caption)
        frame = Image.fromarray(np.ascontiguousarray(clip.frames[index]))
        sheet.paste(frame.resize(tile, Image.Resampling.LANCZOS), (left, top))
        place_text = (left + tile[0] / 2, top + tile[1] + caption * 0.5)
        draw.text(place_text, f"{clip.seconds[index]:.2f} s", NIGHT_INK, font, anchor="mm")
    return sheet


def probability_bars(prediction: Prediction, *, truth: Sequence[str] = ()) -> Image.Image:
    """The best labels of a video as bars, best first.

    Args:
        prediction: labels and scores.
        truth: the labels it has, where they are known: their bars are blue, a wrong best one is orange.
    """
    count = len(prediction.labels)
    figure = Figure(figsize=(5.6, 0.42 * count + 0.24), dpi=DPI, facecolor=PAPER)
    axes = figure.add_axes((0.38, 0.03, 0.49, 0.94))
    for place, (label, score) in enumerate(zip(prediction.labels, prediction.scores, strict=True)):
        is_best, is_true = place == 0, label in truth
        color = BLUE if is_true or (is_best and not truth) else ORANGE if is_best else GREY
        weight = "bold" if is_best else "normal"
        axes.barh(place, 1.0, height=0.58, color="#f1f3f6")
        axes.barh(place, score, height=0.58, color=color)
        axes.text(
            -0.025, place, _short(label), ha="right", va="center", fontsize=9.5, color=INK, weight=weight
        )
        axes.text(
            1.025, place, _percent(score), ha="left", va="center", fontsize=9.5, color=INK, weight=weight
        )
    axes.set(xlim=(0, 1), ylim=(count - 0.5, -0.5))
    axes.axis("off")
    return to_image(figure)


def learning_curve(rows: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Loss and accuracy over the epochs of a run.

    Args:
        rows: objects of a run's log.jsonl; those of kind "epoch" are drawn, with `loss` and `accuracy` of
            training and, where there was a validation, `val_loss` and `val_top1`.

    Raises:
        ValueError: no row of an epoch.
    """
    epochs = [row for row in rows if row.get("kind", "epoch") == "epoch" and "epoch" in row]
    if not epochs:
        raise ValueError("the log holds no finished epoch: there is no curve to draw yet")
    figure = Figure(figsize=(9.0, 3.1), dpi=DPI, facecolor=PAPER)
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.06, right=0.9, top=0.88, bottom=0.15, wspace=0.42)
    _curves(left, "Loss", epochs, ("loss", "val_loss"))
    _curves(right, "Accuracy", epochs, ("accuracy", "val_top1"), top=1.0)
    return to_image(figure)


def confusion_figure(matrix: npt.ArrayLike, labels: Sequence[str]) -> Image.Image:
    """Truth in rows, answers in columns: blue on the diagonal is right, orange is wrong.

    The colour is the part of the row; up to 30 classes the cells also have their counts, from 131 classes on
    rows and columns have numbers for names. A class that no video has is a grey row.

    Shape:
        matrix [K, K], counts
    """
    counts = np.asarray(matrix)
    num_classes = len(labels)
    if counts.shape != (num_classes, num_classes):
        raise ValueError(
            f"{num_classes} labels need a matrix [{num_classes}, {num_classes}], got {counts.shape}"
        )
    named = num_classes <= MAX_NAMED_CLASSES
    cell = min(0.5, max(0.1, 9.0 / num_classes)) if named else 10.0 / num_classes  # inches
    font_size = min(10.0, max(3.6, cell * 72 * 0.62)) if named else 7.0
    names = [_short(label) for label in labels] if named else ["000"]
    margin = max(_width_em(name) for name in names) * font_size / 72 + 0.4
    side = cell * num_classes
    width, height = margin + side + 0.15, margin + side + 0.15
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER)
    axes = figure.add_axes((margin / width, 0.15 / height, side / width, side / height))
    axes.imshow(_confusion_colors(counts), interpolation="nearest", aspect="equal")
    axes.tick_params(length=0, pad=3, labeltop=True, labelbottom=False, labelsize=font_size, labelcolor=INK)
    axes.spines[:].set_visible(False)
    if named:
        _name_cells(axes, names, line_width=min(1.5, cell * 3))
    small = max(7.0, font_size * 0.9)
    figure.text(
        *(0.08 / width, (0.15 + side / 2) / height, "truth"),
        rotation=90,
        ha="left",
        va="center",
        color=MUTED,
        fontsize=small,
    )
    figure.text(
        *((margin + side / 2) / width, 1 - 0.06 / height, "taken for"),
        ha="center",
        va="top",
        color=MUTED,
        fontsize=small,
    )
    if num_classes <= MAX_COUNTED_CLASSES:
        _write_counts(axes, counts, font_size)
    return to_image(figure)


def to_image(figure: Figure) -> Image.Image:
    """The pixels of a Matplotlib figure."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI)  # needs no window: a bare Figure draws with Agg
    with Image.open(png) as image:
        return image.convert("RGB")


def _curves(
    axes: Axes,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    names: tuple[str, str],
    *,
    top: float | None = None,
) -> None:
    """One quantity: of training in grey, of validation in blue, named at the ends of the lines."""
    ends: list[tuple[float, str, str]] = []
    highest = 0.0
    for name, text, color in zip(names, ("training", "validation"), (GREY, BLUE), strict=True):
        points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        marker = "o" if len(points) <= 40 else ""
        axes.plot(x, y, color=color, linewidth=2, marker=marker, markersize=3.5, clip_on=False, zorder=3)
        ends.append((y[-1], text, MUTED if color == GREY else color))
        highest = max(highest, *y)
    axes.set_ylim(0, top or highest * 1.05 or 1.0)
    axes.margins(x=0.02)
    axes.set_title(title, loc="left", fontsize=11, color=INK, weight="bold", pad=8)
    axes.set_xlabel("epoch", fontsize=9, color=MUTED)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0)
    axes.grid(axis="y", color="#eceef2", linewidth=1)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _name_ends(axes, ends)


def _name_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names and last values right of the plot, at the height of the lines' ends but not over each other."""
    apart = 0.2  # of the plot's height: two lines of text
    top = axes.get_ylim()[1]
    heights = [min(max(value / top, 0.05), 0.93) for value, _, _ in ends]
    if len(heights) == 2 and abs(heights[0] - heights[1]) < apart:
        middle = min(max(sum(heights) / 2, 0.05 + apart / 2), 0.93 - apart / 2)
        sign = 1 if ends[0][0] >= ends[1][0] else -1
        heights = [middle + sign * apart / 2, middle - sign * apart / 2]
    for height, (value, text, color) in zip(heights, ends, strict=True):
        axes.text(
            1.03,
            height,
            f"{text}\n{value:.3f}",
            transform=axes.transAxes,
            color=color,
            fontsize=9,
            va="center",
            linespacing=1.25,
        )


def _name_cells(axes: Axes, names: Sequence[str], *, line_width: float) -> None:
    """Names of rows and columns, and white lines between the cells."""
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    edges = np.arange(len(names) + 1) - 0.5
    axes.hlines(edges, -0.5, len(names) - 0.5, color=PAPER, linewidth=line_width)
    axes.vlines(edges, -0.5, len(names) - 0.5, color=PAPER, linewidth=line_width)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))


def _confusion_colors(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """RGB of each cell: white to blue on the diagonal, white to orange beside it, grey where a row is empty.

    Shape:
        counts [K, K]
        output [K, K, 3]
    """
    totals = counts.sum(axis=1, keepdims=True)
    parts = counts / np.maximum(totals, 1)
    strength = np.sqrt(parts)[..., None]  # the root lets a single mistake among many be seen
    full = np.where(np.eye(len(counts), dtype=bool)[..., None], _rgb(BLUE), _rgb(ORANGE))
    colors = _rgb("#f4f5f8") * (1 - strength) + full * strength
    return np.where(totals[..., None] > 0, colors, _rgb("#e3e5ea"))


def _write_counts(axes: Axes, counts: npt.NDArray[Any], font_size: float) -> None:
    dark = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)) > 0.62
    for row, column in zip(*np.nonzero(counts), strict=True):
        axes.text(
            column,
            row,
            f"{counts[row, column]}",
            ha="center",
            va="center",
            fontsize=font_size * 0.9,
            color=PAPER if dark[row, column] else INK,
        )


def _evenly(length: int, count: int) -> list[int]:
    """At most `count` of the indices below `length`, evenly from the first to the last.

    >>> _evenly(5, 8), _evenly(9, 3), _evenly(9, 1)
    ([0, 1, 2, 3, 4], [0, 4, 8], [4])
    """
    if length <= count:
        return list(range(length))
    return [length // 2] if count == 1 else [round(i * (length - 1) / (count - 1)) for i in range(count)]


def _short(label: str) -> str:
    """A label for a narrow place; underscores become spaces.

    >>> _short("wave_two_hands"), _short("a" * 40)
    ('wave two hands', 'aaaaaaaaaaaaaaaaaaaa…')
    """
    text = label.replace("_", " ")
    if _width_em(text) > MAX_LABEL_EM:
        while _width_em(text + "…") > MAX_LABEL_EM:
            text = text[:-1]
        text += "…"
    return text.replace("$", r"\$")  # a dollar sign would begin a formula


def _width_em(text: str) -> float:
    """Width in units of the font's size, when bold."""
    return _font(100, bold=True).getlength(text) / 100


def _percent(part: float) -> str:
    """For people: what is not nothing is not written as nothing.

    >>> _percent(0.5), _percent(0.0002), _percent(0.0)
    ('50.0%', '<0.1%', '0.0%')
    """
    return "<0.1%" if 0 < part < 0.0005 else f"{part:.1%}"


def _rgb(color: str) -> npt.NDArray[np.float64]:
    return np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])


@lru_cache(maxsize=16)
def _font(size_px: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size_px)
