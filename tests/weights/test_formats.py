"""ResNets of other code bases: each tensor goes to its place, and none is left over or missing unnoticed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from foreign import (
    R101,
    R101_FAST,
    Layer,
    Naming,
    c2d,
    caffe2,
    i3d,
    mmaction2,
    ours,
    pyslowfast,
    slow_only,
    slowfast,
    tensors,
    with_counters,
)
from torch import Tensor

from muybridge.errors import WeightsError
from muybridge.models.contract import VideoModel
from muybridge.models.registry import build
from muybridge.weights.convert import convert, mismatches
from muybridge.weights.formats import FORMATS
from muybridge.weights.formats.naming import Rule, renamed

NL_R101 = ((), (), (6, 13, 20), ())
SMALL = 8  # channels of conv1 where values matter: width 1/8


class Case(NamedTuple):
    """A file of someone else's: its layers, its names, and what is known of it."""

    network: str
    layers: Callable[..., list[Layer]]
    naming: Naming
    format: str
    arguments: dict[str, Any]  # of the network, that no tensor shows
    num_tensors: int = 0  # by the spec sheet, with counters of batches
    num_parameters: int = 0


def slowfast_r101_nl(channels: int = 64) -> list[Layer]:
    return slowfast(channels, kernels=(R101, R101_FAST), nonlocal_after=NL_R101)


def slowfast_r101(channels: int = 64) -> list[Layer]:
    return slowfast(channels, kernels=(R101, R101_FAST))


def slowfast_kernel7(channels: int = 64) -> list[Layer]:
    return slowfast(channels, lateral=7)


def slowfast_plain(channels: int = 64) -> list[Layer]:
    return slowfast(channels, lateral_norm=False)


def i3d_nonlocal(channels: int = 64) -> list[Layer]:
    return i3d(channels, nonlocal_blocks=True)


def i3d_nonlocal_mm(channels: int = 64) -> list[Layer]:
    return i3d(channels, nonlocal_blocks=True, out_bias=False)


def i3d_gaussian_mm(channels: int = 64) -> list[Layer]:
    return i3d(channels, nonlocal_blocks=True, embedded=False, out_bias=False)


MM = {"layout": "mmaction2"}
MM_SLOWFAST = {"slow_frames": "stride", "lateral": "t_conv_mmaction2"}
CASES = {
    "pyslowfast slow": Case("slow_r50_8x8", slow_only, pyslowfast, "pyslowfast", {}, 320, 32_454_096),
    "pyslowfast i3d nl": Case("i3d_r50_nl5", i3d_nonlocal, pyslowfast, "pyslowfast", {}, 385, 35_401_936),
    "pyslowfast c2d": Case("c2d_r50", c2d, pyslowfast, "pyslowfast", {}, 320, 24_327_632),
    "pyslowfast 4x16": Case("slowfast_r50_4x16", slowfast, pyslowfast, "pyslowfast", {}, 662, 34_480_216),
    "pyslowfast 8x8": Case(
        "slowfast_r50_8x8", slowfast_kernel7, pyslowfast, "pyslowfast", {}, 662, 34_566_488
    ),
    "pyslowfast 16x8 nl": Case(
        "slowfast_r101_16x8_nl", slowfast_r101_nl, pyslowfast, "pyslowfast", {}, 1313, 60_080_088
    ),
    "caffe2 4x16": Case("slowfast_r50_4x16", slowfast, caffe2, "caffe2", {}),
    "caffe2 i3d nl": Case("i3d_r50_nl5", i3d_nonlocal, caffe2, "caffe2", {}),
    "mmaction2 slow": Case("slow_r50_4x16", slow_only, mmaction2, "mmaction2", {}, 320, 32_454_096),
    "mmaction2 i3d": Case("i3d_r50", i3d, mmaction2, "mmaction2", MM, 320, 28_043_472),
    "mmaction2 i3d nl": Case(
        "i3d_r50_nl5",
        i3d_nonlocal_mm,
        mmaction2,
        "mmaction2",
        {**MM, "nl_kind": "embedded_gaussian"},
        380,
        35_397_840,
    ),
    "mmaction2 gaussian": Case(
        "i3d_r50_nl5", i3d_gaussian_mm, mmaction2, "mmaction2", {**MM, "nl_kind": "gaussian"}, 0, 31_723_728
    ),
    "mmaction2 4x16": Case(
        "slowfast_r50_4x16", slowfast_plain, mmaction2, "mmaction2", MM_SLOWFAST, 642, 34_479_288
    ),
}


def network(case: Case, **arguments: object) -> VideoModel:
    return build(case.network, **{**case.arguments, **arguments})


def is_buffer(name: str) -> bool:
    return "running" in name or "num_batches" in name or name.rpartition("_")[2] in ("rm", "riv")


@pytest.mark.parametrize("name", CASES)
def test_full_networks_have_the_sheet_s_tensors_and_all_of_them_are_of_ours(name: str):
    case = CASES[name]
    layers = case.layers() if case.naming is caffe2 else with_counters(case.layers())
    state = tensors(layers, case.naming, device="meta")
    if case.num_tensors:
        assert len(state) == case.num_tensors
    if case.num_parameters:
        assert sum(value.numel() for key, value in state.items() if not is_buffer(key)) == case.num_parameters
    found = convert(state)
    assert [one.name for one in FORMATS.values() if one.recognises(state)] == [case.format]
    with torch.device("meta"):
        assert mismatches(found.tensors, network(case)) == []


def value_there(case: Case, state: dict[str, Tensor], layer: Layer, leaf: str) -> Tensor:
    """A foreign tensor, as it has to be here."""
    value = state[case.naming(layer, leaf)]
    if case.naming is mmaction2 and "slowfast" in case.network and (layer.part, leaf) == ("head", "weight"):
        return torch.cat((value[:, value.shape[1] // 9 :], value[:, : value.shape[1] // 9]), 1)  # Slow first
    return value


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_goes_to_its_own_place_and_the_network_is_full(name: str):
    case = CASES[name]
    layers = case.layers(SMALL)
    state = tensors(layers, case.naming)
    found = convert(state)
    model = network(case, width=SMALL / 64)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))  # the canary
    model.load_state_dict(found.tensors, strict=False)
    there = model.state_dict()
    assert all(tensor.isfinite().all() for tensor in there.values())
    for layer in layers:  # what came out is what went in
        for leaf in layer.leaves:
            assert torch.equal(there[ours(layer, leaf)], value_there(case, state, layer, leaf)), layer
    for key in found.adapted:
        assert key == "head.fc.weight" or not there[key].any()  # biases that are not there


@pytest.mark.parametrize("name", CASES)
def test_what_is_not_in_the_values_comes_beside_them(name: str):
    case = CASES[name]
    found = convert(tensors(case.layers(SMALL), case.naming, device="meta"))
    said = {key: value for key, value in found.arguments.items() if key in case.arguments}
    assert said == {key: case.arguments[key] for key in said}
    assert found.clip.get("mean") == ((0.485, 0.456, 0.406) if case.format == "mmaction2" else None)


def small_c2d(naming: Naming) -> dict[str, Tensor]:
    return tensors(c2d(SMALL), naming)


def test_what_training_left_in_a_caffe2_file_is_dropped_and_named():
    state = small_c2d(caffe2)
    left = {"lr": torch.tensor(0.1), "model_iter": torch.tensor(400_000), "conv1_w_momentum": torch.zeros(3)}
    found = convert({**state, **left})
    assert found.dropped == ("lr", "model_iter", "conv1_w_momentum")
    assert set(found.tensors) == set(convert(state).tensors)
    strange = convert({**state, "comp_1_w": torch.zeros(1)}).tensors
    assert mismatches(strange, build("c2d_r50", width=SMALL / 64)) == ["unexpected comp_1_w"]


def test_caffe2_s_classifier_may_be_a_convolution():
    state = small_c2d(caffe2)
    flat = state["pred_w"]
    found = convert({**state, "pred_w": flat[:, :, None, None, None]})
    assert torch.equal(found.tensors["head.fc.weight"], flat)
    assert found.adapted == ("head.fc.weight",)


@torch.no_grad()
def test_frozen_batchnorm_of_caffe2_is_a_scale_and_a_shift():
    state = {key: value for key, value in small_c2d(caffe2).items() if not key.endswith(("_rm", "_riv"))}
    found = convert(state)
    assert found.format == "Caffe2 (frozen BatchNorm)"
    model = build("c2d_r50", width=SMALL / 64).eval()
    assert mismatches(found.tensors, model) == []
    model.load_state_dict(found.tensors, strict=False)
    x = torch.randn(2, SMALL, 3, 4, 4)
    scale, shift = (state[f"res_conv1_bn_{leaf}"].view(1, -1, 1, 1, 1) for leaf in "sb")
    torch.testing.assert_close(model.stem.bn(x), scale * x + shift, rtol=1e-6, atol=1e-6)
    del state["res_conv1_bn_s"], state["res_conv1_bn_b"]
    half = {**state, **{f"res_conv1_bn_{leaf}": torch.ones(SMALL) for leaf in ("s", "b", "rm", "riv")}}
    with pytest.raises(
        WeightsError, match=r"52 of 53 BatchNorms have no statistics, such as s2\.pathway0_res0"
    ):
        convert(half)


def test_notes_say_what_no_tensor_tells():
    assert "layout=caffe2_8x8" in convert(small_c2d(caffe2)).notes[1]
    assert "C2D_NOPOOL" in convert(small_c2d(pyslowfast)).notes[0]
    frozen = tensors(i3d_nonlocal(SMALL), caffe2)
    frozen = {key: value for key, value in frozen.items() if not key.endswith(("_rm", "_riv"))}
    assert "see four frames at a time" in convert(frozen).notes[1]
    assert len(convert(tensors(i3d_nonlocal(SMALL), caffe2)).notes) == 1
    assert convert(tensors(slow_only(SMALL), pyslowfast)).notes == ()
    assert convert(tensors(slowfast(SMALL), caffe2)).notes == ()
    (note,) = convert(tensors(i3d_nonlocal_mm(SMALL), mmaction2)).notes
    assert "nl_kind=dot_product" in note


def test_a_missing_tensor_is_noticed_and_so_is_one_too_many():
    model = build("slow_r50_8x8", width=SMALL / 64)
    for naming in (pyslowfast, mmaction2):
        state = tensors(slow_only(SMALL), naming)
        gone = naming(slow_only(SMALL)[20], "weight")
        del state[gone]
        (line,) = mismatches(convert(state).tensors, model)
        assert line == f"missing {ours(slow_only(SMALL)[20], 'weight')}"
        state[f"{gone}_ema"] = torch.zeros(1)
        assert mismatches(convert(state).tensors, model)[1].startswith(
            "unexpected stages.0.2.conv_c.weight_ema"
        )


def test_two_tensors_for_one_place_are_an_error():
    state = {"layer1.0.conv": torch.zeros(1), "layer2.0.conv": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"layer2\.0\.conv would be a second x\.conv: the file is of no"):
        renamed(state, [Rule(r"layer[12]\.0", "x")])


def test_a_format_can_be_asked_for_and_must_be_the_file_s():
    state = small_c2d(pyslowfast)
    assert convert(state, format="pyslowfast").format == "PySlowFast"
    with pytest.raises(
        WeightsError, match=r"no file of mmaction2 \(auto finds the format\): its names are head\."
    ):
        convert(state, format="mmaction2")
    with pytest.raises(WeightsError, match=r"no file of muybridge"):
        convert(state, format="muybridge")
    with pytest.raises(
        WeightsError, match="no format 'keras': choose from auto, muybridge, torchvision, pytorchvideo"
    ):
        convert(state, format="keras")


def five_axes() -> Tensor:
    return torch.zeros(1, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("state", "what"),
    [
        ({"blocks.0.conv.weight": five_axes(), "pos_embed": five_axes()}, "a vision transformer"),
        ({"model.detection_head.proj.weight": five_axes()}, "a detector of AVA"),
    ],
)
def test_files_that_no_network_here_can_take_are_known(state: dict[str, Tensor], what: str):
    with pytest.raises(
        WeightsError, match=f"this is {what}.*; no network here is that, see: muybridge models"
    ):
        convert(state)
