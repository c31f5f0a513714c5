"""One call for every method: what each is, both directions, and what is refused.

Seen to fail: components of OpenCV's fields not moved to the front; RAFT's frames in 0 to 1; the backward
fields in the order of the frames that were turned round.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from motions import texture
from safetensors.torch import save_file
from torchvision.models.optical_flow import raft_small

import muybridge.flow
from muybridge.errors import ConfigError, DataError, VideoTooShortError, WeightsError
from muybridge.flow.methods import METHODS, estimate, estimate_both, presets, resolve
from muybridge.flow.tvl1 import PRESETS, fields

ON_CPU = ["tvl1", "brox", "farneback", "dis"]


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """A texture that goes 2 pixels to the right and 1 down, then as much again."""
    large = texture(110, 130)
    cuts = [large[20 - k : 80 - k, 20 - 2 * k : 100 - 2 * k] for k in range(3)]
    return np.repeat(np.stack(cuts)[..., None], 3, axis=3)


@pytest.fixture(scope="module")
def raft_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "small.safetensors"
    save_file(raft_small().state_dict(), path)
    return path


@pytest.mark.parametrize("method", ON_CPU)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_motion_is_found_in_both_directions(frames: np.ndarray, method: str, direction: str):
    flow = estimate(frames, method=method, direction=direction)
    assert flow.shape == (2, 2, 60, 80)
    assert flow.dtype == np.float32
    assert flow.flags.c_contiguous
    sign = 1 if direction == "forward" else -1
    middle = np.median(flow[:, :, 10:-10, 10:-10], axis=(2, 3))
    np.testing.assert_allclose(middle, [[2 * sign, sign]] * 2, atol=0.1)


@pytest.mark.parametrize("method", ON_CPU)
def test_backward_is_the_turned_videos_forward(frames: np.ndarray, method: str):
    forward, backward = estimate_both(frames, method=method)
    np.testing.assert_array_equal(forward, estimate(frames, method=method))
    np.testing.assert_array_equal(backward, estimate(frames[::-1], method=method)[::-1])


@pytest.mark.parametrize("method", ON_CPU)
def test_equal_frames_have_no_flow(method: str):
    frame = np.repeat(texture(48, 64)[None, ..., None], 3, axis=3)
    flow = estimate(np.concatenate([frame, frame]), method=method)
    if method == "farneback":  # OpenCV's own drifts at the borders
        assert np.median(np.abs(flow)) < 1e-3
    else:
        assert np.abs(flow).max() < 1e-3


def test_tvl1_takes_opencvs_grey_of_the_frames():
    colored = np.random.default_rng(0).integers(0, 256, (2, 20, 24, 3), np.uint8)
    greys = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in colored])
    np.testing.assert_array_equal(estimate(colored), fields(greys, PRESETS["opencv"]))


def test_initial_fields_go_to_their_pairs(frames: np.ndarray):
    start = np.zeros((2, 2, 60, 80), np.float32)
    start[0, 0], start[1, 0] = 2, -3
    options = {"num_scales": 1, "num_warps": 1, "num_inner": 1, "num_outer": 1}
    flow = estimate(frames, initial=start, **options)
    assert np.median(flow[0, 0]) > 1
    assert np.median(flow[1, 0]) < -2
    backward = estimate(frames, initial=start, direction="backward", **options)
    assert np.median(backward[0, 0]) > 1


def test_farneback_is_opencvs(frames: np.ndarray):
    grey = np.ascontiguousarray(frames[..., 0])
    start = np.zeros((60, 80, 2), np.float32)
    theirs = cv2.calcOpticalFlowFarneback(grey[0], grey[1], start, 0.5, 5, 13, 10, 5, 1.1, 0)
    ours = estimate(frames, method="farneback", preset="cuda")
    np.testing.assert_array_equal(ours[0], theirs.transpose(2, 0, 1))
    assert np.abs(ours - estimate(frames, method="farneback")).max() > 1e-3


@pytest.mark.parametrize(
    ("preset", "theirs"),
    [
        ("medium", cv2.DISOPTICAL_FLOW_PRESET_MEDIUM),
        ("fast", cv2.DISOPTICAL_FLOW_PRESET_FAST),
        ("ultrafast", cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST),
    ],
)
def test_dis_presets_are_opencvs(frames: np.ndarray, preset: str, theirs: int):
    grey = np.ascontiguousarray(frames[..., 0])
    expected = cv2.DISOpticalFlow.create(theirs).calc(grey[1], grey[2], np.zeros((60, 80, 2), np.float32))
    np.testing.assert_array_equal(
        estimate(frames, method="dis", preset=preset)[1], expected.transpose(2, 0, 1)
    )


def test_tvl1_presets_are_opencvs_parameters():
    theirs, ours = cv2.optflow.DualTVL1OpticalFlow_create(), PRESETS["opencv"]
    assert ours.dual_step == theirs.getTau()
    assert ours.data_weight == theirs.getLambda()
    assert ours.coupling == theirs.getTheta()
    assert ours.tolerance_px == theirs.getEpsilon()
    assert ours.scale_step == theirs.getScaleStep()
    counts = (theirs.getScalesNumber(), theirs.getWarpingsNumber(), theirs.getOuterIterations())
    assert (ours.num_scales, ours.num_warps, ours.num_outer) == counts
    assert (ours.num_inner, ours.median) == (theirs.getInnerIterations(), theirs.getMedianFiltering())


def test_raft_is_torchvisions(raft_weights: Path):
    pair = np.random.default_rng(0).integers(0, 256, (2, 130, 135, 3), np.uint8)
    flow = estimate(pair, method="raft", preset="small", weights=str(raft_weights), num_updates=2)
    torch.manual_seed(0)
    network = raft_small().eval()
    padded = np.pad(pair, ((0, 0), (0, 6), (0, 1), (0, 0)), mode="edge")
    images = torch.from_numpy(padded).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        theirs = network(images[:1], images[1:], num_flow_updates=2)[-1][0, :, :130, :135]
    assert flow.shape == (1, 2, 130, 135)
    torch.testing.assert_close(torch.from_numpy(flow[0]), theirs, rtol=1e-4, atol=1e-4)


def test_parameters_are_resolved_whole():
    assert [*METHODS] == ["tvl1", "brox", "farneback", "dis", "raft"]
    assert presets("tvl1")[0] == "opencv"
    params = resolve("tvl1", preset="fast", num_warps=7)
    assert params == PRESETS["fast"].model_copy(update={"num_warps": 7})
    assert resolve("tvl1").to_dict()["data_weight"] == 0.15
    assert resolve("dis", preset="fast").digest() != resolve("dis").digest()


def test_the_package_gives_the_same_names():
    assert muybridge.flow.estimate is estimate
    assert sorted(muybridge.flow.__all__) == sorted(set(muybridge.flow.__all__))
    assert all(hasattr(muybridge.flow, name) for name in muybridge.flow.__all__)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method": "tvl"},
            r"no flow method 'tvl'; did you mean 'tvl1'\? There are: tvl1, brox, farneback, dis, raft",
        ),
        (
            {"preset": "openvc"},
            r"no preset of flow method 'tvl1' 'openvc'; did you mean 'opencv'\? There are: open",
        ),
        ({"num_warp": 3}, "flow method 'tvl1': unknown key 'num_warp'; did you mean 'num_warps'"),
        ({"dual_step": 0.3}, "flow method 'tvl1', dual_step: .* less than or equal to 0.25, got 0.3"),
        ({"method": "dis", "patch": 0}, "flow method 'dis', patch: .*, got 0"),
        ({"direction": "both"}, "direction must be 'forward' or 'backward', got 'both'"),
        ({"method": "dis", "device": "cpu"}, "flow method 'dis' has no device to choose, got 'cpu'"),
        ({"method": "dis", "initial": np.zeros((2, 2, 60, 80), np.float32)}, "'dis' takes none"),
    ],
)
def test_what_cannot_be_asked_for(frames: np.ndarray, options: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        estimate(frames, **options)


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "message"),
    [
        ((1, 40, 50, 3), np.uint8, VideoTooShortError, "flow needs two frames, got 1: take a longer piece"),
        (
            (2, 40, 50),
            np.uint8,
            DataError,
            r"flow needs frames uint8 \[T, H, W, 3\], got uint8 \[2, 40, 50\]",
        ),
        ((2, 40, 50, 3), np.float32, DataError, r"got float32 \[2, 40, 50, 3\]"),
        (
            (2, 15, 50, 3),
            np.uint8,
            DataError,
            "'tvl1' needs frames of 16 pixels a side, got 50x15: read them larg",
        ),
    ],
)
def test_frames_that_have_no_flow(shape: tuple, dtype: type, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        estimate(np.zeros(shape, dtype))


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        (
            np.zeros((1, 2, 60, 80), np.float32),
            r"need initial float32 \[2, 2, 60, 80\], got float32 \[1, 2,",
        ),
        (np.zeros((2, 2, 60, 80)), "got float64"),
        (np.full((2, 2, 60, 80), np.nan, np.float32), "must be finite and below 100000 pixels"),
        (np.full((2, 2, 60, 80), -np.inf, np.float32), "must be finite"),
    ],
)
def test_initial_fields_that_do_not_fit(frames: np.ndarray, initial: np.ndarray, message: str):
    with pytest.raises(DataError, match=message):
        estimate(frames, initial=initial)


def test_the_largest_initial_field_that_is_allowed_does_no_harm(frames: np.ndarray):
    start = np.full((2, 2, 60, 80), 99_999, np.float32)
    assert np.isfinite(estimate(frames, initial=-start)).all()
    assert np.isfinite(estimate(frames, initial=start, num_scales=1, black_border=True)).all()


def test_raft_needs_weights_that_are_its_own(raft_weights: Path, tmp_path: Path):
    pair = np.zeros((2, 128, 128, 3), np.uint8)
    with pytest.raises(
        WeightsError, match=r"torchvision's raft_large, and none were named: .*Raft_Large_Weights"
    ):
        estimate(pair, method="raft")
    with pytest.raises(
        WeightsError, match="does not hold the weights of torchvision's raft_large; give another"
    ):
        estimate(pair, method="raft", weights=str(raft_weights))
    with pytest.raises(WeightsError, match="there is no file"):
        estimate(pair, method="raft", weights=str(tmp_path / "none.pth"))
    with pytest.raises(DataError, match="'raft' needs frames of 128 pixels a side, got 127x128"):
        estimate(pair[:, :, :127], method="raft", weights=str(raft_weights))
