"""The public names: exact, sorted, documented, and loaded only when asked for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import muybridge

SOURCE = Path(muybridge.__file__)


def modules_after(code: str) -> set[str]:
    """Names of the modules that a fresh process holds after running `code`."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules, sep=',')"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split(","))


def names_for_type_checkers() -> dict[str, str]:
    """Name -> module, as the `if TYPE_CHECKING` block of the package says it."""
    tree = ast.parse(SOURCE.read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {name.name: str(node.module) for node in imports for name in node.names}


def test_all_is_sorted_and_exact():
    assert muybridge.__all__ == sorted(set(muybridge.__all__))
    assert set(muybridge.__all__) == set(muybridge._HOME_OF)
    assert names_for_type_checkers() == muybridge._HOME_OF
    assert set(muybridge.__all__) <= set(dir(muybridge))


@pytest.mark.parametrize("name", muybridge.__all__)
def test_every_public_name_is_where_it_says_and_has_a_docstring(name: str):
    value = getattr(muybridge, name)
    assert value.__module__.startswith(muybridge._HOME_OF[name])
    assert len((value.__doc__ or "").split()) > 3
    assert vars(value).get("__doc__", value.__doc__), "an inherited docstring says nothing of this class"


def test_no_submodule_hides_a_public_name():
    """`muybridge.train` is a package: a function of that name would vanish when the package is imported."""
    beside = {path.stem for path in SOURCE.parent.iterdir() if path.stem != "__init__"}
    assert not beside & set(muybridge.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'muybridge' has no attribute 'tain'"):
        muybridge.tain  # noqa: B018 -- the access is what is tested


def test_import_muybridge_is_light():
    loaded = modules_after("import muybridge")
    heavy = {"torch", "numpy", "av", "cv2", "pydantic", "typer", "rich", "yaml"}
    assert not loaded & heavy
    assert {name for name in loaded if name.startswith("muybridge")} == {"muybridge"}


def test_star_import_gives_exactly_the_public_names():
    names: dict[str, object] = {}
    exec("from muybridge import *", names)
    assert set(names) - {"__builtins__"} == set(muybridge.__all__)


@pytest.mark.parametrize(
    "module", ["muybridge.video.sampling", "muybridge.errors", "muybridge.cli", "muybridge.environment"]
)
def test_light_modules_import_no_torch(module: str):
    assert "torch" not in modules_after(f"import {module}")


def test_the_predict_path_imports_nothing_it_does_not_need():
    loaded = modules_after("import muybridge.predict")
    assert not loaded & {"torchvision", "torchmetrics", "sklearn", "accelerate", "matplotlib", "pyarrow"}
