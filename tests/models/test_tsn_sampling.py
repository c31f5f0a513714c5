"""What TSN sees of a video, written out from the papers' text: segments, corner crops, ten crops.

Counts are from 0 here; the authors count frames from 1.
"""

import itertools
import random
from collections import Counter
from fractions import Fraction
from functools import cache

import pytest

from muybridge.config import ClipSpec
from muybridge.models.registry import build
from muybridge.types import Size, VideoInfo
from muybridge.video.crops import corner_offsets, corner_scale_box, corner_scale_sides, ten_crops
from muybridge.video.sampling import clip_indices, view_positions

WIDTH, HEIGHT, CROP = 340, 256, 224


def video(num_frames: int) -> VideoInfo:
    return VideoInfo(
        path="a.mp4", num_frames=num_frames, exact=True, fps=25, height=HEIGHT, width=WIDTH,
        duration_seconds=num_frames / 25, codec="h264",
    )  # fmt: skip


@cache
def snippet_spec(modality: str, num_segments: int) -> ClipSpec:
    """The clips of the network itself, with so many segments."""
    return build("tsn", modality=modality, num_segments=num_segments, width=1 / 32).default_specs[0]


def frames_of(modality: str) -> int:
    """Frames behind a snippet: one, or six for five fields or differences."""
    return 1 if modality == "rgb" else 6


def segment_of(place: int, num_places: int, num_segments: int) -> int:
    """The segment in which a snippet that starts at `place` lies, of equal parts of all places.

    A place is as long as a frame: where a border cuts it, it is the later part's.
    """
    borders = [Fraction(num_places * k, num_segments) for k in range(num_segments)]
    return max(k for k, border in enumerate(borders) if border < place + 1)


LENGTHS = [
    (modality, n, k) for modality in ("rgb", "flow", "rgb_diff") for n in (9, 24, 50, 77) for k in (1, 3, 7)
]


@pytest.mark.parametrize(
    ("modality", "num_frames", "num_segments"),
    [case for case in LENGTHS if case[1] - frames_of(case[0]) + 1 >= case[2]],
)
def test_training_draws_one_snippet_from_each_segment(modality, num_frames, num_segments):
    spec, length = snippet_spec(modality, num_segments), frames_of(modality)
    num_places = num_frames - length + 1
    allowed = {k: set() for k in range(num_segments)}
    for place in range(num_places):
        allowed[segment_of(place, num_places, num_segments)].add(place)
    drawn = {k: Counter() for k in range(num_segments)}
    rng, num_draws = random.Random(0), 25 * max(map(len, allowed.values()))
    for _ in range(num_draws):
        indices = clip_indices(spec, video(num_frames), rng=rng)
        assert len(indices) == num_segments * length
        for k in range(num_segments):
            snippet = indices[k * length : (k + 1) * length]
            assert list(snippet) == list(range(snippet[0], snippet[0] + length))
            drawn[k][snippet[0]] += 1
    for k in range(num_segments):
        assert set(drawn[k]) == allowed[k]  # every place of its segment, and no other
        expected = num_draws / len(allowed[k])
        assert all(abs(count - expected) < 6 * expected**0.5 for count in drawn[k].values())


@pytest.mark.parametrize(("modality", "num_frames", "num_segments"), LENGTHS)
def test_a_test_takes_the_middle_of_each_segment(modality, num_frames, num_segments):
    spec, length = snippet_spec(modality, num_segments), frames_of(modality)
    tick = Fraction(max(1, num_frames - length + 1), num_segments)
    expected = [int(tick / 2 + tick * k) + i for k in range(num_segments) for i in range(length)]
    assert list(clip_indices(spec, video(num_frames))) == [min(one, num_frames - 1) for one in expected]


@pytest.mark.parametrize(
    ("num_frames", "modality", "starts"),
    [(50, "rgb", range(1, 50, 2)), (20, "flow", None), (200, "flow", None)],
)
def test_25_snippets_of_a_test(num_frames, modality, starts):
    """By the rule of tsn-pytorch, whose fields of frame i are counted from the one after it."""
    spec, length = snippet_spec(modality, 25), frames_of(modality)
    tick = Fraction(num_frames - length + 1, 25)
    expected = [int(tick / 2 + tick * k) for k in range(25)]
    if starts is not None:
        assert expected == list(starts)
    assert list(clip_indices(spec, video(num_frames))[::length]) == expected


def test_25_clips_of_one_segment_lie_as_the_caffe_code_has_them_but_for_its_rounding():
    spec = snippet_spec("rgb", 1)
    for num_frames in (50, 120, 203):
        step = (num_frames - 1) // 24
        theirs = [step * k for k in range(25)]
        exact = [Fraction((num_frames - 1) * k, 24) for k in range(25)]
        for position, one, caffe in zip(view_positions(25), exact, theirs, strict=True):
            (ours,) = clip_indices(spec, video(num_frames), position=position)
            assert abs(ours - one) <= 1  # from the first frame to the last
            assert 0 <= ours - caffe <= (num_frames - 1) % 24 + 1  # theirs cut the step to a whole frame


@pytest.mark.parametrize("num_frames", range(1, 7))
@pytest.mark.parametrize("num_segments", [3, 7])
def test_a_video_with_fewer_frames_than_segments(num_frames, num_segments):
    spec = snippet_spec("rgb", num_segments)
    middle = [int(Fraction(num_frames, num_segments) * (2 * k + 1) / 2) for k in range(num_segments)]
    assert list(clip_indices(spec, video(num_frames))) == middle
    drawn = [clip_indices(spec, video(num_frames), rng=random.Random(seed)) for seed in range(50)]
    for indices in drawn:
        assert len(indices) == num_segments
        assert list(indices) == sorted(indices)
        assert set(indices) <= set(range(num_frames))


@pytest.mark.parametrize("num_frames", range(1, 6))
def test_a_video_shorter_than_a_stack_stands_still_at_its_end(num_frames):
    indices = clip_indices(snippet_spec("flow", 3), video(num_frames))
    assert list(indices) == [min(i, num_frames - 1) for _ in range(3) for i in range(6)]


def test_the_same_seed_draws_the_same_snippets():
    spec = snippet_spec("flow", 3)
    first, again, other = (clip_indices(spec, video(100), rng=random.Random(seed)) for seed in (0, 0, 1))
    assert first == again != other


# Corner cropping and scale jittering, of pictures of 340 x 256


def pairs_by_the_text(num_scales: int) -> list[tuple[int, int]]:
    """(height, width): sides of 256 times a scale; one within 3 pixels of 224 is 224; neighbours at most."""
    sides = []
    for scale in (1.0, 0.875, 0.75, 0.66)[:num_scales]:
        side = int(HEIGHT * scale)
        sides.append(CROP if abs(side - CROP) < 3 else side)
    pairs = []
    for i, j in itertools.product(range(num_scales), repeat=2):
        if abs(i - j) <= 1:
            pairs.append((sides[i], sides[j]))
    return pairs


def offsets_by_the_text(height: int, width: int) -> set[tuple[int, int]]:
    """(top, left) on a grid of quarter steps: corners, centre, middles of the edges, quarter points."""
    down, right = (HEIGHT - height) / 4, (WIDTH - width) / 4
    assert down == int(down), "the quarter steps of these pictures are whole"
    assert right == int(right)
    places = set()
    for row, column in itertools.product(range(5), repeat=2):
        on_even = row % 2 == 0 and column % 2 == 0  # corners, centre, middles of the edges: 9
        on_quarter = row % 2 == 1 and column % 2 == 1  # half-way from the centre to the corners: 4
        if on_even or on_quarter:
            places.add((int(row * down), int(column * right)))
    return places


@pytest.mark.parametrize(("num_scales", "num_pairs"), [(4, 10), (3, 7)])
def test_the_corner_crop_grid(num_scales, num_pairs):
    scales = (1.0, 0.875, 0.75, 0.66)[:num_scales]
    pairs = pairs_by_the_text(num_scales)
    assert len(pairs) == num_pairs
    assert sorted(corner_scale_sides(HEIGHT, CROP, scales)) == sorted(pairs)
    assert min(min(pair) for pair in pairs) == (168 if num_scales == 4 else 192)
    boxes = set()
    for height, width in pairs:
        places = offsets_by_the_text(height, width)
        offsets = corner_offsets(Size(HEIGHT - height, WIDTH - width))
        assert len(offsets) == 13
        assert set(offsets) == places
        boxes |= {(top, left, height, width) for top, left in places}
    rng = random.Random(0)
    drawn = {tuple(corner_scale_box(Size(HEIGHT, WIDTH), CROP, rng, scales=scales)) for _ in range(6000)}
    assert drawn == boxes


def test_the_smallest_crop_ends_at_the_edges():
    offsets = corner_offsets(Size(HEIGHT - 168, WIDTH - 168))
    assert (22, 43) in offsets
    assert max(offsets) == (88, 172)


def test_ten_crops_are_five_and_their_mirror_images():
    free_down, free_right = HEIGHT - CROP, WIDTH - CROP
    places = [(top, left) for top in (0, free_down) for left in (0, free_right)]
    places.append((free_down // 2, free_right // 2))
    expected = {(top, left, CROP, CROP, flip) for top, left in places for flip in (False, True)}
    found = [(*box, flip) for box, flip in ten_crops(Size(HEIGHT, WIDTH), CROP)]
    assert len(found) == 10
    assert set(found) == expected
