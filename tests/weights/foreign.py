"""State dicts as other code bases name them, written down layer by layer, without any of their code.

A `Layer` says which tensors it has and what they are called here, a naming what they are called there: a
converter, which goes by patterns, is checked against names that were spelled out one by one.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

PRIME = 2**31 - 1
CONV, NORM, BIASED = ("weight",), ("weight", "bias", "running_mean", "running_var"), ("weight", "bias")


class Layer(NamedTuple):
    """A layer of a ResNet: which one it is, and the shape of its weight."""

    ours: str
    path: str  # "", "slow." or "fast."
    part: str  # "stem", "block", "nl", "lateral", "head"
    stage: int  # from 0; of a lateral, the stage before which it is
    block: int
    slot: str  # "conv", "bn", "conv_a", "bn_a", "shortcut.conv", "theta", ...
    shape: tuple[int, ...]
    leaves: tuple[str, ...]


Naming = Callable[[Layer, str], str]  # a layer and one of its leaves -> the name of that tensor


def tensors(layers: Sequence[Layer], naming: Naming, *, device: str = "cpu") -> dict[str, Tensor]:
    """The state dict of a code base; on a CPU with values between a half and three halves."""
    torch.manual_seed(0)
    state = {}
    for layer in layers:
        for leaf in layer.leaves:
            shape = {"weight": layer.shape, "num_batches_tracked": ()}.get(leaf, layer.shape[:1])
            value = (
                torch.rand(shape, device=device) + 0.5
                if device == "cpu"
                else torch.empty(shape, device=device)
            )
            state[naming(layer, leaf)] = value
    return state


def hashed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Float64 values that depend on nothing but names and shapes: the same on every machine, for ever.

    Activations keep about their size from layer to layer; variances are positive.
    """
    return {name: _weights(name, value) for name, value in state.items()}


def hashed_clip(*shape: int) -> Tensor:
    """[1, C, T, H, W], float64 in [-2, 2]."""
    return 4 * _uniform(f"clip {shape}", torch.Size(shape))[None] - 2


def _weights(name: str, like: Tensor) -> Tensor:
    if not like.is_floating_point():
        return torch.zeros(like.shape, dtype=like.dtype)
    uniform = _uniform(name, like.shape)
    if like.ndim > 1:
        # Residual branches add up, and a dot product of non-local blocks grows with the cube of its input.
        gain = 0.1 if "nonlocal" in name.replace("_", "") else 0.6
        return gain * (2 * uniform - 1) * (6 / like[0].numel()) ** 0.5
    scales = name.endswith(("weight", "running_var", "_s", "_riv"))
    return 0.5 + uniform if scales else 0.2 * (uniform - 0.5)


def _uniform(name: str, shape: torch.Size) -> Tensor:
    """Scattered over [0, 1) by integer arithmetic, which is exact everywhere."""
    x = (torch.arange(shape.numel(), dtype=torch.int64) * 1_000_003 + zlib.crc32(name.encode())) % PRIME
    y = (x * x % PRIME * 48_271 + x) % PRIME
    return (y * y % PRIME).double().view(shape) / PRIME


def with_counters(layers: Sequence[Layer]) -> list[Layer]:
    """BatchNorms of PyTorch count the batches that they have seen."""
    return [
        layer._replace(leaves=(*layer.leaves, "num_batches_tracked")) if layer.leaves == NORM else layer
        for layer in layers
    ]


def ours(layer: Layer, leaf: str) -> str:
    return f"{layer.ours}.{leaf}"


def resnet(
    *,
    kernels: Sequence[Sequence[int]],
    stem: int,
    path: str = "",
    channels: int = 64,
    added: Sequence[int] = (0, 0, 0, 0),
    nonlocal_after: Sequence[Sequence[int]] = ((), (), (), ()),
    embedded: bool = True,
    out_bias: bool = True,
) -> Iterator[Layer]:
    """A trunk of bottlenecks.

    Args:
        kernels: temporal kernel of the first convolution of each block, by stage.
        stem: temporal kernel of conv1.
        path: of two pathways.
        channels: of conv1.
        added: channels that laterals add to the input of each stage.
        nonlocal_after: blocks with a non-local block behind them, by stage.
        embedded: whether that has theta and phi.
        out_bias: whether its last convolution has a bias.
    """
    yield Layer(f"{path}stem.conv", path, "stem", 0, 0, "conv", (channels, 3, stem, 7, 7), CONV)
    yield Layer(f"{path}stem.bn", path, "stem", 0, 0, "bn", (channels,), NORM)
    n_in = channels
    for s, ts in enumerate(kernels):
        inner = channels * 2**s
        out = 4 * inner
        for j, t in enumerate(ts):
            n = n_in + added[s] if j == 0 else out
            shapes = {"a": (inner, n, t, 1, 1), "b": (inner, inner, 1, 3, 3), "c": (out, inner, 1, 1, 1)}
            for y, shape in shapes.items():
                place = f"{path}stages.{s}.{j}"
                yield Layer(f"{place}.conv_{y}", path, "block", s, j, f"conv_{y}", shape, CONV)
                yield Layer(f"{place}.bn_{y}", path, "block", s, j, f"bn_{y}", shape[:1], NORM)
            if j == 0:
                yield Layer(
                    f"{place}.shortcut.conv", path, "block", s, j, "shortcut.conv", (out, n, 1, 1, 1), CONV
                )
                yield Layer(f"{place}.shortcut.bn", path, "block", s, j, "shortcut.bn", (out,), NORM)
            if j in nonlocal_after[s]:
                yield from _nonlocal(path, s, j, out, embedded=embedded, out_bias=out_bias)
        n_in = out


def _nonlocal(path: str, s: int, j: int, channels: int, *, embedded: bool, out_bias: bool) -> Iterator[Layer]:
    half = channels // 2
    place = f"{path}stages.{s}.nl{j}"
    for slot in ("theta", "phi", "g") if embedded else ("g",):
        yield Layer(f"{place}.{slot}", path, "nl", s, j, slot, (half, channels, 1, 1, 1), BIASED)
    leaves = BIASED if out_bias else CONV
    yield Layer(f"{place}.out", path, "nl", s, j, "out", (channels, half, 1, 1, 1), leaves)
    yield Layer(f"{place}.bn", path, "nl", s, j, "bn", (channels,), NORM)


def head(features: int, classes: int = 400) -> Layer:
    return Layer("head.fc", "", "head", 0, 0, "fc", (classes, features), BIASED)


ONE, THREE = 1, 3
FLAT = ((1,) * 3, (1,) * 4, (1,) * 6, (1,) * 3)
SLOW = ((1,) * 3, (1,) * 4, (3,) * 6, (3,) * 3)
FAST = ((3,) * 3, (3,) * 4, (3,) * 6, (3,) * 3)
I3D = ((3, 3, 3), (3, 1, 3, 1), (3, 1, 3, 1, 3, 1), (1, 3, 1))
NL5 = ((), (1, 3), (1, 3, 5), ())
R101 = ((1,) * 3, (1,) * 4, (3,) * 6 + (1,) * 17, (3,) * 3)
R101_FAST = ((3,) * 3, (3,) * 4, (3,) * 6 + (1,) * 17, (3,) * 3)


def slow_only(channels: int = 64) -> list[Layer]:
    return [*resnet(kernels=SLOW, stem=1, channels=channels), head(32 * channels)]


def i3d(
    channels: int = 64, *, nonlocal_blocks: bool = False, embedded: bool = True, out_bias: bool = True
) -> list[Layer]:
    after = NL5 if nonlocal_blocks else ((), (), (), ())
    trunk = resnet(
        kernels=I3D, stem=5, channels=channels, nonlocal_after=after, embedded=embedded, out_bias=out_bias
    )
    return [*trunk, head(32 * channels)]


def c2d(channels: int = 64) -> list[Layer]:
    return [*resnet(kernels=FLAT, stem=1, channels=channels), head(32 * channels)]


def slowfast(
    channels: int = 64,
    *,
    lateral: int = 5,
    kernels: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]] = (SLOW, FAST),
    nonlocal_after: Sequence[Sequence[int]] = ((), (), (), ()),
    lateral_norm: bool = True,
) -> list[Layer]:
    """Both pathways, of which Fast has an eighth of the channels."""
    fast = channels // 8
    widths = (fast, 4 * fast, 8 * fast, 16 * fast)  # of Fast where the laterals leave it
    layers = [
        *resnet(
            kernels=kernels[0],
            stem=1,
            path="slow.",
            channels=channels,
            added=[2 * width for width in widths],
            nonlocal_after=nonlocal_after,
        ),
        *resnet(kernels=kernels[1], stem=5, path="fast.", channels=fast),
    ]
    for stage, width in enumerate(widths):
        shape = (2 * width, width, lateral, 1, 1)
        layers.append(Layer(f"lateral.{stage}.conv", "", "lateral", stage, 0, "conv", shape, CONV))
        if lateral_norm:
            layers.append(Layer(f"lateral.{stage}.bn", "", "lateral", stage, 0, "bn", shape[:1], NORM))
    return [*layers, head(32 * (channels + fast))]


LAST_BLOCK = {0: 2, 1: 3, 2: 5}  # of res2 .. res4 in ResNet-50
ABC = {"a": "1", "b": "2", "c": "3"}


def pyslowfast(layer: Layer, leaf: str) -> str:
    p, s, j = {"": 0, "slow.": 0, "fast.": 1}[layer.path], layer.stage + 2, layer.block
    norm = "bn" in layer.slot
    if layer.part == "stem":
        place = f"s1.pathway{p}_stem.{layer.slot}"
    elif layer.part == "lateral":
        place = f"s{layer.stage + 1}_fuse.{'bn' if norm else 'conv_f2s'}"
    elif layer.part == "nl":
        place = f"s{s}.pathway{p}_nonlocal{j}.{'bn' if norm else f'conv_{layer.slot}'}"
    elif layer.part == "head":
        place = "head.projection"
    elif layer.slot.startswith("shortcut"):
        place = f"s{s}.pathway{p}_res{j}.branch1{'_bn' if norm else ''}"
    else:
        place = f"s{s}.pathway{p}_res{j}.branch2.{layer.slot[-1]}{'_bn' if norm else ''}"
    return f"{place}.{leaf}"


def caffe2(layer: Layer, leaf: str) -> str:
    p, s, j = {"": "", "slow.": "", "fast.": "t_"}[layer.path], layer.stage + 2, layer.block
    norm = "bn" in layer.slot
    if layer.part == "stem":
        place = f"{p}res_conv1_bn" if norm else f"{p}conv1"
    elif layer.part == "lateral":
        s = layer.stage + 1
        place = "t_pool1_subsample" if s == 1 else f"t_res{s}_{LAST_BLOCK[s - 2]}_branch2c_bn_subsample"
        place += "_bn" if norm else ""
    elif layer.part == "nl":
        place = f"nonlocal_conv{s}_{j}_{layer.slot}"
    elif layer.part == "head":
        place = "pred"
    elif layer.slot.startswith("shortcut"):
        place = f"{p}res{s}_{j}_branch1{'_bn' if norm else ''}"
    else:
        place = f"{p}res{s}_{j}_branch2{layer.slot[-1]}{'_bn' if norm else ''}"
    leaves = {"weight": "s" if norm else "w", "bias": "b", "running_mean": "rm", "running_var": "riv"}
    return f"{place}_{leaves[leaf]}"


def mmaction2(layer: Layer, leaf: str) -> str:
    p = {"": "", "slow.": "slow_path.", "fast.": "fast_path."}[layer.path]
    block = f"backbone.{p}layer{layer.stage + 1}.{layer.block}"
    kind = "bn" if "bn" in layer.slot else "conv"
    if layer.part == "stem":
        place = f"backbone.{p}conv1.{kind}"
    elif layer.part == "lateral":
        place = f"backbone.slow_path.{f'layer{layer.stage}' if layer.stage else 'conv1'}_lateral.{kind}"
    elif layer.part == "head":
        place = "cls_head.fc_cls"
    elif layer.part == "nl":
        place = {
            "theta": f"{block}.non_local_block.theta.conv",
            "phi": f"{block}.non_local_block.phi.0.conv",
            "g": f"{block}.non_local_block.g.0.conv",
            "out": f"{block}.non_local_block.conv_out.conv",
            "bn": f"{block}.non_local_block.conv_out.bn",
        }[layer.slot]
    elif layer.slot.startswith("shortcut"):
        place = f"{block}.downsample.{kind}"
    else:
        place = f"{block}.conv{ABC[layer.slot[-1]]}.{kind}"
    return f"{place}.{leaf}"
