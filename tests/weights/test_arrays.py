"""Pickles and .npz files: arrays come out, and nothing that a hostile file asks for is done."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from muybridge.errors import WeightsError
from muybridge.weights.arrays import is_npz, read_npz, read_pickle

ARRAYS = {
    "conv1_w": np.arange(60, dtype="f4").reshape(3, 4, 5),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "big_endian": np.arange(4, dtype=">i8"),
    "empty": np.zeros((0, 3)),
    "lr": np.float32(0.125),
    "model_iter": 400_000,
}


def same(found: dict[str, np.ndarray], expected: dict[str, object]) -> bool:
    return found.keys() == expected.keys() and all(np.array_equal(found[key], expected[key]) for key in found)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [True, False])
def test_arrays_come_out_of_pickles_of_every_protocol(protocol: int, wrap: bool, tmp_path: Path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"blobs": ARRAYS, "cfg": "a text"} if wrap else ARRAYS, protocol=protocol))
    found = read_pickle(path)
    assert same(found, ARRAYS)
    assert found["big_endian"].dtype == np.int64  # in this machine's order
    assert all(array.flags.c_contiguous and array.flags.writeable for array in found.values() if array.ndim)


def python2_pickle(name: bytes, array: np.ndarray) -> bytes:
    """What cPickle of Python 2 wrote: the numbers are a text."""
    shape = b"".join(b"J" + struct.pack("<i", size) for size in array.shape)
    minus_one = b"J" + struct.pack("<i", -1)
    return (
        b"\x80\x02}U\x05blobs}U"
        + bytes([len(name)])
        + name
        + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01("
        + shape
        + b"tcnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNN"
        + minus_one * 2
        + b"K\x00tb\x89T"
        + struct.pack("<i", array.nbytes)
        + array.tobytes()
        + b"tbss."
    )


def test_python_2_s_pickles_are_read(tmp_path: Path):
    path = tmp_path / "a.pkl"
    array = np.linspace(-1, 1, 24, dtype="f4").reshape(2, 3, 4)
    path.write_bytes(python2_pickle(b"conv1_w", array))
    assert same(read_pickle(path), {"conv1_w": array})


class Calls:
    """Runs a function when it is unpickled without care."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile() -> dict[str, bytes]:
    """Pickles that would do something, were they obeyed."""
    touch = Path("touched")
    return {
        "posix.system": pickle.dumps(Calls(os.system, "touch touched")),
        "builtins.exec": pickle.dumps({"blobs": {"a": Calls(exec, "open('touched', 'w')")}}),
        "builtins.eval": pickle.dumps(Calls(eval, "1")),
        "builtins.getattr": pickle.dumps(Calls(getattr, touch, "touch")),
        "subprocess.Popen": pickle.dumps(Calls(subprocess.Popen, ["touch", "touched"])),
        "builtins.open": b"cbuiltins\nopen\n(Vtouched\nVw\ntR.",
        "numpy.load": b"cnumpy\nload\n(Vtouched\ntR.",
        "numpy.core.multiarray.fromfile": b"cnumpy.core.multiarray\nfromfile\n(Vtouched\ntR.",
        "numpy.ndarray.tofile": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93\x8c\x07touched\x85R.",
        "os.system": b"(Vtouch touched\nios\nsystem\n.",
        "codecs.decode": b"ccodecs\ndecode\n(Vx\nVrot13\ntR.",
    }


@pytest.mark.parametrize("asked", hostile())
def test_hostile_pickles_are_refused_and_do_nothing(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pkl"
    path.write_bytes(hostile()[asked])
    with pytest.raises(
        WeightsError, match=r"is not a file of weights alone, .* it asks for \S+, and nothing but"
    ):
        read_pickle(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pkl"]


DTYPE = b"cnumpy\ndtype\n(V%s\nI0\nI1\ntR"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (ARRAY + b"(I1\n(I1\nt" + DTYPE % b"O8" + b"I00\n(Nltb.", "holds arrays of 'O8', not of numbers"),
        (
            ARRAY + b"(I1\n(I1\nt" + DTYPE % b"V8" + b"I00\nVabcdefgh\ntb.",
            "holds arrays of 'V8', not of numbers",
        ),
        (
            ARRAY + b"(I1\n(I1\nt" + DTYPE % b"f4" + b"(I3\nV<\nN(Vx\ntNI-1\nI-1\nI0\ntbI00\nVabcd\ntb.",
            "it holds records",
        ),
        (ARRAY + b"(I1\n(I-4\nt" + DTYPE % b"f4" + b"I00\nVabcd\ntb.", "an array of it has no numbers"),
        (ARRAY + b"(I1\n(I4\nt" + DTYPE % b"f4" + b"I00\nNtb.", "an array of it has no numbers"),
        (b"c_codecs\nencode\n(Vx\nVzip\ntR.", "it encodes text as zip"),
        (b"(dVa\n" + ARRAY + b"s.", "a is a _Array"),
        (b"(dVa\nVa text\ns.", "a is a str"),
        (b"(dVa\n(lp0\ng0\nas.", "a is a list"),
        (b"]q\x00.", "holds a list, not a dictionary of arrays"),
        (b"\x80\x02K\x01Q.", "is not a file of weights alone"),  # a persistent id
        (b"\x80\x02}q\x00(K\x01K\x02", "is not a whole pickle of arrays"),
        (b"", "is not a whole pickle of arrays"),
        (b"This is no pickle but a letter to the editor.", "is not a whole pickle of arrays"),
        (b"\x80\x02}U\x01aN}sb.", "is not a"),  # sets attributes of what has none
    ],
)
def test_pickles_that_are_no_arrays(content: bytes, text: str, tmp_path: Path):
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=text):
        read_pickle(path)


def claims(shape: tuple[int, ...]) -> bytes:
    """A pickle of one array of four numbers that says it has another shape."""
    text = b"".join(b"L%dL\n" % size for size in shape)
    return b"(dVconv1_w\n" + ARRAY + b"(I1\n(" + text + b"t" + DTYPE % b"f4" + b"I00\nV0123456789abcdef\ntbs."


@pytest.mark.parametrize("shape", [(5,), (2, 3), (1 << 40,), (1 << 62, 1 << 62)])
def test_an_array_that_claims_more_than_it_holds(shape: tuple[int, ...], tmp_path: Path):
    path = tmp_path / "a.pkl"
    path.write_bytes(claims((4,)))
    assert read_pickle(path)["conv1_w"].shape == (4,)
    path.write_bytes(claims(shape))
    with pytest.raises(
        WeightsError, match=r"an array of it claims \[\d+.*\] numbers, \d+ bytes, and holds 16"
    ):
        read_pickle(path)


def test_lengths_and_indices_that_claim_what_is_not_there_take_no_memory(tmp_path: Path):
    """In a process that may not have it."""
    path = tmp_path / "a.pkl"
    huge = {
        "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
        "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
        "text": b"\x80\x02X" + struct.pack("<I", (1 << 32) - 1) + b"x.",
        "memo": b"\x80\x02]r" + struct.pack("<I", 1 << 27) + b".",
        "long": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"x.",
    }
    code = (
        "import sys, resource; from pathlib import Path; from muybridge.weights.arrays import read_pickle\n"
        "from muybridge.errors import WeightsError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try: read_pickle(Path(path))\n"
        "    except WeightsError: print('refused')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    paths = []
    for name, content in huge.items():
        paths.append(tmp_path / f"{name}.pkl")
        paths[-1].write_bytes(content)
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    *words, kilobytes = done.stdout.split()
    assert words == ["refused"] * len(huge)
    assert int(kilobytes) < 20_000
    assert not path.exists()


def test_npz(tmp_path: Path):
    path = tmp_path / "a.npz"
    for write in (np.savez, np.savez_compressed):
        write(path, **ARRAYS)
        assert is_npz(path)
        assert same(read_npz(path), ARRAYS)
    assert not is_npz(tmp_path / "nowhere.npz")


def npy(header: str, data: bytes = b"", *, version: int = 1) -> bytes:
    text = header.encode() + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", bytes(8)),
            "claims .3. numbers, 12 bytes, and holds 8",
        ),
        (
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}"),
            "claims .1099511627776. numbers",
        ),
        (
            npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", pickle.dumps([1])),
            "holds object, not numbers",
        ),
        (npy("{'descr': '<U4', 'fortran_order': False, 'shape': (1,)}", bytes(16)), "holds <U4, not numbers"),
        (npy("{'descr': '<f4', 'shape': ().__class__}"), "is not a whole .npz file of arrays"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': ()}", bytes(4), version=9), "has the format"),
        (b"", "is not a whole .npz file of arrays"),
    ],
)
def test_npz_files_with_other_things_in_them(content: bytes, text: str, tmp_path: Path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("conv1.npy", content)
    with pytest.raises(WeightsError, match=text):
        read_npz(path)


def test_an_npz_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, zeros=np.zeros(100_000, "f4"))
    assert path.stat().st_size < 2000
    monkeypatch.setattr("muybridge.weights.arrays.MAX_BYTES", 300_000)
    with pytest.raises(WeightsError, match="unpacks to 400128 bytes; at most 300000 are read"):
        read_npz(path)


def test_an_npz_file_cut_short(tmp_path: Path):
    buffer = io.BytesIO()
    np.savez(buffer, **ARRAYS)
    path = tmp_path / "a.npz"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    assert not is_npz(path)
    with pytest.raises(
        WeightsError, match=r"is not a whole \.npz file of arrays: .* Save its arrays with numpy\.savez"
    ):
        read_npz(path)


def archive_of(method: int) -> bytearray:
    """An .npz file of one array of zeros and ones, packed."""
    content, buffer = io.BytesIO(), io.BytesIO()
    np.save(content, np.arange(1000) % 7 % 2)
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a.npy", content.getvalue())
    return bytearray(buffer.getvalue())


def patched(data: bytearray, local: int | None, central: int | None, value: bytes) -> bytes:
    """With other bytes in the local header and in the entry of the central directory."""
    for start, offset in ((0, local), (data.index(b"PK\x01\x02"), central)):
        if offset is not None:
            data[start + offset : start + offset + len(value)] = value
    return bytes(data)


DEFLATED, LZMA, BZIP2 = zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (patched(archive_of(DEFLATED), 8, 10, b"\x63\x00"), "compression method is not supported"),
        (patched(archive_of(DEFLATED), 6, 8, b"\x01\x00"), "is encrypted, password required"),
        (patched(archive_of(DEFLATED), None, 6, b"\x5a\x00"), "zip file version 9"),
        (patched(archive_of(DEFLATED), 50, None, bytes([255] * 20)), "while decompressing data"),
        (patched(archive_of(LZMA), 70, None, bytes([255] * 20)), "Corrupt input data"),
        (patched(archive_of(BZIP2), 50, None, bytes([255] * 20)), "Invalid data stream"),
        (archive_of(zipfile.ZIP_STORED).replace(b"), }", b"),  "), "EOF in multi-line statement"),
    ],
    ids=["method", "password", "version", "deflate", "lzma", "bzip2", "header"],
)
def test_a_damaged_or_odd_archive_is_said_and_nothing_else_is_raised(data: bytes, text: str, tmp_path: Path):
    path = tmp_path / "a.npz"
    path.write_bytes(data)
    assert is_npz(path) == ("version" not in text)
    with pytest.raises(WeightsError, match=f"is not a whole .npz file of arrays: .*{text}"):
        read_npz(path)
