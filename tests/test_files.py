"""Files are written whole or not at all."""

import resource
import signal
from pathlib import Path

import pytest

from muybridge.errors import StorageError
from muybridge.files import atomic_folder, atomic_path


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"
    path.write_text("old")

    def write_half(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"), atomic_path(path) as temporary:
        write_half(temporary)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["numbers.json"]


def test_a_full_disk_says_so_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with (
            pytest.raises(StorageError, match=r"cannot write .*numbers.json"),
            atomic_path(path) as temporary,
        ):
            temporary.write_bytes(bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["numbers.json"]


def test_a_parent_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"), atomic_path(tmp_path / "file" / "a.txt") as path:
        path.write_text("never")


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    for text in ("one", "two"):
        with atomic_folder(folder) as temporary:
            (temporary / f"{text}.txt").write_text(text)
    assert names_in(folder) == ["two.txt"]
    assert names_in(tmp_path) == ["state"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with atomic_folder(folder) as temporary:
        (temporary / "one.txt").write_text("one")
    with pytest.raises(RuntimeError, match="stopped"), atomic_folder(folder) as temporary:
        raise RuntimeError("stopped")
    assert (folder / "one.txt").read_text() == "one"
    assert names_in(tmp_path) == ["state"]
