"""Vectors of 16 floats for Numba: LLVM makes of them what the processor has.

That is one AVX-512 register, two of AVX2, four of NEON. LLVM would not find such loops in plain Numba code:
it cannot know that the rows that are read and those that are written do not overlap.

Inside compiled functions: `load`, `store` and the scalars' `get`, `put` on flat float32 arrays, + - * / of
vectors, and the functions below. Nothing is checked: an index outside the array reads or breaks other memory.
Numbers must be finite.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]  # it has no types
from numba import njit
from numba.core import cgutils as numba_cgutils
from numba.core import types as numba_types
from numba.extending import intrinsic, models, register_model, type_callable
from numba.extending import lower_builtin as numba_lower_builtin

LANES = 16  # floats of a vector
cgutils: Any = numba_cgutils  # what Numba itself leaves without types
types: Any = numba_types
lower_builtin: Any = numba_lower_builtin

_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)
_INDEX = ir.IntType(32)
# Numbers are finite, products may be fused with sums, divisions become products with a refined reciprocal.
_FLAGS = ("nnan", "ninf", "nsz", "arcp", "contract")


class _Vector(numba_types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"Float32x{LANES}")


vector = _Vector()


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)  # type: ignore[no-untyped-call]  # Numba's


def _define_operator(operation: Callable[[Any, Any], Any], instruction: str) -> None:
    @type_callable(operation)
    def of_types(_context: Any) -> Callable[[Any, Any], Any]:
        return lambda a, b: vector if a == vector and b == vector else None

    def of_values(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args, flags=_FLAGS)

    lower_builtin(operation, vector, vector)(of_values)


for _operation, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define_operator(_operation, _instruction)


def llvm(builder: Any, name: str, *args: Any) -> Any:
    """Calls one of LLVM's functions of vectors."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(args))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")
    return builder.call(function, args, fastmath=_FLAGS)


def _lanes(builder: Any, value: Any, lanes: Sequence[int]) -> Any:
    """A vector of some lanes of another."""
    mask = ir.Constant(ir.VectorType(_INDEX, len(lanes)), list(lanes))
    return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), mask)


def _spread(builder: Any, number: Any, count: int) -> Any:
    """A vector of one number."""
    empty = ir.Constant(ir.VectorType(_FLOAT, count), ir.Undefined)
    return _lanes(builder, builder.insert_element(empty, number, _INDEX(0)), [0] * count)


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Of array[index], unchecked: an index below 0 does not count from the end."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def _at(context: Any, builder: Any, signature: Any, array: Any, index: Any) -> Any:
    """The address of a vector in an array, which is the signature's first argument."""
    place = _address(context, builder, signature.args[0], array, index)
    return builder.bitcast(place, _VECTOR.as_pointer())


def load_at(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """What `load` does: of an array, which the signature has first, and an index."""
    value = builder.load(_at(context, builder, signature, *args))
    value.align = 4
    return value


def store_at(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """What `store` does: of an array, which the signature has first, an index and a vector."""
    array, index, value = args
    builder.store(value, _at(context, builder, signature, array, index)).align = 4
    return context.get_dummy_value()


def inlined(function: Callable[..., Any]) -> Any:
    """Compiles a function that other compiled functions call: it becomes part of them."""
    return njit(nogil=True, error_model="numpy")(function)


def in_compiled(function: Callable[..., Any]) -> Any:
    """A function that compiled functions can call, given by what it makes LLVM do."""
    return intrinsic(function)


@in_compiled
def load(_typing: Any, array: Any, index: Any) -> Any:
    """The vector array[index : index + LANES]; array is flat, and like all here it is not checked."""
    return vector(array, types.intp), load_at


@in_compiled
def store(_typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Writes a vector to array[index : index + LANES]."""
    return types.void(array, types.intp, vector), store_at


@in_compiled
def get(_typing: Any, array: Any, index: Any) -> Any:
    """array[index], without asking whether the index counts from the end."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], *args))

    return types.float32(array, types.intp), emit


@in_compiled
def put(_typing: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index] = value, without asking whether the index counts from the end."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, signature.args[0], *args[:2]))
        return context.get_dummy_value()

    return types.void(array, types.intp, types.float32), emit


@in_compiled
def spread(_typing: Any, number: Any) -> Any:
    """A vector of one number."""
    return vector(types.float32), lambda _c, builder, _s, args: _spread(builder, args[0], LANES)


@in_compiled
def ramp(_typing: Any) -> Any:
    """0, 1, 2, and so on."""
    return vector(), lambda _c, _b, _s, _a: ir.Constant(_VECTOR, [float(k) for k in range(LANES)])


@in_compiled
def sqrt(_typing: Any, a: Any) -> Any:
    """Square roots."""
    return vector(vector), lambda _c, builder, _s, args: llvm(builder, "sqrt", *args)


@in_compiled
def floor(_typing: Any, a: Any) -> Any:
    """Rounds down."""
    return vector(vector), lambda _c, builder, _s, args: llvm(builder, "floor", *args)


@in_compiled
def least(_typing: Any, a: Any, b: Any) -> Any:
    """The smaller of each two."""
    return vector(vector, vector), lambda _c, builder, _s, args: llvm(builder, "minnum", *args)


@in_compiled
def most(_typing: Any, a: Any, b: Any) -> Any:
    """The larger of each two."""
    return vector(vector, vector), lambda _c, builder, _s, args: llvm(builder, "maxnum", *args)


@in_compiled
def one_if_equal(_typing: Any, a: Any, b: Any) -> Any:
    """1 where a is b, else 0."""

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        equal = builder.fcmp_ordered("==", *args)
        return builder.uitofp(equal, _VECTOR)

    return vector(vector, vector), emit


@in_compiled
def total(_typing: Any, a: Any) -> Any:
    """The sum of the lanes."""

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_FLOAT, [_FLOAT, _VECTOR])
        name = f"llvm.vector.reduce.fadd.v{LANES}f32"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [_FLOAT(0.0), args[0]], fastmath=("reassoc",))

    return types.float32(vector), emit


@in_compiled
def blend(_typing: Any, pixels: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """The weighted sum of four pixels of four channels each: its first three channels."""

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pixels, *weights = args
        terms = [
            builder.fmul(
                _lanes(builder, pixels, range(4 * k, 4 * k + 4)), _spread(builder, w, 4), flags=_FLAGS
            )
            for k, w in enumerate(weights)
        ]
        mixed = functools.reduce(lambda x, y: builder.fadd(x, y, flags=_FLAGS), terms)
        return cgutils.pack_array(builder, [builder.extract_element(mixed, _INDEX(k)) for k in range(3)])

    number = types.float32
    return types.UniTuple(number, 3)(vector, number, number, number, number), emit
