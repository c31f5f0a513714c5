"""Flow as other tools left it on disk: JPEG folders, I3D's arrays, Middlebury's `.flo`. Byte for byte.

    JPEG folders    flow_x_00001.jpg, flow_y_00001.jpg, ...: the codes of `flow.quantise` at a bound that
                    nothing in the folder tells: TSN and mmaction2 take 20, dense_flow by itself 15,
                    denseflow 32. dense_flow counts from 1, denseflow from 0. Where denseflow skips frames it
                    names the step: flow_x_p2_00001.jpg runs two frames on, flow_x_m1_00001.jpg one back.
    I3D             float32 [1, T, H, W, 2] in a .npy file: clipped to 20 pixels and divided by 20.
    .flo            one field: "PIEH", width and height as int32, then x and y of each pixel as float32.

A JPEG of quality 95, which both tools leave at OpenCV's default, is off by one code here and there.

Shape letters: T fields, H height, W width. x is to the right, y down.
"""

import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from muybridge.errors import DataError
from muybridge.files import atomic_folder, atomic_path
from muybridge.flow.quantise import Float32Array
from muybridge.types import UInt8Array

__all__ = [
    "from_i3d",
    "read_flo",
    "read_i3d",
    "read_jpegs",
    "to_i3d",
    "write_flo",
    "write_i3d",
    "write_jpegs",
]

I3D_BOUND = 20.0
FLO_MAGIC = b"PIEH"
MAX_FLO_SIDE = 99_999  # what Middlebury's own reader takes


def read_jpegs(folder: Path | str, *, step: int = 1) -> Iterator[UInt8Array]:
    """The fields of a JPEG folder as codes, in order.

    Args:
        folder: where flow_x_00001.jpg or flow_x_00000.jpg lies.
        step: frames from the first of a pair to the second, as it was told to the tool; below 0 is backward.

    Raises:
        DataError: no such files, a gap in their numbers, x without y, or pictures of another size or damaged.

    Shape:
        each [2, H, W], uint8
    """
    folder = Path(folder)
    found = {axis: _numbered(folder, axis, step) for axis in "xy"}
    numbers = sorted(set(found["x"]) | set(found["y"]))
    if not numbers:
        raise DataError(
            f"no flow in {folder}: looked for {_jpeg_name('x', step, 1)} and on; name the folder of one "
            "video, and the step if it is not 1"
        )
    missing = [
        _jpeg_name(axis, step, number)
        for number in range(numbers[0], numbers[-1] + 1)
        for axis in "xy"
        if number not in found[axis]
    ]
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of the files {numbers[0]:05d} to {numbers[-1]:05d} are missing, first "
            f"{missing[0]}: what comes after a gap would belong to other frames; extract this video anew"
        )
    return _read_pairs(found["x"], found["y"], numbers)


def write_jpegs(
    folder: Path | str, codes: Iterable[UInt8Array], *, step: int = 1, first: int = 1, quality: int = 95
) -> None:
    """Writes a JPEG folder, whole or not at all.

    Args:
        folder: made anew.
        codes: the fields, in order.
        step: frames from the first of a pair to the second; below 0 is backward.
        first: number of the first file: 1 for dense_flow, 0 for denseflow, which starts backward flow at
            -step.
        quality: of the JPEGs; 95 is what the tools leave OpenCV at.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.

    Shape:
        codes each [2, H, W], uint8
    """
    with atomic_folder(Path(folder)) as temporary:
        for number, field in enumerate(codes, first):
            for axis, component in zip("xy", field, strict=True):
                done, encoded = cv2.imencode(
                    ".jpg", np.ascontiguousarray(component), [cv2.IMWRITE_JPEG_QUALITY, quality]
                )
                assert done
                (temporary / _jpeg_name(axis, step, number)).write_bytes(encoded.tobytes())


def to_i3d(fields: Float32Array) -> Float32Array:
    """Pixels -> what I3D's flow network was trained on: within 20 pixels, divided by 20.

    Shape:
        fields [T, 2, H, W]
        output [T, H, W, 2], in [-1, 1]

    >>> to_i3d(np.array([[[[-30, 5]], [[0, 20]]]], np.float32)).tolist()
    [[[[-1.0, 0.0], [0.25, 1.0]]]]
    """
    clipped = np.clip(fields, -I3D_BOUND, I3D_BOUND) / np.float32(I3D_BOUND)
    return np.ascontiguousarray(clipped.transpose(0, 2, 3, 1), np.float32)


def from_i3d(values: Float32Array) -> Float32Array:
    """What `to_i3d` gave -> pixels.

    Shape:
        values [T, H, W, 2]
        output [T, 2, H, W]
    """
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2) * np.float32(I3D_BOUND), np.float32)


def read_i3d(path: Path | str) -> Float32Array:
    """The fields of a file such as `v_CricketShot_g04_c01_flow.npy`, in pixels.

    Raises:
        DataError: not such a file.

    Shape:
        output [T, 2, H, W]
    """
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read {path} as an array: {error}") from None
    if values.ndim != 5 or values.shape[0] != 1 or values.shape[-1] != 2 or values.dtype != np.float32:
        raise DataError(
            f"{path} is {values.dtype} {list(values.shape)}, but I3D's flow is float32 [1, T, H, W, 2]: name "
            "another file"
        )
    return from_i3d(values[0])


def write_i3d(path: Path | str, fields: Float32Array) -> None:
    """Writes float32 [1, T, H, W, 2] in [-1, 1].

    Raises:
        StorageError: the disk is full, or the folder cannot be written.

    Shape:
        fields [T, 2, H, W], pixels
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array(file, to_i3d(fields)[None], version=(1, 0), allow_pickle=False)


def read_flo(path: Path | str) -> Float32Array:
    """One field, in pixels. Where it is unknown the file holds more than 10^9.

    Raises:
        DataError: not a .flo file, or cut short.

    Shape:
        output [2, H, W]
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    if content[:4] != FLO_MAGIC or len(content) < 12:
        raise DataError(f"{path} is no .flo file: it does not begin with {FLO_MAGIC.decode()}")
    width, height = struct.unpack("<ii", content[4:12])
    if not (0 < width <= MAX_FLO_SIDE and 0 < height <= MAX_FLO_SIDE):
        raise DataError(f"{path} says that it is {width}x{height}: it is damaged; get it anew")
    expected = 12 + width * height * 8
    if len(content) != expected:
        raise DataError(
            f"{path} has {len(content)} bytes, {width}x{height} pixels take {expected}: it is cut short or "
            "damaged; get it anew"
        )
    values = np.frombuffer(content, "<f4", offset=12).reshape(height, width, 2)
    return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)


def write_flo(path: Path | str, field: Float32Array) -> None:
    """Writes one field.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.

    Shape:
        field [2, H, W], pixels
    """
    height, width = field.shape[1:]
    with atomic_path(path) as temporary:
        header = FLO_MAGIC + struct.pack("<ii", width, height)
        temporary.write_bytes(header + field.transpose(1, 2, 0).astype("<f4").tobytes())


def _jpeg_name(axis: str, step: int, number: int) -> str:
    """The name that denseflow gives; dense_flow's for step 1.

    >>> _jpeg_name("x", 1, 7), _jpeg_name("y", 2, 7), _jpeg_name("x", -1, 7)
    ('flow_x_00007.jpg', 'flow_y_p2_00007.jpg', 'flow_x_m1_00007.jpg')
    """
    return f"flow_{axis}_{_step_mark(step)}{number:05d}.jpg"


def _step_mark(step: int) -> str:
    if step == 0:
        raise ValueError("step must not be 0: a frame has no flow to itself")
    return "" if step == 1 else f"p{step}_" if step > 1 else f"m{-step}_"


def _numbered(folder: Path, axis: str, step: int) -> dict[int, Path]:
    """The files of one component, by number."""
    pattern = re.compile(rf"flow_{axis}_{_step_mark(step)}(\d{{5,}})\.jpg")
    try:
        matches = [(pattern.fullmatch(path.name), path) for path in folder.iterdir()]
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror or error}") from None
    return {int(match[1]): path for match, path in matches if match}


def _read_pairs(
    x_files: dict[int, Path], y_files: dict[int, Path], numbers: list[int]
) -> Iterator[UInt8Array]:
    shape: tuple[int, ...] = ()
    for number in numbers:
        field = [_read_grey(files[number]) for files in (x_files, y_files)]
        shape = shape or field[0].shape
        for picture, files in zip(field, (x_files, y_files), strict=True):
            if picture.shape != shape:
                raise DataError(
                    f"{files[number]} is {picture.shape[1]}x{picture.shape[0]}, those before it are "
                    f"{shape[1]}x{shape[0]}: extract this video anew"
                )
        yield np.stack(field)


def _read_grey(path: Path) -> UInt8Array:
    content: npt.NDArray[np.uint8] = np.fromfile(path, np.uint8)
    picture = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE) if len(content) else None
    if picture is None:
        raise DataError(f"{path} is no picture: it is cut short or damaged; extract this video anew")
    return np.asarray(picture, np.uint8)
