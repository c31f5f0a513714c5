"""How near is near enough: one table, with the reason of each row.

torch.testing.assert_close(ours, theirs, **FLOAT64_SAME)
assert relative_error(ours, theirs) < FLOAT32_PEER
"""

from typing import Any

from torch import Tensor

# The same function in float64: only the order of sums may differ.
FLOAT64_SAME: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}

# Relative errors of whole networks, by the norm.
FLOAT64_PEER = 1e-10  # the same network of someone else
FLOAT32_PEER = 1e-5  # the same in float32: some twenty layers of sums in another order
FLOAT64_GRADIENT = 1e-8  # a gradient in training mode: BatchNorm of few values amplifies rounding

# One convolution in bfloat16 against float64: 8 bits of mantissa, 2^-9 a rounded factor.
BFLOAT16_CONV = 0.02

# A change of a network that a test must notice moves its output by at least this.
NOTICED = 1e-3


def relative_error(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected||, in float64."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())
