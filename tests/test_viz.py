import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from muybridge import viz
from muybridge.types import Clip, Prediction

BLUE, ORANGE, GREY = ((37, 99, 168), (217, 102, 43), (169, 180, 196))


def clip(num_frames: int, *, height: int = 30, width: int = 40) -> Clip:
    """Frame t is grey of level 10 t."""
    levels = (10 * np.arange(num_frames)).astype(np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).copy()
    return Clip(frames, np.arange(num_frames) / 10)


def prediction(*labels: str) -> Prediction:
    scores = tuple(0.6 / 2**k for k in range(len(labels)))
    return Prediction(
        path="a.mp4", labels=labels, scores=scores, protocol="center", views="v", spec="s", num_views=1
    )


def count(image: Image.Image, color: tuple[int, int, int]) -> int:
    """Pixels of this colour."""
    return int((np.abs(np.asarray(image).astype(int) - color).max(axis=2) <= 2).sum())


def clipped(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> bool:
    """Whether something touches the picture's edge."""
    pixels = np.asarray(image).astype(int)
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return bool((np.abs(edges - background).max(axis=1) > 8).any())


def test_a_contact_sheet_shows_frames_in_order():
    sheet = viz.contact_sheet(clip(6), columns=3, tile_width_px=80)
    pixels = np.asarray(sheet)
    gap, caption = 4, 14
    assert sheet.size == (3 * 84 + 4, 2 * (60 + caption) + 2 * gap)
    for t in range(6):
        row, column = divmod(t, 3)
        middle = pixels[gap + row * (60 + caption) + 30, gap + column * 84 + 40]
        assert middle.tolist() == [10 * t] * 3
        below = pixels[gap + row * (60 + caption) + 61 :][: caption - 2, gap + column * 84 :][:, :80]
        assert below.max() > 120, "the seconds are written under the frame"


def test_a_long_clip_is_shown_from_its_first_frame_to_its_last():
    sheet = np.asarray(viz.contact_sheet(clip(25), columns=4, max_frames=4, tile_width_px=80))
    assert [int(sheet[30, 4 + 84 * k + 40, 0]) for k in range(4)] == [0, 80, 160, 240]


def test_a_short_clip_makes_a_short_sheet():
    assert viz.contact_sheet(clip(2), columns=8, tile_width_px=80).width == 2 * 84 + 4


def test_a_contact_sheet_needs_columns():
    with pytest.raises(ValueError, match="must be at least 1, got 0, 16, 168"):
        viz.contact_sheet(clip(2), columns=0)


def test_bars_are_as_long_as_the_scores():
    image = viz.probability_bars(prediction("wave", "clap", "box"))
    blue, grey = count(image, BLUE), count(image, GREY)
    assert blue / grey == pytest.approx(0.6 / (0.3 + 0.15), rel=0.03)
    assert count(image, ORANGE) == 0


def test_a_wrong_answer_is_orange_and_the_truth_blue():
    image = viz.probability_bars(prediction("wave", "clap", "box"), truth=("clap",))
    assert count(image, ORANGE) / count(image, BLUE) == pytest.approx(2, rel=0.03)
    right = viz.probability_bars(prediction("wave", "clap", "box"), truth=("wave",))
    assert count(right, ORANGE) == 0


@pytest.mark.parametrize("label", ["x" * 60, "W" * 60, "a_label_with_$dollars$", "<script>", "a_\\b^{c}"])
def test_labels_of_any_kind_are_not_cut_off_by_the_edge(label):
    image = viz.probability_bars(prediction(label, "b"))
    assert not clipped(image)


def epoch(number: int, **values: float | None) -> dict[str, object]:
    return {"kind": "epoch", "epoch": number, "loss": 1 / number, "accuracy": 1 - 1 / number, **values}


def test_a_learning_curve_has_training_and_validation():
    rows = [epoch(k, val_top1=0.5 if k % 2 else None, val_loss=0.7 if k % 2 else None) for k in range(1, 9)]
    image = viz.learning_curve([{"kind": "step", "step": 1, "loss": 9.0}, *rows])
    assert not clipped(image)
    assert count(image, BLUE) > 400
    without = viz.learning_curve([epoch(k) for k in range(1, 9)])
    assert count(without, BLUE) == 0
    assert count(without, GREY) > 400


def test_a_curve_of_one_epoch():
    assert not clipped(viz.learning_curve([epoch(1, val_top1=1.0, val_loss=0.0)]))


def test_a_curve_needs_an_epoch():
    with pytest.raises(ValueError, match="the log holds no finished epoch"):
        viz.learning_curve([{"kind": "step", "step": 10, "loss": 2.0}])


def test_the_colours_of_a_confusion_matrix():
    right = viz.confusion_figure(np.diag([50] * 40), [f"class {k}" for k in range(40)])
    assert count(right, ORANGE) == 0
    assert count(right, BLUE) > 40 * 30
    wrong = viz.confusion_figure(np.diag([50] * 40)[::-1], [f"class {k}" for k in range(40)])
    assert count(wrong, BLUE) == 0
    assert count(wrong, ORANGE) == pytest.approx(count(right, BLUE), rel=0.1)


@pytest.mark.parametrize("num_classes", [1, 2, 10, 30, 31, 101, 400])
def test_a_confusion_matrix_of_any_size_fits_its_picture(num_classes):
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 3, (num_classes, num_classes))
    matrix[0] = 0  # no video of this class
    image = viz.confusion_figure(matrix, [f"A_Long_Class_Name_{k}" for k in range(num_classes)])
    assert not clipped(image)
    assert max(image.size) < 8000


def test_a_confusion_matrix_needs_its_labels():
    with pytest.raises(ValueError, match=r"3 labels need a matrix \[3, 3\], got \(2, 2\)"):
        viz.confusion_figure(np.eye(2, dtype=int), ["a", "b", "c"])


def test_pictures_are_deterministic():
    bars = [viz.probability_bars(prediction("wave", "clap")).tobytes() for _ in range(2)]
    assert bars[0] == bars[1]


def test_pyplot_and_torch_stay_away():
    code = (
        "import sys, muybridge.viz as viz, numpy as np\n"
        "viz.confusion_figure(np.eye(3), 'abc')\n"
        "print([name for name in ('matplotlib.pyplot', 'torch') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
