"""mmaction2's R(2+1)D: each tensor in its place, and the logits of its published layers."""

import pytest
import torch
import torch.nn.functional as F
from foreign import hashed, hashed_clip
from frame_networks import (
    BIASED,
    CLASSES,
    NORM,
    Layer,
    State,
    empty,
    in_their_places,
    num_parameters,
    ours,
    places,
)
from tolerances import FLOAT64_PEER, NOTICED, relative_error
from torch import Tensor

from muybridge.errors import ConfigError
from muybridge.models.registry import build
from muybridge.weights.convert import convert, mismatches
from muybridge.weights.formats import FORMATS
from muybridge.weights.manifest import of_network

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
CONV = ("weight",)


def mid(into: int, out: int, side: int) -> int:
    """Its number of 2D filters; the temporal kernel counts as 3, also where it is 1."""
    return int(3 * (into * out * side * side) / (into * side * side + 3 * out))


def mm_r2plus1d(depth: int = 18, *, base: int = 8, classes: int = CLASSES) -> list[Layer]:
    layers: list[Layer] = []

    def add(there: str, here: str, bn: str, sizes: tuple[int, int], kernel: tuple[int, int]) -> None:
        (into, out), (t, d) = sizes, kernel
        m = mid(into, out, d)
        there = f"backbone.{there}"
        layers.extend(
            (
                Layer(f"{there}.conv.conv_s", f"{here}.spatial", (m, into, 1, d, d), CONV),
                Layer(f"{there}.conv.bn_s", f"{here}.mid_bn", (m,), NORM),
                Layer(f"{there}.conv.conv_t", f"{here}.temporal", (out, m, t, 1, 1), CONV),
                Layer(f"{there}.bn", bn, (out,), NORM),
            )
        )

    add("conv1", "stem.conv", "stem.bn", (3, base), (3, 7))
    into = base
    for s, count in enumerate(BLOCKS[depth]):
        out = base * 2**s
        for j in range(count):
            there, here = f"layer{s + 1}.{j}", f"stages.{s}.{j}"
            add(f"{there}.conv1", f"{here}.conv_a", f"{here}.bn_a", (into, out), (3, 3))
            add(f"{there}.conv2", f"{here}.conv_b", f"{here}.bn_b", (out, out), (3, 3))
            if into != out:
                add(
                    f"{there}.downsample", f"{here}.shortcut.conv", f"{here}.shortcut.bn", (into, out), (1, 1)
                )
            into = out
    return [*layers, Layer("cls_head.fc_cls", "head.fc", (classes, into), BIASED)]


def run(state: State, x: Tensor, *, inner_eps: float = 1e-5) -> Tensor:
    """A clip to logits. Its outer BatchNorms have eps 1e-3, those inside the default of torch."""

    def norm(place: str, y: Tensor, eps: float) -> Tensor:
        weight, bias, mean, var = (state[f"{place}.{leaf}"] for leaf in NORM)
        return F.batch_norm(y, mean, var, weight, bias, training=False, eps=eps)

    def unit(place: str, y: Tensor, stride: tuple[int, int] = (1, 1)) -> Tensor:
        place, (t, s) = f"backbone.{place}", stride
        spatial, temporal = (state[f"{place}.conv.conv_{axis}.weight"] for axis in "st")
        side, length = spatial.shape[-1] // 2, temporal.shape[2] // 2
        y = F.conv3d(y, spatial, stride=(1, s, s), padding=(0, side, side))
        y = F.relu(norm(f"{place}.conv.bn_s", y, inner_eps))
        return norm(f"{place}.bn", F.conv3d(y, temporal, stride=(t, 1, 1), padding=(length, 0, 0)), 1e-3)

    y = F.max_pool3d(F.relu(unit("conv1", x, (1, 2))), (1, 3, 3), (1, 2, 2), (0, 1, 1))
    for s, count in enumerate(BLOCKS[18]):
        for j in range(count):
            place, stride = f"layer{s + 1}.{j}", (2, 2) if s and j == 0 else (1, 1)
            z = unit(f"{place}.conv2", F.relu(unit(f"{place}.conv1", y, stride)))
            y = F.relu(z + (unit(f"{place}.downsample", y, stride) if s and j == 0 else y))
    features = y.mean((2, 3, 4))
    return F.linear(features, state["cls_head.fc_cls.weight"], state["cls_head.fc_cls.bias"])


@torch.no_grad()
def test_mmaction2_s_r2plus1d_computes_the_same():
    layers = mm_r2plus1d()
    state = hashed(empty(layers))
    assert [one.name for one in FORMATS.values() if one.recognises(state)] == ["mmaction2"]
    in_their_places(state, "r2plus1d_18", places(layers))
    clip = hashed_clip(3, 8, 48, 48)
    found = ours("r2plus1d_18", state, width=1 / 8)(clip)
    assert relative_error(found, run(state, clip)) < FLOAT64_PEER
    assert relative_error(run(state, clip.flip(2)), found) > NOTICED
    assert relative_error(run(state, clip, inner_eps=1e-3), found) > 1e-5  # a small, but a different one


def test_the_full_network_has_the_sheet_s_parameters():
    state = empty(mm_r2plus1d(34, base=64, classes=400))
    assert num_parameters(state) == 63_759_281
    found = convert(state)
    assert found.arguments == {"layout": "mmaction2", "bn_eps": 1e-3}
    with torch.device("meta"):
        assert mismatches(found.tensors, build("r2plus1d_34", **found.arguments)) == []
        assert mismatches(found.tensors, build("r2plus1d_34")) != []
        theirs = [public for public in of_network("r2plus1d_34") if public.format == "mmaction2"]
        assert len(theirs) == 2
        for public in theirs:
            whole = {**found.arguments, **public.arguments}
            assert mismatches(found.tensors, build("r2plus1d_34", **whole)) == []
            assert (whole["num_frames"] if "8x8" in public.source else 32, public.clip) in (
                (8, {"frame_stride": 8}),
                (32, {"frame_stride": 2}),
            )
    assert (found.clip["crop"], found.clip["mean"]) == (224, (0.485, 0.456, 0.406))
    assert "8 at a stride of 8, or 32 at one of 2" in found.notes[0]
    extra = convert({**state, "backbone.layer1.0.conv1.conv.conv_u.weight": torch.empty(1, device="meta")})
    with torch.device("meta"):
        wrong = mismatches(extra.tensors, build("r2plus1d_34", **found.arguments))
    assert wrong == ["unexpected backbone.layer1.0.conv1.conv.conv_u.weight"]


def test_layouts_that_do_not_go_together_are_said():
    with pytest.raises(ConfigError, match="layout must be 'paper' or 'mmaction2', got 'caffe'"):
        build("r2plus1d_18", width=1 / 8, layout="caffe")
    with pytest.raises(
        ConfigError, match="layout 'mmaction2' is one of r2plus1d alone, got r3d: leave it out"
    ):
        build("r3d_18", width=1 / 8, layout="mmaction2")
