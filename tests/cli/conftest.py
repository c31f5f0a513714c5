"""Two actions of rendered people, a network that knows them, and a way to run a command in this process."""

from pathlib import Path

import pytest

from cli.commands import ACTIONS
from muybridge.cli import main
from muybridge.data.figures import render
from muybridge.models.registry import build
from muybridge.weights.store import save


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two actions of three people, two clips each: a folder with labels.csv and a folder per class."""
    folder = tmp_path_factory.mktemp("cli") / "videos"
    render(folder, num_groups=3, num_frames=20, short_side_px=48, actions=ACTIONS)
    return folder


@pytest.fixture(scope="session")
def clip(videos: Path) -> Path:
    return sorted((videos / "walk").glob("*.mp4"))[0]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network with random weights that knows the two actions."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    model = build("r3d_10", num_classes=2, width=0.05)
    spec = model.default_specs[0].model_copy(update={"resize": 48, "crop": 32, "num_frames": 8})
    save(path, model, labels=ACTIONS, specs=(spec,))
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    """Runs a command in this process: (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call
