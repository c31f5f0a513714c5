"""TSN and the two streams in other code bases' names: each tensor in its place, and the same logits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from frame_networks import (
    CNN_M_PLACES,
    State,
    bn_inception,
    cnn_m,
    empty,
    in_their_places,
    lively,
    mm_resnet,
    num_parameters,
    ours,
    places,
    run_bn_inception,
    run_cnn_m,
    run_mm_resnet,
    said,
    snippets,
)
from tolerances import FLOAT64_PEER, NOTICED, relative_error
from torch import Tensor

from muybridge.errors import WeightsError
from muybridge.models.registry import build
from muybridge.weights.convert import convert, mismatches
from muybridge.weights.formats import FORMATS
from muybridge.weights.manifest import of_network
from muybridge.weights.store import build_from, open_weights

# Modality: channels of a frame, frames.
SNIPPETS = {"rgb": (3, 1), "flow": (2, 5), "rgb_diff": (3, 5)}


def channels_of(modality: str) -> int:
    per_frame, frames = SNIPPETS[modality]
    return per_frame * frames


def is_same(found: Tensor, expected: Tensor, other: Tensor) -> bool:
    """Whether two networks agree, and would not on another input."""
    return relative_error(found, expected) < FLOAT64_PEER < NOTICED < relative_error(other, expected)


@pytest.mark.parametrize("modality", SNIPPETS)
@torch.no_grad()
def test_tsn_pytorch_computes_the_same_for_every_modality(modality: str):
    layers = bn_inception(channels_of(modality))
    state = lively(empty(layers))
    assert [one.name for one in FORMATS.values() if one.recognises(state)] == ["tsn-pytorch"]
    in_their_places(state, "tsn", places(layers))
    model = ours("tsn", state, width=1 / 8)
    assert (model.modalities, model.default_specs[0].num_frames) == ((modality,), SNIPPETS[modality][1])
    clip, images = snippets(*SNIPPETS[modality], side=64)
    expected = run_bn_inception(state, images).mean(0, keepdim=True)
    assert is_same(model(clip), expected, model(-clip))


@pytest.mark.parametrize(
    ("wrap", "prefix", "head", "name"),
    [
        ("module.", "base_model.", "new_fc", "tsn-pytorch"),
        ("", "base_model.", "base_model.fc", "tsn-pytorch"),  # built without dropout
        ("", "", "last_linear", "BN-Inception"),
        ("", "", "fc", "BN-Inception"),
    ],
)
@torch.no_grad()
def test_bn_inception_with_other_prefixes(wrap: str, prefix: str, head: str, name: str):
    layers = bn_inception(prefix=prefix, head=head)
    state = lively(empty(layers))
    found = convert({"state_dict": {wrap + key: value for key, value in state.items()}, "epoch": 80})
    assert found.format == name
    in_their_places(state, "tsn", places(layers))
    clip, images = snippets(3, 1, side=64)
    expected = run_bn_inception(state, images, prefix=prefix, head=head).mean(0, keepdim=True)
    model = ours("tsn", state, width=1 / 8)
    assert is_same(model(clip), expected, model(-clip))


@pytest.mark.parametrize(
    ("network", "modality"), [("two_stream_spatial", "rgb"), ("two_stream_temporal", "flow")]
)
@torch.no_grad()
def test_bn_inception_is_a_tower_of_the_two_streams_too(network: str, modality: str):
    layers = bn_inception(channels_of(modality), trunk="tower")
    state = lively(empty(layers))
    in_their_places(state, network, places(layers))
    clip, images = snippets(*SNIPPETS[modality], side=64)
    model = ours(network, state, width=1 / 8)
    assert is_same(model(clip[0]), run_bn_inception(state, images), model(-clip[0]))


def test_batchnorm_of_old_files_has_an_axis_too_many():
    layers = bn_inception(prefix="", head="fc")
    state = lively(empty(layers))
    old = {name: value[None] if "_bn." in name else value for name, value in state.items()}
    found, expected = convert(old), convert(state)
    assert all(torch.equal(found.tensors[name], value) for name, value in expected.tensors.items())
    assert len(found.adapted) - len(expected.adapted) == 4 * 69  # BatchNorms


@pytest.mark.parametrize(("modality", "parameters"), [("rgb", 10_373_765), ("flow", 10_395_717)])
def test_the_full_bn_inception_has_the_sheet_s_parameters(modality: str, parameters: int):
    state = empty(bn_inception(channels_of(modality), width=1.0, classes=101))
    assert num_parameters(state) == parameters
    with torch.device("meta"):
        assert mismatches(convert(state).tensors, build("tsn", num_classes=101, **said("tsn", state))) == []


def test_how_tsn_pytorch_sees_clips_comes_with_its_file():
    rgb = convert(empty(bn_inception())).clip
    assert (rgb["channel_order"], rgb["scale"], rgb["mean"], rgb["std"]) == (
        "bgr",
        255,
        (104, 117, 128),
        (1,) * 3,
    )
    assert (rgb["resize"], rgb["crop"]) == ((256, 340), 224)
    flow = convert(empty(bn_inception(10)))
    assert (flow.clip["mean"], flow.clip["mean_subtraction"]) == ((128.0, 128.0), False)
    assert flow.notes == (
        "the first filters are taken for those of 5 flow fields: no name in the file says so",
    )


@pytest.mark.parametrize("modality", SNIPPETS)
@torch.no_grad()
def test_mmaction2_s_tsn_computes_the_same(modality: str):
    layers = mm_resnet(channels=channels_of(modality))
    state = lively(empty(layers))
    assert [one.name for one in FORMATS.values() if one.recognises(state)] == ["mmaction2"]
    in_their_places(state, "tsn", places(layers))
    model = ours("tsn", state, width=1 / 8)
    assert (model.modalities, model.default_specs[0].num_frames) == ((modality,), SNIPPETS[modality][1])
    clip, images = snippets(*SNIPPETS[modality], side=64)
    expected = run_mm_resnet(state, images)
    assert is_same(model(clip), expected, model(-clip))


def test_mmaction2_s_tsn_has_the_published_size_and_its_depth_is_found():
    state = empty(mm_resnet(base=64, classes=400))
    assert round(num_parameters(state) / 1e6, 2) == 24.33
    for blocks, backbone in (((3, 4, 6, 3), "resnet50"), ((3, 4, 23, 3), "resnet101")):
        state = empty(mm_resnet(blocks, base=64))
        assert said("tsn", state)["backbone"] == backbone
        with torch.device("meta"):
            assert mismatches(convert(state).tensors, build("tsn", num_classes=5, **said("tsn", state))) == []
        of_this_depth = [one for one in of_network("tsn") if one.arguments["backbone"] == backbone]
        assert of_this_depth
        for public in of_this_depth:
            arguments = {**said("tsn", state), **public.arguments}
            with torch.device("meta"):
                assert mismatches(convert(state).tensors, build("tsn", num_classes=5, **arguments)) == []
    with pytest.raises(
        WeightsError, match=r"mmaction2 with \[3, 8, 36, 3\] bottlenecks; tsn has resnet50 \[3"
    ):
        convert(empty(mm_resnet((3, 8, 36, 3))))


def test_how_mmaction2_sees_clips_comes_with_its_file():
    rgb = convert(empty(mm_resnet())).clip
    assert (rgb["channel_order"], rgb["scale"], rgb["resize"]) == ("rgb", 1, 256)
    assert rgb["mean"] == pytest.approx([number / 255 for number in (123.675, 116.28, 103.53)], abs=1e-6)
    assert rgb["std"] == pytest.approx([number / 255 for number in (58.395, 57.12, 57.375)], abs=1e-6)
    flow = convert(empty(mm_resnet(channels=10))).clip
    assert (flow["scale"], flow["mean"], flow["std"]) == (255, (128, 128), (128, 128))


def blob_places(state: State) -> dict[str, str]:
    leaves = {"0": "weight", "1": "bias"}
    return {key: f"{CNN_M_PLACES[key[:-2]]}.{leaves[key[-1]]}" for key in state}


@pytest.mark.parametrize(
    ("network", "channels", "norms"), [("two_stream_spatial", 3, 2), ("two_stream_temporal", 20, 1)]
)
@torch.no_grad()
def test_cnn_m_of_caffe_computes_the_same(network: str, channels: int, norms: int):
    state = lively(cnn_m(channels))
    assert [one.name for one in FORMATS.values() if one.recognises(state)] == ["caffe"]
    in_their_places(state, network, blob_places(state))
    model = ours(network, state, width=1 / 8, crop=96)
    per_frame = 3 if channels == 3 else 2
    clip, images = snippets(per_frame, channels // per_frame, side=96)
    clip, images = 64 * clip[0], 64 * images  # as large as pixels, so that the normalisations do something
    expected = run_cnn_m(state, images, norms=norms)
    assert is_same(model(clip), expected, run_cnn_m(state, images, norms=3 - norms))


@pytest.mark.parametrize(("network", "channels"), [("two_stream_spatial", 3), ("two_stream_temporal", 20)])
def test_the_full_cnn_m_has_the_sheet_s_parameters(network: str, channels: int):
    state = cnn_m(channels, width=1.0, side=6, classes=1000 if channels == 3 else 101)
    assert num_parameters(state) == {3: 92_469_864, 20: 90_707_781}[channels]
    classes = len(state["fc8/1"])
    with torch.device("meta"):
        model = build(network, num_classes=classes, **said(network, state))
    assert mismatches(convert(state).tensors, model) == []


def test_blobs_of_old_caffe_have_four_axes_and_fine_tuned_ones_another_last_layer():
    state = lively(cnn_m())
    old = {
        key.replace("fc8", "fc8_ucf101"): value.reshape((1,) * (4 - value.ndim) + value.shape)
        for key, value in state.items()
    }
    found, expected = convert(old), convert(state)
    assert all(torch.equal(found.tensors[name], value) for name, value in expected.tensors.items())
    assert len(found.adapted) - len(expected.adapted) == 8 + 3  # biases, fully connected layers
    assert "mean image" in found.notes[0]
    assert "one normalisation" in convert(cnn_m(20)).notes[0]


@pytest.mark.parametrize(
    ("state", "network", "extra"),
    [
        (empty(bn_inception()), "tsn", "base_model.inception_6a_1x1.weight"),
        (empty(mm_resnet()), "tsn", "backbone.layer1.0.conv4.conv.weight"),
        (cnn_m(), "two_stream_spatial", "conv6/0"),
        (cnn_m(), "two_stream_spatial", "conv1/2"),
    ],
)
def test_a_tensor_too_many_or_too_few_is_said(state: State, network: str, extra: str):
    crop = {"crop": 96} if "/" in extra else {}
    with torch.device("meta"):
        model = build(network, num_classes=5, width=1 / 8, **said(network, state), **crop)
    found = convert({**state, extra: torch.empty(1, device="meta")}).named_for(network)
    assert mismatches(found.tensors, model) == [f"unexpected {extra}"]
    gone = list(state)[3]
    found = convert({key: value for key, value in state.items() if key != gone}).named_for(network)
    assert [line.split()[0] for line in mismatches(found.tensors, model)] == ["missing"]


def test_what_is_no_network_of_frames_is_refused():
    five = torch.zeros(8, 3, 1, 7, 7)
    with pytest.raises(
        WeightsError, match=r"are \[O, C, h, w\], these are \[8, 3, 1, 7, 7\]: the file is of an"
    ):
        convert({**empty(bn_inception()), "base_model.conv1_7x7_s2.weight": five})
    shifted = {"backbone.conv1.conv.weight": five[:, :, 0], "backbone.layer1.0.conv1.conv.net.weight": five}
    with pytest.raises(
        WeightsError, match="this is TSM: it moves channels from frame to frame; no network here"
    ):
        convert(shifted)


def test_a_file_becomes_a_network_with_a_table(tmp_path: Path):
    """From the file on disk: what is loaded, adapted and random, and how clips are made."""
    file = tmp_path / "tsn.pth.tar"
    state = {f"module.{key}": value.float() for key, value in lively(empty(bn_inception(10))).items()}
    torch.save({"epoch": 340, "arch": "BNInception", "state_dict": state, "best_prec1": 87.0}, file)
    model, report = build_from(open_weights(file, "tsn"), width=1 / 8)
    assert report.format == "tsn-pytorch"
    assert [(what, count) for what, count, _ in report.rows()] == [("loaded", 69 * 5 + 2), ("adapted", 69)]
    assert model.default_specs[0].num_segments == 3
    temporal, report = build_from(open_weights(file, "two_stream_temporal"), width=1 / 8)
    assert [(what, count) for what, count, _ in report.rows()] == [("loaded", 69 * 5 + 2), ("adapted", 69)]
    assert (temporal.default_specs[0].mean, temporal.default_specs[0].num_frames) == ((128, 128), 5)
    blobs = tmp_path / "cnn_m.npz"
    np.savez(blobs, **{key: value.float().numpy() for key, value in lively(cnn_m()).items()})
    _, report = build_from(open_weights(blobs, "two_stream_spatial"), width=1 / 8, crop=96)
    assert [(what, count) for what, count, _ in report.rows()] == [("loaded", 11), ("adapted", 5)]
    assert "mean image" in report.notes[0]
