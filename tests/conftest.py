"""What tests share: where the real clips are."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("muybridge", deadline=None)  # a loaded machine is slow, not wrong
settings.load_profile("muybridge")

collect_ignore_glob = [
    "conftest.py",
    "*/conftest.py",
]  # several of one name: not modules to look for doctests in

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real clips; tests that ask for it skip where it is absent."""
    folder = Path(os.environ.get("MUYBRIDGE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "wild").is_dir():
        pytest.skip(f"the real clips are not there: {folder} (set MUYBRIDGE_DATA)")
    return folder


@pytest.fixture(scope="session")
def wild(data_dir: Path) -> Path:
    """The folder of odd video files."""
    return data_dir / "wild"
