"""Fetching a published file once: resumed where it broke off, checked, and renamed whole into the cache.

A file whose publisher gives the first digits of its SHA-256 is checked against them. The whole hash of every
file is written down beside it when it first comes, and each later one must have the same.
"""

import hashlib
import http.client
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from muybridge import __version__
from muybridge.errors import StorageError, WeightsError
from muybridge.files import atomic_path, storage_error

if sys.platform != "win32":
    import fcntl

OnProgress = Callable[[int, int | None], None]  # (bytes that are here, bytes in all if the server says so)

MAX_BYTES = 2 << 30
TRIES = 4
TIMEOUT_SECONDS = 30.0
PAUSE_SECONDS = 2.0  # before another try
CHUNK_BYTES = 1 << 20
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # name-0123abcd.pth, the custom of torch.hub
DATE = re.compile(r"(19|20)\d\d[01]\d[0-3]\d")


def cache_dir() -> Path:
    """Where downloads are kept: what MUYBRIDGE_CACHE says, or ~/.cache/muybridge."""
    return Path(os.environ.get("MUYBRIDGE_CACHE") or Path.home() / ".cache" / "muybridge").expanduser()


def cached_path(url: str) -> Path:
    """Where the file of this address is kept, downloaded or put there by hand.

    >>> cached_path("https://example.org/zoo/r3d_18-b3b3357e.pth").relative_to(cache_dir()).as_posix()
    'weights/example.org/zoo/r3d_18-b3b3357e.pth'
    """
    parts = urllib.parse.urlsplit(url)
    return cache_dir() / "weights" / parts.netloc / parts.path.lstrip("/")


def hash_in_name(name: str) -> str:
    """The digits of SHA-256 that a file's name ends with; "" if it has none. Eight digits may be a date.

    >>> hash_in_name("r3d_18-b3b3357e.pth"), hash_in_name("model-20240131.pth"), hash_in_name("model.pth")
    ('b3b3357e', '', '')
    """
    match = HASH_IN_NAME.search(name)
    return match[1] if match and not DATE.fullmatch(match[1]) else ""


def sha256_of(path: Path) -> str:
    """The whole hash of a file, 64 digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_hash(path: Path, sha256: str, *, advice: str) -> str:
    """Compares a file with the first digits of its hash; gives the whole hash.

    Raises:
        WeightsError: it is another file, or damaged.
    """
    found, dots = sha256_of(path), "" if len(sha256) == 64 else "..."
    if not found.startswith(sha256):
        raise WeightsError(
            f"{path} is damaged or another file: its SHA-256 is {found}, not {sha256}{dots}. {advice}"
        )
    return found


def fetch(
    url: str,
    path: Path,
    *,
    sha256: str = "",
    max_bytes: int = MAX_BYTES,
    pause_seconds: float = PAUSE_SECONDS,
    on_progress: OnProgress | None = None,
) -> str:
    """Downloads a file unless it is there; either way its hash is checked. Several processes may ask at once.

    Args:
        url: http or https.
        path: of the file; what has come so far lies beside it, named .part, and is gone on with.
        sha256: the first digits of its hash, as far as they are published.
        max_bytes: a larger file is refused.
        pause_seconds: before another try, when the connection breaks.
        on_progress: told how far it is.

    Returns:
        The hash, if it was written down for the first time; otherwise "".

    Raises:
        WeightsError: no connection, no such file, too large, or not the file that was published.
        StorageError: the disk is full or the folder cannot be written.
    """
    with _locked(path):
        if path.is_file():
            return _pin(path, _check(path, path, sha256))
        _download(url, path, max_bytes=max_bytes, pause_seconds=pause_seconds, on_progress=on_progress)
        try:
            found = _check(_part(path), path, sha256)
        except WeightsError:
            _forget(path)
            raise
        _part(path).replace(path)
        _forget(path)
        return _pin(path, found)


class _Answer(NamedTuple):
    """What a server is about to send."""

    first: int  # byte
    total: int | None  # bytes of the whole file
    mark: str  # of this version of the file


def _download(
    url: str, path: Path, *, max_bytes: int, pause_seconds: float, on_progress: OnProgress | None
) -> None:
    for attempt in range(TRIES):
        if attempt:
            time.sleep(pause_seconds)
        try:
            with _open(url, path) as response:
                answer = _answer(response, path)
                _check_size(answer, path, max_bytes)
                _receive(response, answer, path, max_bytes=max_bytes, on_progress=on_progress)
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                if error.headers.get("Content-Range") == f"bytes */{_size(_part(path))}":
                    return  # all of it is here
                _forget(path)
            problem = f"the server says {error.code} {error.reason}"
            if error.code in (401, 403, 404, 410):
                break
        except urllib.error.URLError as error:
            problem = str(error.reason)
            break  # not even a connection
        except (http.client.HTTPException, ConnectionError) as error:
            problem = str(error) or type(error).__name__
        else:
            size = _size(_part(path))
            if answer.total in (None, size):
                return
            problem = f"the connection broke after {size} of {answer.total} bytes"
    begun = f" What came so far is kept: {_part(path)}" if _size(_part(path)) else ""
    raise WeightsError(
        f"cannot download ({problem}): fetch {url} where that can be done and put it at {path}.{begun}"
    )


def _open(url: str, path: Path) -> http.client.HTTPResponse:
    """Asks for the file, or for what is missing of it if the server still has the same one."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise WeightsError(f"only http and https are downloaded from, not {url}")
    request = urllib.request.Request(url, headers={"User-Agent": f"muybridge/{__version__}"})
    here, mark = _size(_part(path)), _mark_path(path)
    if here and mark.is_file():
        request.add_header("Range", f"bytes={here}-")
        request.add_header("If-Range", mark.read_text(encoding="latin1"))
    response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    if url.startswith("https:") and not response.url.startswith("https:"):
        response.close()
        raise WeightsError(f"{url} leads to {response.url}, which is not encrypted: not downloaded")
    return response


def _answer(response: http.client.HTTPResponse, path: Path) -> _Answer:
    mark = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    if mark.startswith("W/"):
        mark = ""  # a weak one says that two files are alike, not that their bytes are the same
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if span and int(span[1]) == _size(_part(path)):
            return _Answer(int(span[1]), None if span[2] == "*" else int(span[2]), mark)
        _forget(path)
        raise ConnectionError("the server sent another part of the file than it was asked for")
    length = response.headers.get("Content-Length", "")
    return _Answer(0, int(length) if length.isdigit() else None, mark)


def _check_size(answer: _Answer, path: Path, max_bytes: int) -> None:
    if answer.total is None:
        return
    if answer.total > max_bytes:
        raise WeightsError(f"{path.name} has {answer.total} bytes; more than {max_bytes} are not downloaded")
    missing, free = answer.total - answer.first, shutil.disk_usage(path.parent).free
    if missing > free:
        raise StorageError(
            f"{path} needs {missing} more bytes, the disk has {free}: free some space, or set MUYBRIDGE_CACHE"
        )


def _receive(
    response: http.client.HTTPResponse,
    answer: _Answer,
    path: Path,
    *,
    max_bytes: int,
    on_progress: OnProgress | None,
) -> None:
    """Appends what comes to what is here."""
    done = answer.first
    try:
        if answer.mark:
            _mark_path(path).write_text(answer.mark, encoding="latin1")
        else:
            _mark_path(path).unlink(missing_ok=True)
        with _part(path).open("ab" if answer.first else "wb") as file:
            for chunk in _chunks(response):
                done += len(chunk)
                if done > max_bytes:
                    break
                file.write(chunk)
                if on_progress is not None:
                    on_progress(done, answer.total)
    except ConnectionError:
        raise
    except OSError as error:
        _forget(path)  # room for others
        raise storage_error(path, error) from None
    if done > max_bytes:
        _forget(path)
        raise WeightsError(f"{path.name} has more than {max_bytes} bytes: not downloaded")


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read(CHUNK_BYTES):
            yield chunk
    except OSError as error:  # timeouts and broken encryption among them
        raise ConnectionError(str(error) or type(error).__name__) from error


def _check(file: Path, path: Path, sha256: str) -> str:
    """The hash of a file that is to be `path`, after comparing it with what is known of it."""
    known = _pinned(path) or sha256
    if not known.startswith(sha256):
        raise WeightsError(
            f"{_pin_path(path)} says {known}, published is {sha256}: delete the file that is wrong"
        )
    return check_hash(
        file,
        known,
        advice=f"Delete it and ask again; if the publisher has replaced it, delete {_pin_path(path)} too",
    )


def _pin(path: Path, sha256: str) -> str:
    """Writes a file's hash down, and gives it, the first time."""
    if _pinned(path):
        return ""
    with atomic_path(_pin_path(path)) as temporary:
        temporary.write_text(f"{sha256}  {path.name}\n", encoding="utf-8")  # as sha256sum has it
    return sha256


def _pinned(path: Path) -> str:
    """The hash that this file had when it first came; "" if it never has."""
    file = _pin_path(path)
    return file.read_text(encoding="utf-8").partition(" ")[0] if file.is_file() else ""


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One download of a file at a time; the others wait and find it there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f"{path.name}.lock").open("w")
    except OSError as error:
        raise storage_error(path, error) from None
    with file:
        if sys.platform != "win32":  # there two at once would both download
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _mark_path(path: Path) -> Path:
    """Which version of the file the .part is of, in the server's words."""
    return path.with_name(f"{path.name}.part.mark")


def _forget(path: Path) -> None:
    """Removes what has come of a file."""
    _part(path).unlink(missing_ok=True)
    _mark_path(path).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _pin_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
