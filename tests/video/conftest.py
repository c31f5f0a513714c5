"""What the tests of video share: a clip."""

from pathlib import Path

import pytest
from made_frames import smooth

from muybridge.video.encode import write_video


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, smooth(30), fps=30, gop=10)
    return path
