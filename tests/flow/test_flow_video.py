"""A whole video into its store: every pair of every gap, in pieces, and what stands in the way."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError, DataError, StorageError, VideoTooShortError
from muybridge.flow import video as flow_video
from muybridge.flow.preview import write_preview
from muybridge.flow.recipe import FlowRecipe, sha256_of
from muybridge.flow.store import FlowReader
from muybridge.flow.video import StoreSettings, gaps_at, write_flow
from muybridge.types import Size, UInt8Array
from muybridge.video.decode import VideoReader, probe
from muybridge.video.encode import write_video
from muybridge.video.sampling import strided_offsets

RECIPE = FlowRecipe.of("dis/fast", bound=8)


def drifting(num_frames: int, height: int = 48, width: int = 66) -> Iterator[UInt8Array]:
    y, x = np.mgrid[:height, :width]
    for t in range(num_frames):
        waves = np.sin((x + 1.5 * t) / 5) + np.cos((y - t) / 6)
        yield np.repeat((60 * waves + 127).astype(np.uint8)[..., None], 3, axis=-1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "a.mp4"
    write_video(path, drifting(23), fps=30)
    return path


@pytest.mark.parametrize(
    "settings", [StoreSettings(), StoreSettings(fps=25, resize=40), StoreSettings(stride=3)]
)
def test_every_pair_of_every_gap_is_there(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: StoreSettings
) -> None:
    monkeypatch.setattr(flow_video, "MAX_PIECE", 5)  # several pieces, the last one shorter
    told = []
    header = write_flow(
        clip,
        tmp_path / "a.flow",
        RECIPE,
        settings,
        source_sha256=sha256_of(clip),
        on_fields=lambda done, total: told.append((done, total)),
    )
    size = Size(48, 66) if settings.resize is None else Size(40, 55)
    assert header.size == size
    assert header.gaps == {None: (settings.stride,), 25: (1, 2)}[settings.fps]
    assert told[-1] == (header.num_fields, header.num_fields)
    with VideoReader(clip) as reader:
        frames = reader.read(range(23), size=size)
    pairs = [(i, i + gap) for gap in header.gaps for i in range(23 - gap)]
    with FlowReader(tmp_path / "a.flow") as reader:
        codes = reader.codes(pairs)
    for pair, field in zip(pairs, codes, strict=True):
        assert np.array_equal(field, RECIPE.codes(frames[list(pair)], [(0, 1)])[0])


def test_the_header_tells_how_it_was_made(clip: Path, tmp_path: Path) -> None:
    write_flow(clip, tmp_path / "a.flow", RECIPE, StoreSettings(resize=40), source_sha256=sha256_of(clip))
    with FlowReader(tmp_path / "a.flow") as reader:
        header = reader.header
    assert (header.source, header.num_frames, header.fps) == ("a.mp4", 23, 30)
    assert (header.source_size, header.size, header.resize_filter) == ((48, 66), (40, 55), "antialias")
    assert (header.name, header.bound, header.warped, header.gaps) == ("dis/fast", 8, False, (1,))
    assert header.parameters == RECIPE.parameters
    assert len(header.source_sha256) == 64
    assert "muybridge" in header.made_by
    assert "OpenCV" in header.made_by


@pytest.mark.parametrize(
    ("video_fps", "fps", "stride"), [(30, 25, 1), (29.97, 25, 2), (25, 30, 1), (50, 12.5, 1)]
)
def test_gaps_are_those_of_clips_of_that_rate(video_fps: float, fps: float, stride: int) -> None:
    offsets = strided_offsets(400, stride, rate=video_fps / fps)
    steps = {second - first for first, second in pairwise(offsets)} - {0}
    assert set(gaps_at(video_fps, stride=stride, fps=fps)) == steps


def test_videos_that_have_no_flow(tmp_path: Path) -> None:
    path = tmp_path / "one.mp4"
    write_video(path, drifting(1), fps=25)
    with pytest.raises(VideoTooShortError, match=r"one\.mp4: flow needs frames 1 apart, and the video has 1"):
        write_flow(path, tmp_path / "a.flow", RECIPE, source_sha256="")
    write_video(path, drifting(3), fps=25)
    with pytest.raises(
        VideoTooShortError, match=r"flow needs frames 4 apart, and the video has 3: leave it out"
    ):
        write_flow(path, tmp_path / "a.flow", RECIPE, StoreSettings(stride=4), source_sha256="")
    with pytest.raises(DataError, match=r"needs frames of \d+ pixels a side"):
        write_flow(path, tmp_path / "a.flow", RECIPE, StoreSettings(resize=8), source_sha256="")
    assert [file.name for file in tmp_path.iterdir()] == ["one.mp4"]


def test_a_folder_that_cannot_be_written(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*a\.flow"):
        write_flow(clip, tmp_path / "file" / "a.flow", RECIPE, source_sha256="")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quality": "best"}, "no quality 'best' of stored flow; there are: lossless, high, small"),
        ({"stride": 0}, "the stride of stored flow must be at least 1 frame, got 0"),
        ({"fps": 0.0}, r"the rate of stored flow must be above 0 frames a second, got 0\.0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StoreSettings(**settings)


def test_recipes_have_names() -> None:
    assert FlowRecipe.of().name == "tvl1"
    assert FlowRecipe.of("dis", preset="fast").kind == FlowRecipe.of("dis/fast").kind
    spec = ClipSpec(
        num_frames=2, modality="warped_flow", mean=(0, 0), std=(1, 1), flow_method="dis", flow_bound=15
    )
    assert FlowRecipe.of_spec(spec) == FlowRecipe.of("dis", bound=15, warped=True)
    with pytest.raises(ConfigError, match=r"the flow bound must be above 0 pixels, got -1"):
        FlowRecipe.of(bound=-1)
    with pytest.raises(ConfigError, match="no preset of flow method 'dis' 'slow'"):
        FlowRecipe.of("dis/slow")


def test_weights_are_told_by_their_content(tmp_path: Path) -> None:
    names = set()
    for folder, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        path = tmp_path / folder / "raft.pth"
        path.parent.mkdir()
        path.write_bytes(content)
        names.add(FlowRecipe.of("raft", weights=str(path)).name)
    assert len(names) == 2
    assert all(name.startswith("raft@") for name in names)


def test_a_preview_shows_frames_beside_their_flow(clip: Path, tmp_path: Path) -> None:
    write_flow(clip, tmp_path / "a.flow", RECIPE, source_sha256=sha256_of(clip))
    write_preview(clip, tmp_path / "a.flow", tmp_path / "a.mp4")
    info = probe(tmp_path / "a.mp4")
    assert (info.num_frames, info.height, info.width, info.fps) == (22, 48, 132, 30)
    with VideoReader(tmp_path / "a.mp4") as preview, VideoReader(clip) as reader:
        shown, frame = preview.read([7])[0].astype(int), reader.read([7])[0]
    assert np.abs(shown[:, :66] - frame).mean() < 8
    assert (shown[:, 66:].max(axis=-1) - shown[:, 66:].min(axis=-1)).mean() > 40  # colours
