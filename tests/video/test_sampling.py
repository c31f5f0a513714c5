"""Which frames: tables worked out by hand, the laws as properties, and every message."""

import random
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from muybridge.config import ClipSpec, ShortPolicy
from muybridge.errors import VideoTooShortError
from muybridge.types import VideoInfo
from muybridge.video.sampling import (
    clip_indices,
    clip_span,
    dense_positions,
    frame_range,
    frames_per_segment,
    one_per_part,
    segments,
    spread,
    strided,
    strided_offsets,
    view_positions,
)


def video(num_frames: int, fps: float = 25.0) -> VideoInfo:
    return VideoInfo(
        path="clip.mp4",
        num_frames=num_frames,
        exact=True,
        fps=fps,
        height=120,
        width=160,
        duration_seconds=num_frames / fps,
        codec="h264",
    )


STRIDED = ClipSpec(num_frames=4, frame_stride=4)


# Tables


@pytest.mark.parametrize(
    ("num_frames", "position", "expected"),
    [
        (13, 0.5, (0, 4, 8, 12)),  # the only place there is
        (13, 1.0, (0, 4, 8, 12)),
        (14, 0.0, (0, 4, 8, 12)),
        (14, 1.0, (1, 5, 9, 13)),
        (33, 0.0, (0, 4, 8, 12)),
        (33, 0.5, (10, 14, 18, 22)),
        (33, 1.0, (20, 24, 28, 32)),
        (5, 0.5, (0, 4, 3, 2)),  # looped
    ],
)
def test_strided_clips(num_frames: int, position: float, expected: tuple[int, ...]) -> None:
    assert clip_indices(STRIDED, video(num_frames), position=position) == expected


@pytest.mark.parametrize(
    ("file_fps", "clip_fps", "expected"),
    [
        (25, None, (0, 1, 2, 3, 4, 5)),
        (25, 25, (0, 1, 2, 3, 4, 5)),
        (25, 15, (0, 2, 3, 5, 7, 8)),  # 0, 1.67, 3.33, 5, 6.67, 8.33
        (30, 15, (0, 2, 4, 6, 8, 10)),
        (25, 10, (0, 3, 5, 8, 10, 13)),  # halves go up: 2.5 is 3
        (15, 30, (0, 1, 1, 2, 2, 3)),  # a higher rate repeats frames
        (30000 / 1001, 15, (0, 2, 4, 6, 8, 10)),
    ],
)
def test_a_clip_at_another_rate_takes_the_nearest_frames(
    file_fps: float, clip_fps: float | None, expected: tuple[int, ...]
) -> None:
    spec = ClipSpec(num_frames=6, fps=clip_fps)
    assert clip_indices(spec, video(50, file_fps), position=0) == expected
    last = clip_indices(spec, video(50, file_fps), position=1)
    assert last[-1] == 49
    assert clip_span(spec, file_fps) == expected[-1] + 1


@pytest.mark.parametrize(
    ("num_frames", "depth", "first", "last"),
    [(50, 1, 1, 49), (200, 5, 3, 192), (20, 5, 0, 15), (31, 1, 0, 30), (26, 1, 0, 25)],
)
def test_the_middle_of_25_segments_is_tsn_pytorchs(
    num_frames: int, depth: int, first: int, last: int
) -> None:
    tick = Fraction(num_frames - depth + 1, 25)
    theirs = [int(tick / 2 + tick * i) for i in range(25)]  # the published formula, counted from 0
    starts = segments(num_frames, range(depth), 25)[::depth]
    assert list(starts) == theirs
    assert (starts[0], starts[-1]) == (first, last)


def test_segments_of_a_short_video_repeat_places_in_order() -> None:
    spec = ClipSpec(num_frames=1, num_segments=5)
    assert clip_indices(spec, video(3)) == (0, 0, 1, 2, 2)
    assert clip_indices(ClipSpec(num_frames=3, num_segments=2), video(2)) == (0, 1, 0, 0, 1, 0)


def test_a_difference_takes_one_frame_more_than_it_gives() -> None:
    spec = ClipSpec(num_frames=3, frame_stride=2, num_segments=2, modality="rgb_diff")
    assert frames_per_segment(spec) == 4
    assert clip_indices(spec, video(20), position=0) == (0, 2, 4, 6, 7, 9, 11, 13)
    flow = ClipSpec(
        num_frames=10, modality="flow", mean=(0, 0), std=(1, 1), flow_method="tvl1", flow_bound=20
    )
    assert clip_indices(flow, video(11)) == tuple(range(11))


def test_pieces_of_a_file() -> None:
    info = video(100)
    assert frame_range(info, 1.0, 2.0) == (25, 50)
    assert frame_range(info, 0.28, 0.32) == (7, 8)  # 0.28 * 25 is 7.000000000000001
    assert frame_range(info, 0.5, 1.01) == (13, 25)  # 12.5 goes up, 25.25 down
    assert frame_range(info, 1.0, 1.001) == (25, 26)  # never empty
    assert frame_range(info, 3.0, 99.0) == (75, 100)
    indices = clip_indices(ClipSpec(num_frames=4, frame_stride=None), info, start_seconds=1, end_seconds=2)
    assert indices == (28, 34, 40, 46)


def test_policies_for_a_short_video() -> None:
    def of(policy: ShortPolicy) -> tuple[int, ...]:
        return clip_indices(ClipSpec(num_frames=6, short_policy=policy), video(4))

    assert of("loop") == (0, 1, 2, 3, 0, 1)
    assert of("repeat_last") == (0, 1, 2, 3, 3, 3)
    with pytest.raises(VideoTooShortError, match=r"needs 6 frames, found 4; choose short_policy 'loop' or"):
        of("error")


# Messages


def test_the_message_of_a_short_video_says_what_was_asked() -> None:
    strided_clip = ClipSpec(num_frames=16, frame_stride=4, fps=12.5, short_policy="error")
    with pytest.raises(
        VideoTooShortError,
        match=r"clip\.mp4: .*\(16 frames at stride 4 and 12\.5 fps\) needs 121 frames, found 80",
    ):
        clip_indices(strided_clip, video(80))
    snippets = ClipSpec(num_frames=5, num_segments=3, short_policy="error")
    assert len(clip_indices(snippets, video(7))) == 15
    with pytest.raises(
        VideoTooShortError, match=r"3 segments of 5 frames at stride 1\) needs 7 frames, found 6"
    ):
        clip_indices(snippets, video(6))
    whole = ClipSpec(num_frames=8, frame_stride=None, short_policy="error")
    assert clip_indices(whole, video(8)) == tuple(range(8))
    with pytest.raises(VideoTooShortError, match=r"8 frames spread over the video\) needs 8 frames, found 7"):
        clip_indices(whole, video(7))


def test_a_piece_that_starts_after_the_end() -> None:
    with pytest.raises(
        VideoTooShortError, match=r"starts at 4\.5 s, but the video ends at 4\.00 s \(100 frames\)"
    ):
        clip_indices(STRIDED, video(100), start_seconds=4.5)


def test_a_video_without_frames() -> None:
    with pytest.raises(VideoTooShortError, match=r"clip\.mp4: the video has no frames; see: muybridge probe"):
        clip_indices(STRIDED, video(0))


def test_position_and_rng_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="a position or an rng, not both"):
        clip_indices(STRIDED, video(50), position=0.5, rng=random.Random(0))


# Laws

unhurried = settings(deadline=None)  # a busy machine is no error

specs = st.builds(
    ClipSpec,
    num_frames=st.integers(1, 20),
    frame_stride=st.none() | st.integers(1, 9),
    fps=st.none() | st.floats(1, 120),
    num_segments=st.integers(1, 9),
    modality=st.sampled_from(["rgb", "rgb_diff"]),
    short_policy=st.sampled_from(["loop", "repeat_last"]),
)
videos = st.builds(video, st.integers(1, 400), st.floats(1, 120))
places = st.none() | st.floats(0, 1)
seeds = st.integers(0, 2**32)


@unhurried
@given(specs, videos, places, seeds)
def test_count_and_range(spec: ClipSpec, info: VideoInfo, position: float | None, seed: int) -> None:
    rng = random.Random(seed) if position is None else None
    indices = clip_indices(spec, info, position=position, rng=rng)
    assert len(indices) == spec.num_segments * frames_per_segment(spec)
    assert 0 <= min(indices) <= max(indices) < info.num_frames
    per_segment = frames_per_segment(spec)
    parts = [indices[i : i + per_segment] for i in range(0, len(indices), per_segment)]
    if spec.short_policy == "repeat_last" or info.num_frames >= clip_span(spec, info.fps):
        assert all(list(part) == sorted(part) for part in parts)
    starts = [part[0] for part in parts]
    assert starts == sorted(starts)


@unhurried
@given(specs, videos, st.floats(0, 20), st.floats(0.01, 20))
def test_a_piece_stays_inside_itself(spec: ClipSpec, info: VideoInfo, start: float, seconds: float) -> None:
    if start * info.fps + 0.5 >= info.num_frames:
        return
    first, stop = frame_range(info, start, start + seconds)
    indices = clip_indices(spec, info, start_seconds=start, end_seconds=start + seconds)
    assert first <= min(indices) <= max(indices) < stop


@unhurried
@given(videos, st.lists(st.floats(0, 10), min_size=2, max_size=6, unique=True))
def test_pieces_that_touch_share_no_frame(info: VideoInfo, cuts: list[float]) -> None:
    cuts = [cut for cut in sorted(cuts) if int(cut * info.fps + 0.5) < info.num_frames]
    for (start, cut), (_, end) in pairwise(pairwise(cuts)):
        stop, first = frame_range(info, start, cut)[1], frame_range(info, cut, end)[0]
        assert stop == first or (cut - start) * info.fps < 1  # a piece is at least one frame


@unhurried
@given(st.integers(1, 500), st.integers(1, 12), st.integers(1, 9), st.floats(0.2, 5), st.integers(2, 30))
@example(389, 7, 2, 1.25, 12)  # places that fall on frames
def test_the_clips_of_a_test_reach_from_end_to_end(
    length: int, num_frames: int, stride: int, rate: float, num_clips: int
) -> None:
    offsets = strided_offsets(num_frames, stride, rate=rate)
    clips = [strided(length, offsets, position=position) for position in view_positions(num_clips)]
    starts = [clip[0] for clip in clips]
    assert starts[0] == 0
    assert starts == sorted(starts)
    if length > offsets[-1]:
        assert clips[-1][-1] == length - 1
        gaps = [b - a for a, b in pairwise(starts)]
        assert max(gaps) - min(gaps) <= 1


@unhurried
@given(st.integers(1, 300), st.integers(1, 40), places, seeds)
def test_one_per_part(num_places: int, num_parts: int, position: float | None, seed: int) -> None:
    rng = random.Random(seed) if position is None else None
    picks = one_per_part(num_places, num_parts, position=position, rng=rng)
    for part, pick in enumerate(picks):  # place k is the interval [k, k + 1): it must touch its part
        assert Fraction(num_places * part, num_parts) < pick + 1
        assert pick < Fraction(num_places * (part + 1), num_parts)
    if num_places >= num_parts:
        assert len(set(picks)) == num_parts


@unhurried
@given(st.integers(1, 30), st.integers(1, 7))
def test_every_place_can_be_drawn(num_places: int, num_parts: int) -> None:
    rng = random.Random(0)
    drawn = {pick for _ in range(400) for pick in one_per_part(num_places, num_parts, rng=rng)}
    assert drawn == set(range(num_places)) or num_places < num_parts


@unhurried
@given(st.integers(1, 300), st.integers(1, 60), st.integers(1, 60))
def test_a_sliding_window_leaves_nothing_out(length: int, span: int, step: int) -> None:
    positions = dense_positions(length, span, step=step)
    starts = [strided(length, range(span), position=position)[0] for position in positions]
    last = max(0, length - span)
    assert starts == [*range(0, last, step), last]


@unhurried
@given(st.integers(0, 2**32), st.integers(30, 200))
def test_modalities_start_at_one_frame(seed: int, num_frames: int) -> None:
    rgb = ClipSpec(num_frames=1, num_segments=3)
    diff = ClipSpec(num_frames=5, num_segments=3, modality="rgb_diff")
    span = clip_span(diff, 25)
    first = clip_indices(rgb, video(num_frames), rng=random.Random(seed), span=span)
    second = clip_indices(diff, video(num_frames), rng=random.Random(seed), span=span)
    assert first == second[::6]


def test_a_spread_clip_draws_one_frame_from_each_part() -> None:
    rng = random.Random(3)
    draws = [spread(64, 16, rng=rng) for _ in range(50)]
    assert all(4 * i <= index < 4 * i + 4 for draw in draws for i, index in enumerate(draw))
    assert len(set(draws)) == 50


def test_a_random_place_is_a_function_of_the_seed() -> None:
    first = [clip_indices(STRIDED, video(300), rng=random.Random(5)) for _ in range(2)]
    assert first[0] == first[1]
    assert len({clip_indices(STRIDED, video(300), rng=random.Random(seed)) for seed in range(50)}) > 30


def test_every_policy_is_known() -> None:
    assert get_args(ShortPolicy) == ("loop", "repeat_last", "error")


def test_sampling_imports_no_torch() -> None:
    script = "import sys, muybridge.video.sampling, muybridge.video.crops; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
