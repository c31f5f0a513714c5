"""C2D, I3D and their non-local versions against the papers' counts, torchvision, pytorchvideo and identities.

Mutations that a test here must notice, each by `test_parity_notices`: time reversed, height and width
exchanged, a temporal kernel or a stride moved to another convolution, pool2 left out, a non-local block left
out or moved, its logits not scaled, another eps.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import pytorchvideo.models.hub as hub
import pytorchvideo.models.resnet as peers
import torch
import torch.nn.functional as F
import torchvision
from pytorchvideo.layers.nonlocal_net import create_nonlocal
from tolerances import FLOAT32_PEER, FLOAT64_GRADIENT, FLOAT64_PEER, FLOAT64_SAME, NOTICED, relative_error
from torch import Tensor, nn

from muybridge.errors import ConfigError
from muybridge.models.count import count_macs, count_parameters
from muybridge.models.nonlocal_net import LAYOUTS, MaxPool, NonLocalNet, smallest_clip
from muybridge.models.registry import build

K = 7


@functools.cache
def shapes_only(name: str, **arguments: object) -> NonLocalNet:
    """A network without memory: for counting."""
    with torch.device("meta"):
        model = build(name, **arguments)
    assert isinstance(model, NonLocalNet)
    return model


def randomize(model: nn.Module) -> None:
    """New BatchNorms are nearly the identity, or zero behind a branch: any mistake would pass."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        elif isinstance(module, nn.Conv3d | nn.Linear) and module.bias is not None:
            nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5)
            nn.init.normal_(module.bias, std=0.1)


@functools.cache
def gmac(name: str, *, num_frames: int = 32, size: int = 224, **arguments: object) -> float:
    return count_macs(shapes_only(name, **arguments), (3, num_frames, size, size)) / 1e9


# In the paper's layout, with 400 classes: parameters, and GMAC at 32 x 224 x 224.
COUNTS = [
    ("c2d_r50", {}, 24_327_632, 20.44),
    ("i3d_r50", {}, 28_043_472, 33.13),
    ("i3d_r50_3x3x3", {}, 33_433_808, 39.09),
    ("c2d_r50", {"nl_blocks": 1}, 26_429_392, 21.62),
    ("c2d_r50_nl5", {}, 31_686_096, 28.57),
    ("c2d_r50", {"nl_blocks": 10}, 39_044_560, 36.69),
    ("c2d_r50_nl5", {"nl_pool": "none"}, 31_686_096, 40.62),
    ("i3d_r50_nl5", {}, 35_401_936, 41.26),
    ("c2d_r101", {}, 43_319_760, 35.29),
    ("i3d_r101_3x3x3", {}, 63_042_768, 62.26),
    ("i3d_r101", {}, 51_754_192, 51.68),
    ("c2d_r101", {"nl_blocks": 5}, 50_678_224, 43.41),
    ("i3d_r101", {"nl_blocks": 5}, 59_112_656, 59.80),
    ("i3d_r101_first6", {"nl_blocks": 5}, 54_394_064, 56.1),
]


@pytest.mark.parametrize(("name", "arguments", "parameters", "expected"), COUNTS)
def test_counts(name, arguments, parameters, expected):
    assert count_parameters(shapes_only(name, layout="paper", **arguments)) == parameters
    digits = len(str(expected).partition(".")[2])
    assert gmac(name, layout="paper", **arguments) == pytest.approx(expected, abs=0.5001 * 10**-digits)


def test_counts_of_128_frames_of_256_pixels_that_later_papers_quote():
    long = {"num_frames": 128, "size": 256, "layout": "paper"}
    assert gmac("i3d_r50_nl5", **long) == pytest.approx(282, abs=0.5)
    assert gmac("i3d_r101_first6", nl_blocks=5, **long) == pytest.approx(359, abs=0.5)


@pytest.mark.parametrize(
    ("name", "expected"), [("c2d_r50", 19.49), ("i3d_r50", 28.41), ("i3d_r50_nl5", 36.54)]
)
def test_counts_of_8_frames_in_the_layout_of_public_weights(name, expected):
    assert gmac(name, num_frames=8) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(
    ("name", "arguments", "parameters", "flops"),
    [
        ("i3d_r101_3x3x3", {}, 1.5, 1.8),
        ("i3d_r101", {}, 1.2, 1.5),
        ("c2d_r101", {"nl_blocks": 5}, 1.2, 1.2),
    ],
)
def test_table_2e_relative_to_c2d(name, arguments, parameters, flops):
    base, model = (
        shapes_only("c2d_r101", layout="paper"),
        shapes_only(name, layout="paper", **arguments),
    )
    assert count_parameters(model) / count_parameters(base) == pytest.approx(parameters, abs=0.05)
    ratio = gmac(name, layout="paper", **arguments) / gmac("c2d_r101", layout="paper")
    assert ratio == pytest.approx(flops, abs=0.05)


def test_table_2e_has_the_pooling_before_the_projections():
    after = gmac("c2d_r101", layout="paper", nl_blocks=5, nl_pool="after")
    assert after / gmac("c2d_r101", layout="paper") > 1.3  # the paper's number is 1.2


# Frames behind stem, res2, pool2 .. res5, and pixels, of 32 frames of 224 x 224.
@pytest.mark.parametrize(
    ("layout", "frames", "pixels"),
    [
        ("paper", (8, 8, 4, 4, 4), (56, 56, 28, 14, 7)),  # Table 1
        ("caffe2", (8, 8, 4, 4, 4), (55, 55, 28, 14, 7)),
        ("caffe2_8x8", (32, 32, 16, 16, 16), (55, 55, 28, 14, 7)),
        ("pytorchvideo", (32, 32, 16, 16, 16), (56, 56, 28, 14, 7)),
        ("mmaction2", (8, 8, 4, 4, 4), (56, 56, 28, 14, 7)),
    ],
)
def test_time_and_space_after_each_stage(layout, frames, pixels):
    model, shapes = shapes_only("i3d_r50", layout=layout, width=1 / 32), []
    for name in model.stage_names:
        model.get_submodule(name).register_forward_hook(lambda _, args, y: shapes.append(y.shape))
    model(torch.empty(1, 3, 32, 224, 224, device="meta"))
    assert tuple(shape[2] for shape in shapes) == frames
    assert tuple(shape[3] for shape in shapes) == tuple(shape[4] for shape in shapes) == pixels


def behind(model: NonLocalNet) -> dict[int, list[int]]:
    """The stages of a network with the residual blocks that have a non-local one behind them."""
    found = {
        2 + number: [int(name[2:]) for name, _ in stage.named_children() if name.startswith("nl")]
        for number, stage in enumerate(model.stages)
    }
    return {stage: places for stage, places in found.items() if places}


@pytest.mark.parametrize(
    ("nl_blocks", "r50", "r101"),
    [
        (0, {}, {}),
        (1, {4: [4]}, {4: [21]}),  # right before the last residual block of res4
        (5, {3: [1, 3], 4: [1, 3, 5]}, {3: [1, 3], 4: [6, 13, 20]}),
        (10, {3: [0, 1, 2, 3], 4: [0, 1, 2, 3, 4, 5]}, {3: [0, 1, 2, 3], 4: [2, 6, 9, 13, 16, 20]}),
        ("res2", {2: [1]}, {2: [1]}),
        ("res3", {3: [2]}, {3: [2]}),
        ("res4", {4: [4]}, {4: [21]}),
        ("res5", {5: [1]}, {5: [1]}),
    ],
)
def test_where_the_blocks_stand(nl_blocks, r50, r101):
    assert behind(shapes_only("c2d_r50", nl_blocks=nl_blocks)) == r50
    assert behind(shapes_only("i3d_r101", nl_blocks=nl_blocks)) == r101


def test_width_scales_every_count():
    model = shapes_only("c2d_r50", width=0.3, nl_blocks=5)
    assert model.stem.conv.out_channels == 19
    assert [stage[0].conv_a.out_channels for stage in model.stages] == [19, 38, 77, 154]
    assert [stage[0].conv_c.out_channels for stage in model.stages] == [77, 154, 307, 614]
    assert [model.get_submodule(f"stages.{i}.nl1").theta.out_channels for i in (1, 2)] == [77, 154]
    assert model.feature_dim == model.head.fc.in_features == 614


def peer_name(key: str) -> str:
    """Our name of a tensor in pytorchvideo's words; pool2 is its blocks.2, so the stages are 1, 3, 4, 5."""
    part, _, rest = key.partition(".")
    if part == "stem":
        return f"blocks.0.{rest.replace('bn', 'norm')}"
    if part == "head":
        return rest.replace("fc", "blocks.6.proj")
    number, index, rest = rest.split(".", 2)
    where = f"blocks.{(1, 3, 4, 5)[int(number)]}.res_blocks"
    if index.startswith("nl"):
        part, _, leaf = rest.partition(".")
        return f"{where}.{index[2:]}.nonlocal.{'norm' if part == 'bn' else f'conv_{part}'}.{leaf}"
    if rest.startswith("shortcut"):
        return f"{where}.{index}.branch1_{rest.removeprefix('shortcut.').replace('bn', 'norm')}"
    return f"{where}.{index}.branch2.{rest.replace('bn_', 'norm_')}"


def with_nonlocal(peer: nn.Module) -> None:
    """Five of pytorchvideo's own non-local blocks in its network."""
    for block, places in ((3, (1, 3)), (4, (1, 3, 5))):
        for place in places:
            residual = peer.blocks[block].res_blocks[place]
            channels = residual.branch2.conv_c.out_channels
            attention = create_nonlocal(dim_in=channels, dim_inner=channels // 2, pool_size=(1, 2, 2))
            residual.add_module("nonlocal", attention)
            residual.register_forward_hook(lambda module, args, y: module.get_submodule("nonlocal")(y))


def in_conv_b(peer: nn.Module) -> None:
    """3 x 3 x 3 kernels in every second block of pytorchvideo's C2D."""
    out = peer.blocks[0].conv.out_channels
    peer.blocks[0].conv = nn.Conv3d(3, out, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False)
    for block, pattern in ((1, "111"), (3, "1010"), (4, "101010"), (5, "010")):
        for residual, digit in zip(peer.blocks[block].res_blocks, pattern, strict=True):
            old, n = residual.branch2.conv_b, residual.branch2.conv_b.in_channels
            if digit == "1":
                residual.branch2.conv_b = nn.Conv3d(n, n, 3, old.stride, 1, bias=False)


def in_layout(
    conv1_stride: int, pool1: nn.MaxPool3d, pool2: nn.MaxPool3d | None = None
) -> Callable[[nn.Module], None]:
    def adapt(peer: nn.Module) -> None:
        peer.blocks[0].conv.stride = (conv1_stride, 2, 2)
        peer.blocks[0].pool = pool1
        peer.blocks[2] = pool2 or peer.blocks[2]

    return adapt


def i3d_r101(**arguments: object) -> nn.Module:
    """As the hub's i3d_r50, of 101 layers."""
    inflated, flat = (3, 1, 1), (1, 1, 1)
    return peers.create_resnet(
        model_depth=101,
        stem_conv_kernel_size=(5, 7, 7),
        stage1_pool=nn.MaxPool3d,
        stage_conv_a_kernel_size=(inflated, [inflated, flat], [inflated, flat], [flat, inflated]),
        **arguments,
    )


class Pair(NamedTuple):
    """A network of ours, and what makes pytorchvideo's the same."""

    name: str
    layout: str
    peer: Callable[..., nn.Module]
    adapt: Callable[[nn.Module], None] = lambda peer: None
    num_frames: int = 4  # two are left of them in the last stages


PAPER_POOL2 = nn.MaxPool3d((3, 1, 1), (2, 1, 1), (1, 0, 0))
PAIRS = [
    Pair("c2d_r50", "pytorchvideo", hub.c2d_r50),
    Pair("i3d_r50", "pytorchvideo", hub.i3d_r50),
    Pair("i3d_r50_nl5", "pytorchvideo", hub.i3d_r50, with_nonlocal),
    Pair("i3d_r50_3x3x3", "pytorchvideo", hub.c2d_r50, in_conv_b),
    Pair("i3d_r101", "pytorchvideo", i3d_r101),
    Pair("i3d_r50", "paper", hub.i3d_r50, in_layout(2, nn.MaxPool3d(3, 2, 1), PAPER_POOL2), 11),
    Pair("i3d_r50", "caffe2", hub.i3d_r50, in_layout(2, nn.MaxPool3d((2, 3, 3), 2)), 15),
    Pair("i3d_r50", "caffe2_8x8", hub.i3d_r50, in_layout(1, nn.MaxPool3d((1, 3, 3), (1, 2, 2))), 5),
    Pair("i3d_r50", "mmaction2", hub.i3d_r50, in_layout(2, nn.MaxPool3d((1, 3, 3), 2, (0, 1, 1))), 13),
]
PAIR_NAMES = [f"{pair.name}-{pair.layout}" for pair in PAIRS]


def paired(pair: Pair) -> tuple[NonLocalNet, nn.Module, Tensor]:
    """Ours and pytorchvideo's, a quarter as wide, with the same random weights, in float64; and a clip."""
    torch.manual_seed(0)
    ours = build(pair.name, num_classes=K, width=1 / 4, layout=pair.layout)
    randomize(ours)
    theirs = pair.peer(model_num_class=K, stem_dim_out=16, head_pool_kernel_size=(2, 1, 1), dropout_rate=0)
    pair.adapt(theirs)
    theirs.load_state_dict({peer_name(key): value for key, value in ours.state_dict().items()})
    ours.head.dropout.p = 0.0
    assert isinstance(ours, NonLocalNet)
    x = torch.randn(2, 3, pair.num_frames, 32, 32, dtype=torch.float64)
    return ours.eval().double(), theirs.eval().double(), x


@torch.no_grad()
@pytest.mark.parametrize("pair", PAIRS, ids=PAIR_NAMES)
def test_outputs_are_pytorchvideo_s(pair):
    ours, theirs, x = paired(pair)
    for model in (ours, theirs):
        model.train()
    assert relative_error(ours(x), theirs(x)) < FLOAT64_PEER
    ours, theirs, x = ours.eval().float(), theirs.eval().float(), x.float()
    assert relative_error(ours(x), theirs(x)) < FLOAT32_PEER


@pytest.mark.parametrize("pair", PAIRS[:3], ids=PAIR_NAMES[:3])
def test_gradients_and_statistics_are_pytorchvideo_s(pair):
    ours, theirs, x = paired(pair)
    for model in (ours.train(), theirs.train()):
        F.cross_entropy(model(x), torch.tensor([3, 5])).backward()
    gradients = {key: one.grad for key, one in theirs.named_parameters()}
    largest = max(float(one.norm()) for one in gradients.values())
    for key, parameter in ours.named_parameters():
        expected = gradients[peer_name(key)]
        # That of a bias before BatchNorm, or of phi's before softmax, is rounding alone.
        size = max(float(expected.norm()), 1e-4 * largest)
        assert float((parameter.grad - expected).norm()) < FLOAT64_GRADIENT * size, key
    statistics = theirs.state_dict()
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, statistics[peer_name(key)], **FLOAT64_SAME)


@pytest.mark.parametrize("pair", PAIRS[:2], ids=PAIR_NAMES[:2])
def test_tensors_of_the_hub_s_networks_are_ours(pair):
    with torch.device("meta"):
        theirs = pair.peer()
    found = {peer_name(key): value.shape for key, value in shapes_only(pair.name).state_dict().items()}
    assert found == {key: value.shape for key, value in theirs.state_dict().items()}


TORCHVISION = {
    "stem.conv": "conv1", "stem.bn": "bn1", "head.fc": "fc",
    "shortcut.conv": "downsample.0", "shortcut.bn": "downsample.1",
    "conv_a": "conv1", "conv_b": "conv2", "conv_c": "conv3", "bn_a": "bn1", "bn_b": "bn2", "bn_c": "bn3",
}  # fmt: skip


def flattened(model: NonLocalNet) -> dict[str, Tensor]:
    """The weights of a C2D network as those of torchvision's 2D ResNet."""
    state = {}
    for key, value in model.state_dict().items():
        place, leaf = key.rsplit(".", 1)
        if place.startswith("stages."):
            _, number, index, slot = place.split(".", 3)
            name = f"layer{int(number) + 1}.{index}.{TORCHVISION[slot]}"
        else:
            name = TORCHVISION[place]
        state[f"{name}.{leaf}"] = value.squeeze(2) if value.ndim == 5 else value
    return state


@torch.no_grad()
def test_c2d_on_a_still_clip_is_torchvision_s_resnet():
    torch.manual_seed(0)
    first = build("c2d_r50", num_classes=K).eval()
    randomize(first)
    theirs = torchvision.models.resnet50(num_classes=K).eval()
    theirs.load_state_dict(flattened(first))
    frame = torch.randn(2, 3, 1, 48, 40)
    expected = theirs(frame[:, :, 0])
    for layout in ("pytorchvideo", "paper", "mmaction2"):
        with torch.device("meta"):
            ours = build("c2d_r50", num_classes=K, layout=layout).eval()
        ours.load_state_dict(first.state_dict(), assign=True)
        assert relative_error(ours(frame.expand(-1, -1, 5, -1, -1)), expected) < FLOAT32_PEER, layout


def test_101_layers_are_torchvision_s():
    with torch.device("meta"):
        theirs = torchvision.models.resnet101(num_classes=400)
    found = {key: value.shape for key, value in flattened(shapes_only("c2d_r101")).items()}
    assert found == {key: value.shape for key, value in theirs.state_dict().items()}


@torch.no_grad()
def test_c2d_does_not_see_the_order_of_frames_except_through_its_pooling_of_pairs():
    torch.manual_seed(0)
    c2d, i3d = (build(name, num_classes=K, width=1 / 16).double().eval() for name in ("c2d_r50", "i3d_r50"))
    randomize(c2d)
    randomize(i3d)
    x = torch.randn(2, 3, 6, 40, 40, dtype=torch.float64)
    same_pairs = x[:, :, [3, 2, 0, 1, 5, 4]]
    torch.testing.assert_close(c2d(same_pairs), c2d(x), **FLOAT64_SAME)
    assert relative_error(c2d(x[:, :, [0, 2, 1, 3, 4, 5]]), c2d(x)) > NOTICED
    assert relative_error(i3d(same_pairs), i3d(x)) > NOTICED


@torch.no_grad()
@pytest.mark.parametrize("nl_blocks", [1, 5, 10])
def test_weights_of_the_plain_network_fit_and_new_blocks_change_nothing(nl_blocks):
    torch.manual_seed(0)
    plain = build("i3d_r50", num_classes=K, width=1 / 16)
    randomize(plain)
    model = build("i3d_r50", num_classes=K, width=1 / 16, nl_blocks=nl_blocks)
    kept = model.load_state_dict(plain.state_dict(), strict=False)
    assert not kept.unexpected_keys
    assert kept.missing_keys
    assert all(".nl" in key for key in kept.missing_keys)
    x = torch.randn(2, 3, 4, 40, 40)
    assert torch.equal(model.eval()(x), plain.eval()(x))


@torch.no_grad()
def test_a_new_network_s_branches_add_nothing():
    torch.manual_seed(0)
    model = build("i3d_r50_nl5", num_classes=K, width=1 / 16)
    x = torch.randn(2, 16, 3, 6, 6)  # res2's, behind its first block
    torch.testing.assert_close(model.stages[0][1:](x), x.relu(), rtol=0, atol=0)
    first = model.stages[1][0]
    torch.testing.assert_close(model.stages[1](x), first.shortcut(x).relu())
    assert model.head.dropout.p == 0.5


@pytest.mark.parametrize(
    ("layout", "pool", "scale"),
    [
        ("paper", "before", 1.0),
        ("caffe2", "before", 64**-0.5),
        ("caffe2_8x8", "before", 64**-0.5),
        ("pytorchvideo", "before", 64**-0.5),
        ("mmaction2", "after", 1.0),
    ],
)
def test_a_layout_says_how_its_blocks_pool_and_scale(layout, pool, scale):
    model = shapes_only("i3d_r50_nl5", layout=layout, width=1 / 4)
    block = model.get_submodule("stages.1.nl1")  # 512 / 4 channels, half of them inside
    assert (block.pool, block.logit_scale) == (pool, scale)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pools_are_torch_s(layout, channels_last):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 7, 13, 10, dtype=torch.float64)  # below zero too: padding must never win
    x = x.contiguous(memory_format=torch.channels_last_3d) if channels_last else x
    for pool in (LAYOUTS[layout].pool1, LAYOUTS[layout].pool2):
        ours, theirs = (x.clone().requires_grad_() for _ in range(2))
        found, expected = MaxPool(pool)(ours), F.max_pool3d(theirs, *pool)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert found.shape[2:] == tuple(pool.out(x.shape[axis + 2], axis) for axis in range(3))
        assert not channels_last or found.is_contiguous(memory_format=torch.channels_last_3d)
        for y in (found, expected):
            (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad, **FLOAT64_SAME)


def no_pool2(model: NonLocalNet) -> None:
    model.pool2 = nn.Identity()


def temporal_kernel_in_the_next_block(model: NonLocalNet) -> None:
    here, there = (model.get_submodule(f"stages.2.{index}") for index in (2, 3))
    here.conv_a, there.conv_a = there.conv_a, here.conv_a


def stride_in_the_first_convolution(model: NonLocalNet) -> None:
    block = model.stages[1][0]
    block.conv_a.stride, block.conv_b.stride = (1, 2, 2), (1, 1, 1)


def block_left_out(model: NonLocalNet) -> None:
    model.stages[1].nl3 = nn.Identity()


def block_moved(model: NonLocalNet) -> None:
    stage = model.stages[2]
    stage.nl1, stage.nl3 = stage.nl3, stage.nl1


def logits_not_scaled(model: NonLocalNet) -> None:
    model.stages[2].nl1.logit_scale = 1.0


def other_eps(model: NonLocalNet) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-2


def reversed_time(model: NonLocalNet) -> None:
    model.register_forward_pre_hook(lambda _, args: (args[0].flip(2),))


def exchanged_height_and_width(model: NonLocalNet) -> None:
    model.register_forward_pre_hook(lambda _, args: (args[0].transpose(3, 4),))


MUTATIONS = [
    no_pool2,
    temporal_kernel_in_the_next_block,
    stride_in_the_first_convolution,
    block_left_out,
    block_moved,
    logits_not_scaled,
    other_eps,
    reversed_time,
    exchanged_height_and_width,
]


@torch.no_grad()
@pytest.mark.parametrize("mutate", MUTATIONS)
def test_parity_notices(mutate: Callable[[NonLocalNet], None]):
    torch.manual_seed(0)
    model, mutant = (build("i3d_r50_nl5", num_classes=K, width=1 / 8).eval() for _ in range(2))
    randomize(model)
    mutant.load_state_dict(model.state_dict())
    mutate(mutant)
    x = torch.randn(2, 3, 4, 32, 32)
    assert relative_error(mutant(x), model(x)) > 100 * FLOAT32_PEER


@torch.no_grad()
def test_every_option_of_the_blocks_reaches_them():
    torch.manual_seed(0)
    plain = build("i3d_r50_nl5", num_classes=K, width=1 / 8)
    randomize(plain)
    x, outputs = torch.randn(2, 3, 4, 32, 32), []
    for arguments in (
        {},
        {"nl_kind": "dot_product"},
        {"nl_scope": "space"},
        {"nl_pool": "after"},
        {"nl_pool": "none"},
        {"bn_eps": 1e-2},
    ):
        model = build("i3d_r50_nl5", num_classes=K, width=1 / 8, **arguments)
        model.load_state_dict(plain.state_dict())
        assert model.get_submodule("stages.1.nl1.bn").eps == arguments.get("bn_eps", 1e-5)
        outputs.append(model.eval()(x))
    for index, one in enumerate(outputs):
        assert all(relative_error(one, other) > 100 * FLOAT32_PEER for other in outputs[:index])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_smallest_clip_runs_and_a_smaller_one_is_refused(layout):
    frames, pixels = smallest_clip(layout)
    model = build("i3d_r50_nl5", num_classes=K, width=1 / 32, layout=layout).eval()
    assert model(torch.zeros(1, 3, frames, pixels, pixels + 1)).isfinite().all()
    text = (
        rf"i3d_r50_nl5 in the layout '{layout}' takes at least {frames} frames of {pixels} x {pixels} pixels"
    )
    if frames > 1:
        with pytest.raises(ConfigError, match=rf"{text}, got {frames - 1} of 16 x 16: sample more frames"):
            model(torch.zeros(1, 3, frames - 1, 16, 16))
    if pixels > 1:
        with pytest.raises(ConfigError, match=text):
            model(torch.zeros(1, 3, 8, 16, pixels - 1))


@torch.no_grad()
def test_clips_of_other_lengths_and_odd_sizes_run():
    model = build("i3d_r50_nl5", num_classes=K, width=1 / 32, num_frames=8).eval()
    for size in ((2, 17, 31), (3, 64, 33), (16, 16, 16)):
        assert model(torch.zeros(1, 3, *size)).isfinite().all()


def test_bf16_steps_stay_finite_with_two_frames_in_the_last_stages():
    torch.manual_seed(0)
    model = build("i3d_r50_nl5", num_classes=K, width=1 / 8).train()
    assert model.bf16_safe
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(6):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(torch.randn(4, 3, 4, 32, 32))
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 3])).backward()
        bad = [key for key, one in model.named_parameters() if not one.grad.isfinite().all()]
        assert not bad, (step, bad)
        optimizer.step()


def test_clips_are_made_as_the_papers_make_them():
    strides = {}
    for layout in LAYOUTS:
        (spec,) = shapes_only("c2d_r50", layout=layout).default_specs
        strides[layout] = (spec.num_frames, spec.frame_stride)
        assert (spec.resize, spec.crop, spec.mean, spec.std) == (256, 224, (0.45,) * 3, (0.225,) * 3)
    assert strides == {
        "paper": (32, 2),
        "caffe2": (32, 2),
        "caffe2_8x8": (8, 8),
        "pytorchvideo": (8, 8),
        "mmaction2": (32, 2),
    }
    (spec,) = shapes_only("i3d_r50_nl5", num_frames=128).default_specs
    assert (spec.num_frames, spec.frame_stride) == (128, 1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"trunk": "c2d_r18"}, "trunk must be one of 'c2d_r50', .*, got 'c2d_r18'"),
        ({"layout": "tf"}, "layout must be one of 'paper', 'caffe2', .*, got 'tf'"),
        ({"nl_blocks": 3}, "nl_blocks must be one of 0, 1, 5, 10, 'res2', .*, got 3"),
        ({"width": 0}, "width must be above 0, got 0"),
        ({"num_frames": 0}, "num_frames must be above 0, got 0"),
        ({"nl_kind": "gaussian"}, "there are none: add nl_blocks=1, 5 or 10, or leave them out"),
        ({"nl_blocks": 1, "nl_kind": "x", "width": 0.1}, "kind must be one of 'gaussian', .*, got 'x'"),
    ],
)
def test_arguments_that_make_no_sense(arguments, text):
    with pytest.raises(ConfigError, match=text):
        NonLocalNet(**{"trunk": "c2d_r50", **arguments})
