"""From one seek to the next, the decoder gets the packets that the frames wanted need, and no more."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from av.video.frame import VideoFrame
from made_frames import moving, straight

from muybridge.types import UInt8Array
from muybridge.video.container import FileDecoder
from muybridge.video.encode import write_video
from muybridge.video.seeking import FrameFinder, Use

GOP, NUM_FRAMES = 12, 240


class Watched(FileDecoder):
    """Remembers what it was told of each packet, a list for each seek."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.uses: list[list[Use]] = []

    def seek(self, timestamp: int) -> None:
        self.uses.append([])
        super().seek(timestamp)

    def frames(self, use: Callable[[int | None], Use]) -> Iterator[VideoFrame]:
        def remembered(pts: int | None) -> Use:
            self.uses[-1].append(use(pts))
            return self.uses[-1][-1]

        return super().frames(remembered)


@pytest.fixture(scope="module", params=["h264", "hevc"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seeking") / "b_frames.mp4"
    write_video(path, moving(NUM_FRAMES), fps=25, gop=GOP, b_frames=3, codec=request.param)
    return path


@pytest.fixture
def decoder(path: Path) -> Iterator[Watched]:
    decoder = Watched(path)
    yield decoder
    decoder.close()


def finder_of(decoder: Watched, threads: int = 1) -> FrameFinder[VideoFrame]:
    scan = decoder.scan()
    return FrameFinder(decoder, scan.facts, scan.index(), trusted=True, threads=threads)


def frames(finder: FrameFinder[VideoFrame], wanted: list[int]) -> list[UInt8Array]:
    finder.prepare(np.array(wanted))
    return [finder.frame(target).to_ndarray(format="rgb24") for target in wanted]


def test_decoding_stops_with_the_last_packet_that_a_run_needs(path: Path, decoder: Watched) -> None:
    expected = straight(path)
    wanted = [5, 40, 41, 43, 90, 130, 200]
    assert np.array_equal(frames(finder_of(decoder), wanted), expected[wanted])
    *stopped, last = decoder.uses
    assert len(stopped) == 4  # a seek for each run: 40, 41 and 43 are one of five
    assert all(run.index(Use.DECODE_AND_STOP) == len(run) - 1 for run in stopped)
    assert Use.DECODE_AND_STOP not in last  # the next read may go on from there


def test_reading_goes_on_where_the_last_run_ended(decoder: Watched) -> None:
    finder = finder_of(decoder)
    frames(finder, [5, 100])
    frames(finder, [102, 103])
    assert len(decoder.uses) == 2  # seeks


@pytest.mark.parametrize(("wanted", "threads"), [(range(NUM_FRAMES), 3), ([*range(60), 100, 150, 200], 1)])
def test_many_threads_are_for_runs_that_are_long_on_average(
    decoder: Watched, wanted: list[int], threads: int
) -> None:
    finder_of(decoder, threads=3).prepare(np.array(wanted))
    assert decoder.threads == threads
