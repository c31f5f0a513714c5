"""The demonstration, as small as it can be: every step happens, and a second call does none of them again."""

from pathlib import Path

import pytest

from muybridge.demo import RECIPE, DemoResult, demo_config, run
from muybridge.errors import DataError

TINY = """
data: {root: figures}
model: {name: r2plus1d_10, width: 0.05}
clip: [{num_frames: 4, frame_stride: 4, resize: 36, crop: 32}]
augment: {flip: false}
"""
SMALL = {"epochs": 1, "num_groups": 2, "clips_per_group": 1}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def first(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoResult, list[str], Path]:
    out = tmp_path_factory.mktemp("demo") / "demo"
    said: list[str] = []
    return run(out, recipe=recipe, say=said.append, **SMALL), said, out


def test_the_demo_goes_the_whole_road(first: tuple[DemoResult, list[str], Path]):
    result, said, out = first
    assert [line[:3] for line in said if line[1:3] == "/4"] == ["1/4", "2/4", "3/4", "4/4"]
    assert result.report == out / "report.html"
    page = result.report.read_text()
    assert all(heading in page for heading in ("Recognised", "Training", "Confusion"))
    assert page.count("<img") >= 4  # contact sheet, probabilities, learning curve, confusion
    assert (out / "run" / "model.safetensors").is_file()
    assert (out / "evaluation" / "evaluation.json").is_file()
    assert result.evaluation.num_groups == 1
    assert result.evaluation.protocol.name == "10x1"
    assert result.prediction.label in result.evaluation.labels


def test_a_second_call_does_nothing_again(recipe: Path, first: tuple[DemoResult, list[str], Path]):
    result, _, out = first
    kept = [*out.glob("figures/*/*.mp4"), out / "run" / "model.safetensors"]
    before = [path.stat().st_mtime_ns for path in kept]
    again = run(out, recipe=recipe, say=lambda text: None, **SMALL)
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert again.evaluation.top1 == result.evaluation.top1
    assert again.prediction == result.prediction


def test_another_seed_needs_another_folder(first: tuple[DemoResult, list[str], Path]):
    _, _, out = first
    with pytest.raises(DataError, match="holds other figures"):
        run(out, seed=1, say=lambda text: None, **SMALL)


def test_the_recipe_is_part_of_the_package():
    config = demo_config(Path("demo"), None, seed=3, epochs=None)
    assert RECIPE.is_file()
    assert (config.data.root, config.seed) == (str(Path("demo") / "figures"), 3)
    assert not config.augment.flip, "left and right are classes"
