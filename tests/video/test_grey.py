"""Grey pictures as packets: numbers come out as they went in, each time, in one packet each."""

import numpy as np
import pytest

from muybridge.errors import DecodeError, VideoError
from muybridge.types import Size
from muybridge.video.decode import decode_grey
from muybridge.video.encode import GreyEncoder

RNG = np.random.default_rng(0)
SETTINGS = [("ffv1", None), ("hevc", 8)]


def pictures(count: int, height: int = 33, width: int = 47) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = np.array([np.sin((x + t) / 6) * np.cos((y - t) / 5) for t in range(count)])
    out = (waves * 110 + 128).astype(np.uint8)
    out[:, :4, :4] = RNG.integers(0, 256, (count, 4, 4))  # all values, 0 and 255 too
    return out


def encoded(frames: np.ndarray, codec: str, crf: int | None) -> tuple[list[tuple[bytes, bool]], bytes]:
    encoder = GreyEncoder(*frames.shape[1:], codec=codec, gop=4, crf=crf)
    packets = [packet for frame in frames for packet in encoder.encode(frame)]
    return packets + encoder.finish(), encoder.setup


@pytest.mark.parametrize("size", [(33, 47), (32, 48), (17, 250)])
def test_ffv1_loses_nothing(size: tuple[int, int]) -> None:
    frames = pictures(10, *size)
    frames[3] = RNG.integers(0, 256, size)
    packets, setup = encoded(frames, "ffv1", None)
    decoded = list(
        decode_grey([content for content, _ in packets], codec="ffv1", size=Size(*size), setup=setup)
    )
    assert np.array_equal(np.stack(decoded), frames)


def test_hevc_keeps_the_range_of_numbers() -> None:
    frames = pictures(10)
    packets, setup = encoded(frames, "hevc", 8)
    assert setup == b""
    decoded = np.stack(
        list(decode_grey([content for content, _ in packets], codec="hevc", size=Size(33, 47)))
    )
    apart = decoded.astype(int) - frames
    assert np.abs(apart[:, 5:, 5:]).mean() < 1
    assert abs(apart.mean()) < 0.2  # a range that is taken for limited would be off by far more


@pytest.mark.parametrize(("codec", "crf"), SETTINGS)
def test_keys_begin_anew_and_bytes_are_the_same_each_time(codec: str, crf: int | None) -> None:
    frames = pictures(10)
    packets, setup = encoded(frames, codec, crf)
    assert [is_key for _, is_key in packets] == [i % 4 == 0 for i in range(10)]
    assert all(encoded(frames, codec, crf) == (packets, setup) for _ in range(3))
    everything = list(
        decode_grey([content for content, _ in packets], codec=codec, size=Size(33, 47), setup=setup)
    )
    later = list(
        decode_grey([content for content, _ in packets[4:]], codec=codec, size=Size(33, 47), setup=setup)
    )
    assert np.array_equal(np.stack(everything[4:]), np.stack(later))


def test_damage_is_an_error() -> None:
    packets, setup = encoded(pictures(2), "ffv1", None)
    with pytest.raises(DecodeError, match=r"ffv1 packets do not decode \(.*\): they are damaged"):
        list(decode_grey([packets[0][0][:9]], codec="ffv1", size=Size(33, 47), setup=setup))


def test_what_the_encoder_does_not_take() -> None:
    with pytest.raises(VideoError, match=r"hevc does not take grey pictures of 4x2"):
        GreyEncoder(2, 4, codec="hevc", gop=4, crf=8)
    with pytest.raises(VideoError, match="FFmpeg has no encoder 'nothing' here"):
        GreyEncoder(32, 32, codec="nothing", gop=4)
