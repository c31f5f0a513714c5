"""TV-L1 against OpenCV's, against known motion, and what must hold of any flow.

Seen to fail: x and y swapped; the field not multiplied when it goes up a level; levels read at corners of
pixels instead of centres; frames not paired with their next one; threads that share a workspace.
"""

import itertools
import multiprocessing
import os
import subprocess
import sys
import textwrap
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from motions import (
    endpoint_error,
    grey_frames,
    known_motions,
    moved,
    opencv_tvl1,
    random_field,
    texture,
    translation,
)

from muybridge.flow.tvl1 import (
    PRESETS,
    Tvl1Params,
    compile_kernels,
    default_threads,
    fields,
    gaussian,
    level_sizes,
)

OPENCV = PRESETS["opencv"]
REAL = {  # a pair of each, with the part of the frame that is looked at
    "wild/v_BaseballPitch_g01_c01.avi": (22, slice(0, 240), slice(0, 320)),
    "wild/v_Biking_g06_c03.avi": (22, slice(60, 220), slice(60, 260)),
    "utd_mhad_rgb/clap/a4_s1_t1_color.mp4": (17, slice(40, 220), slice(60, 260)),
    "weizmann/run/ira_run.avi": (17, slice(0, 144), slice(0, 180)),
}
WARPED = {name: REAL[name] for name in list(REAL)[1:]}


def real_pair(data_dir: Path, name: str) -> np.ndarray:
    first, rows, columns = REAL[name]
    return np.ascontiguousarray(grey_frames(data_dir / name, range(first, first + 2))[:, rows, columns])


def between(first: np.ndarray, second: np.ndarray, params: Tvl1Params = OPENCV, **more: object) -> np.ndarray:
    return fields(np.stack([first, second]), params, num_threads=1, **more)[0]


@pytest.mark.parametrize("name", REAL)
def test_on_real_pairs_it_is_opencvs(data_dir: Path, name: str):
    first, second = real_pair(data_dir, name)
    difference = endpoint_error(between(first, second), opencv_tvl1(first, second))
    assert np.median(difference) < 0.03


@pytest.mark.parametrize("name", WARPED)
def test_known_motion_of_real_frames_is_found_no_worse_than_by_opencv(data_dir: Path, name: str):
    frame = real_pair(data_dir, name)[0]
    ratios = []
    for motion, flow in known_motions(*frame.shape):
        before, inside = moved(frame, flow)
        theirs = endpoint_error(opencv_tvl1(before, frame), flow)[inside].mean()
        found = {
            preset: endpoint_error(between(before, frame, PRESETS[preset]), flow)[inside].mean()
            for preset in ("opencv", "accurate", "fast")
        }
        assert found["accurate"] <= theirs, motion
        assert found["opencv"] <= theirs + 0.01, motion
        assert found["fast"] <= theirs + 0.05, motion
        ratios.append([found[preset] / theirs for preset in found])
    opencv, accurate, fast = np.mean(ratios, axis=0)
    assert opencv < 1.05
    assert accurate < 0.8
    assert fast < 1


@pytest.mark.parametrize("preset", PRESETS)
def test_equal_frames_have_no_flow(preset: str):
    frame = texture(50, 70)
    assert not between(frame, frame, PRESETS[preset]).any()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("first", "second"), [(0, 0), (255, 255), (0, 255), (90, 91)])
def test_frames_of_one_grey_have_no_flow(preset: str, first: int, second: int):
    pair = [np.full((40, 50), value, np.uint8) for value in (first, second)]
    flow = between(*pair, PRESETS[preset])
    assert np.isfinite(flow).all()
    inner = flow[:, 8:-8, 8:-8]
    assert np.abs(inner).max() < 1e-3


@pytest.mark.parametrize(("x", "y"), [(1, 0), (0, -1), (2, 1), (-3, 2)])
def test_a_shift_of_whole_pixels_is_found(x: int, y: int):
    large = texture(120, 140)
    first, second = large[20:-20, 20:-20], large[20 - y : -20 - y, 20 - x : -20 - x]
    error = endpoint_error(between(first, second), translation(80, 100, x, y))
    assert error[8:-8, 8:-8].mean() < 0.02


def test_a_shift_of_six_pixels_is_found():
    large = texture(160, 180)
    first, second = large[20:-20, 20:-20], large[16:-24, 15:-25]
    error = endpoint_error(between(first, second), translation(120, 140, 5, 4))
    assert error[12:-12, 12:-12].mean() < 0.3


def test_swapped_frames_have_the_flow_back():
    frame = texture(90, 110)
    before, _ = moved(frame, random_field(90, 110, 1.5, 20, seed=4))
    there, back = between(before, frame), between(frame, before)
    assert np.abs(there).mean() > 0.3
    assert endpoint_error(back, -there)[8:-8, 8:-8].mean() < 0.1  # it is there at another place, a little


@pytest.mark.parametrize(("axis", "component"), [(2, 0), (1, 1)])
def test_mirrored_frames_have_the_mirrored_flow(axis: int, component: int):
    frame = texture(90, 110)
    before, _ = moved(frame, random_field(90, 110, 2, 20, seed=4))
    pair = np.stack([before, frame])
    flow, mirrored = fields(pair, OPENCV)[0], np.flip(fields(np.flip(pair, axis), OPENCV)[0], axis).copy()
    mirrored[component] *= -1
    assert np.abs(flow).mean() > 0.3
    assert endpoint_error(mirrored, flow).mean() < 0.02


def test_each_field_is_that_of_its_pair_whatever_the_threads():
    video = np.stack([np.roll(texture(40, 60), shift, axis=1) for shift in (0, 1, 3, 4, 7, 9)])
    alone = np.stack([between(a, b) for a, b in itertools.pairwise(video)])
    for num_threads in (1, 2, 5, 16):
        np.testing.assert_array_equal(fields(video, OPENCV, num_threads=num_threads), alone)


def test_fields_of_runs_that_share_a_frame_are_those_of_the_whole():
    video = np.stack([np.roll(texture(40, 60), shift, axis=1) for shift in (0, 1, 3, 4, 7)])
    whole = fields(video, OPENCV)
    np.testing.assert_array_equal(
        np.concatenate([fields(video[:3], OPENCV), fields(video[2:], OPENCV)]), whole
    )


def test_two_threads_may_enter_at_once():
    video = np.stack([np.roll(texture(40, 60), shift, axis=1) for shift in (0, 1, 3, 4)])
    expected = fields(video, OPENCV, num_threads=1)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: fields(video, OPENCV, num_threads=2), range(12)):
            np.testing.assert_array_equal(found, expected)


def test_memory_does_not_grow_with_the_video():
    def most(num_frames: int) -> int:
        video = np.stack([np.roll(texture(64, 64), shift, axis=1) for shift in range(num_frames)])
        tracemalloc.start()
        try:
            flow = fields(video, PRESETS["fast"], num_threads=1)
            return tracemalloc.get_traced_memory()[1] - flow.nbytes
        finally:
            tracemalloc.stop()

    most(3)  # what is imported and kept at the first call
    assert most(24) < 1.1 * most(3)


def test_an_initial_field_finds_what_is_too_far_for_the_pyramid():
    large = texture(160, 180)
    first, second = large[20:-20, 20:-20], large[20:-20, 10:-30]  # 10 pixels
    flow, params = translation(120, 140, 10, 0), Tvl1Params(num_scales=1)
    start = (flow + 0.3).astype(np.float32)[None]
    assert endpoint_error(between(first, second, params), flow).mean() > 3
    assert endpoint_error(between(first, second, params, initial=start), flow)[12:-12, 12:-12].mean() < 0.05
    params = Tvl1Params(num_scales=3)  # the start goes down the pyramid, and up again
    assert endpoint_error(between(first, second, params, initial=start), flow)[12:-12, 12:-12].mean() < 0.05


def test_the_pyramid_ends_where_a_level_would_be_too_small():
    assert [tuple(size) for size in level_sizes(40, 60, OPENCV)] == [
        (40, 60),
        (32, 48),
        (26, 38),
        (21, 30),
        (17, 24),
    ]
    assert len(level_sizes(20, 100, OPENCV)) == 2
    assert len(level_sizes(240, 320, PRESETS["ipol"])) == 5  # 1 + floor(log2(400 / 16))
    assert len(level_sizes(480, 640, PRESETS["ipol"])) == 6


def test_a_gaussian_is_one():
    for sigma in (0.8, 2.0):
        weights = gaussian(sigma)
        assert weights.sum() == pytest.approx(1, abs=1e-6)
        reach = len(weights) // 2
        variance = (weights * np.arange(-reach, reach + 1) ** 2).sum()
        assert variance == pytest.approx(sigma**2, abs=0.03)


def test_brightness_and_contrast_of_a_pair_do_not_matter_to_ipol():
    frame = texture(60, 80) // 2
    before, _ = moved(frame, translation(60, 80, 1.5, 0.5))
    brighter = (before + 60, frame + 60)
    flow = between(before, frame, PRESETS["ipol"])
    np.testing.assert_allclose(between(*brighter, PRESETS["ipol"]), flow, atol=1e-2)
    assert np.abs(flow).mean() > 0.5


def test_threads_are_the_cores_of_this_process_and_one_in_a_worker(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert default_threads() == cores
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert default_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert default_threads() == cores


def in_a_worker(video: np.ndarray) -> tuple[int, np.ndarray]:
    return default_threads(), fields(video, OPENCV)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_compute_the_same_after_threads_have_run_here(method: str, monkeypatch: pytest.MonkeyPatch):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    video = np.stack([np.roll(texture(40, 60), shift, axis=1) for shift in (0, 1, 3)])
    expected = fields(video, OPENCV, num_threads=2)
    with multiprocessing.get_context(method).Pool(1) as pool:
        threads, found = pool.apply(in_a_worker, (video,))
    assert threads == 1
    np.testing.assert_array_equal(found, expected)


FIRST_USE = """
    import sys
    import numpy as np
    import muybridge.flow
    from muybridge.flow import tvl1
    assert "numba" not in sys.modules and "torch" not in sys.modules, "imported before they are needed"
    from concurrent.futures import ThreadPoolExecutor
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 40), np.uint8)
    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(lambda _: tvl1.fields(frames, tvl1.Tvl1Params(), num_threads=2), range(2))
    assert (a == b).all()
    print(tvl1.compile_kernels())
"""


def test_two_threads_may_compile_at_once_and_the_next_process_need_not(tmp_path: Path):
    """Also: importing the package imports neither Numba nor torch."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", textwrap.dedent(FIRST_USE)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1
    assert list(tmp_path.rglob("kernels.solve_level*.nbc")), "nothing was kept"


def test_what_is_compiled_is_told_in_seconds():
    compile_kernels()
    assert 0 < compile_kernels() < 1


def test_opencvs_pyramid_is_ours():
    """The sizes of its levels, by what it would make of a frame."""
    frame = texture(131, 205)
    for size in level_sizes(131, 205, OPENCV)[1:]:
        frame = cv2.resize(frame, None, fx=0.8, fy=0.8)
        assert frame.shape == tuple(size)
