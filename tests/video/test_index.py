"""The index by packets: what it trusts, what it does not, and what it makes of times."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muybridge.video.index import (
    MIN_LANE_FRAMES,
    MIN_LANE_GAIN,
    FrameIndex,
    Packet,
    StreamFacts,
    is_one_to_one,
)


def facts(container: str = "mov,mp4,m4a", codec: str = "h264", **values: object) -> StreamFacts:
    known: dict[str, object] = {"time_base": Fraction(1, 1000), "rate": Fraction(25)} | values
    return StreamFacts(container=container, codec=codec, **known)  # type: ignore[arg-type]


def steady(num_frames: int, *, unit: int = 40, gop: int = 5) -> list[Packet]:
    return [Packet(i * unit, unit, 500, i % gop == 0) for i in range(num_frames)]


def test_healthy_packets_are_the_frames() -> None:
    index = FrameIndex.from_packets(steady(12), facts())
    assert index is not None
    assert len(index) == 12
    assert index.keys.tolist() == [0, 5, 10]
    assert index.rate == 25
    assert index.duration_seconds == pytest.approx(0.48)
    assert index.seconds([0, 11, 11]).tolist() == pytest.approx([0, 0.44, 0.44])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda packets: [*packets[:3], packets[3]._replace(pts=None), *packets[4:]],
        lambda packets: [*packets, packets[-1]],  # two frames at one time
        lambda packets: packets[1:],  # does not start with a key
        lambda packets: [packets[5], *packets[:5], *packets[6:]],  # frames shown before the first key
        lambda packets: [*packets[:-1], packets[-1]._replace(is_corrupt=True)],
        lambda packets: [],
    ],
    ids=["no pts", "duplicate pts", "no key", "open start", "corrupt", "none"],
)
def test_odd_packets_are_not_trusted(spoil: object) -> None:
    assert FrameIndex.from_packets(spoil(steady(12)), facts()) is None  # type: ignore[operator]


@pytest.mark.parametrize(
    ("container", "codec", "reorder", "trusted"),
    [
        ("avi", "mpeg4", 0, True),
        ("avi", "mpeg4", 1, False),  # AVI stores no order of display
        ("avi", "h264", 0, False),
        ("mpegts", "h264", 2, False),  # not every packet says its time
        ("matroska,webm", "h264", 2, True),
        ("flv", "h264", 1, True),
    ],
)
def test_containers_that_store_times_are_trusted(
    container: str, codec: str, reorder: int, trusted: bool
) -> None:
    index = FrameIndex.from_packets(steady(12), facts(container, codec, reorder_frames=reorder))
    assert (index is not None) == trusted


def test_codecs_that_promise_a_frame_a_packet() -> None:
    assert is_one_to_one(steady(5), facts())
    assert not is_one_to_one(steady(5), facts(is_interlaced=True))
    assert not is_one_to_one(steady(5), facts(codec="theora"))
    assert is_one_to_one(steady(5), facts(codec="mpeg4"))
    assert not is_one_to_one([*steady(5), Packet(200, 40, 7, False)], facts(codec="mpeg4"))


def test_hidden_and_discarded_packets_are_no_frames_but_keys_still_serve() -> None:
    packets = steady(10)
    packets[7] = packets[7]._replace(is_hidden=True)
    packets[:3] = [packet._replace(is_discard=True) for packet in packets[:3]]
    index = FrameIndex.from_packets(packets, facts())
    assert index is not None
    assert index.pts.tolist() == [120, 160, 200, 240, 320, 360]
    assert index.keys.tolist() == [0, 2]  # the first of what can be shown after the discarded key
    assert index.key_seeks.tolist() == [0, 200]


def test_rate_is_the_stated_one_where_times_are_only_rounded() -> None:
    rounded = [Packet(round(i * 1000 / 29.97), 33, 500, i == 0) for i in range(300)]
    index = FrameIndex.from_packets(rounded, facts(rate=Fraction(2997, 100)))
    assert index is not None
    assert index.rate == 29.97
    every_other = [Packet(i * 80, 80, 500, i == 0) for i in range(100)]
    index = FrameIndex.from_packets(every_other, facts(rate=Fraction(25)))  # a wrong word
    assert index is not None
    assert index.rate == 12.5


def test_counting_keeps_times_that_rise_and_numbers_others() -> None:
    index = FrameIndex.from_counting([40, 80, 200], 40, facts())
    assert index.timed
    assert not index.can_seek
    assert index.seconds([2]).tolist() == pytest.approx([0.16])
    assert index.duration_seconds == pytest.approx(0.2)
    index = FrameIndex.from_counting([40, 200, 80], 40, facts(rate=None))
    assert not index.timed
    assert index.rate == 25
    assert index.seconds([2]).tolist() == pytest.approx([0.08])


def test_single_frame_without_times_lasts_a_25th() -> None:
    index = FrameIndex.from_packets([Packet(7, 0, 500, True)], facts(rate=None))
    assert index is not None
    assert index.duration_seconds == pytest.approx(0.04)
    assert index.rate == pytest.approx(25)


def test_runs_are_parted_where_a_seek_pays() -> None:
    index = FrameIndex.from_packets(steady(100, gop=10), facts())
    assert index is not None

    def runs(*wanted: int) -> list[list[int]]:
        return [run.tolist() for run in index.runs(np.array(wanted))]

    assert runs(57) == [[57]]
    assert runs(0, 3, 57, 99) == [[0, 3], [57], [99]]
    assert runs(47, 50) == [[47, 50]]  # a seek would spare 48 and 49, which is not enough
    assert runs(46, 50) == [[46], [50]]
    assert runs(*range(0, 100, 3)) == [list(range(0, 100, 3))]  # no gap is worth a seek
    counted = FrameIndex.from_counting([p.pts for p in steady(100)], 40, facts())
    assert [run.tolist() for run in counted.runs(np.array([3, 99]))] == [[3, 99]]  # has no keys to seek to


def test_run_lengths_are_what_is_decoded_from_one_seek_to_the_next() -> None:
    index = FrameIndex.from_packets(steady(100, gop=10), facts())
    assert index is not None
    assert index.run_lengths([np.array([57])]).tolist() == [8]  # from the key at 50
    runs = [np.array([0, 3]), np.array([57]), np.array([99])]
    assert index.run_lengths(runs).tolist() == [4, 8, 10]
    counted = FrameIndex.from_counting([p.pts for p in steady(100)], 40, facts())
    assert counted.run_lengths([np.array([57])]).tolist() == [58]  # without keys: from the first frame


@given(
    gop=st.integers(1, 60),
    wanted=st.sets(st.integers(0, 299), min_size=1, max_size=40),
    most=st.integers(1, 6),
)
def test_parts_hold_every_frame_once_cut_where_a_seek_pays(gop: int, wanted: set[int], most: int) -> None:
    index = FrameIndex.from_packets(steady(300, gop=gop), facts())
    assert index is not None
    frames = np.array(sorted(wanted))
    parts = index.parts(frames, most)
    assert np.concatenate(parts).tolist() == frames.tolist()
    assert 1 <= len(parts) <= most
    assert all(len(part) for part in parts)
    starts = {int(run[0]) for run in index.runs(frames)}
    assert {int(part[0]) for part in parts} <= starts
    if len(parts) > 1:
        costs = [int(index.run_lengths(index.runs(part)).sum()) for part in parts]
        assert sum(costs) >= MIN_LANE_GAIN * max(costs)
        assert sum(costs) >= MIN_LANE_FRAMES * len(parts)


def test_parts_are_one_where_more_would_not_pay() -> None:
    index = FrameIndex.from_packets(steady(300, gop=50), facts())
    assert index is not None
    assert len(index.parts(np.array([45, 95, 145, 195]), 2)) == 2
    assert len(index.parts(np.array([45, 95, 145, 195]), 1)) == 1
    assert len(index.parts(np.array([1, 51, 101]), 2)) == 1  # a few frames: no file is opened for them
    assert len(index.parts(np.array([*range(200), 299]), 2)) == 1  # nearly all of it is one run
    counted = FrameIndex.from_counting([p.pts for p in steady(300)], 40, facts())
    assert len(counted.parts(np.array([45, 95, 145, 195]), 2)) == 1


def test_runs_part_exactly_where_the_reader_seeks() -> None:
    index = FrameIndex.from_packets(steady(100, gop=10), facts())
    assert index is not None
    for before, after in itertools.combinations(range(100), 2):
        runs = index.runs(np.array([before, after]))
        assert (len(runs) == 2) == index.seek_pays(before + 1, after), (before, after)


def test_find_goes_by_the_timestamp_not_by_the_place() -> None:
    index = FrameIndex.from_packets(steady(12), facts())
    assert index is not None
    assert index.find(120, 3) == 3
    assert index.find(120, 9) == 3
    assert index.find(121, 3) is None
    assert index.find(None, 3) is None
    assert index.find(9999, 12) is None
