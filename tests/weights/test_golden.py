"""What other code bases compute with weights that both sides make by a formula; `make_golden.py` tells how.

Each of these is a whole road: foreign names, our converter, what comes beside the weights, our network.
"""

import inspect
import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from foreign import (
    Layer,
    Naming,
    caffe2,
    hashed,
    hashed_clip,
    i3d,
    mmaction2,
    slow_only,
    slowfast,
    tensors,
    with_counters,
)
from test_formats_other import inception
from tolerances import FLOAT64_PEER, NOTICED, relative_error
from torch import Tensor

from muybridge.models.registry import build, find
from muybridge.weights.convert import convert

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
BASE = 8


class Case(NamedTuple):
    """A network of someone else's, ours, and what has to be said to ours beside the file."""

    network: str
    layers: list[Layer]
    naming: Naming
    clip: tuple[int, int, int]
    arguments: tuple[tuple[str, str], ...] = ()
    width: float = BASE / 64


def mm_i3d(*, embedded: bool = True) -> list[Layer]:
    return with_counters(small(i3d(BASE, nonlocal_blocks=True, embedded=embedded, out_bias=False)))


def small(layers: list[Layer]) -> list[Layer]:
    """With a classifier of five classes."""
    *trunk, last = layers
    return [*trunk, last._replace(shape=(5, last.shape[1]))]


def mm(layers: list[Layer]) -> list[Layer]:
    return with_counters(small(layers))


CAFFE2 = (("layout", "caffe2"),)
LONG, SHORT = (16, 64, 64), (4, 64, 64)
CASES = {
    "mmaction2 slow": Case("slow_r50_4x16", mm(slow_only(BASE)), mmaction2, SHORT),
    "mmaction2 i3d": Case("i3d_r50", mm(i3d(BASE)), mmaction2, LONG),
    "mmaction2 i3d gaussian": Case("i3d_r50_nl5", mm_i3d(embedded=False), mmaction2, LONG),
    "mmaction2 i3d embedded_gaussian": Case("i3d_r50_nl5", mm_i3d(), mmaction2, LONG),
    "mmaction2 i3d dot_product": Case(
        "i3d_r50_nl5", mm_i3d(), mmaction2, LONG, (("nl_kind", "dot_product"),)
    ),
    "mmaction2 slowfast 4x16": Case(
        "slowfast_r50_4x16",
        mm(slowfast(BASE, lateral_norm=False)),
        mmaction2,
        LONG,
        (("lateral", "t_conv_mmaction2"),),
    ),
    "mmaction2 slowfast 8x8": Case(
        "slowfast_r50_8x8",
        mm(slowfast(BASE, lateral=7, lateral_norm=False)),
        mmaction2,
        LONG,
        (("lateral", "t_conv7_mmaction2"),),
    ),
    "video-nonlocal-net i3d": Case("i3d_r50", i3d(), caffe2, LONG, CAFFE2, 1.0),
    "video-nonlocal-net i3d nl": Case("i3d_r50_nl5", i3d(nonlocal_blocks=True), caffe2, LONG, CAFFE2, 1.0),
}


@torch.no_grad()
def ours(network: str, state: dict[str, Tensor], x: Tensor, *, width: float = 1.0, **given: object) -> Tensor:
    """Our logits, with what the converter says beside the tensors, as far as the network takes it."""
    found = convert(state)
    takes = inspect.signature(find(network).builder).parameters
    said = {key: value for key, value in found.arguments.items() if key in takes}
    with torch.device("meta"):
        model = build(
            network, num_classes=len(found.tensors["head.fc.bias"]), width=width, **{**said, **given}
        )
    model = model.double().to_empty(device="cpu").eval()
    model.load_state_dict(found.tensors, strict=False)
    return model(x)[0, :5]


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_the_authors_code(name: str):
    case = CASES[name]
    state = hashed(tensors(case.layers, case.naming, device="meta"))
    x, options = hashed_clip(3, *case.clip), {"width": case.width, **dict(case.arguments)}
    expected = torch.tensor(GOLDEN[name]["logits"], dtype=torch.float64)
    assert relative_error(ours(case.network, state, x, **options), expected) < FLOAT64_PEER
    assert relative_error(ours(case.network, state, x.flip(4), **options), expected) > NOTICED


def test_inception_s_logits_are_those_of_piergiaj_s_code():
    meta = inception("piergiaj", device="meta")
    state = hashed(
        {**meta, "logits.conv3d.weight": torch.empty(5, 1024, 1, 1, 1), "logits.conv3d.bias": torch.empty(5)}
    )
    found = ours("i3d_rgb", state, hashed_clip(3, *LONG))
    expected = torch.tensor(GOLDEN["piergiaj"]["logits"], dtype=torch.float64)
    assert relative_error(found, expected) < FLOAT64_PEER


def test_every_golden_number_has_a_passport_and_is_used():
    assert set(GOLDEN) == {*CASES, "piergiaj"}
    assert all(
        entry["made_by"].endswith(", float64") and len(entry["logits"]) == 5 for entry in GOLDEN.values()
    )
