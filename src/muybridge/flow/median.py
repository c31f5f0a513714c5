"""A median filter over 3 x 3 or 5 x 5 pixels for compiled functions: a network of minima and maxima.

Columns are sorted once for all windows of a row, the rest is done window by window. There is no branch in it.
"""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from muybridge.flow.simd import (
    LANES,
    get,
    in_compiled,
    inlined,
    llvm,
    load,
    load_at,
    put,
    store,
    store_at,
    types,
    vector,
)

Float32Array = npt.NDArray[np.float32]
Exchanges = tuple[tuple[int, int], ...]

MARGIN = 2  # columns that are written beside the pixels, on both sides
SORT: dict[int, Exchanges] = {  # the shortest sorting networks
    3: ((0, 1), (1, 2), (0, 1)),
    5: ((0, 1), (3, 4), (2, 4), (2, 3), (1, 4), (0, 3), (0, 2), (1, 3), (1, 2)),
}


def median_exchanges(side: int) -> tuple[Exchanges, int]:
    """What brings the median of a window whose columns are sorted to one place, and that place.

    Elements are numbered row by row. Rows are sorted first, which leaves columns sorted; then an element with
    more than half of the window surely above or below it is not the median. The rest is sorted, without the
    exchanges that never happen.
    """
    half = (side * side + 1) // 2
    places = [(i, j) for i in range(side) for j in range(side)]
    left = [(i, j) for i, j in places if (i + 1) * (j + 1) <= half and (side - i) * (side - j) <= half]
    order = [side * i + j for i, j in sorted(left, key=lambda place: (sum(place), place))]
    # By the zero-one principle, zeros and ones tell what never happens: windows with sorted rows and columns.
    steps = itertools.combinations_with_replacement(range(side + 1), side)
    windows = [[int(j >= side - ones[i]) for i, j in places] for ones in steps]
    exchanges = [(side * i + a, side * i + b) for i in range(side) for a, b in SORT[side]]
    for turn, k in itertools.product(range(len(order)), range(len(order) - 1)):
        a, b = order[k], order[k + 1]
        if turn % 2 == k % 2 and any(window[a] > window[b] for window in windows):
            exchanges.append((a, b))
            for window in windows:
                window[a], window[b] = sorted((window[a], window[b]))
    return tuple(exchanges), order[len(order) // 2]


def _exchange(builder: Any, values: list[Any], exchanges: Exchanges) -> None:
    for a, b in exchanges:
        low, high = (llvm(builder, name, values[a], values[b]) for name in ("minnum", "maxnum"))
        values[a], values[b] = low, high


def _parts(side: int) -> tuple[Any, Any]:
    """Two compiled functions: one sorts columns, one finds the median when they are sorted."""
    exchanges, middle = median_exchanges(side)

    @in_compiled
    def sort_columns(_typing: Any, source: Any, at: Any, pitch: Any, target: Any, to: Any, row: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source, at, pitch, target, to, row = args
            places = [builder.add(at, builder.mul(pitch, at.type(i))) for i in range(side)]
            values = [load_at(context, builder, signature, (source, place)) for place in places]
            _exchange(builder, values, SORT[side])
            of_target = signature.replace(args=signature.args[3:])
            for i, value in enumerate(values):
                place = builder.add(to, builder.mul(row, to.type(i)))
                store_at(context, builder, of_target, (target, place, value))
            return context.get_dummy_value()

        index = types.intp
        return types.void(source, index, index, target, index, index), emit

    @in_compiled
    def middle_of(_typing: Any, columns: Any, at: Any, row: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            columns, at, row = args
            values = []
            for i, j in itertools.product(range(side), repeat=2):
                place = builder.add(builder.add(at, builder.mul(row, at.type(i))), at.type(j - side // 2))
                values.append(load_at(context, builder, signature, (columns, place)))
            _exchange(builder, values, exchanges)
            return values[middle]

        return vector(columns, types.intp, types.intp), emit

    return sort_columns, middle_of


def _filter(side: int) -> Any:
    sort_columns, middle_of = _parts(side)
    reach = side // 2

    @inlined
    def median(
        plane: Float32Array, start: int, pitch: int, height: int, width: int, scratch: Float32Array, row: int
    ) -> None:
        """Filters pixels in place; what is right of them, up to a whole vector, is overwritten.

        Args:
            plane: a flat array.
            start: where the first pixel is in it.
            pitch: from a pixel to the one below it.
            height: rows of pixels.
            width: pixels of a row.
            scratch: (height + 4 + 5) * row floats and a vector.
            row: floats of a row of scratch, a whole number of vectors that holds a row, a vector and 2 more.
        """
        columns, copy = scratch[: 5 * row], scratch[5 * row :]
        for y in range(height + 2 * reach):
            here, to = start + min(max(y - reach, 0), height - 1) * pitch, y * row + LANES
            for x in range(0, width, LANES):
                store(copy, to + x, load(plane, here + x))
            for x in range(1, reach + 1):
                put(copy, to - x, get(copy, to))
                put(copy, to + width - 1 + x, get(copy, to + width - 1))
        for y in range(height):
            for x in range(0, row, LANES):
                sort_columns(copy, y * row + x, row, columns, x, row)
            for x in range(0, width, LANES):
                store(plane, start + y * pitch + x, middle_of(columns, LANES + x, row))

    return median


median_3, median_5 = _filter(3), _filter(5)
