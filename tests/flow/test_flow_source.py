"""Where the flow of a view comes from: the store, or the frames of the view and no others.

Seen to fail: frames asked for that no field needs; a store written over by two threads; a video that breaks
tried anew for each view; more remembered than was allowed.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from full_disk import largest_file

from muybridge.config import ClipSpec
from muybridge.errors import StorageError
from muybridge.flow import source as flow_source
from muybridge.flow.quantise import quantise
from muybridge.flow.recipe import FlowRecipe, sha256_of
from muybridge.flow.source import FlowStore, view_codes
from muybridge.flow.store import FlowReader
from muybridge.flow.video import write_flow
from muybridge.types import Size, UInt8Array
from muybridge.video.decode import VideoReader, probe
from muybridge.video.encode import write_video

SPEC = ClipSpec(
    num_frames=2,
    resize=32,
    crop=32,
    modality="flow",
    flow_method="dis/ultrafast",
    flow_bound=5,
    mean=(0.5, 0.5),
    std=(0.5, 0.5),
)
RECIPE = FlowRecipe.of_spec(SPEC)
SIZE = Size(32, 44)


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_source, "_recent", flow_source._Recent(1 << 20))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    y, x = np.mgrid[:32, :44]
    waves = [np.sin((x + 1.5 * t) / 5) + np.cos((y - t) / 6) for t in range(30)]
    frames = [np.repeat((60 * wave + 127).astype(np.uint8)[..., None], 3, axis=-1) for wave in waves]
    write_video(tmp_path / "a.mp4", frames, fps=25)
    return tmp_path / "a.mp4"


class Asked:
    """Reads frames of a clip, and keeps what it was asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.numbers: list[list[int]] = []

    def __call__(self, numbers: Sequence[int], size: Size) -> UInt8Array:
        self.numbers.append(list(numbers))
        with VideoReader(self.path) as reader:
            return reader.read(numbers, size=size)


def codes(clip: Path, indices: Sequence[int], read: Asked, store: FlowStore | None = None) -> UInt8Array:
    return view_codes(clip, indices, SPEC, video_size=SIZE, read=read, store=store)


def test_only_frames_of_fields_that_move_are_asked_for(clip: Path) -> None:
    read = Asked(clip)
    found = view_codes(
        clip,
        (3, 5, 6, 20, 20, 4),  # the second segment stands still, then starts again
        SPEC.model_copy(update={"num_segments": 2}),
        video_size=SIZE,
        read=read,
    )
    assert read.numbers == [[3, 5, 6]]
    with VideoReader(clip) as reader:
        frames = reader.read([3, 5, 6], size=SIZE)
    assert np.array_equal(found[:2], RECIPE.codes(frames, [(0, 1), (1, 2)]))
    assert (found[2:] == quantise(0.0, 5)).all()
    still = Asked(clip)
    view_codes(clip, (7, 7, 7), SPEC, video_size=SIZE, read=still)
    assert not any(still.numbers)


def test_a_store_answers_without_a_frame(clip: Path, tmp_path: Path) -> None:
    store, read = FlowStore(tmp_path), Asked(clip)
    write_flow(clip, store.path_of(clip), RECIPE, source_sha256=sha256_of(clip))
    found = codes(clip, (8, 9, 10), read, store)
    assert read.numbers == []
    assert np.array_equal(found, codes(clip, (8, 9, 10), read))
    assert read.numbers == [[8, 9, 10]]


def test_threads_write_a_store_once(clip: Path, tmp_path: Path) -> None:
    for turn in range(3):
        store = FlowStore(tmp_path / f"flow{turn}", write=True)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: codes(clip, (8, 9, 10), Asked(clip), store), range(4)))  # noqa: B023
        assert all(np.array_equal(one, found[0]) for one in found)
        assert [path.name for path in store.folder.iterdir()] == ["a.mp4.flow"]
        with FlowReader(store.path_of(clip)) as reader:
            assert len(reader.codes([(i, i + 1) for i in range(29)])) == 29


def test_a_disk_that_is_full_while_flow_is_written_through(clip: Path, tmp_path: Path) -> None:
    store = FlowStore(tmp_path / "flow", write=True)
    with (
        largest_file(2000),
        pytest.raises(StorageError, match=r"cannot write .*a\.mp4\.flow: File too large"),
    ):
        codes(clip, (8, 9, 10), Asked(clip), store)
    assert list(store.folder.iterdir()) == []
    codes(clip, (8, 9, 10), Asked(clip), store)
    assert store.path_of(clip).exists()


@pytest.mark.real
def test_a_video_that_breaks_midway_is_not_stored_and_what_is_whole_of_it_is_computed(
    wild: Path, tmp_path: Path
) -> None:
    path = wild / "corrupted.mp4"  # says that it has 50 frames; 28 decode
    video_size = probe(path).size
    spec = SPEC.model_copy(update={"resize": (32, 44)})
    store = FlowStore(tmp_path, write=True)
    for first in (2, 12):
        read = Asked(path)
        indices = (first, first + 1, first + 2)
        found = view_codes(path, indices, spec, video_size=video_size, read=read, store=store)
        assert found.shape == (2, 2, 32, 44)
        assert read.numbers == [list(indices)]
    assert list(tmp_path.iterdir()) == []
    assert store._outside == {path}  # so the second view did not try again


def test_the_last_views_are_remembered_up_to_a_number_of_bytes(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_a_view = 2 * 2 * SIZE.height * SIZE.width
    monkeypatch.setattr(flow_source, "_recent", flow_source._Recent(2 * of_a_view))
    for first, is_computed in ((0, True), (5, True), (0, False), (9, True), (0, False), (5, True)):
        read = Asked(clip)
        codes(clip, (first, first + 1, first + 2), read)
        assert bool(read.numbers) == is_computed, first
