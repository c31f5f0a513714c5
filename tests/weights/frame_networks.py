"""Networks of frames of other code bases, from their published lists of layers.

Each is a list of layers, with the shape of a weight, its name there and its name here spelled out; and a
forward in functions of torch on the foreign state dict itself. No line of ours, and none of theirs, is in it.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from foreign import hashed, hashed_clip
from torch import Tensor

from muybridge.models.contract import VideoModel
from muybridge.models.registry import build, find
from muybridge.weights.convert import convert, mismatches

State = dict[str, Tensor]
Forward = Callable[[State, Tensor], Tensor]
NORM = ("weight", "bias", "running_mean", "running_var")
BIASED = ("weight", "bias")
CLASSES = 5


class Layer(NamedTuple):
    """A layer: what it is called there and here, the shape of its weight, and what it has."""

    there: str
    here: str
    shape: tuple[int, ...]
    leaves: tuple[str, ...]


def empty(layers: Sequence[Layer]) -> State:
    """The state dict of a code base, without memory."""
    return {
        f"{layer.there}.{leaf}": torch.empty(
            layer.shape if leaf == "weight" else layer.shape[:1], device="meta"
        )
        for layer in layers
        for leaf in layer.leaves
    }


def lively(state: State) -> State:
    """Values by names and shapes alone, with which a signal keeps its size through many layers."""
    return {name: value / 0.6 if value.ndim == 4 else value for name, value in hashed(state).items()}


def places(layers: Sequence[Layer]) -> dict[str, str]:
    """Of each tensor there its name here."""
    return {f"{layer.there}.{leaf}": f"{layer.here}.{leaf}" for layer in layers for leaf in layer.leaves}


def num_parameters(state: State) -> int:
    return sum(value.numel() for name, value in state.items() if ".running_" not in name)


def scaled(count: int, width: float) -> int:
    return max(1, round(count * width))


def said(network: str, state: State) -> dict[str, object]:
    """The arguments of our network that come with a file."""
    takes = inspect.signature(find(network).builder).parameters
    return {key: value for key, value in convert(state).arguments.items() if key in takes}


def ours(network: str, state: State, **arguments: object) -> VideoModel:
    """Our network with a foreign file's tensors, in float64; none is left over and none missing."""
    found = convert(state).named_for(network)
    classes = len(found.tensors["head.fc.bias"])
    model = build(network, num_classes=classes, **{**said(network, state), **arguments}).double().eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))  # the canary
    assert mismatches(found.tensors, model) == []
    model.load_state_dict(found.tensors, strict=False)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    return model


def in_their_places(state: State, network: str, names: dict[str, str]) -> None:
    """What came out is what went in, under the names that are spelled out; and nothing else came out."""
    found = convert(state).named_for(network)
    assert set(found.tensors) == {names[name] for name in state}
    for name, value in state.items():
        new = found.tensors[names[name]]
        assert torch.equal(new.reshape(value.shape), value), name
        assert (new.shape == value.shape) == (names[name] not in found.adapted), name


def snippets(per_frame: int, frames: int, *, side: int) -> tuple[Tensor, Tensor]:
    """Two snippets: as our networks take them, and as the images of others, channels frame by frame."""
    image = hashed_clip(per_frame * frames, side, side)[0]
    images = torch.stack([image, image.flip(2)])
    return images.view(1, 2, frames, per_frame, side, side).transpose(2, 3), images


def norm(state: State, place: str, x: Tensor) -> Tensor:
    """BatchNorm in eval mode; old files have its tensors as [1, C]."""
    weight, bias, mean, var = (state[f"{place}.{leaf}"].flatten() for leaf in NORM)
    return F.batch_norm(x, mean, var, weight, bias, training=False, eps=1e-5)


# BN-Inception as released: 1x1; 3x3_reduce, 3x3; double_3x3_reduce, _1, _2; pool_proj; pooling; stride.
BN_INCEPTION = {
    "3a": (64, 64, 64, 64, 96, 96, 32, "ave", 1),
    "3b": (64, 64, 96, 64, 96, 96, 64, "ave", 1),
    "3c": (0, 128, 160, 64, 96, 96, 0, "max", 2),
    "4a": (224, 64, 96, 96, 128, 128, 128, "ave", 1),
    "4b": (192, 96, 128, 96, 128, 128, 128, "ave", 1),
    "4c": (160, 128, 160, 128, 160, 160, 128, "ave", 1),
    "4d": (96, 128, 192, 160, 192, 192, 128, "ave", 1),
    "4e": (0, 128, 192, 192, 256, 256, 0, "max", 2),
    "5a": (352, 192, 320, 160, 224, 224, 128, "ave", 1),
    "5b": (352, 192, 320, 192, 224, 224, 128, "max", 1),
}
PARTS = {
    "1x1": "b0",
    "3x3_reduce": "b1a",
    "3x3": "b1b",
    "double_3x3_reduce": "b2a",
    "double_3x3_1": "b2b",
    "double_3x3_2": "b2c",
    "pool_proj": "b3b",
}


def bn_inception(
    channels: int = 3,
    *,
    width: float = 1 / 8,
    classes: int = CLASSES,
    prefix: str = "base_model.",
    head: str = "new_fc",
    trunk: str = "backbone",
) -> list[Layer]:
    """The layers of a file of tsn-pytorch, or of a bare one, without prefix."""
    layers: list[Layer] = []

    def add(name: str, here: str, out: int, into: int, kernel: int) -> None:
        layers.append(Layer(prefix + name, f"{trunk}.{here}.conv", (out, into, kernel, kernel), BIASED))
        layers.append(Layer(f"{prefix}{name}_bn", f"{trunk}.{here}.bn", (out,), NORM))

    n64, into = scaled(64, width), scaled(192, width)
    add("conv1_7x7_s2", "conv1_7x7_s2", n64, channels, 7)
    add("conv2_3x3_reduce", "conv2_3x3_reduce", n64, n64, 1)
    add("conv2_3x3", "conv2_3x3", into, n64, 3)
    for module, (*counts, _, stride) in BN_INCEPTION.items():
        one, r3, three, rd, d1, d2, proj = (scaled(count, width) if count else 0 for count in counts)
        sizes = ((one, into, 1), (r3, into, 1), (three, r3, 3), (rd, into, 1), (d1, rd, 3), (d2, d1, 3))
        for (part, branch), size in zip(PARTS.items(), (*sizes, (proj, into, 1)), strict=True):
            if size[0]:
                add(f"inception_{module}_{part}", f"inception_{module}.{branch}", *size)
        into = one + three + d2 + (into if stride == 2 else proj)
    return [*layers, Layer(head, "head.fc", (classes, into), BIASED)]


def run_bn_inception(state: State, x: Tensor, *, prefix: str = "base_model.", head: str = "new_fc") -> Tensor:
    """Images to logits."""

    def unit(place: str, y: Tensor, stride: int = 1) -> Tensor:
        weight, bias = state[f"{prefix}{place}.weight"], state[f"{prefix}{place}.bias"]
        y = F.conv2d(y, weight, bias, stride=stride, padding=weight.shape[-1] // 2)
        return F.relu(norm(state, f"{prefix}{place}_bn", y))

    y = F.max_pool2d(unit("conv1_7x7_s2", x, 2), 3, 2, ceil_mode=True)
    y = F.max_pool2d(unit("conv2_3x3", unit("conv2_3x3_reduce", y)), 3, 2, ceil_mode=True)
    for module, (*_, pool, stride) in BN_INCEPTION.items():
        at = f"inception_{module}_"
        branches = [] if stride == 2 else [unit(f"{at}1x1", y)]
        branches.append(unit(f"{at}3x3", unit(f"{at}3x3_reduce", y), stride))
        double = unit(f"{at}double_3x3_1", unit(f"{at}double_3x3_reduce", y))
        branches.append(unit(f"{at}double_3x3_2", double, stride))
        if stride == 2:
            branches.append(F.max_pool2d(y, 3, 2, ceil_mode=True))
        else:
            pooled = F.avg_pool2d(y, 3, 1, 1) if pool == "ave" else F.max_pool2d(y, 3, 1, 1)
            branches.append(unit(f"{at}pool_proj", pooled))
        y = torch.cat(branches, 1)
    return F.linear(y.mean((2, 3)), state[f"{head}.weight"], state[f"{head}.bias"])


def mm_resnet(
    blocks: Sequence[int] = (3, 4, 6, 3), channels: int = 3, *, base: int = 8, classes: int = CLASSES
) -> list[Layer]:
    """mmaction2's TSN of a ResNet of bottlenecks; `base` channels in its first convolution."""
    layers: list[Layer] = []

    def add(place: str, here: str, slot: str, shape: tuple[int, int, int]) -> None:
        out, into, kernel = shape
        conv, bn = (f"{slot}.conv", f"{slot}.bn") if slot == "shortcut" else (f"conv{slot}", f"bn{slot}")
        layers.append(
            Layer(
                f"backbone.{place}.conv", f"backbone.{here}{conv}", (out, into, kernel, kernel), ("weight",)
            )
        )
        layers.append(Layer(f"backbone.{place}.bn", f"backbone.{here}{bn}", (out,), NORM))

    add("conv1", "stem.", "", (base, channels, 7))
    into = base
    for s, count in enumerate(blocks):
        inner, out = base * 2**s, 4 * base * 2**s
        for j in range(count):
            there, here = f"layer{s + 1}.{j}", f"stages.{s}.{j}."
            add(f"{there}.conv1", here, "_a", (inner, into, 1))
            add(f"{there}.conv2", here, "_b", (inner, inner, 3))
            add(f"{there}.conv3", here, "_c", (out, inner, 1))
            if j == 0:
                add(f"{there}.downsample", here, "shortcut", (out, into, 1))
            into = out
    return [*layers, Layer("cls_head.fc_cls", "head.fc", (classes, into), BIASED)]


def run_mm_resnet(state: State, x: Tensor) -> Tensor:
    """The images of a video to the logits of mmaction2's head: the mean of the features comes first."""

    def unit(place: str, y: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"backbone.{place}.conv.weight"]
        y = F.conv2d(y, weight, stride=stride, padding=weight.shape[-1] // 2)
        return norm(state, f"backbone.{place}.bn", y)

    y = F.max_pool2d(F.relu(unit("conv1", x, 2)), 3, 2, 1)
    for s in range(1, 5):
        j = 0
        while f"backbone.layer{s}.{j}.conv1.conv.weight" in state:
            at, stride = f"layer{s}.{j}", 2 if s > 1 and j == 0 else 1
            z = F.relu(unit(f"{at}.conv2", F.relu(unit(f"{at}.conv1", y)), stride))
            y = F.relu(unit(f"{at}.conv3", z) + (unit(f"{at}.downsample", y, stride) if j == 0 else y))
            j += 1
    features = y.mean((0, 2, 3))
    return F.linear(features, state["cls_head.fc_cls.weight"], state["cls_head.fc_cls.bias"])[None]


def cnn_m(channels: int = 3, *, width: float = 1 / 8, side: int = 2, classes: int = CLASSES) -> State:
    """The blobs of CNN-M-2048, as pycaffe gives them now; `side` is that of pool5's map, 6 at 224 pixels."""
    n = [scaled(count, width) for count in (96, 256, 512, 512, 512, 4096, 2048)]
    shapes: dict[str, tuple[int, ...]] = {"conv1": (n[0], channels, 7, 7), "conv2": (n[1], n[0], 5, 5)}
    for layer in (3, 4, 5):
        shapes[f"conv{layer}"] = (n[layer - 1], n[layer - 2], 3, 3)
    shapes |= {"fc6": (n[5], n[4] * side**2), "fc7": (n[6], n[5]), "fc8": (classes, n[6])}
    return {
        f"{layer}/{index}": torch.empty(shape if index == 0 else shape[:1], device="meta")
        for layer, shape in shapes.items()
        for index in (0, 1)
    }


CNN_M_PLACES = {
    **{f"conv{layer}": f"tower.conv{layer}" for layer in range(1, 6)},
    "fc6": "tower.full6",
    "fc7": "tower.full7",
    "fc8": "head.fc",
}


def run_cnn_m(state: State, x: Tensor, *, norms: int = 2) -> Tensor:
    """Images to logits; the temporal stream has one normalisation, that of ImageNet two."""

    def conv(layer: str, y: Tensor, stride: int, padding: int) -> Tensor:
        return F.relu(F.conv2d(y, state[f"{layer}/0"], state[f"{layer}/1"], stride, padding))

    y = F.local_response_norm(conv("conv1", x, 2, 0), 5, alpha=5e-4, beta=0.75, k=2.0)
    y = conv("conv2", F.max_pool2d(y, 3, 2, ceil_mode=True), 2, 1)
    if norms == 2:
        y = F.local_response_norm(y, 5, alpha=5e-4, beta=0.75, k=2.0)
    y = F.max_pool2d(y, 3, 2, ceil_mode=True)
    for layer in ("conv3", "conv4", "conv5"):
        y = conv(layer, y, 1, 1)
    y = F.max_pool2d(y, 3, 2, ceil_mode=True).flatten(1)
    for layer in ("fc6", "fc7"):
        y = F.relu(F.linear(y, state[f"{layer}/0"], state[f"{layer}/1"]))
    return F.linear(y, state["fc8/0"], state["fc8/1"])
