"""A data set so small that a run takes a second or two."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from muybridge.data.figures import render


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Such small networks gain nothing from more; where bits are compared, processes must have as many."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def figures_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of 3 actions by 4 people, 12 frames of 32 x 42."""
    folder = tmp_path_factory.mktemp("figures") / "set"
    render(
        folder,
        num_groups=4,
        clips_per_group=1,
        short_side_px=32,
        num_frames=12,
        actions=("walk", "box", "clap"),
    )
    return folder
