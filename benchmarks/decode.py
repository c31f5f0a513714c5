"""Does our reader decode as fast as FFmpeg allows, and only what it must?

    python benchmarks/decode.py [--rounds 7]

  all_frames_340x256    all frames of a 340 x 256 h264 file as RGB: against torchcodec, OpenCV's VideoCapture,
                        and bare decoding through PyAV, which makes no RGB at all
  sparse_25_of_40s      25 frames spread over a 40 s file: against reading straight through
  seek_over_3           every fourth frame, each of them a key, in one thread: the same
  short_side_128        resized while decoding: against decoding, then resizing with torch

The file is made here. Our frames must be swscale's to the byte, and the resized ones within 2 levels of
torch's on average; then the sides take turns. torchcodec needs the system's FFmpeg; where it does not import,
a line on stderr says so and that peer is left out.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from av.video.frame import VideoFrame
from common import in_turn, report

from muybridge.types import Size, UInt8Array
from muybridge.video.decode import VideoReader
from muybridge.video.encode import write_video

HEIGHT, WIDTH, FPS = 256, 340, 25.0
NUM_FRAMES, PIECE, NUM_KEYS = 1000, 100, 100


def main() -> None:
    """Checks, then times, each case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="(%(default)s)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, scene(NUM_FRAMES), fps=FPS, gop=50, b_frames=2)
        all_frames(path, rounds)
        sparse("sparse_25_of_40s", path, [int(i) for i in np.linspace(0, NUM_FRAMES - 1, 25)], rounds)
        keys = Path(folder) / "keys.mp4"
        write_video(keys, scene(NUM_KEYS * 4), fps=FPS, gop=4, b_frames=2)
        sparse("seek_over_3", keys, list(range(0, NUM_KEYS * 4, 4)), rounds, threads=1)
        short_side(path, rounds)


def scene(num_frames: int) -> Iterator[UInt8Array]:
    """A textured room that pans, and discs that move in it: about as hard to decode as a real clip."""
    rng = np.random.default_rng(0)
    grain = rng.integers(40, 215, (40, 80, 1), np.uint8) * np.array([1.0, 0.95, 0.85])  # warm greys
    wall = cv2.resize(grain.astype(np.uint8), (2 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    for t in range(num_frames):
        left = int(WIDTH / 2 * (1 + np.sin(t / 60)))
        frame = np.ascontiguousarray(wall[:, left : left + WIDTH])
        for disc in range(4):
            center = (int(170 + 120 * np.sin(t / 17 + disc)), int(128 + 90 * np.cos(t / 13 + 2 * disc)))
            cv2.circle(frame, center, 24, (60 * disc, 255 - 50 * disc, 90), -1)
        noise = rng.integers(-4, 5, (HEIGHT, WIDTH, 1), np.int16)
        yield np.clip(frame + noise, 0, 255).astype(np.uint8)


def all_frames(path: Path, rounds: int) -> None:
    """Every frame of the file as RGB."""

    def ours() -> Iterator[UInt8Array]:
        with VideoReader(path) as reader:
            for start in range(0, NUM_FRAMES, PIECE):
                yield reader.read(range(start, start + PIECE))

    def by_swscale() -> Iterator[UInt8Array]:
        with av.open(str(path)) as container:
            frames = (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))
            while piece := list(itertools.islice(frames, PIECE)):
                yield np.stack(piece)

    def by_opencv() -> Iterator[list[np.ndarray]]:
        capture, frames = cv2.VideoCapture(str(path)), []
        while (read := capture.read())[0]:
            frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
            if len(frames) == PIECE:
                yield frames
                frames = []

    def bare() -> Iterator[VideoFrame]:
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "AUTO"
            yield from container.decode(video=0)

    for our_piece, piece in zip(ours(), by_swscale(), strict=True):
        assert np.array_equal(our_piece, piece), "our frames are not swscale's"
    assert sum(map(len, by_opencv())) == sum(1 for _ in bare()) == NUM_FRAMES
    peers: dict[str, Callable[[], Iterator[object]]] = {"opencv": by_opencv, "libav_bare": bare}
    if torchcodec := by_torchcodec(path):
        assert sum(map(len, torchcodec())) == NUM_FRAMES
        peers = {"torchcodec": torchcodec, **peers}
    for name, peer in peers.items():
        ours_seconds, peer_seconds = in_turn(lambda: use(ours()), lambda: use(peer()), rounds=rounds)  # noqa: B023
        report("all_frames_340x256", ours_seconds, name, peer_seconds)


def use(pieces: Iterator[object]) -> None:
    """Takes one piece after the other, and keeps none."""
    for _ in pieces:
        pass


def by_torchcodec(path: Path) -> Callable[[], Iterator[torch.Tensor]] | None:
    """The whole file by torchcodec; None where it is not to be had."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:
        print(f"without torchcodec: {str(error).splitlines()[0]}", file=sys.stderr)
        return None

    def pieces() -> Iterator[torch.Tensor]:
        decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=0)
        for start in range(0, NUM_FRAMES, PIECE):
            yield decoder.get_frames_in_range(start, start + PIECE).data

    return pieces


def sparse(case: str, path: Path, indices: list[int], rounds: int, threads: int | None = None) -> None:
    """Some frames of a file: against decoding all."""

    def ours() -> UInt8Array:
        with VideoReader(path, threads=threads) as reader:
            return reader.read(indices)

    def straight() -> UInt8Array:
        wanted = set(indices)
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "NONE" if threads == 1 else "AUTO"
            frames = enumerate(container.decode(video=0))
            return np.stack([frame.to_ndarray(format="rgb24") for i, frame in frames if i in wanted])

    assert np.array_equal(ours(), straight()), "our frames are not those of reading straight through"
    ours_seconds, peer_seconds = in_turn(ours, straight, rounds=rounds)
    report(case, ours_seconds, "straight_through", peer_seconds)


def short_side(path: Path, rounds: int) -> None:
    """All frames at a short side of 128."""
    size = Size(128, 170)

    def ours() -> Iterator[UInt8Array]:
        with VideoReader(path) as reader:
            for start in range(0, NUM_FRAMES, PIECE):
                yield reader.read(range(start, start + PIECE), size=size)

    def then_torch() -> Iterator[UInt8Array]:
        with VideoReader(path) as reader:
            for start in range(0, NUM_FRAMES, PIECE):
                frames = torch.from_numpy(reader.read(range(start, start + PIECE))).permute(0, 3, 1, 2)
                small = F.interpolate(frames, tuple(size), mode="bilinear", antialias=True)
                yield small.permute(0, 2, 3, 1).contiguous().numpy()

    differences = [np.abs(a.astype(int) - b).mean() for a, b in zip(ours(), then_torch(), strict=True)]
    difference = float(np.mean(differences))
    assert difference <= 2, f"resized frames differ by {difference:.2f} levels on average"
    ours_seconds, peer_seconds = in_turn(lambda: use(ours()), lambda: use(then_torch()), rounds=rounds)
    report(
        "short_side_128",
        ours_seconds,
        "decode_then_torch_resize",
        peer_seconds,
        mean_levels=round(difference, 3),
    )


if __name__ == "__main__":
    main()
