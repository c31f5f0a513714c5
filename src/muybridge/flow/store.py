"""One file for the flow of one video: codes as a video without a container, and how they were made.

    magic       8 bytes
    header      its length (u32, as all numbers little-endian), then JSON: `FlowHeader`
    packets     one a field, x over y in one grey picture; a key begins anew
    index       9 bytes a packet: length, CRC-32, whether it is a key
    footer      28 bytes: where the index lies, packets, CRC-32 of the index and of the header, magic

To read a field, the packets from its key on are decoded: itself alone in a lossless store, eight at most in
a lossy one. The footer comes last, so memory does not grow with the length of the video, and a file that was
cut short has none. Files appear whole or not at all.

Shape letters: P fields, H height, W width.
"""

import base64
import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from muybridge.config import ResizeFilter
from muybridge.errors import DataError, DecodeError
from muybridge.files import atomic_path
from muybridge.flow.header import QUALITIES, VERSION, FlowHeader, frames_on
from muybridge.flow.quantise import Float32Array, dequantise
from muybridge.flow.recipe import FlowKind, Pair
from muybridge.types import Size, UInt8Array
from muybridge.video.decode import decode_grey
from muybridge.video.encode import GreyEncoder

__all__ = ["FlowReader", "FlowWriter", "write_store"]

MAGIC = b"\x93MBFLOW\n"
LENGTH = struct.Struct("<I")
FOOTER = struct.Struct("<QIII8s")
INDEX = np.dtype([("num_bytes", "<u4"), ("crc", "<u4"), ("is_key", "u1")])
MAX_HEADER_BYTES = 1 << 20


class FlowWriter:
    """Writes the fields of one video, in the order of the header's gaps. Use `write_store`."""

    def __init__(self, file: BinaryIO, header: FlowHeader) -> None:
        self._file = file
        height, width = header.size
        coding = QUALITIES[header.quality]
        self._encoder = GreyEncoder(2 * height, width, codec=coding.codec, gop=coding.gop, crf=coding.crf)
        setup = base64.b64encode(self._encoder.setup).decode()
        self.header = header.model_copy(update={"setup": setup})
        self._rows: list[tuple[int, int, bool]] = []
        self._header_bytes = json.dumps(self.header.to_dict()).encode()
        file.write(MAGIC + LENGTH.pack(len(self._header_bytes)) + self._header_bytes)

    def add(self, codes: UInt8Array) -> None:
        """Appends fields.

        Shape:
            codes [P, 2, H, W], uint8
        """
        for field in codes:
            self._put(self._encoder.encode(field.reshape(-1, field.shape[-1])))

    def finish(self) -> None:
        """Writes the index."""
        self._put(self._encoder.finish())
        if len(self._rows) != self.header.num_fields:
            raise ValueError(f"the header promises {self.header.num_fields} fields, got {len(self._rows)}")
        index = np.array(self._rows, INDEX).tobytes()
        offset = self._file.tell()
        crcs = zlib.crc32(index), zlib.crc32(self._header_bytes)
        self._file.write(index + FOOTER.pack(offset, len(self._rows), *crcs, MAGIC))

    def _put(self, packets: list[tuple[bytes, bool]]) -> None:
        for content, is_key in packets:
            self._file.write(content)
            self._rows.append((len(content), zlib.crc32(content), is_key))


@contextmanager
def write_store(path: Path | str, header: FlowHeader) -> Iterator[FlowWriter]:
    """A writer whose file takes the name `path` when the block ends well.

    Raises:
        StorageError: the disk is full, or the folder cannot be written; `path` is untouched.
        VideoError: the encoder does not take fields of this size.

    >>> import tempfile
    >>> header = FlowHeader(source="a.mp4", source_sha256="", num_frames=3, fps=25, source_size=(24, 32),
    ...                     size=(24, 32), method="dis", parameters={}, bound=20)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with write_store(Path(folder) / "a.flow", header) as writer:
    ...         writer.add(np.full((2, 2, 24, 32), 128, np.uint8))
    ...     with FlowReader(Path(folder) / "a.flow") as reader:
    ...         print(reader.header, reader.codes([(1, 2)]).shape)
    FlowHeader(a.mp4: 2 fields, 32x24, dis@44136fa3, bound 20, lossless) (1, 2, 24, 32)
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        writer = FlowWriter(file, header)
        yield writer
        writer.finish()


@dataclass(frozen=True)
class _Index:
    """Where each packet lies: packet i is bytes [offsets[i], offsets[i + 1])."""

    offsets: Sequence[int]
    crcs: Sequence[int]
    keys: Sequence[int]  # of each packet, the number of the key that it is decoded from


class FlowReader:
    """Reads any fields of a store. Not to be shared between threads; close it.

    Attributes:
        path: the file.
        header: how its fields were made.

    Raises:
        DecodeError: no store, cut short or damaged.
        DataError: a newer version made it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            self._file = self.path.open("rb")
        except OSError as error:
            raise DecodeError(f"cannot read {self.path}: {error.strerror or error}") from None
        try:
            self.header, self._index = self._opened()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def expect(
        self,
        wanted: FlowKind,
        *,
        size: Size | None = None,
        resize_filter: ResizeFilter | None = None,
        gaps: Sequence[int] = (),
        sha256: str | None = None,
    ) -> None:
        """Makes sure that the fields are those that are wanted.

        Args:
            wanted: the flow.
            size: of the frames; None does not matter.
            resize_filter: how they got that size.
            gaps: frames from the first to the second of the pairs that are wanted.
            sha256: of the video that the fields are to be of; None does not matter.

        Raises:
            DataError: the store is another video's, or its flow is made otherwise; says both.
        """
        if sha256 is not None and sha256 != self.header.source_sha256:
            raise DataError(
                f"{self.path} holds the flow of another video, {self.header.source} "
                f"({self.header.source_sha256[:8]}), not of {sha256[:8]}: remove it and run muybridge flow "
                "again"
            )
        found = self.header.differences(wanted, size=size, resize_filter=resize_filter, gaps=gaps)
        if found:
            raise DataError(
                f"{self.path} holds other flow than was asked for: {'; '.join(found)}. Name another folder, "
                "or make one with muybridge flow"
            )

    def codes(self, pairs: Sequence[Pair]) -> UInt8Array:
        """The fields between pairs of frames, in the order of `pairs`, which may repeat.

        Raises:
            DataError: a pair that is not in the store.
            DecodeError: the file is damaged.

        Shape:
            output [P, 2, H, W], uint8
        """
        numbers = [self._number(pair) for pair in pairs]
        out = np.empty((len(pairs), 2, *self.header.size), np.uint8)
        rows_of: dict[int, list[int]] = {}
        for row, number in enumerate(numbers):
            rows_of.setdefault(number, []).append(row)
        for first, last in self._runs(sorted(rows_of)):
            for number, picture in enumerate(self._decoded(first, last), first):
                out[rows_of.get(number, [])] = picture.reshape(2, *self.header.size)
        return out

    def fields(self, pairs: Sequence[Pair]) -> Float32Array:
        """As `codes`, in pixels.

        Shape:
            output [P, 2, H, W], float32
        """
        return dequantise(self.codes(pairs), self.header.bound)

    def _number(self, pair: Pair) -> int:
        number = self.header.field_number(pair)
        if number is None:
            raise DataError(
                f"{self.path}: no field from frame {pair[0]} to {pair[1]}: it has {self.header.num_frames} "
                f"frames and fields over {frames_on(self.header.gaps)}"
            )
        return number

    def _runs(self, numbers: list[int]) -> Iterator[tuple[int, int]]:
        """Fields [first, last] to decode at a stretch: each begins with a key."""
        keys = self._index.keys
        starts = [0, *(i for i, (a, b) in enumerate(pairwise(numbers), 1) if keys[b] > a + 1), len(numbers)]
        for start, end in pairwise(starts):
            if start < end:
                yield keys[numbers[start]], numbers[end - 1]

    def _decoded(self, first: int, last: int) -> Iterator[UInt8Array]:
        index, header = self._index, self.header
        packets = []
        self._file.seek(index.offsets[first])
        for i in range(first, last + 1):
            content = self._file.read(index.offsets[i + 1] - index.offsets[i])
            if zlib.crc32(content) != index.crcs[i]:
                raise self._damaged(f"field {i} of {len(index.keys)} is not as it was written")
            packets.append(content)
        codec = QUALITIES[header.quality].codec
        size = Size(2 * header.size[0], header.size[1])
        yield from decode_grey(packets, codec=codec, size=size, setup=base64.b64decode(header.setup))

    def _opened(self) -> tuple[FlowHeader, _Index]:
        start = self._file.read(len(MAGIC) + LENGTH.size)
        if start[: len(MAGIC)] != MAGIC:
            raise DecodeError(
                f"{self.path} is no flow of muybridge's: it begins otherwise; name another file"
            )
        num_bytes = self._file.seek(0, 2)
        if num_bytes < len(start) + FOOTER.size:
            raise self._damaged("it is cut short")
        self._file.seek(num_bytes - FOOTER.size)
        offset, count, index_crc, header_crc, magic = FOOTER.unpack(self._file.read(FOOTER.size))
        if magic != MAGIC or offset + count * INDEX.itemsize + FOOTER.size != num_bytes:
            raise self._damaged("it is cut short")
        self._file.seek(offset)
        index = self._file.read(count * INDEX.itemsize)
        self._file.seek(len(start))
        header = self._file.read(min(LENGTH.unpack(start[len(MAGIC) :])[0], MAX_HEADER_BYTES))
        if zlib.crc32(index) != index_crc or zlib.crc32(header) != header_crc:
            raise self._damaged("its header or index is not as it was written")
        return self._header(header), _index(np.frombuffer(index, INDEX), len(start) + len(header))

    def _header(self, content: bytes) -> FlowHeader:
        values = json.loads(content)
        if values.get("version") != VERSION:
            raise DataError(
                f"{self.path} has version {values.get('version')} of the layout, this muybridge reads "
                f"{VERSION}: update it, or make the flow anew"
            )
        return FlowHeader.from_dict(values, where=str(self.path))

    def _damaged(self, what: str) -> DecodeError:
        return DecodeError(
            f"{self.path}: {what}. The copy or the disk is at fault: remove it and run muybridge flow again, "
            "which makes only what is missing"
        )


def _index(rows: np.ndarray[Any, np.dtype[Any]], start: int) -> _Index:
    offsets = start + np.concatenate([[0], np.cumsum(rows["num_bytes"], dtype=np.int64)])
    numbers = np.arange(len(rows))
    keys = np.maximum.accumulate(np.where(rows["is_key"] != 0, numbers, 0))
    return _Index(offsets.tolist(), rows["crc"].tolist(), keys.tolist())
