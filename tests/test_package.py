"""The wheel: built from the repository, installed in an empty environment outside it, and run there."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import muybridge
from muybridge.data.figures import ClipPlan, frames
from muybridge.video.encode import write_video

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "muybridge"


def call(*command: object, cwd: Path) -> str:
    """Runs a command as a stranger would: without this repository on any path."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MUYBRIDGE"))
    }
    done = subprocess.run([*map(str, command)], cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves `build/` behind, and an old one would end up in the wheel."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    shutil.copytree(SOURCE, copy / "src" / "muybridge", ignore=shutil.ignore_patterns("__pycache__"))
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", cwd=copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="session")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has the wheel, and sees the dependencies that are installed for this one.

    They come from this environment's site-packages by a .pth file. The .pth files in there are not obeyed, so
    the repository itself, installed as editable, stays out of sight.
    """
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(folder, with_pip=False)
    executable = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    paths = json.loads(
        call(executable, "-c", "import json, sysconfig; print(json.dumps(sysconfig.get_paths()))", cwd=folder)
    )
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", executable)
    call(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=folder)
    (Path(paths["purelib"]) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return executable


def modules_of(folder: Path) -> list[str]:
    """Every module below a package's folder, by its dotted name."""
    names = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def test_the_wheel_holds_all_of_the_package(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if not name.endswith("/")}
    ours = {path.relative_to(SOURCE.parent).as_posix() for path in SOURCE.rglob("*.py")}
    recipes = {path.relative_to(SOURCE.parent).as_posix() for path in SOURCE.glob("recipes/*.yaml")}
    packages = {name for name in inside if name.startswith("muybridge/")}
    assert packages == ours | recipes | {"muybridge/py.typed"}
    assert recipes, "the recipes are gone"
    assert any(name.endswith("licenses/LICENSE") for name in inside)


def test_every_folder_of_code_is_a_package():
    """A folder without `__init__.py` works in the repository and is missing from the wheel."""
    folders = {path.parent for path in SOURCE.rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_the_installed_package_is_the_wheel_and_all_of_it_imports(python: Path, tmp_path: Path):
    names = [name for name in modules_of(SOURCE) if not name.endswith("__main__")]
    code = (
        f"import importlib, json; [importlib.import_module(name) for name in {names!r}]; "
        "import muybridge; print(muybridge.__file__)"
    )
    place = Path(call(python, "-W", "error::DeprecationWarning:muybridge", "-c", code, cwd=tmp_path).strip())
    assert place.is_relative_to(python.parent.parent)
    assert not place.is_relative_to(ROOT)


def test_the_installed_command_runs(python: Path, tmp_path: Path):
    command = python.with_name("muybridge")
    clip = tmp_path / "clip.mp4"
    plan = ClipPlan(action="walk", group=0, clip=0, num_frames=12, short_side_px=64)
    write_video(clip, frames(plan), fps=plan.fps)
    assert "recognize" in call(command, "--help", cwd=tmp_path)
    assert call(command, "--version", cwd=tmp_path) == f"muybridge {muybridge.__version__}\n"
    assert json.loads(call(command, "env", "--json", cwd=tmp_path))["muybridge"] == muybridge.__version__
    assert json.loads(call(command, "models", "r3d_18", "--json", cwd=tmp_path))["parameters"] == 33_371_472
    assert json.loads(call(command, "probe", clip, "--json", cwd=tmp_path))["num_frames"] == 12


def test_the_installed_package_builds_saves_and_recognizes(python: Path, tmp_path: Path):
    clip = tmp_path / "clip.mp4"
    plan = ClipPlan(action="jump", group=0, clip=0, num_frames=12, short_side_px=64)
    write_video(clip, frames(plan), fps=plan.fps)
    code = (
        "import muybridge; from muybridge.weights.store import save; "
        "model = muybridge.build('r2plus1d_10', num_classes=2, width=0.05); "
        "save('tiny.safetensors', model, labels=['jump', 'walk'])"
    )
    call(python, "-c", code, cwd=tmp_path)
    command = (python.with_name("muybridge"), "recognize", clip, "--weights", "tiny.safetensors", "--json")
    answer = json.loads(call(*command, cwd=tmp_path))
    assert answer["label"] in ("jump", "walk")


def test_one_version():
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["version"] == muybridge.__version__
