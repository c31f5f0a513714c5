"""What is not a video, and what is none that we would read: each says so."""

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from made_frames import smooth

from muybridge.errors import DecodeError, VideoError
from muybridge.video import container
from muybridge.video.decode import VideoReader, probe
from muybridge.video.encode import write_video


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"film.mp4 is empty \(0 bytes\): get it anew"),
        (b"walk,left\nrun,right\n" * 50, "film.mp4 is not a video"),
        (bytes(range(256)) * 40, "film.mp4 is not a video"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{clip}\n#EXT-X-ENDLIST\n", "not a video.*playlists"),
        (b"ffconcat version 1.0\nfile '{clip}'\n", "not a video.*playlists"),
    ],
    ids=["no bytes", "text", "noise", "m3u8", "concat"],
)
@pytest.mark.parametrize("open_it", [probe, VideoReader])
def test_what_is_not_a_video(
    tmp_path: Path, clip: Path, content: bytes, message: str, open_it: Callable[[Path], object]
) -> None:
    (tmp_path / "other.mp4").write_bytes(clip.read_bytes())
    path = tmp_path / "film.mp4"
    path.write_bytes(content.replace(b"{clip}", b"other.mp4"))
    with pytest.raises(VideoError, match=message):
        open_it(path)


def test_playlist_that_points_elsewhere_is_refused_under_its_own_name(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "segment.ts").write_bytes(clip.read_bytes())
    for name, text in (
        (
            "list.m3u8",
            f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{tmp_path}/segment.ts\n#EXT-X-ENDLIST\n",
        ),
        ("list.ffconcat", "ffconcat version 1.0\nfile segment.ts\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoError, match="playlists are refused"):
            VideoReader(tmp_path / name)


def test_missing_directory_and_other_nonsense(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"none.mp4 does not exist: check the path"):
        VideoReader(tmp_path / "none.mp4")
    with pytest.raises(VideoError, match="is a directory: name a video file in it"):
        VideoReader(str(tmp_path))
    with pytest.raises(VideoError, match=r"<bytes> is empty \(0 bytes\)"):
        VideoReader(b"")
    with pytest.raises(VideoError, match="cannot be read from list: give a path, bytes, a binary file, or"):
        VideoReader([1, 2])  # type: ignore[arg-type]
    with pytest.raises(VideoError, match="text file: open it with mode 'rb'"):
        VideoReader(io.StringIO("text"))  # type: ignore[arg-type]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(VideoError, match="neither a file nor a directory"):
        VideoReader(tmp_path / "pipe")
    with pytest.raises(VideoError, match="does not exist"):
        VideoReader("http://127.0.0.1:9/film.mp4")


@pytest.mark.real
def test_file_without_streams(wild: Path) -> None:
    with pytest.raises(VideoError, match=r"empty_ImgVideo.mp4 has no video stream \(it holds nothing\)"):
        VideoReader(wild / "empty_ImgVideo.mp4")


def test_audio_only_and_cover_pictures_are_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.m4a"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        for start in range(0, 8192, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match=r"has no video stream \(it holds audio\): name another file"):
        VideoReader(tmp_path / "sound.m4a")


def test_frames_of_absurd_size_are_refused(tmp_path: Path) -> None:
    """A header of a few bytes must not make the decoder fill the memory."""
    write_video(tmp_path / "small.avi", smooth(3, 48, 64), fps=25, codec="ffv1")
    content = (tmp_path / "small.avi").read_bytes()
    sizes = struct.pack("<ii", 64, 48), struct.pack("<ii", 12_000, 12_000)
    with pytest.raises(DecodeError, match="not one of its frames decodes, or they have more than 67108864"):
        VideoReader(content.replace(*sizes))


def test_decoder_itself_keeps_the_limit(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The container may hide what the stream asks for."""
    monkeypatch.setattr(container, "MAX_PIXELS", 96 * 128 - 1)
    with pytest.raises(DecodeError, match="more than 12287 pixels"):
        VideoReader(clip)
