"""Stores: what goes in comes out, any of it, and what is wrong says so.

Seen to fail: the index off by a packet; a key forgotten; the checksum not looked at; a difference not
compared; the end not looked for.
"""

from pathlib import Path

import numpy as np
import pytest
from full_disk import largest_file

from muybridge.errors import ConfigError, DataError, DecodeError, StorageError
from muybridge.flow.header import QUALITIES, FlowHeader
from muybridge.flow.quantise import dequantise, quantise, step_px
from muybridge.flow.recipe import FlowKind, FlowRecipe
from muybridge.flow.store import FlowReader, write_store
from muybridge.types import Size

RECIPE = FlowRecipe.of("dis")
SIZE = Size(37, 45)  # odd on purpose
NUM_FRAMES = 30
SHA = "ab" * 32


def header(**changes: object) -> FlowHeader:
    values = {
        "source": "a.mp4",
        "source_sha256": SHA,
        "num_frames": NUM_FRAMES,
        "fps": 25,
        "source_size": SIZE,
        "size": SIZE,
        "method": RECIPE.method,
        "parameters": RECIPE.parameters,
        "bound": RECIPE.bound,
    }
    return FlowHeader(**(values | changes))


def waves(num_fields: int, seed: int = 0) -> np.ndarray:
    """Smooth fields with an edge that moves, and a little noise: uint8 [P, 2, H, W]."""
    rng = np.random.default_rng(seed)
    x = np.mgrid[: SIZE.height, : SIZE.width][1] / 9
    fields = np.array([[np.sin(x + k / 7), 3 * (x > 2 + k / 20)] for k in range(num_fields)])
    return quantise(fields + rng.normal(0, 0.1, fields.shape), RECIPE.bound)


def write(path: Path, codes: np.ndarray, **changes: object) -> Path:
    with write_store(path, header(**changes)) as writer:
        for first in range(0, len(codes), 7):
            writer.add(codes[first : first + 7])
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("store") / "a.flow", waves(29))


# What goes in comes out


def test_lossless_is_byte_for_byte(store: Path) -> None:
    with FlowReader(store) as reader:
        assert np.array_equal(reader.codes([(i, i + 1) for i in range(29)]), waves(29))
        assert np.array_equal(reader.fields([(3, 4)]), dequantise(waves(29)[3:4], 20))


@pytest.mark.parametrize("quality", QUALITIES)
def test_any_fields_in_any_order_are_those_of_all(tmp_path: Path, quality: str) -> None:
    path = write(tmp_path / "a.flow", waves(29), quality=quality)
    with FlowReader(path) as reader:
        everything = reader.codes([(i, i + 1) for i in range(29)])
        for numbers in ([28], [0], [7, 8], [15, 3, 3, 27, 4], list(range(5, 15)), [9, 23, 24]):
            assert np.array_equal(reader.codes([(i, i + 1) for i in numbers]), everything[numbers])
        assert reader.codes([]).shape == (0, 2, 37, 45)
    apart = np.abs(everything.astype(int) - waves(29))
    worst, mean = {"lossless": (0, 0), "high": (8, 0.8), "small": (20, 2)}[quality]
    assert apart.max() <= worst
    assert apart.mean() <= mean


@pytest.mark.parametrize("quality", QUALITIES)
def test_the_same_fields_give_the_same_bytes(tmp_path: Path, quality: str) -> None:
    contents = {write(tmp_path / f"{i}", waves(29), quality=quality).read_bytes() for i in range(3)}
    assert len(contents) == 1


def test_lossy_stores_are_smaller_in_order(tmp_path: Path) -> None:
    smooth = waves(29)
    sizes = [write(tmp_path / name, smooth, quality=name).stat().st_size for name in QUALITIES]
    assert sizes[0] > sizes[1] > 1.5 * sizes[2]


def test_fields_over_several_gaps(tmp_path: Path) -> None:
    codes = waves(29 + 28 + 29)
    path = write(tmp_path / "a.flow", codes, gaps=(1, 2, -1))
    with FlowReader(path) as reader:
        assert reader.header.num_fields == 86
        assert np.array_equal(reader.codes([(0, 1), (28, 29), (0, 2), (27, 29)]), codes[[0, 28, 29, 56]])
        assert np.array_equal(reader.codes([(1, 0), (29, 28)]), codes[[57, 85]])
        for pair in ((28, 30), (0, 3), (5, 5), (-1, 0), (29, 30)):
            with pytest.raises(
                DataError, match=rf"no field from frame {pair[0]} to {pair[1]}: it has 30 frames"
            ):
                reader.codes([pair])


def test_a_stack_is_read_without_the_fields_before_it(store: Path, tmp_path: Path) -> None:
    content = bytearray(store.read_bytes())
    start = content.index(b'"version"') + 2000  # somewhere in the first packets
    content[start : start + 4] = b"\0\0\0\0"
    path = tmp_path / "damaged.flow"
    path.write_bytes(content)
    with FlowReader(path) as reader:
        assert np.array_equal(reader.codes([(i, i + 1) for i in range(18, 28)]), waves(29)[18:28])
        with pytest.raises(
            DecodeError, match=r"field \d of 29 is not as it was written\. The copy or the disk"
        ):
            reader.codes([(i, i + 1) for i in range(8)])


def test_what_the_header_says(store: Path) -> None:
    with FlowReader(store) as reader:
        assert str(reader.header) == "FlowHeader(a.mp4: 29 fields, 45x37, dis, bound 20, lossless)"
        assert reader.header.parameters == RECIPE.parameters
        assert reader.header.model_copy(update={"setup": ""}) == header()


def test_fewer_fields_than_promised_are_our_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the header promises 29 fields, got 5"):
        write(tmp_path / "a.flow", waves(5))
    assert list(tmp_path.iterdir()) == []


def test_no_such_quality() -> None:
    with pytest.raises(ConfigError, match="no quality 'best'; there are: lossless, high, small"):
        header(quality="best")


# What is other than expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "farneback"}, r"method dis, not farneback"),
        (
            {"method": "dis/fast"},
            r"method dis \(finest_scale 1, .*\), not dis/fast \(finest_scale 2, patch_stride 4",
        ),
        ({"method": "raft@00000000"}, r"method dis, not raft@00000000"),
        ({"bound": 15}, r"bound 20, not 15"),
        ({"warped": True}, r"plain flow, not warped"),
        ({"size": Size(74, 90)}, r"45x37 pixels, not 90x74"),
        ({"gaps": (2,)}, r"fields over 1 frame, not over 2 frames \(stride and frame rate\)"),
        ({"bound": 15, "gaps": (1, 2)}, r"bound 20, not 15; fields over 1 frame, not over 2 frames"),
    ],
)
def test_another_expectation_is_an_error_that_says_both(store: Path, changes: dict, message: str) -> None:
    asked = {"method": "dis", "bound": 20, "warped": False, "size": SIZE, "gaps": (1,)} | changes
    kind = FlowKind(asked["method"], asked["bound"], asked["warped"])
    with FlowReader(store) as reader:
        reader.expect(RECIPE.kind, size=SIZE, gaps=(1,), sha256=SHA)
        with pytest.raises(
            DataError, match=rf"holds other flow than was asked for: {message}.*Name another folder"
        ):
            reader.expect(kind, size=asked["size"], gaps=asked["gaps"], sha256=SHA)


def test_the_filter_of_resized_frames_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flow", waves(29), source_size=Size(74, 90), resize_filter="bilinear")
    with FlowReader(path) as reader:
        reader.expect(RECIPE.kind, size=SIZE, resize_filter="bilinear")
        with pytest.raises(DataError, match="resize filter bilinear, not antialias"):
            reader.expect(RECIPE.kind, size=SIZE, resize_filter="antialias")


def test_the_store_of_another_video(store: Path) -> None:
    with (
        FlowReader(store) as reader,
        pytest.raises(
            DataError,
            match=r"holds the flow of another video, a\.mp4 \(abababab\), not of cdcdcdcd: remove it",
        ),
    ):
        reader.expect(RECIPE.kind, sha256="cd" * 32)


def test_parameters_of_ones_own_have_a_name_of_their_own(tmp_path: Path) -> None:
    recipe = FlowRecipe.of("dis", num_descents=7)
    path = write(tmp_path / "a.flow", waves(29), parameters=recipe.parameters)
    with FlowReader(path) as reader:
        assert reader.header.name == recipe.name != "dis"
        reader.expect(recipe.kind)
        with pytest.raises(
            DataError, match=r"dis@[0-9a-f]{8} \(num_descents 7\), not dis \(num_descents 25\)"
        ):
            reader.expect(RECIPE.kind)
    with pytest.raises(ConfigError, match=r"has parameters of its own, which only a store of it knows"):
        FlowRecipe.of(recipe.name)


# Damage


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9, 0.999])
def test_a_store_that_is_cut_short(store: Path, tmp_path: Path, kept: float) -> None:
    content = store.read_bytes()
    path = tmp_path / "cut.flow"
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(
        DecodeError, match=r"cut\.flow: it is cut short\. The copy or the disk is at fault: remove it"
    ):
        FlowReader(path)


def test_files_that_are_no_stores(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.flow"
    with pytest.raises(DecodeError, match=r"cannot read .*a\.flow: No such file"):
        FlowReader(path)
    for content in (b"", b"\0\0\0\x1cftypisom"):
        path.write_bytes(content)
        with pytest.raises(DecodeError, match=r"is no flow of muybridge's: it begins otherwise"):
            FlowReader(path)
    damaged = bytearray(store.read_bytes())
    damaged[20] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DecodeError, match=r"its header or index is not as it was written"):
        FlowReader(path)


def test_a_store_of_a_later_version(tmp_path: Path) -> None:
    path = tmp_path / "a.flow"
    with write_store(path, header().model_copy(update={"version": 2})) as writer:
        writer.add(waves(29))
    with pytest.raises(DataError, match=r"has version 2 of the layout, this muybridge reads 1: update it"):
        FlowReader(path)


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flow", waves(29))
    before = path.read_bytes()
    with largest_file(4000), pytest.raises(StorageError, match=r"cannot write .*a\.flow: File too large"):
        write(path, waves(29, seed=1))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.flow"]


def test_errors_of_lossy_codes_stay_near_the_step(tmp_path: Path) -> None:
    """On fields without noise a high store is within a step of the quantiser on the mean."""
    y, x = np.mgrid[: SIZE.height, : SIZE.width] / 12
    fields = np.array([[5 * np.sin(x + k / 9), 4 * np.cos(y - k / 11)] for k in range(29)], np.float32)
    path = write(tmp_path / "a.flow", quantise(fields, 20), quality="high")
    with FlowReader(path) as reader:
        decoded = reader.fields([(i, i + 1) for i in range(29)])
    assert np.hypot(*np.moveaxis(decoded - fields, 1, 0)).mean() < step_px(20)
