"""Inception-V1, of frames and inflated: loops and plain modules in float64, torchvision's GoogLeNet, counts.

Mutations that a test here must notice, by `test_the_reference_notices`: zeros at both ends of the strided
convolution, a ceiling that became a floor, branches exchanged, a BatchNorm or a ReLU dropped, another eps,
time reversed, height and width exchanged.
"""

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from tolerances import FLOAT32_PEER, FLOAT64_GRADIENT, FLOAT64_PEER, FLOAT64_SAME, NOTICED, relative_error
from torch import Tensor, nn

from muybridge.models.blocks import channels_last
from muybridge.models.count import count_parameters
from muybridge.models.inception import (
    INCEPTION_V1,
    InceptionBlock,
    Mixed,
    SameConv3d,
    SamePool3d,
    make_trunk,
    per_frame,
    same_padding,
    stage_names,
)

FRAMES = per_frame(INCEPTION_V1)

# Parameters of each row of Fig. 3, and channels, time, height after it for 64 frames of 224 x 224.
FIGURE_3 = {
    "Conv3d_1a_7x7": (65_984, (64, 32, 112)),
    "MaxPool3d_2a_3x3": (0, (64, 32, 56)),
    "Conv3d_2b_1x1": (4_224, (64, 32, 56)),
    "Conv3d_2c_3x3": (332_160, (192, 32, 56)),
    "MaxPool3d_3a_3x3": (0, (192, 32, 28)),
    "Mixed_3b": (386_272, (256, 32, 28)),
    "Mixed_3c": (837_888, (480, 32, 28)),
    "MaxPool3d_4a_3x3": (0, (480, 16, 14)),
    "Mixed_4b": (737_760, (512, 16, 14)),
    "Mixed_4c": (904_464, (512, 16, 14)),
    "Mixed_4d": (1_103_664, (512, 16, 14)),
    "Mixed_4e": (1_356_672, (528, 16, 14)),
    "Mixed_4f": (1_799_168, (832, 16, 14)),
    "MaxPool3d_5a_2x2": (0, (832, 8, 7)),
    "Mixed_5b": (1_974_272, (832, 8, 7)),
    "Mixed_5c": (2_784_736, (1024, 8, 7)),
}


def randomize_norms(model: nn.Module) -> None:
    """Fresh BatchNorms are nearly the identity, which would hide a mistake."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)


def small_trunk(rows=INCEPTION_V1, *, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    trunk = make_trunk(3, rows, width=1 / 16).double().eval()
    randomize_norms(trunk)
    return trunk


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        (224, 7, 2, (2, 3)),
        (64, 7, 2, (2, 3)),
        (79, 7, 2, (3, 3)),
        (112, 3, 2, (0, 1)),
        (56, 3, 2, (0, 1)),
        (28, 3, 2, (0, 1)),
        (55, 3, 2, (1, 1)),
        (14, 2, 2, (0, 0)),
        (7, 2, 2, (0, 1)),
        (1, 2, 2, (0, 1)),
        (9, 3, 1, (1, 1)),
        (5, 1, 2, (0, 0)),
    ],
)
def test_same_padding_is_tensorflow_s(size, kernel, stride, expected):
    assert same_padding(size, kernel, stride) == expected


def test_same_padding_gives_one_output_for_each_stride():
    for size, kernel, stride in itertools.product(range(1, 30), range(1, 8), range(1, 4)):
        before, after = same_padding(size, kernel, stride)
        assert 0 <= after - before <= 1
        assert (size + before + after - kernel) // stride + 1 == -(-size // stride)


def windows(sizes, kernel, stride):
    """Of each output position, its taps: (position in the input, tap) where the input is."""
    fronts = [same_padding(*axis)[0] for axis in zip(sizes, kernel, stride, strict=True)]
    outs = [range(-(-size // step)) for size, step in zip(sizes, stride, strict=True)]
    for position in itertools.product(*outs):
        taps = []
        for tap in itertools.product(*map(range, kernel)):
            at = tuple(o * s + k - f for o, s, k, f in zip(position, stride, tap, fronts, strict=True))
            if all(0 <= a < n for a, n in zip(at, sizes, strict=True)):
                taps.append((at, tap))
        yield position, taps


LOOPED = [
    ((7, 7, 7), (2, 2, 2), (8, 9, 6)),
    ((7, 7, 7), (2, 2, 2), (9, 10, 3)),
    ((1, 7, 7), (1, 2, 2), (2, 8, 11)),
    ((3, 3, 3), (2, 2, 2), (4, 5, 7)),
    ((3, 3, 3), (1, 1, 1), (3, 4, 5)),
    ((1, 3, 3), (1, 2, 2), (3, 6, 7)),
    ((2, 2, 2), (2, 2, 2), (3, 4, 1)),
    ((3, 3, 3), (3, 3, 3), (4, 5, 6)),
]


@torch.no_grad()
@pytest.mark.parametrize(("kernel", "stride", "sizes"), LOOPED)
def test_same_conv3d_in_loops(kernel, stride, sizes):
    torch.manual_seed(0)
    conv = SameConv3d(3, 4, kernel, stride=stride).double()
    x = torch.randn(2, 3, *sizes, dtype=torch.float64)
    y = conv(x)
    expected = torch.zeros_like(y)
    for (t, h, w), taps in windows(sizes, kernel, stride):
        for at, tap in taps:
            expected[:, :, t, h, w] += x[(..., *at)] @ conv.weight[(..., *tap)].T
    assert y.shape[2:] == tuple(-(-size // step) for size, step in zip(sizes, stride, strict=True))
    torch.testing.assert_close(y, expected, **FLOAT64_SAME)


@torch.no_grad()
@pytest.mark.parametrize(("kernel", "stride", "sizes"), LOOPED)
def test_same_pool3d_in_loops(kernel, stride, sizes):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *sizes, dtype=torch.float64) - 5  # below 0: padding with zeros would win
    y = SamePool3d(kernel, stride)(x)
    expected = torch.full_like(y, -torch.inf)
    for (t, h, w), taps in windows(sizes, kernel, stride):
        for at, _ in taps:
            expected[:, :, t, h, w] = torch.maximum(expected[:, :, t, h, w], x[(..., *at)])
    assert torch.equal(y, expected)


@torch.no_grad()
@pytest.mark.parametrize(
    ("frames", "side", "equal"), [(64, 24, False), (79, 24, False), (64, 23, False), (79, 23, True)]
)
def test_symmetric_padding_has_the_same_shape_and_mostly_other_values(frames, side, equal):
    torch.manual_seed(0)
    conv = SameConv3d(1, 1, (7, 7, 7), stride=(2, 2, 2)).double()
    x = torch.randn(1, 1, frames, side, side, dtype=torch.float64)
    y, symmetric = conv(x), F.conv3d(x, conv.weight, stride=2, padding=3)
    assert y.shape == symmetric.shape
    error = relative_error(y, symmetric)
    assert error < FLOAT64_PEER if equal else error > 0.1


def reference_unit(
    x: Tensor, unit: nn.Module, kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> Tensor:
    """Convolution of the padded clip, BatchNorm by its formula, ReLU."""
    t, h, w = (same_padding(*axis) for axis in zip(x.shape[2:], kernel, stride, strict=True))
    assert tuple(unit.conv.weight.shape[2:]) == kernel
    y = F.conv3d(F.pad(x, (*w, *h, *t)), unit.conv.weight, stride=stride)
    bn = unit.bn
    mean, var, scale, shift = (
        one.view(1, -1, 1, 1, 1) for one in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    return ((y - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)


def reference_pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    t, h, w = (same_padding(*axis) for axis in zip(x.shape[2:], kernel, stride, strict=True))
    return F.max_pool3d(F.pad(x, (*w, *h, *t), value=-torch.inf), kernel, stride)


def reference_block(x: Tensor, block: nn.Module, kernel: tuple[int, int, int]) -> Tensor:
    """Fig. 3, right."""
    one = (1, 1, 1)
    b0 = reference_unit(x, block.b0, one, one)
    b1 = reference_unit(reference_unit(x, block.b1a, one, one), block.b1b, kernel, one)
    b2 = reference_unit(reference_unit(x, block.b2a, one, one), block.b2b, kernel, one)
    b3 = reference_unit(reference_pool(x, kernel, one), block.b3b, one, one)
    return torch.cat((b0, b1, b2, b3), dim=1)


def reference_trunk(x: Tensor, trunk: nn.Sequential, *, frames: bool = False) -> Tensor:
    """Fig. 3, left, written out."""

    def size(t: int, side: int) -> tuple[int, int, int]:
        return (1 if frames else t, side, side)

    x = reference_unit(x, trunk.Conv3d_1a_7x7, size(7, 7), size(2, 2))
    x = reference_pool(x, (1, 3, 3), (1, 2, 2))
    x = reference_unit(x, trunk.Conv3d_2b_1x1, (1, 1, 1), (1, 1, 1))
    x = reference_unit(x, trunk.Conv3d_2c_3x3, size(3, 3), (1, 1, 1))
    x = reference_pool(x, (1, 3, 3), (1, 2, 2))
    for letter in "bc":
        x = reference_block(x, trunk.get_submodule(f"Mixed_3{letter}"), size(3, 3))
    x = reference_pool(x, size(3, 3), size(2, 2))
    for letter in "bcdef":
        x = reference_block(x, trunk.get_submodule(f"Mixed_4{letter}"), size(3, 3))
    x = reference_pool(x, size(2, 2), size(2, 2))
    for letter in "bc":
        x = reference_block(x, trunk.get_submodule(f"Mixed_5{letter}"), size(3, 3))
    return x


CLIPS = [(16, 32, 32), (17, 39, 46), (9, 33, 31), (1, 16, 16)]


@torch.no_grad()
@pytest.mark.parametrize("size", CLIPS)
@pytest.mark.parametrize("frames", [False, True], ids=["inflated", "frames"])
def test_the_whole_trunk_is_the_figure_written_out(size, frames):
    trunk = small_trunk(FRAMES if frames else INCEPTION_V1)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(trunk(x), reference_trunk(x, trunk, frames=frames), **FLOAT64_SAME)


@torch.no_grad()
def test_a_module_against_plain_modules():
    torch.manual_seed(0)
    block = InceptionBlock(6, Mixed("", 4, (3, 5), (2, 3), 2), bn_eps=1e-3).double().eval()
    randomize_norms(block)

    def plain(unit: nn.Module) -> nn.Sequential:
        conv = nn.Conv3d(
            unit.conv.in_channels, unit.conv.out_channels, unit.conv.kernel_size, padding="same", bias=False
        )
        layers = nn.Sequential(conv, nn.BatchNorm3d(conv.out_channels, eps=1e-3), nn.ReLU()).double().eval()
        layers[0].load_state_dict(unit.conv.state_dict())
        layers[1].load_state_dict(unit.bn.state_dict())
        return layers

    x = torch.randn(2, 6, 4, 7, 6, dtype=torch.float64)
    branches = [
        plain(block.b0)(x),
        plain(block.b1b)(plain(block.b1a)(x)),
        plain(block.b2b)(plain(block.b2a)(x)),
        plain(block.b3b)(nn.MaxPool3d(3, 1, 1)(x)),
    ]
    torch.testing.assert_close(block(x), torch.cat(branches, dim=1), **FLOAT64_SAME)


def symmetric_stem(trunk: nn.Sequential) -> None:
    conv = trunk.Conv3d_1a_7x7.conv
    conv.forward = lambda x: F.conv3d(x, conv.weight, stride=2, padding=3)


def floor_pool(trunk: nn.Sequential) -> None:
    trunk.MaxPool3d_4a_3x3.forward = lambda x: F.max_pool3d(x, 3, 2, 1)


def exchanged_branches(trunk: nn.Sequential) -> None:
    trunk.Mixed_4b.register_forward_hook(lambda module, args, y: y.roll(3, dims=1))


def no_norm(trunk: nn.Sequential) -> None:
    trunk.Mixed_4c.b1a.bn = nn.Identity()


def no_relu(trunk: nn.Sequential) -> None:
    unit = trunk.Mixed_5b.b2a
    unit.forward = lambda x: unit.bn(unit.conv(x))


def other_eps(trunk: nn.Sequential) -> None:
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-2


def reversed_time(trunk: nn.Sequential) -> None:
    trunk.register_forward_pre_hook(lambda _, args: (args[0].flip(2),))


def exchanged_height_and_width(trunk: nn.Sequential) -> None:
    trunk.register_forward_pre_hook(lambda _, args: (args[0].transpose(3, 4),))


MUTATIONS = [
    symmetric_stem,
    floor_pool,
    exchanged_branches,
    no_norm,
    no_relu,
    other_eps,
    reversed_time,
    exchanged_height_and_width,
]


@torch.no_grad()
@pytest.mark.parametrize("mutate", MUTATIONS)
def test_the_reference_notices(mutate: Callable[[nn.Sequential], None]):
    trunk = small_trunk()
    x = torch.randn(2, 3, 16, 32, 32, dtype=torch.float64)
    expected = reference_trunk(x, trunk)
    mutate(trunk)
    assert relative_error(trunk(x), expected) > NOTICED


def from_googlenet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names as ours; its "branch3" is our branch 2."""
    stem = {"conv1": "Conv3d_1a_7x7", "conv2": "Conv3d_2b_1x1", "conv3": "Conv3d_2c_3x3"}
    branch = {
        "branch1": "b0",
        "branch2.0": "b1a", "branch2.1": "b1b",
        "branch3.0": "b2a", "branch3.1": "b2b",
        "branch4.1": "b3b",
    }  # fmt: skip
    ours = {}
    for key, value in state.items():
        place, layer, leaf = key.rsplit(".", 2) if key.count(".") > 1 else ("", "", key)
        if place in stem:
            name = stem[place]
        elif place.startswith("inception"):
            module, _, inner = place.partition(".")
            group, letter = module[-2:]  # the first module of a group is "a" there
            name = f"Mixed_{group}{chr(ord(letter) + 1)}.{branch[inner]}"
        else:
            continue  # the classifier
        ours[f"{name}.{layer}.{leaf}"] = value.unsqueeze(2) if value.ndim == 4 else value
    return ours


def test_of_frames_it_is_torchvision_s_googlenet_with_its_gradients():
    # At 63 pixels the stem's padding is symmetric and each pooling has an even size: there SAME is what
    # torchvision's symmetric padding and ceilings are.
    torch.manual_seed(0)
    theirs = torchvision.models.googlenet(
        weights=None, num_classes=7, aux_logits=False, transform_input=False, init_weights=False
    ).double()
    randomize_norms(theirs)
    for module in theirs.modules():
        if isinstance(module, nn.Conv2d):  # torch's own start would leave nothing of the input at the end
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    trunk = make_trunk(3, FRAMES, bn_eps=1e-3).double()
    trunk.load_state_dict(from_googlenet(theirs.state_dict()))
    trunk.eval(), theirs.eval()

    def ours(x: Tensor) -> Tensor:
        return theirs.fc(trunk(x[:, :, None]).mean((2, 3, 4)))

    x = torch.randn(2, 3, 63, 63, dtype=torch.float64)
    with torch.no_grad():
        logits = theirs(x)
        assert relative_error(logits[0], logits[1]) > NOTICED
        assert relative_error(ours(x), logits) < FLOAT64_PEER
    for network in (ours, theirs):
        F.cross_entropy(network(x), torch.tensor([3, 5])).backward()
    gradients = from_googlenet({key: one.grad for key, one in theirs.named_parameters()})
    for key, parameter in trunk.named_parameters():
        assert relative_error(parameter.grad, gradients[key]) < FLOAT64_GRADIENT, key
    with torch.no_grad():
        trunk.float(), theirs.float()
        assert relative_error(ours(x.float()), theirs(x.float())) < FLOAT32_PEER


def test_counts_and_shapes_of_figure_3():
    with torch.device("meta"):
        trunk = make_trunk(3)
    x = torch.empty(1, 3, 64, 224, 224, device="meta")
    found = {}
    for name, layer in trunk.named_children():
        x = layer(x)
        found[name] = (count_parameters(layer), tuple(x.shape[1:4]))
        assert x.shape[3] == x.shape[4]
    assert found == FIGURE_3
    assert len(trunk.state_dict()) == 344 - 2  # and two of the classifier
    assert stage_names() == tuple(name for name, (count, _) in FIGURE_3.items() if count)


@pytest.mark.parametrize(
    ("frames", "steps"),
    [(16, (8, 4, 2)), (79, (40, 20, 10)), (9, (5, 3, 2)), (8, (4, 2, 1)), (250, (125, 63, 32))],
)
def test_time_of_other_lengths(frames, steps):
    with torch.device("meta"):
        trunk = make_trunk(3, width=1 / 16).eval()
    x, found = torch.empty(1, 3, frames, 32, 32, device="meta"), []
    for name, layer in trunk.named_children():
        x = layer(x)
        if name in ("Conv3d_1a_7x7", "MaxPool3d_4a_3x3", "MaxPool3d_5a_2x2"):
            found.append(x.shape[2])
    assert tuple(found) == steps


@pytest.mark.parametrize(("channels", "expected"), [(3, 5_599_904), (20, 5_653_216)])
def test_counts_of_frames(channels, expected):
    with torch.device("meta"):
        trunk = make_trunk(channels, FRAMES)
    assert count_parameters(trunk) == expected
    x = trunk(torch.empty(2, channels, 5, 224, 224, device="meta"))
    assert x.shape == (2, 1024, 5, 7, 7)


def test_width_scales_every_count():
    with torch.device("meta"):
        trunk = make_trunk(3, width=0.5)
    assert trunk.Conv3d_1a_7x7.conv.out_channels == 32
    block = trunk.Mixed_4e
    convs = (block.b0, block.b1a, block.b1b, block.b2a, block.b2b, block.b3b)
    assert [unit.conv.out_channels for unit in convs] == [56, 72, 144, 16, 32, 32]


def inflated(flat: nn.Sequential, how: str) -> nn.Sequential:
    """The inflated trunk with the weights of the one of frames: each repeated over time, or in the middle."""
    deep = make_trunk(3, width=1 / 16).double().eval()
    state = {}
    for key, value in deep.state_dict().items():
        given = flat.state_dict()[key]
        if given.ndim == 5:
            n = value.shape[2]
            taps = torch.zeros(n, dtype=given.dtype)
            taps[:] = 1 / n if how == "repeated" else 0
            taps[n // 2] = 1 / n if how == "repeated" else 1
            given = given * taps.view(1, 1, -1, 1, 1)
        state[key] = given
    deep.load_state_dict(state)
    return deep


@torch.no_grad()
@pytest.mark.parametrize("how", ["repeated", "middle"])
def test_a_frozen_video_gives_what_its_frame_gives(how):
    flat = small_trunk(FRAMES)
    deep = inflated(flat, how)
    frame = torch.randn(1, 3, 1, 32, 32, dtype=torch.float64)
    expected = flat(frame)
    y = deep(frame.expand(-1, -1, 128, -1, -1))  # a step of the last module sees 99 frames
    for step in range(6, 10):
        torch.testing.assert_close(y[:, :, step : step + 1], expected, **FLOAT64_SAME)
    # Zeros before the first frame are no still frame: there, the repeated weights see an end.
    at_the_end = relative_error(y[:, :, :1], expected)
    assert at_the_end > 0.01 if how == "repeated" else at_the_end < FLOAT64_PEER
    weights = zip(deep.parameters(), flat.parameters(), strict=True)
    for weight, flat_weight in weights:
        if weight.ndim == 5:
            torch.testing.assert_close(weight.sum(2, keepdim=True), flat_weight, **FLOAT64_SAME)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
def test_every_module_leaves_the_channels_last_in_memory(batch):
    trunk = make_trunk(3, width=1 / 4).eval()
    lost = []
    for name, layer in trunk.named_children():

        def look(_: nn.Module, args: object, y: Tensor, name: str = name) -> None:
            if not y.is_contiguous(memory_format=torch.channels_last_3d):
                lost.append(name)

        layer.register_forward_hook(look)
    trunk(channels_last(torch.randn(batch, 3, 9, 64, 64)))
    assert not [name for name in lost if name.startswith("M")]


def test_bf16_steps_stay_finite_where_time_is_shorter_than_the_kernel():
    torch.manual_seed(0)
    trunk = make_trunk(3, width=1 / 8).train()
    for step in range(10):
        trunk.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = trunk(channels_last(torch.randn(4, 3, 9, 32, 32)))
        y.float().square().mean().backward()
        bad = [key for key, one in trunk.named_parameters() if not one.grad.isfinite().all()]
        assert not bad, (step, bad)
