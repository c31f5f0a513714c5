"""The cache of decoded videos: what it holds, when it must not be believed, and who may write at once."""

import multiprocessing
import os
import pickle
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from full_disk import largest_file

from muybridge.data.cache import FrameCache
from muybridge.errors import StorageError, VideoError
from muybridge.types import Size, UInt8Array
from muybridge.video.decode import VideoReader
from muybridge.video.encode import write_video

SIZE = Size(32, 40)
FRAME_BYTES = 32 * 40 * 3


def drifting(num_frames: int, height: int = 64, width: int = 80, seed: int = 0) -> Iterator[UInt8Array]:
    y, x = np.mgrid[:height, :width]
    for t in range(num_frames):
        channels = [127 + 120 * np.sin((x + c * y + 5 * t) / 9 + c + seed) for c in range(3)]
        yield np.stack(channels, axis=-1).astype(np.uint8)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    write_video(path, drifting(30), fps=25)
    return path


def decoded(path: Path, size: Size = SIZE, resize_filter: str = "antialias") -> UInt8Array:
    with VideoReader(path) as reader:
        return reader.read(range(reader.info.num_frames), size=size, resize_filter=resize_filter)


def frames_of(cache: FrameCache, path: Path, size: Size = SIZE) -> UInt8Array:
    entry = cache.get(path, size)
    assert entry is not None
    return np.asarray(entry.frames)


def names(folder: Path, suffix: str = ".npy") -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.name.endswith(suffix))


# What it holds


def test_frames_are_those_of_the_reader(tmp_path: Path, clip: Path) -> None:
    cache = FrameCache(tmp_path / "cache")
    for resize_filter in ("antialias", "bilinear"):
        entry = cache.get(clip, SIZE, resize_filter)
        assert entry is not None
        assert entry.frames.shape == (30, 32, 40, 3)
        assert np.array_equal(entry.frames, decoded(clip, SIZE, resize_filter))
        assert isinstance(entry.frames, np.memmap)
        assert not entry.frames.flags.writeable
    with VideoReader(clip) as reader:
        assert cache.info(clip) == reader.info
    assert len(names(cache.folder)) == 2


def test_a_second_look_does_not_open_the_video(tmp_path: Path, clip: Path) -> None:
    cache = FrameCache(tmp_path / "cache")
    first = frames_of(cache, clip).copy()
    status = clip.stat()
    clip.write_bytes(bytes(status.st_size))  # no video any more, but nobody can tell without opening it
    os.utime(clip, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = FrameCache(tmp_path / "cache")
    assert again.info(clip).num_frames == 30
    assert np.array_equal(frames_of(again, clip), first)


def test_relative_and_linked_paths_are_one_video(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FrameCache(tmp_path / "cache")
    frames_of(cache, clip)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.mp4").symlink_to(clip)
    for name in (Path("clip.mp4"), tmp_path / "link.mp4"):
        frames_of(cache, name)
        assert cache.info(name).path == str(name)
    assert len(names(cache.folder)) == 1


def test_making_an_entry_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / "long.mp4"
    write_video(long, drifting(80, 120, 160), fps=25)  # 4.6 MB of pixels
    monkeypatch.setattr("muybridge.data.cache.CHUNK_BYTES", 250_000)
    cache = FrameCache(tmp_path / "cache")
    cache.info(long)
    tracemalloc.start()
    cache.get(long, Size(120, 160))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5e6
    assert np.array_equal(frames_of(cache, long, Size(120, 160)), decoded(long, Size(120, 160)))


# When it must not be believed


def test_a_video_that_changed_is_decoded_anew(tmp_path: Path, clip: Path) -> None:
    cache = FrameCache(tmp_path / "cache")
    before = frames_of(cache, clip).copy()
    old = names(cache.folder)
    write_video(clip, drifting(24, seed=2), fps=25)
    after = frames_of(cache, clip)
    assert len(after) == cache.info(clip).num_frames == 24
    assert np.array_equal(after, decoded(clip))
    assert not np.array_equal(after, before[:24])
    assert len(names(cache.folder)) == len(names(cache.folder, ".json")) == 1
    assert not set(old) & set(names(cache.folder))


def test_a_video_of_the_same_length_but_a_later_date_is_decoded_anew(tmp_path: Path, clip: Path) -> None:
    cache = FrameCache(tmp_path / "cache")
    frames_of(cache, clip)
    old = names(cache.folder)
    os.utime(clip, ns=(0, clip.stat().st_mtime_ns + 1))
    frames_of(cache, clip)
    assert len(names(cache.folder)) == 1
    assert names(cache.folder) != old


def test_another_size_is_another_entry(tmp_path: Path, clip: Path) -> None:
    cache = FrameCache(tmp_path / "cache")
    for size in (SIZE, Size(40, 32), Size(16, 20)):
        assert np.array_equal(frames_of(cache, clip, size), decoded(clip, size))
    assert len(names(cache.folder)) == 3


def test_an_array_of_another_shape_is_not_believed(tmp_path: Path, clip: Path) -> None:
    cache = FrameCache(tmp_path / "cache")
    frames_of(cache, clip)
    np.save(cache.folder / names(cache.folder)[0], np.zeros((29, *SIZE, 3), np.uint8))
    assert np.array_equal(frames_of(cache, clip), decoded(clip))


@pytest.mark.parametrize("damage", ["half", "rubbish", "empty"])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, clip: Path, damage: str) -> None:
    cache = FrameCache(tmp_path / "cache")
    frames_of(cache, clip)
    for file in cache.folder.iterdir():
        data = file.read_bytes()
        file.write_bytes({"half": data[: len(data) // 2], "rubbish": b"?" * len(data), "empty": b""}[damage])
    assert np.array_equal(frames_of(FrameCache(tmp_path / "cache"), clip), decoded(clip))


def test_a_missing_video(tmp_path: Path) -> None:
    cache = FrameCache(tmp_path / "cache")
    with pytest.raises(
        VideoError, match=r"cannot read .*gone\.mp4: No such file or directory; check the path"
    ):
        cache.info(tmp_path / "gone.mp4")


def test_no_video_leaves_nothing_behind(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("hello")
    cache = FrameCache(tmp_path / "cache")
    with pytest.raises(VideoError, match=r"text\.mp4"):
        cache.get(text, SIZE)
    assert cache.size_bytes() == 0


@pytest.mark.real
def test_a_video_that_ends_in_the_middle_stays_outside(tmp_path: Path, wild: Path) -> None:
    cache = FrameCache(tmp_path / "cache")
    for name in ("corrupted.mp4", "truncated_half_v_BaseballPitch_g01_c01.avi"):
        entry = cache.get(wild / name, SIZE)
        if entry is not None:  # the reader knows where it ends
            assert np.array_equal(entry.frames, decoded(wild / name))
        else:
            assert cache.get(wild / name, SIZE) is None
    assert not list(cache.folder.glob(".*"))


# Who may write at once


def _get(folder: Path, path: Path, barrier: object, results: object) -> None:
    cache = FrameCache(folder)
    barrier.wait()  # type: ignore[attr-defined]
    results.put(frames_of(cache, path).tobytes())  # type: ignore[attr-defined]


def test_two_processes_that_make_the_same_entry(tmp_path: Path, clip: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=_get, args=(tmp_path / "cache", clip, barrier, results)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    found = {results.get(timeout=200) for _ in workers}
    for worker in workers:
        worker.join()
    assert found == {decoded(clip).tobytes()}
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_threads_that_make_the_same_entry(tmp_path: Path, clip: Path) -> None:
    cache = FrameCache(tmp_path / "cache")
    expected, wrong = decoded(clip).tobytes(), []
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait()
        if frames_of(cache, clip).tobytes() != expected:
            wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(list(cache.folder.iterdir())) == 2


def test_it_goes_to_workers(tmp_path: Path, clip: Path) -> None:
    cache = pickle.loads(pickle.dumps(FrameCache(tmp_path / "cache", max_bytes=10**6)))
    assert np.array_equal(frames_of(cache, clip), decoded(clip))
    assert repr(cache) == f"FrameCache({tmp_path / 'cache'}, at most 0.001 GB)"


# How much it takes


def test_a_disk_that_is_full(tmp_path: Path, clip: Path) -> None:
    cache = FrameCache(tmp_path / "cache")
    cache.info(clip)
    with (
        largest_file(FRAME_BYTES * 10),
        pytest.raises(StorageError, match=r"cannot write .*\.npy: File too large"),
    ):
        cache.get(clip, SIZE)
    assert names(cache.folder) == []
    assert np.array_equal(frames_of(cache, clip), decoded(clip))


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*cache: File exists"):
        FrameCache(tmp_path / "cache")


def test_what_does_not_fit_stays_outside(tmp_path: Path, clip: Path) -> None:
    other = tmp_path / "other.mp4"
    write_video(other, drifting(30, seed=1), fps=25)
    cache = FrameCache(tmp_path / "cache", max_bytes=FRAME_BYTES * 30 + 5000)
    frames_of(cache, clip)
    with pytest.warns(
        UserWarning, match=r"the cache .* is full \(max_bytes=120200\): further videos are decoded"
    ):
        assert cache.get(other, SIZE) is None
    assert cache.get(other, SIZE) is None  # warned once
    assert cache.get(clip, SIZE) is not None
    assert cache.size_bytes() <= 120200


def test_prune_removes_what_is_of_no_use(tmp_path: Path, clip: Path) -> None:
    other = tmp_path / "other.mp4"
    write_video(other, drifting(20, seed=1), fps=25)
    cache = FrameCache(tmp_path / "cache")
    frames_of(cache, clip)
    kept = cache.size_bytes()
    frames_of(cache, other)
    stays = cache.folder / "notes.txt"
    leftover = cache.folder / ".0-0-1x1-antialias.npy.1.tmp.npy"
    fresh = cache.folder / ".0-0-1x1-antialias.npy.2.tmp.npy"
    for file in (stays, leftover, fresh):
        file.write_bytes(b"123")
    os.utime(leftover, (0, 0))
    before = cache.size_bytes()
    other.unlink()
    assert cache.prune() == before - kept - 3
    assert cache.size_bytes() == kept + 3
    assert stays.exists()
    assert fresh.exists()
    assert not leftover.exists()


def test_prune_removes_the_oldest_first(tmp_path: Path, clip: Path) -> None:
    cache = FrameCache(tmp_path / "cache")
    for age, size in enumerate((Size(32, 40), Size(16, 20), Size(8, 10))):
        frames_of(cache, clip, size)
        (entry,) = cache.folder.glob(f"*-{size.height}x{size.width}-*.npy")
        os.utime(entry, (1e9 + age, 1e9 + age))
    assert FrameCache(tmp_path / "cache", max_bytes=10**6).prune() == 0
    assert FrameCache(tmp_path / "cache", max_bytes=50_000).prune() > FRAME_BYTES * 30
    assert [name.split("-")[2] for name in names(cache.folder)] == ["16x20", "8x10"]
