"""Arrays from the pickles of Caffe2 and from NumPy's .npz files. Nothing in a file is run.

A pickle is a small program: it names functions and calls them. Here the few names that plain arrays need are
given stand-ins of ours, any other name is refused before anything is looked up, and NumPy sees numbers only
after their count has been checked.
"""

import io
import lzma
import math
import pickle
import pickletools
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from muybridge.errors import WeightsError

Arrays = dict[str, np.ndarray[Any, Any]]

MAX_BYTES = 2 << 30  # of all arrays of a file; the largest public ones have about 700 MB
ADVICE = "Save its arrays with numpy.savez or its state dict with torch.save, and try that."
NDARRAY = "numpy.ndarray"  # stands for the class where a pickle names it
# What reading damaged or odd .npz files raises. A RuntimeError is a method of compression or a version not
# known, or a password; a TokenError a damaged header of an array.
NPZ_FAULTS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError),
    *(RuntimeError, EOFError, OSError, ValueError),
)


def read_pickle(path: Path) -> Arrays:
    """The blobs of a Caffe2 pickle: a dictionary of arrays, or one that holds it under "blobs".

    Numbers beside the arrays, such as the iteration, come as arrays without axes.

    Raises:
        WeightsError: it names anything but arrays, claims more than it holds, or is cut short.
    """
    data = path.read_bytes()
    try:
        _check_counts(data)
        content = _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is not a file of weights alone, or it is cut short: {error}. {ADVICE}"
        ) from None
    except (EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError, OverflowError) as error:
        raise WeightsError(f"{path} is not a whole pickle of arrays: {error}. {ADVICE}") from None
    if isinstance(content, Mapping) and isinstance(content.get("blobs"), Mapping):
        content = content["blobs"]
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a dictionary of arrays")
    return {str(name): _plain_array(path, str(name), value) for name, value in content.items()}


def read_npz(path: Path) -> Arrays:
    """The arrays of an .npz file.

    Raises:
        WeightsError: it holds Python objects, claims more than it holds, or is cut short.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(member.file_size for member in archive.infolist())
            if total > MAX_BYTES:
                raise WeightsError(f"{path} unpacks to {total} bytes; at most {MAX_BYTES} are read")
            return {
                member.filename.removesuffix(".npy"): _read_npy(archive, member)
                for member in archive.infolist()
            }
    except NPZ_FAULTS as error:
        raise WeightsError(f"{path} is not a whole .npz file of arrays: {error}. {ADVICE}") from None


def is_npz(path: Path) -> bool:
    """Whether a file is a zip archive of .npy files."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except NPZ_FAULTS:
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{member.filename} has the format {version}")
        read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, is_fortran, dtype = read_header[version[0]](file)
        if dtype.kind not in "fiub":
            raise ValueError(f"{member.filename} holds {dtype}, not numbers")
        claimed, there = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
        if claimed != there:
            raise ValueError(
                f"{member.filename} claims {list(shape)} numbers, {claimed} bytes, and holds {there}"
            )
        return _make_array(file.read(), dtype, shape, is_fortran=is_fortran)


def _make_array(
    data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], *, is_fortran: bool
) -> np.ndarray[Any, Any]:
    """An array of its own memory, in C's order and in this machine's."""
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")
    return np.array(array, dtype=dtype.newbyteorder("="), order="C")


def _plain_array(path: Path, name: str, value: object) -> np.ndarray[Any, Any]:
    if isinstance(value, _Array) and value.array is not None:
        return value.array
    if isinstance(value, bool | int | float) and abs(value) < 2**63:
        return np.array(value)
    raise WeightsError(f"{path} is not a file of weights alone: {name} is a {type(value).__name__}. {ADVICE}")


class _Dtype:
    """Stands for a dtype of numbers; the pickle sets its byte order after making it."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("it holds records, not arrays of numbers")
        self.order = state[1]

    def dtype(self) -> np.dtype[Any]:
        if not isinstance(self.code, str) or self.code[:1] not in tuple("fiub"):
            raise pickle.UnpicklingError(f"it holds arrays of '{self.code}', not of numbers")
        return np.dtype(self.code).newbyteorder(">" if self.order == ">" else "<")


class _Array:
    """Stands for an array until its numbers come."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        self.fill(shape, dtype, data, is_fortran=bool(is_fortran))

    def fill(self, shape: tuple[int, ...], dtype: _Dtype, data: object, *, is_fortran: bool) -> None:
        numbers = dtype.dtype()
        if isinstance(data, str):
            data = data.encode("latin1")  # Python 2 had no bytes
        if not isinstance(data, bytes | bytearray) or any(size < 0 for size in shape):
            raise pickle.UnpicklingError("an array of it has no numbers")
        claimed = math.prod(shape) * numbers.itemsize
        if claimed != len(data):
            raise pickle.UnpicklingError(
                f"an array of it claims {list(shape)} numbers, {claimed} bytes, and holds {len(data)}"
            )
        self.array = _make_array(bytes(data), numbers, tuple(shape), is_fortran=is_fortran)


# Stand-ins are instances without attributes: a pickle cannot change them for those that come after it.
class _MakeArray:
    """In place of numpy.core.multiarray._reconstruct."""

    __slots__ = ()

    def __call__(self, kind: object, shape: object, code: object) -> _Array:
        return _Array()


class _MakeDtype:
    """In place of numpy.dtype."""

    __slots__ = ()

    def __call__(self, code: str, *flags: object) -> _Dtype:
        return _Dtype(code)


class _MakeScalar:
    """In place of numpy.core.multiarray.scalar."""

    __slots__ = ()

    def __call__(self, dtype: _Dtype, data: object) -> _Array:
        array = _Array()
        array.fill((), dtype, data, is_fortran=False)
        return array


class _FromBuffer:
    """In place of numpy.core.numeric._frombuffer, of pickles of protocol 5."""

    __slots__ = ()

    def __call__(self, data: object, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
        array = _Array()
        array.fill(shape, dtype, data, is_fortran=order == "F")
        return array


class _Encode:
    """In place of _codecs.encode, by which Python 3 writes bytes in pickles of protocol 2."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"it encodes text as {encoding}")
        return text.encode("latin1")


class _NoBytes:
    """In place of bytes, by which Python 3 writes those of an empty array in pickles of protocol 2."""

    __slots__ = ()

    def __call__(self) -> bytes:
        return b""


class _Name(NamedTuple):
    module: str
    name: str


STAND_INS: dict[_Name, object] = {
    _Name("numpy", "ndarray"): NDARRAY,
    _Name("numpy", "dtype"): _MakeDtype(),
    _Name("numpy.core.multiarray", "_reconstruct"): _MakeArray(),
    _Name("numpy.core.multiarray", "scalar"): _MakeScalar(),
    _Name("numpy.core.numeric", "_frombuffer"): _FromBuffer(),
    _Name("_codecs", "encode"): _Encode(),
    _Name("__builtin__", "bytes"): _NoBytes(),
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        asked = _Name(module.replace("numpy._core", "numpy.core"), name)
        if asked not in STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and nothing but arrays is read")
        return STAND_INS[asked]


def _check_counts(data: bytes) -> None:
    """Goes through a pickle without obeying it: no length and no index in it may claim more than there is.

    The unpickler makes room for what is claimed before it reads.

    Raises:
        ValueError: a text or an array is cut short.
        UnpicklingError: a value is to be kept under a number that no writer would give it.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data), 1):
        if "PUT" in opcode.name and isinstance(argument, int) and argument > count:
            raise pickle.UnpicklingError(f"it keeps a value under the number {argument}")
