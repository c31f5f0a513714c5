"""Brox's flow: known motions of real frames, the energy that it makes small, identities.

Seen to fail: the vectors of a coarser level not made longer; the first frame of a video in the place of the
one before.
"""

from pathlib import Path

import numpy as np
import pytest
from motions import endpoint_error, grey_frames, known_motions, moved, opencv_tvl1, texture

from muybridge.errors import ConfigError
from muybridge.flow import tvl1
from muybridge.flow.brox import BroxParams, fields, level_sizes
from muybridge.flow.methods import resolve
from muybridge.types import Size

PARAMS = BroxParams()


@pytest.mark.parametrize("name", ["wild/v_BaseballPitch_g01_c01.avi", "utd_mhad_rgb/clap/a4_s1_t1_color.mp4"])
def test_known_motions_are_found_about_as_well_as_by_tvl1(data_dir: Path, name: str):
    frame = np.ascontiguousarray(grey_frames(data_dir / name, range(20, 21))[0][40:200, 60:260])
    for motion, flow in known_motions(*frame.shape):
        before, inside = moved(frame, flow)
        found = endpoint_error(fields(np.stack([before, frame]), PARAMS)[0], flow)[inside].mean()
        theirs = endpoint_error(opencv_tvl1(before, frame), flow)[inside].mean()
        assert found <= theirs + 0.02, motion


def energy(first: np.ndarray, second: np.ndarray, field: np.ndarray) -> float:
    """The paper's energy by its definition; alpha and gamma for grey values of 0 to 255."""
    from scipy.ndimage import map_coordinates

    def gradient(image: np.ndarray) -> np.ndarray:
        return np.stack(np.gradient(image))

    def robust(square: np.ndarray) -> np.ndarray:
        return np.sqrt(square + 1e-6)

    one, other = first.astype(float), second.astype(float)
    places = np.mgrid[: one.shape[0], : one.shape[1]] + field[::-1]
    warped = map_coordinates(other, places, order=1, mode="nearest")
    slopes = np.stack([map_coordinates(part, places, order=1, mode="nearest") for part in gradient(other)])
    data = (warped - one) ** 2 + 5 * ((slopes - gradient(one)) ** 2).sum(0)
    smoothness = sum((gradient(part) ** 2).sum(0) for part in field)
    return float((robust(data) + 30 * robust(smoothness))[5:-5, 5:-5].sum())


def test_its_energy_is_below_that_of_other_fields(data_dir: Path):
    for first in (20, 60):
        pair = grey_frames(data_dir / "wild/v_BaseballPitch_g01_c01.avi", range(first, first + 2))
        found = fields(pair, PARAMS)[0].astype(float)
        rest = tvl1.fields(pair, tvl1.PRESETS["opencv"])[0].astype(float)
        ours = energy(pair[0], pair[1], found)
        for other in (np.zeros_like(found), rest, 1.2 * found, 0.8 * found, -found):
            assert ours < energy(pair[0], pair[1], other)


def test_a_mirrored_pair_has_the_mirrored_flow():
    pair = np.stack([texture(60, 80), np.roll(texture(60, 80), 2, axis=1)])
    field = fields(pair, PARAMS)[0]
    mirrored = fields(np.ascontiguousarray(pair[:, :, ::-1]), PARAMS)[0]
    mirrored[0] *= -1
    apart = np.hypot(*(mirrored[:, :, ::-1] - field))
    assert np.median(apart) < 1e-3


def test_pictures_without_texture_give_numbers():
    flat = np.stack([np.full((32, 40), 90, np.uint8), np.full((32, 40), 130, np.uint8)])
    assert np.isfinite(fields(flat, PARAMS)).all()
    assert not fields(flat[[0, 0]], PARAMS).any()


def test_a_pair_does_not_depend_on_the_others():
    frames = np.stack([np.roll(texture(40, 50), shift, axis=1) for shift in (0, 1, 3)])
    np.testing.assert_array_equal(fields(frames, PARAMS)[1:], fields(frames[1:], PARAMS))


def test_parameters_that_make_no_sense_are_said():
    with pytest.raises(
        ConfigError, match=r"'brox'.*gamma and delta are both 0, so that the frames would not"
    ):
        resolve("brox", gamma=0, delta=0)
    with pytest.raises(ConfigError, match=r"'brox', scale_step: .*less than 1, got 1"):
        resolve("brox", scale_step=1)


def test_levels_end_where_they_should():
    sizes = level_sizes(Size(60, 80), PARAMS)
    assert sizes[0] == (60, 80)
    assert min(sizes[-1]) >= 10 > min(sizes[-1]) * 0.8 - 0.5
    assert level_sizes(Size(11, 80), PARAMS) == [Size(11, 80)]
    assert resolve("brox", num_warps=2).to_dict()["num_warps"] == 2
