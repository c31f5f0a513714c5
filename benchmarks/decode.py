"""Does our reader decode as fast as FFmpeg allows, and only what it must?

    python benchmarks/decode.py [--rounds 7]

  all_frames_340x256    all frames of a 340 x 256 h264 file as RGB: against torchcodec, OpenCV's VideoCapture,
                        and bare decoding through PyAV, which makes no RGB at all
  sparse_25_of_40s      25 frames spread over a 40 s file: against reading straight through
  short_side_128        resized while decoding: against decoding, then resizing with torch

The file is made here. Our frames must be swscale's to the byte, and the resized ones within 2 levels of
torch's on average; then the sides take turns. torchcodec needs the system's FFmpeg; where it does not import,
a line on stderr says so and that peer is left out.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from common import in_turn, report

from muybridge.types import Size, UInt8Array
from muybridge.video.decode import VideoReader
from muybridge.video.encode import write_video

HEIGHT, WIDTH, FPS = 256, 340, 25.0


def main() -> None:
    """Checks, then times, each case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="(%(default)s)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, scene(1000), fps=FPS, gop=50, b_frames=2)
        all_frames(path, rounds)
        sparse(path, rounds)
        short_side(path, rounds)


def scene(num_frames: int) -> Iterator[UInt8Array]:
    """A textured room that pans, and discs that move in it: about as hard to decode as a real clip."""
    rng = np.random.default_rng(0)
    grain = rng.integers(40, 215, (40, 80, 1), np.uint8) * np.array(
        [1.0, 0.95, 0.85]
    )  # colours of a real room
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

    def ours() -> UInt8Array:
        with VideoReader(path) as reader:
            return reader.read(range(reader.info.num_frames))

    def by_swscale() -> UInt8Array:
        with av.open(str(path)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])

    def by_opencv() -> list[np.ndarray]:
        capture, frames = cv2.VideoCapture(str(path)), []
        while (read := capture.read())[0]:
            frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
        return frames

    def bare() -> int:
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "AUTO"
            return sum(1 for _ in container.decode(video=0))

    assert np.array_equal(ours(), by_swscale()), "our frames are not swscale's"
    assert len(by_opencv()) == bare() == len(ours())
    peers: dict[str, Callable[[], object]] = {"opencv": by_opencv, "libav_bare": bare}
    if torchcodec := by_torchcodec(path):
        peers = {"torchcodec": torchcodec, **peers}
    for name, peer in peers.items():
        ours_seconds, peer_seconds = in_turn(ours, peer, rounds=rounds)
        report("all_frames_340x256", ours_seconds, name, peer_seconds)


def by_torchcodec(path: Path) -> Callable[[], object] | None:
    """The whole file by torchcodec; None where it is not to be had."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:
        print(f"without torchcodec: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    return lambda: VideoDecoder(str(path), num_ffmpeg_threads=0)[:]


def sparse(path: Path, rounds: int) -> None:
    """25 frames spread over 40 s."""
    indices = [int(i) for i in np.linspace(0, 999, 25)]

    def ours() -> UInt8Array:
        with VideoReader(path) as reader:
            return reader.read(indices)

    def straight() -> UInt8Array:
        wanted = set(indices)
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "AUTO"
            frames = enumerate(container.decode(video=0))
            return np.stack([frame.to_ndarray(format="rgb24") for i, frame in frames if i in wanted])

    assert np.array_equal(ours(), straight()), "our frames are not those of reading straight through"
    ours_seconds, peer_seconds = in_turn(ours, straight, rounds=rounds)
    report("sparse_25_of_40s", ours_seconds, "straight_through", peer_seconds)


def short_side(path: Path, rounds: int) -> None:
    """All frames at a short side of 128."""
    size = Size(128, 170)

    def ours() -> UInt8Array:
        with VideoReader(path) as reader:
            return reader.read(range(reader.info.num_frames), size=size)

    def then_torch() -> UInt8Array:
        with VideoReader(path) as reader:
            frames = torch.from_numpy(reader.read(range(reader.info.num_frames))).permute(0, 3, 1, 2)
        small = F.interpolate(frames, tuple(size), mode="bilinear", antialias=True)
        return small.permute(0, 2, 3, 1).contiguous().numpy()

    difference = np.abs(ours()[::10].astype(int) - then_torch()[::10]).mean()
    assert difference <= 2, f"resized frames differ by {difference:.2f} levels on average"
    ours_seconds, peer_seconds = in_turn(ours, then_torch, rounds=rounds)
    report(
        "short_side_128",
        ours_seconds,
        "decode_then_torch_resize",
        peer_seconds,
        mean_levels=round(difference, 3),
    )


if __name__ == "__main__":
    main()
