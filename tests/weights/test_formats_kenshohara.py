"""3D ResNets of kenshohara: each tensor in its place, both kinds of shortcut, the clips of both years."""

import pytest
import torch
import torch.nn.functional as F
from foreign import hashed, hashed_clip
from frame_networks import BIASED, NORM, Layer, State, empty, in_their_places, num_parameters, ours, places
from tolerances import FLOAT64_PEER, NOTICED, relative_error
from torch import Tensor

import muybridge
from muybridge.errors import WeightsError
from muybridge.models.registry import build
from muybridge.weights.convert import convert, mismatches
from muybridge.weights.formats import FORMATS
from muybridge.weights.store import init_trunk

CONV = ("weight",)
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def layers_of(depth: int, *, base: int = 8, classes: int = 700, shortcut: str = "B") -> list[Layer]:
    """conv1, then each block's two or three convolutions and, where the shape changes, its shortcut."""
    grows = 4 if depth >= 50 else 1
    layers = [
        Layer("conv1", "stem.conv", (base, 3, 7, 7, 7), CONV),
        Layer("bn1", "stem.bn", (base,), NORM),
    ]
    into = base
    for s, count in enumerate(BLOCKS[depth]):
        inner = base * 2**s
        for j in range(count):
            there, here = f"layer{s + 1}.{j}", f"stages.{s}.{j}"
            sizes = [(inner, into, 3), (inner, inner, 3)]
            if grows == 4:
                sizes = [(inner, into, 1), (inner, inner, 3), (4 * inner, inner, 1)]
            for n, (out, n_in, side) in enumerate(sizes):
                layers.append(
                    Layer(f"{there}.conv{n + 1}", f"{here}.conv_{'abc'[n]}", (out, n_in, *[side] * 3), CONV)
                )
                layers.append(Layer(f"{there}.bn{n + 1}", f"{here}.bn_{'abc'[n]}", (out,), NORM))
            out = grows * inner
            if shortcut == "B" and (into != out or (s and j == 0)):
                layers.append(
                    Layer(f"{there}.downsample.0", f"{here}.shortcut.conv", (out, into, 1, 1, 1), CONV)
                )
                layers.append(Layer(f"{there}.downsample.1", f"{here}.shortcut.bn", (out,), NORM))
            into = out
    return [*layers, Layer("fc", "head.fc", (classes, into), BIASED)]


def run(state: State, x: Tensor, depth: int) -> Tensor:
    """A clip to logits in functions of torch, from the state dict as it is in the file."""

    def norm(place: str, y: Tensor) -> Tensor:
        weight, bias, mean, var = (state[f"{place}.{leaf}"] for leaf in NORM)
        return F.batch_norm(y, mean, var, weight, bias, training=False, eps=1e-5)

    def conv(place: str, y: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{place}.weight"]
        return F.conv3d(y, weight, stride=stride, padding=weight.shape[-1] // 2)

    y = F.conv3d(x, state["conv1.weight"], stride=(1, 2, 2), padding=3)
    y = F.max_pool3d(F.relu(norm("bn1", y)), 3, stride=2, padding=1)
    for s, count in enumerate(BLOCKS[depth]):
        for j in range(count):
            place, stride = f"layer{s + 1}.{j}", 2 if s and j == 0 else 1
            last = 3 if depth >= 50 else 2
            strided = last - 1  # the first 3 x 3 x 3 one
            z = y
            for n in range(1, last + 1):
                z = norm(f"{place}.bn{n}", conv(f"{place}.conv{n}", z, stride if n == strided else 1))
                z = F.relu(z) if n < last else z
            if f"{place}.downsample.0.weight" in state:
                y = norm(f"{place}.downsample.1", conv(f"{place}.downsample.0", y, stride))
            elif y.shape != z.shape:
                y = F.avg_pool3d(y, 1, stride=stride)
                y = torch.cat((y, y.new_zeros(len(y), z.shape[1] - y.shape[1], *y.shape[2:])), 1)
            y = F.relu(z + y)
    return F.linear(y.mean((2, 3, 4)), state["fc.weight"], state["fc.bias"])


@torch.no_grad()
@pytest.mark.parametrize(("depth", "shortcut"), [(18, "A"), (34, "B"), (50, "B")])
def test_the_published_layers_compute_the_same(depth: int, shortcut: str):
    layers = layers_of(depth, shortcut=shortcut)
    state = hashed(empty(layers))
    assert [one.name for one in FORMATS.values() if one.recognises(state)] == ["kenshohara"]
    in_their_places(state, f"resnet3d_{depth}", places(layers))
    clip = hashed_clip(3, 16, 48, 48)
    expected = run(state, clip, depth)
    found = ours(f"resnet3d_{depth}", state, width=1 / 8)(clip)
    assert relative_error(found, expected) < FLOAT64_PEER
    assert relative_error(run(state, clip.flip(2), depth), found) > NOTICED


@pytest.mark.parametrize(("depth", "parameters"), [(18, 33_563_004), (50, 47_633_276)])
def test_the_full_networks_have_the_sheet_s_parameters(depth: int, parameters: int):
    state = empty(layers_of(depth, base=64))
    assert num_parameters(state) == parameters
    found = convert({f"module.{name}": value for name, value in state.items()})  # as DataParallel saved it
    with torch.device("meta"):
        assert mismatches(found.tensors, build(f"resnet3d_{depth}", num_classes=700)) == []
        assert mismatches(found.tensors, build("resnet3d_34", num_classes=700)) != []


def counted(state: State) -> State:
    """As later versions of torch save BatchNorms: with a count of batches."""
    norms = [name.removesuffix("running_var") for name in state if name.endswith("running_var")]
    return state | {f"{norm}num_batches_tracked": torch.tensor(7) for norm in norms}


@pytest.mark.parametrize("classes", [101, 400, 700])
def test_the_first_weights_were_trained_on_colours_less_a_mean(classes: int):
    """Nothing in a file says so, but for counts of batches, which torch began to save in 2018."""
    first = convert(empty(layers_of(34, classes=classes, shortcut="A")))
    assert first.arguments == {"shortcut": "A"}
    assert first.clip == {"scale": 255, "mean": (114.7748, 107.7354, 99.475), "std": (1.0, 1.0, 1.0)}
    assert "taken for one of 2017" in first.notes[0]
    later = convert(counted(empty(layers_of(34, classes=classes))))
    assert (later.arguments, later.clip) == ({"shortcut": "B"}, {})
    assert "taken for a later one" in later.notes[0]


def test_the_network_that_a_file_fits_is_named(tmp_path):
    layers = layers_of(18, base=8, classes=5, shortcut="A")
    torch.save({"state_dict": hashed(empty(layers))}, tmp_path / "r18.pth")
    with pytest.raises(
        WeightsError, match=r"does not fit resnet3d_34, it fits resnet3d_18 with shortcut='A'; here missing"
    ):
        muybridge.build("resnet3d_34", num_classes=5, width=1 / 8, weights=tmp_path / "r18.pth")


def test_the_argument_that_a_file_needs_is_named(tmp_path):
    state = hashed(empty(layers_of(18, base=8, classes=5, shortcut="A")))
    torch.save({"state_dict": state}, tmp_path / "r18.pth")
    model = muybridge.build("resnet3d_18", num_classes=5, width=1 / 8)
    with pytest.raises(
        WeightsError, match=r"does not fit resnet3d_18, it fits resnet3d_18 with shortcut='A'; here missing"
    ):
        init_trunk(model, tmp_path / "r18.pth")


def changed(name: str, *shape: int) -> State:
    """The state dict of ResNet-50 with one tensor of another shape."""
    return empty(layers_of(50)) | {name: torch.empty(shape, device="meta")}


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (changed("layer1.0.conv2.weight", 8, 2, 3, 3, 3), "ResNeXt"),
        (changed("layer1.0.conv1.weight", 16, 8, 1, 1, 1), "Wide ResNet|ResNeXt"),
        (changed("layer2.0.bn1.weight", 32), "pre-activation ResNet"),
    ],
)
def test_other_networks_of_the_same_code_are_refused_by_name(state: State, kind: str):
    with pytest.raises(WeightsError, match=rf"this is a ({kind}) of kenshohara's code; here are its ResNets"):
        convert(state)
