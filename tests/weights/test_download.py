"""Downloads from a server on this machine: whole, cut, resumed, wrong, too large, and onto a full disk."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from muybridge.errors import StorageError, WeightsError
from muybridge.weights.download import cache_dir, cached_path, check_hash, fetch, hash_in_name

CONTENT = bytes(range(256)) * 4000  # a megabyte
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT at every address and does what a test asks of it.

    Attributes:
        cuts: how many bytes of the first, second, ... answer are sent before the connection breaks.
        statuses: of the first, second, ... answer, in place of a file.
        asked: the ranges that were asked for; "" for the whole.
        mark: the ETag; None sends none.
        content: what is served.
        ranges: whether parts are served.
        lengths: whether the size is said.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.asked: list[str] = []
        self.mark: str | None = '"one"'
        self.content = CONTENT
        self.ranges = True
        self.lengths = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/zoo/net.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range", "")
        server.asked.append(asked)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        fresh = self.headers.get("If-Range") == server.mark
        first = int(asked[6:-1]) if asked and fresh and server.ranges else 0
        if first >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.end_headers()
            return
        body = server.content[first:]
        self.send_response(206 if first else 200)
        if first:
            last = len(server.content) - 1
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(server.content)}")
        if server.lengths:
            self.send_header("Content-Length", str(len(body)))
        if server.mark:
            self.send_header("ETag", server.mark)
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(body)
        self.wfile.write(body[:cut])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "net.pth"


def get(server: Server, path: Path, **options: object) -> str:
    return fetch(server.url, path, pause_seconds=0.0, **options)


def files(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir() if not file.name.endswith(".lock")}


def test_a_file_comes_whole_and_its_hash_is_written_down(server: Server, path: Path):
    seen: list[tuple[int, int | None]] = []
    pinned = get(server, path, sha256=SHA256[:8], on_progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert pinned == SHA256
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert path.with_name("net.pth.sha256").read_text() == f"{SHA256}  net.pth\n"  # as sha256sum -c reads it
    assert files(path) == {"net.pth", "net.pth.sha256"}
    assert get(server, path, sha256=SHA256[:8]) == ""
    assert server.asked == [""]  # the second time it was there


@pytest.mark.parametrize("lengths", [True, False])
def test_a_server_without_marks_or_lengths(server: Server, path: Path, lengths: bool):
    server.mark, server.lengths = None, lengths
    assert get(server, path) == SHA256
    assert path.read_bytes() == CONTENT


def test_a_connection_that_breaks_is_gone_on_with(server: Server, path: Path):
    server.cuts = [300_000, 1000, 0]
    get(server, path, sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert server.asked == ["", "bytes=300000-", "bytes=301000-", "bytes=301000-"]
    assert files(path) == {"net.pth", "net.pth.sha256"}


def test_a_connection_that_breaks_again_and_again_leaves_what_came(server: Server, path: Path):
    server.cuts = [100_000] * 4
    with pytest.raises(WeightsError) as caught:
        get(server, path)
    text = str(caught.value)
    assert "the connection broke after 400000 of 1024000 bytes" in text
    assert f"fetch {server.url} where that can be done and put it at {path}" in text
    assert f"What came so far is kept: {path}.part" in text
    assert not path.exists()
    get(server, path)  # the next run goes on
    assert server.asked[-1] == "bytes=400000-"
    assert path.read_bytes() == CONTENT


def test_a_file_that_changes_meanwhile_is_begun_anew(server: Server, path: Path):
    server.cuts = [100_000] * 4
    with pytest.raises(WeightsError, match="the connection broke"):
        get(server, path)
    server.content, server.mark = CONTENT[::-1], '"two"'
    get(server, path)
    assert path.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("change", ["no ranges", "no mark", "weak mark"])
def test_what_cannot_be_resumed_is_begun_anew(server: Server, path: Path, change: str):
    server.ranges = change != "no ranges"
    server.mark = {"no ranges": '"one"', "no mark": None, "weak mark": 'W/"one"'}[change]
    server.cuts = [500_000]
    get(server, path)
    assert path.read_bytes() == CONTENT
    assert server.asked == (["", "bytes=500000-"] if change == "no ranges" else ["", ""])


def test_a_download_that_was_killed_at_its_very_end(server: Server, path: Path):
    path.parent.mkdir()
    path.with_name("net.pth.part").write_bytes(CONTENT)
    path.with_name("net.pth.part.mark").write_text('"one"')
    get(server, path, sha256=SHA256)
    assert server.asked == ["bytes=1024000-"]
    assert path.read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file_is_thrown_away(server: Server, path: Path):
    path.parent.mkdir()
    path.with_name("net.pth.part").write_bytes(CONTENT + b"more")
    path.with_name("net.pth.part.mark").write_text('"one"')
    get(server, path)
    assert path.read_bytes() == CONTENT


def test_another_file_than_was_published_is_thrown_away(server: Server, path: Path):
    with pytest.raises(WeightsError, match=r"its SHA-256 is [0-9a-f]{64}, not 01234567\.\.\.\. Delete it"):
        get(server, path, sha256="01234567")
    assert files(path) == set()


def test_a_file_that_changed_since_it_first_came(server: Server, path: Path):
    get(server, path)
    path.unlink()
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(WeightsError, match=rf"not {SHA256}.*has replaced it, delete .*net\.pth\.sha256 too"):
        get(server, path)
    path.write_bytes(server.content)  # put there by hand
    with pytest.raises(WeightsError, match=rf"not {SHA256}"):
        get(server, path)
    path.with_name("net.pth.sha256").unlink()
    assert get(server, path) == hashlib.sha256(server.content).hexdigest()


def test_a_pin_and_a_published_hash_that_do_not_agree(server: Server, path: Path):
    get(server, path)
    with pytest.raises(
        WeightsError, match=rf"sha256 says {SHA256}, published is 01234567: delete the file that"
    ):
        get(server, path, sha256="01234567")


def test_a_file_put_there_by_hand_is_pinned(server: Server, path: Path):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert get(server, path) == SHA256
    assert server.asked == []


@pytest.mark.parametrize("lengths", [True, False])
def test_a_file_that_is_too_large_is_refused(server: Server, path: Path, lengths: bool):
    server.lengths = lengths
    with pytest.raises(
        WeightsError, match=r"net\.pth has (1024000|more than 1000000) bytes.* not downloaded"
    ):
        get(server, path, max_bytes=1_000_000)
    assert not path.exists()
    assert not path.with_name("net.pth.part").exists()


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (503, 4)])
def test_what_the_server_says_is_passed_on(server: Server, path: Path, status: int, tries: int):
    server.statuses = [status] * 4
    with pytest.raises(
        WeightsError, match=rf"cannot download \(the server says {status} .*\): fetch http://.* and put"
    ):
        get(server, path)
    assert len(server.asked) == tries


def test_a_server_that_recovers(server: Server, path: Path):
    server.statuses = [503, 500]
    get(server, path)
    assert path.read_bytes() == CONTENT


def test_without_a_connection_one_sentence_names_the_file_and_its_place(path: Path):
    with Server() as server:
        url = server.url  # of a port where nobody listens any more
    with pytest.raises(WeightsError) as caught:
        fetch(url, path)
    text = str(caught.value)
    assert text.startswith("cannot download (")
    assert text.endswith(f": fetch {url} where that can be done and put it at {path}.")
    assert "\n" not in text


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/a.pth"])
def test_other_kinds_of_addresses_are_refused(path: Path, url: str):
    with pytest.raises(WeightsError, match="only http and https are downloaded from, not"):
        fetch(url, path)


def test_a_disk_without_room_is_said_before_anything_comes(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage)
    with pytest.raises(
        StorageError, match="needs 1024000 more bytes, the disk has 1000: free some space, or set MUY"
    ):
        get(server, path)
    assert not path.exists()


def test_a_disk_that_is_full_meanwhile(server: Server, tmp_path: Path):
    """/dev/full takes nothing."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    path = tmp_path / "net.pth"
    path.with_name("net.pth.part").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"no space left to write .*net\.pth"):
        get(server, path)
    assert files(path) == set()


def test_a_folder_that_cannot_be_made(server: Server, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        get(server, tmp_path / "file" / "net.pth")


def test_several_at_once_download_once(server: Server, path: Path):
    threads = [threading.Thread(target=get, args=(server, path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.asked == [""]
    assert path.read_bytes() == CONTENT


def test_the_cache_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MUYBRIDGE_CACHE", str(tmp_path))
    assert cached_path("https://a.org/b/c.pth?dl=1") == tmp_path / "weights" / "a.org" / "b" / "c.pth"
    monkeypatch.setenv("MUYBRIDGE_CACHE", "")
    assert cache_dir() == Path.home() / ".cache" / "muybridge"


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        ("r3d_18-b3b3357e.pth", "b3b3357e"),
        ("c3d_ucf101-rgb_20220811-31723200.pth", "31723200"),
        (f"net-{SHA256}.pth", SHA256),
        ("slowfast-20240131.pth", ""),
        ("net-abcdefgh.pth", ""),
        ("net-abc.pth", ""),
        ("SLOWFAST_8x8_R50.pyth", ""),
    ],
)
def test_hashes_in_names(name: str, digits: str):
    assert hash_in_name(name) == digits


def test_check_hash(tmp_path: Path):
    path = tmp_path / "a.pth"
    path.write_bytes(CONTENT)
    assert check_hash(path, SHA256[:8], advice="") == SHA256
    with pytest.raises(
        WeightsError, match=rf"damaged or another file: its SHA-256 is {SHA256}, not {'0' * 64}\. Now"
    ):
        check_hash(path, "0" * 64, advice="Now what")
