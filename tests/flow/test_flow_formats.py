"""What other tools left on disk, byte for byte; OpenCV, which those tools use, is the judge.

Seen to fail: quality 90; x and y swapped; a gap passed over; .flo in the order of planes.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest

from muybridge.errors import DataError, StorageError
from muybridge.flow.formats import (
    from_i3d,
    read_flo,
    read_i3d,
    read_jpegs,
    to_i3d,
    write_flo,
    write_i3d,
    write_jpegs,
)
from muybridge.flow.quantise import quantise

RNG = np.random.default_rng(0)
FIELDS = cv2.GaussianBlur(RNG.normal(0, 40, (30, 40, 8)).astype(np.float32), (0, 0), 3).transpose(2, 0, 1)
FIELDS = np.ascontiguousarray(FIELDS.reshape(4, 2, 30, 40))


@pytest.fixture
def jpegs(tmp_path: Path) -> Path:
    """As dense_flow would have left it: OpenCV's JPEGs at their default quality, counted from 1."""
    folder = tmp_path / "v_clip"
    folder.mkdir()
    for number, field in enumerate(quantise(FIELDS, 20), 1):
        for axis, component in zip("xy", field, strict=True):
            cv2.imwrite(str(folder / f"flow_{axis}_{number:05d}.jpg"), component)
    (folder / "img_00001.jpg").write_bytes(b"frames lie there too")
    return folder


def test_a_jpeg_folder_is_written_byte_for_byte(jpegs: Path, tmp_path: Path) -> None:
    write_jpegs(tmp_path / "ours", quantise(FIELDS, 20))
    names = sorted(path.name for path in jpegs.glob("flow_*"))
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == names
    assert all((tmp_path / "ours" / name).read_bytes() == (jpegs / name).read_bytes() for name in names)


def test_a_jpeg_folder_is_read_as_opencv_reads_it(jpegs: Path) -> None:
    read = list(read_jpegs(jpegs))
    assert len(read) == 4
    for number, field in enumerate(read, 1):
        for axis, component in zip("xy", field, strict=True):
            expected = cv2.imread(str(jpegs / f"flow_{axis}_{number:05d}.jpg"), cv2.IMREAD_GRAYSCALE)
            assert np.array_equal(component, expected)
    assert np.abs(np.stack(read).astype(int) - quantise(FIELDS, 20)).mean() < 1


@pytest.mark.parametrize(
    ("step", "first", "name"),
    [(1, 0, "flow_x_00000.jpg"), (2, 0, "flow_x_p2_00000.jpg"), (-1, 1, "flow_x_m1_00001.jpg")],
)
def test_names_of_denseflow(tmp_path: Path, step: int, first: int, name: str) -> None:
    codes = quantise(FIELDS, 32)
    write_jpegs(tmp_path / "clip", codes, step=step, first=first)
    assert min(path.name for path in (tmp_path / "clip").glob("flow_x*")) == name
    assert len(list(read_jpegs(tmp_path / "clip", step=step))) == 4
    with pytest.raises(DataError, match="no flow in"):
        read_jpegs(tmp_path / "clip", step=3)


def test_gaps_in_the_numbers(jpegs: Path) -> None:
    (jpegs / "flow_x_00002.jpg").unlink()
    with pytest.raises(
        DataError,
        match=r"1 of the files 00001 to 00004 are missing, first flow_x_00002\.jpg: .*extract .* anew",
    ):
        read_jpegs(jpegs)
    (jpegs / "flow_y_00002.jpg").unlink()
    with pytest.raises(DataError, match=r"2 of the files 00001 to 00004 are missing"):
        read_jpegs(jpegs)


def test_damaged_folders(jpegs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the folder .*: No such file"):
        read_jpegs(tmp_path / "nothing")
    cv2.imwrite(str(jpegs / "flow_y_00003.jpg"), np.zeros((30, 44), np.uint8))
    with pytest.raises(DataError, match=r"flow_y_00003\.jpg is 44x30, those before it are 40x30"):
        list(read_jpegs(jpegs))
    for content in (b"", b"no picture"):
        (jpegs / "flow_y_00003.jpg").write_bytes(content)
        with pytest.raises(DataError, match=r"flow_y_00003\.jpg is no picture: it is cut short or damaged"):
            list(read_jpegs(jpegs))


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def breaks():
        yield quantise(FIELDS[0], 20)
        raise StorageError("enough")

    with pytest.raises(StorageError, match="enough"):
        write_jpegs(tmp_path / "clip", breaks())
    assert list(tmp_path.iterdir()) == []


def test_flo_is_that_of_opencv(tmp_path: Path) -> None:
    write_flo(tmp_path / "ours.flo", FIELDS[0])
    assert cv2.writeOpticalFlow(
        str(tmp_path / "peer.flo"), np.ascontiguousarray(FIELDS[0].transpose(1, 2, 0))
    )
    assert (tmp_path / "ours.flo").read_bytes() == (tmp_path / "peer.flo").read_bytes()
    assert np.array_equal(read_flo(tmp_path / "peer.flo"), FIELDS[0])


def test_damaged_flo(tmp_path: Path) -> None:
    path = tmp_path / "a.flo"
    with pytest.raises(DataError, match=r"cannot read .*a\.flo: No such file"):
        read_flo(path)
    write_flo(path, FIELDS[0])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        DataError, match=r"has 4806 bytes, 40x30 pixels take 9612: it is cut short or damaged"
    ):
        read_flo(path)
    path.write_bytes(whole[:4] + b"\xff" * 8 + whole[12:])
    with pytest.raises(DataError, match=r"says that it is -1x-1: it is damaged"):
        read_flo(path)
    path.write_bytes(b"RIFF" + whole[4:])
    with pytest.raises(DataError, match=r"is no \.flo file: it does not begin with PIEH"):
        read_flo(path)


def test_i3d_has_20_pixels_as_1(tmp_path: Path) -> None:
    fields = np.array([-30, -20, -5, 0, 10, 20, 21, 3], np.float32).reshape(1, 2, 2, 2)
    values = to_i3d(fields)
    assert values[0, 0].tolist() == [[-1.0, 0.5], [-1.0, 1.0]]  # of each pixel x, then y
    np.testing.assert_allclose(from_i3d(values), np.clip(fields, -20, 20))
    write_i3d(tmp_path / "flow.npy", fields)
    loaded = np.load(tmp_path / "flow.npy")
    assert loaded.shape == (1, 1, 2, 2, 2)
    assert loaded.dtype == np.float32
    np.save(tmp_path / "peer.npy", values[None])
    assert (tmp_path / "peer.npy").read_bytes() == (tmp_path / "flow.npy").read_bytes()
    assert np.array_equal(read_i3d(tmp_path / "flow.npy"), from_i3d(values))


def test_what_is_not_of_i3d(tmp_path: Path) -> None:
    path = tmp_path / "flow.npy"
    path.write_bytes(b"text")
    with pytest.raises(DataError, match=r"cannot read .* as an array"):
        read_i3d(path)
    np.save(path, np.zeros((1, 3, 8, 8, 3), np.float32))
    with pytest.raises(
        DataError, match=r"is float32 \[1, 3, 8, 8, 3\], but I3D's flow is float32 \[1, T, H, W, 2\]"
    ):
        read_i3d(path)
