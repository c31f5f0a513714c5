"""The quantiser: that of dense_flow and denseflow, number for number.

Seen to fail: rounding half up; single precision; a table of 256 steps instead of 255.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muybridge.errors import DataError
from muybridge.flow.quantise import dequantise, quantise, step_px

BOUNDS = (20, 15, 32)


def by_dense_flow(value: np.float32, bound: float) -> int:
    """Its macro CAST, in double precision; Python rounds half to even as cvRound does."""
    v = float(value)
    return 255 if v > bound else 0 if v < -bound else round(255 * (v + bound) / (2 * bound))


@given(st.floats(-40, 40, width=32), st.sampled_from(BOUNDS))
def test_codes_are_those_of_dense_flow(value: float, bound: float) -> None:
    assert quantise(np.float32(value), bound) == by_dense_flow(np.float32(value), bound)


@pytest.mark.parametrize("bound", BOUNDS)
def test_codes_of_a_grid_are_those_of_dense_flow(bound: float) -> None:
    values = np.linspace(-bound - 1, bound + 1, 5000, dtype=np.float32)
    assert quantise(values, bound).tolist() == [by_dense_flow(value, bound) for value in values]


@pytest.mark.parametrize(
    ("value", "code"),
    [(-20, 0), (0, 128), (20, 255), (-99, 0), (99, 255), (math.inf, 255), (-0.0, 128), (8, 178), (-8, 76)],
)  # 8 pixels are 178.5: half to even
def test_codes_at_the_bound_of_20(value: float, code: int) -> None:
    assert quantise(np.float32(value), 20) == code


@pytest.mark.parametrize(("bound", "error"), [(20, 0.0784), (15, 0.0588), (32, 0.1255)])
def test_a_round_trip_is_off_by_half_a_step(bound: float, error: float) -> None:
    values = np.linspace(-bound, bound, 100_001, dtype=np.float32)
    apart = np.abs(dequantise(quantise(values, bound), bound) - values).max()
    assert apart == pytest.approx(error, abs=2e-4)
    assert apart <= step_px(bound) / 2 + 1e-5


@pytest.mark.parametrize("bound", BOUNDS)
def test_codes_survive_a_round_trip(bound: float) -> None:
    codes = np.arange(256, dtype=np.uint8)
    assert np.array_equal(quantise(dequantise(codes, bound), bound), codes)
    assert np.array_equal(dequantise(255 - codes, bound), -dequantise(codes, bound))


def test_the_mirror_of_a_code_is_the_code_of_the_mirror_but_for_ties() -> None:
    values = np.linspace(-25, 25, 50_001)
    differ = values[255 - quantise(values, 20) != quantise(-values, 20)]
    assert set(np.round(differ, 6)) <= {0.0, 8.0, -8.0, 16.0, -16.0}


def test_what_cannot_be_quantised() -> None:
    with pytest.raises(DataError, match=r"values that are not numbers: it cannot be stored"):
        quantise(np.array([1, np.nan], np.float32), 20)
    for bound in (0, -1, math.inf):
        with pytest.raises(ValueError, match=r"the bound of a quantiser must be above 0 pixels"):
            quantise(np.zeros(3), bound)
