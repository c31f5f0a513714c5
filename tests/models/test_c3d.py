"""C3D against the paper's counts, identities, loops in float64 and a network of plain modules.

Mutations that a test here must notice, each by `test_parity_notices`: time reversed, height and width
exchanged, another pool5, a ReLU missing, a bias missing, the order in which fc6 sees its inputs.
"""

import math
from collections.abc import Callable

import pytest
import torch
from tolerances import FLOAT32_PEER, FLOAT64_GRADIENT, FLOAT64_PEER, FLOAT64_SAME, NOTICED, relative_error
from torch import Tensor, nn

from muybridge.errors import ConfigError
from muybridge.models.c3d import C3D, ConvRelu, clip_spec
from muybridge.models.count import count_macs, count_parameters
from muybridge.models.registry import build

CLIP = (3, 16, 112, 112)
# Fig. 3: parameters of each layer, and its output without the batch.
LAYERS = {
    "conv1a": (5_248, (64, 16, 112, 112)),
    "pool1": (0, (64, 16, 56, 56)),
    "conv2a": (221_312, (128, 16, 56, 56)),
    "pool2": (0, (128, 8, 28, 28)),
    "conv3a": (884_992, (256, 8, 28, 28)),
    "conv3b": (1_769_728, (256, 8, 28, 28)),
    "pool3": (0, (256, 4, 14, 14)),
    "conv4a": (3_539_456, (512, 4, 14, 14)),
    "conv4b": (7_078_400, (512, 4, 14, 14)),
    "pool4": (0, (512, 2, 7, 7)),
    "conv5a": (7_078_400, (512, 2, 7, 7)),
    "conv5b": (7_078_400, (512, 2, 7, 7)),
    "pool5": (0, (512, 1, 4, 4)),
    "fc6": (33_558_528, (4096,)),
    "fc7": (16_781_312, (4096,)),
}


def shapes_only(name: str = "c3d", **arguments: object) -> C3D:
    """A network without memory: for counting."""
    with torch.device("meta"):
        model = build(name, **arguments)
    assert isinstance(model, C3D)
    return model


def small(*, num_frames: int = 16, crop: int = 32, width: float = 1 / 16, **arguments: object) -> C3D:
    """A network with memory and every value of weight and bias random, in float64."""
    torch.manual_seed(0)
    model = build("c3d", num_classes=7, num_frames=num_frames, crop=crop, width=width, **arguments)
    for parameter in model.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 4
        nn.init.normal_(parameter, std=math.sqrt(2 / fan))
    assert isinstance(model, C3D)
    return model.double().eval()


@pytest.mark.parametrize(
    ("num_classes", "parameters"), [(101, 78_409_573), (400, 79_634_576), (487, 79_991_015)]
)
def test_counts_of_the_whole_network(num_classes: int, parameters: int):
    model = shapes_only(num_classes=num_classes)
    assert count_parameters(model) == parameters
    assert round(count_macs(model, CLIP) / 1e9, 2) == 38.55


def test_each_layer_of_figure_3():
    model, shapes = shapes_only(), {}
    layers = {name: model.get_submodule(name) for name in LAYERS}
    for name, layer in layers.items():
        layer.register_forward_hook(
            lambda _, args, out, name=name: shapes.update({name: tuple(out.shape[1:])})
        )
    model.eval()(torch.empty(1, *CLIP, device="meta"))
    found = {name: (count_parameters(layer), shapes[name]) for name, layer in layers.items()}
    assert found == LAYERS
    assert list(shapes) == list(LAYERS)  # also in this order
    assert sum(count_parameters(layer) for name, layer in layers.items() if "conv" in name) == 27_655_936


def test_counts_of_the_ports():
    # mmaction2's has the original's, VMZ's (BatchNorm, 3 x 3 cells into fc6) its own.
    assert count_parameters(shapes_only(num_classes=101, pool5="symmetric")) == 78_409_573
    vmz = shapes_only(num_classes=400, pool5="floor", bn_eps=1e-3)
    assert count_parameters(vmz) == 64_960_016
    assert round(count_macs(vmz, CLIP) / 1e9, 1) == 38.5
    assert [shapes_only(pool5=kind).fc6.in_features for kind in ("ceil", "symmetric", "floor")] == [
        8192,
        8192,
        4608,
    ]


@pytest.mark.parametrize("depths", [(1,) * 5, (3,) * 5, (5,) * 5, (7,) * 5, (3, 3, 5, 5, 7), (7, 5, 5, 3, 3)])
def test_counts_of_the_study_of_kernel_depths(depths):
    model = shapes_only("c3d_small", num_classes=101, kernel_depths=list(depths))
    channels = (3, 64, 128, 256, 256, 256)
    convs = [9 * d * n + 1 for d, n in zip(depths, channels, strict=False)]  # of one output channel
    by_hand = sum(count * out for count, out in zip(convs, channels[1:], strict=True))
    by_hand += (4096 + 1) * 2048 + (2048 + 1) * 2048 + (2048 + 1) * 101  # fc6 has 256 x 1 x 4 x 4 inputs
    assert count_parameters(model) == by_hand
    kernels = [module.kernel_size for module in model.modules() if isinstance(module, ConvRelu)]
    assert kernels == [(depth, 3, 3) for depth in depths]


def pool_in_loops(x: Tensor, kind: str) -> Tensor:
    """2 x 2 x 2 windows as each code base lays them, of values that a ReLU has passed."""
    _, _, frames, height, width = x.shape
    windows = {
        "ceil": lambda n: [[at, at + 1] for at in range(0, n, 2)],
        "symmetric": lambda n: [[at - 1, at] for at in range(0, n + 1, 2)],
        "floor": lambda n: [[at, at + 1] for at in range(0, n - 1, 2)],
    }[kind]
    times = [[t, t + 1] for t in range(0, frames - 1, 2)]
    rows, columns = windows(height), windows(width)
    y = torch.zeros(*x.shape[:2], len(times), len(rows), len(columns), dtype=x.dtype)
    for t, span in enumerate(times):
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                cells = [
                    x[:, :, a, b, c]
                    for a in span
                    for b in row
                    for c in column
                    if 0 <= b < height and 0 <= c < width
                ]
                y[:, :, t, i, j] = torch.stack(cells).amax(0)
    return y


@pytest.mark.parametrize(("kind", "side"), [("ceil", 4), ("symmetric", 4), ("floor", 3)])
def test_pool5_is_each_code_base_s_in_loops(kind: str, side: int):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 2, 7, 7, dtype=torch.float64).relu()
    y = shapes_only(width=1 / 16, pool5=kind).pool5(x)
    assert y.shape == (2, 5, 1, side, side)
    torch.testing.assert_close(y, pool_in_loops(x, kind), rtol=0, atol=0)


def test_the_original_pool5_is_zeros_at_the_far_ends_and_the_ports_is_not():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 2, 7, 7, dtype=torch.float64).relu()
    ceil, symmetric = (shapes_only(width=1 / 16, pool5=kind).pool5(x) for kind in ("ceil", "symmetric"))
    torch.testing.assert_close(ceil, nn.MaxPool3d(2)(nn.functional.pad(x, (0, 1, 0, 1))), rtol=0, atol=0)
    assert relative_error(symmetric, ceil) > NOTICED


def conv_in_loops(x: Tensor, conv: ConvRelu) -> Tensor:
    """The definition, position by position, zeros outside; then the bias and the ReLU."""
    kernel = conv.weight.shape[2:]
    y = conv.bias.view(1, -1, 1, 1, 1).expand(len(x), -1, *x.shape[2:]).clone()
    for position in torch.cartesian_prod(*map(torch.arange, x.shape[2:])).tolist():
        for tap in torch.cartesian_prod(*map(torch.arange, kernel)).tolist():
            at = [p + k - size // 2 for p, k, size in zip(position, tap, kernel, strict=True)]
            if all(0 <= a < n for a, n in zip(at, x.shape[2:], strict=True)):
                weight = conv.weight[:, :, tap[0], tap[1], tap[2]]
                y[:, :, position[0], position[1], position[2]] += x[:, :, at[0], at[1], at[2]] @ weight.T
    return y.clamp(min=0)


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 3, 5, 7])
def test_a_layer_is_a_convolution_in_loops(depth: int):
    torch.manual_seed(0)
    conv = ConvRelu(3, 4, depth=depth, bn_eps=None).double()
    x = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(conv(x), conv_in_loops(x, conv), **FLOAT64_SAME)


def plain_c3d(ours: C3D) -> nn.Sequential:
    """Fig. 3 from torch's own modules, written down a second time, with the weights of ours."""
    c, f, k = ours.conv1a.out_channels, ours.feature_dim, ours.num_classes
    pool = {"kernel_size": 2, "ceil_mode": ours.pool5_kind == "ceil"}
    pad = (0, 1, 1) if ours.pool5_kind == "symmetric" else 0

    def conv(channels: int, out: int) -> list[nn.Module]:
        return [nn.Conv3d(channels, out, 3, padding=1), nn.ReLU()]

    net = nn.Sequential(
        *conv(3, c), nn.MaxPool3d((1, 2, 2)),
        *conv(c, 2 * c), nn.MaxPool3d(2),
        *conv(2 * c, 4 * c), *conv(4 * c, 4 * c), nn.MaxPool3d(2),
        *conv(4 * c, 8 * c), *conv(8 * c, 8 * c), nn.MaxPool3d(2),
        *conv(8 * c, 8 * c), *conv(8 * c, 8 * c), nn.MaxPool3d(**pool, padding=pad),
        nn.Flatten(), nn.Linear(ours.fc6.in_features, f), nn.ReLU(), nn.Dropout(),
        nn.Linear(f, f), nn.ReLU(), nn.Dropout(), nn.Linear(f, k),
    ).double().eval()  # fmt: skip
    theirs = [module for module in net if isinstance(module, nn.Conv3d | nn.Linear)]
    names = (*ours.stage_names, "head.fc")
    for name, module in zip(names, theirs, strict=True):
        module.load_state_dict(ours.get_submodule(name).state_dict())
    return net


@pytest.mark.parametrize("pool5", ["ceil", "symmetric", "floor"])
def test_outputs_and_gradients_are_those_of_plain_modules(pool5: str):
    ours = small(crop=48, pool5=pool5)  # pool5 halves 3 x 3
    theirs = plain_c3d(ours)
    clip = torch.randn(2, 3, 16, 48, 48, dtype=torch.float64)
    with torch.no_grad():
        assert relative_error(ours(clip), theirs(clip)) < FLOAT64_PEER
    for model in (ours, theirs):
        nn.functional.cross_entropy(model(clip), torch.tensor([3, 5])).backward()
    expected = [p.grad for p in theirs.parameters()]
    names = [f"{name}.{leaf}" for name in (*ours.stage_names, "head.fc") for leaf in ("weight", "bias")]
    for name, gradient in zip(names, expected, strict=True):
        assert relative_error(ours.get_parameter(name).grad, gradient) < FLOAT64_GRADIENT, name
    with torch.no_grad():
        assert relative_error(ours.float()(clip.float()), theirs.float()(clip.float())) < FLOAT32_PEER


def other_pool5(model: C3D) -> None:
    model.pool5 = nn.MaxPool3d(2, padding=(0, 1, 1))


def no_relu(model: C3D) -> None:
    conv = model.conv3a
    plain = nn.Conv3d(conv.in_channels, conv.out_channels, 3, padding=1).double()
    plain.load_state_dict(conv.state_dict())
    model.conv3a = plain


def no_bias(model: C3D) -> None:
    nn.init.zeros_(model.conv2a.bias)


def fc6_sees_pixels_before_channels(model: C3D) -> None:
    model.pool5.register_forward_hook(lambda _, args, y: y.permute(0, 2, 3, 4, 1).reshape(y.shape))


def reversed_time(model: C3D) -> None:
    model.register_forward_pre_hook(lambda _, args: (args[0].flip(2),))


def exchanged_height_and_width(model: C3D) -> None:
    model.register_forward_pre_hook(lambda _, args: (args[0].transpose(3, 4),))


MUTATIONS = [
    other_pool5,
    no_relu,
    no_bias,
    fc6_sees_pixels_before_channels,
    reversed_time,
    exchanged_height_and_width,
]


@torch.no_grad()
@pytest.mark.parametrize("mutate", MUTATIONS)
def test_parity_notices(mutate: Callable[[C3D], None]):
    mutant = small(crop=48)
    theirs = plain_c3d(mutant)
    mutate(mutant)
    clip = torch.randn(2, 3, 16, 48, 48, dtype=torch.float64)
    assert relative_error(mutant(clip), theirs(clip)) > NOTICED


@torch.no_grad()
def test_depth_1_does_not_see_the_order_of_frames_that_are_pooled_together():
    torch.manual_seed(0)
    shuffled = list(range(16))
    shuffled[0:2], shuffled[6:8] = [1, 0], [7, 6]  # pool2's windows of two frames
    clip = torch.randn(2, 3, 16, 32, 32, dtype=torch.float64)
    for depth, sees in ((1, False), (3, True)):
        model = small(kernel_depths=[depth] * 5)
        moved = relative_error(model(clip[:, :, shuffled]), model(clip))
        assert (moved > NOTICED) == sees
        assert moved == 0 or sees


@torch.no_grad()
def test_depth_1_on_a_still_clip_is_the_2d_network_on_its_frame():
    torch.manual_seed(0)
    model = small(kernel_depths=[1] * 5)
    picture = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    x = picture
    for name in model.layer_names:
        layer = model.get_submodule(name)
        if isinstance(layer, ConvRelu):
            x = nn.functional.conv2d(x, layer.weight.squeeze(2), layer.bias, padding=1).relu()
        else:
            x = nn.functional.max_pool2d(x, 2)
    found = model.forward_features(picture[:, :, None].expand(-1, -1, 16, -1, -1))
    torch.testing.assert_close(found, model.fc7(model.fc6(x.flatten(1))), **FLOAT64_SAME)


@torch.no_grad()
def test_the_descriptor_is_fc6_after_its_relu_and_without_dropout():
    model = small(dropout=0.9)
    clip = torch.randn(2, 3, 16, 32, 32, dtype=torch.float64)
    x = clip
    for name in model.layer_names:
        x = model.get_submodule(name)(x)
    expected = nn.functional.linear(x.flatten(1), model.fc6.weight, model.fc6.bias).relu()
    found = model.embed(clip, layer="fc6")
    torch.testing.assert_close(found, expected, **FLOAT64_SAME)
    assert 0.1 < float((found == 0).double().mean()) < 0.9
    assert shapes_only().fc6.out_features == 4096
    torch.testing.assert_close(model.embed(clip), model.embed(clip, layer="fc7"), rtol=0, atol=0)


def test_dropout_lies_behind_fc6_and_fc7():
    torch.manual_seed(0)
    model, clip = small(dropout=0.5).train(), torch.randn(1, 3, 16, 32, 32, dtype=torch.float64)
    seen: dict[str, Tensor] = {}
    model.fc7.register_forward_pre_hook(lambda _, args: seen.update(fc7=args[0]))
    model.head.fc.register_forward_pre_hook(lambda _, args: seen.update(fc8=args[0]))
    model.fc6.register_forward_hook(lambda _, args, y: seen.update(fc6=y))
    model(clip)
    kept = seen["fc7"] != 0
    torch.testing.assert_close(seen["fc7"][kept], 2 * seen["fc6"][kept], **FLOAT64_SAME)
    assert 0 < int(kept.sum()) < int((seen["fc6"] != 0).sum())
    assert model.head.dropout.p == 0.5
    assert not torch.equal(model(clip), model(clip))


def test_batch_norm_of_vmz_lies_between_convolution_and_relu():
    torch.manual_seed(0)
    conv = ConvRelu(3, 4, depth=3, bn_eps=1e-3).double()
    x = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    y = nn.functional.conv3d(x, conv.weight, conv.bias, padding=1)
    mean, var = y.mean((0, 2, 3, 4), keepdim=True), y.var((0, 2, 3, 4), keepdim=True, unbiased=False)
    torch.testing.assert_close(conv(x), ((y - mean) / (var + 1e-3).sqrt()).relu(), **FLOAT64_SAME)


def test_weights_start_as_in_the_authors_solver():
    torch.manual_seed(0)
    model = build("c3d_small", num_classes=9)
    for name, std, bias in (
        ("conv1a", 0.01, 0.0),
        ("conv2a", 0.01, 1.0),
        ("conv5a", 0.01, 1.0),
        ("fc6", 0.005, 1.0),
        ("fc7", 0.005, 1.0),
        ("head.fc", 0.01, 0.0),
    ):
        layer = model.get_submodule(name)
        assert float(layer.weight.detach().std()) == pytest.approx(std, rel=0.05), name
        assert layer.bias.detach().unique().tolist() == [bias], name


@torch.no_grad()
def test_signals_start_as_large_in_a_narrow_network():
    torch.manual_seed(0)
    clip = 60 * torch.randn(2, 3, 16, 32, 32)
    sizes = []
    for width in (1.0, 1 / 8):
        model = build("c3d_small", num_classes=9, width=width, crop=32).eval()
        sizes.append(
            [float(model.embed(clip, layer=name).pow(2).mean().sqrt()) for name in model.stage_names]
        )
    for wide, narrow in zip(*sizes, strict=True):
        assert narrow == pytest.approx(wide, rel=0.35)


def test_clips_are_made_as_the_authors_and_mmaction2_make_them():
    (spec,) = shapes_only().default_specs
    assert (spec.num_frames, spec.frame_stride, spec.resize, spec.crop) == (16, 1, (128, 171), 112)
    assert (spec.scale, spec.channel_order, spec.mean, spec.std) == (255, "bgr", (128,) * 3, (1,) * 3)
    (spec,) = shapes_only(pool5="symmetric").default_specs
    assert (spec.resize, spec.channel_order, spec.mean) == (128, "rgb", (104, 117, 128))
    assert clip_spec(8, 56).num_frames == 8


def test_a_clip_of_another_size_says_what_to_do():
    model = build("c3d", num_classes=7, width=1 / 32, num_frames=16, crop=32)
    text = (
        "c3d was built for clips of exactly 16 x 32 x 32, which fc6 fixes, got {}: build it with {}, or make"
    )
    for shape, found, argument in (
        ((8, 32, 32), "8 x 32 x 32", "num_frames=8"),
        ((16, 40, 40), "16 x 40 x 40", "crop=40"),
    ):
        with pytest.raises(ConfigError, match=text.format(found, argument)):
            model(torch.zeros(1, 3, *shape))
    with pytest.raises(
        ConfigError, match=r"c3d takes \[B, 3, T, H, W\], got .*: is time before the channels"
    ):
        model(torch.zeros(1, 16, 3, 32, 32))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"net": "huge"}, "no C3D 'huge': choose from deep, small"),
        ({"width": 0}, "width must be above 0, got 0"),
        ({"pool5": "pad"}, "pool5 must be one of ceil, symmetric, floor, got 'pad'"),
        ({"kernel_depths": (3, 3)}, "kernel_depths must be 5 odd numbers, .* got 3, 3$"),
        ({"kernel_depths": (3, 3, 4, 3, 3)}, "kernel_depths must be 5 odd numbers, .* got 3, 3, 4, 3, 3"),
        (
            {"pool5": "floor", "num_frames": 8},
            "pool5 leaves nothing of a clip of 8 x 112 x 112 with pool5='floor': take at least 16 frames",
        ),
        ({"pool5": "symmetric", "crop": 8}, "pool4 leaves nothing of a clip of 16 x 8 x 8"),
        ({"num_frames": 0}, "num_frames: .*greater than or equal to 1, got 0"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, object], text: str):
    with torch.device("meta"), pytest.raises(ConfigError, match=text):
        C3D(**arguments)


def test_bf16_steps_stay_finite_with_one_frame_in_the_last_group():
    torch.manual_seed(0)
    model = build("c3d", num_classes=5, width=1 / 16, num_frames=8, crop=32).train()
    assert model.bf16_safe
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for step in range(8):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(20 * torch.randn(4, 3, 8, 32, 32))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 3])).backward()
        bad = [key for key, one in model.named_parameters() if not one.grad.isfinite().all()]
        assert not bad, (step, bad)
        optimizer.step()


def test_it_learns_a_few_clips_by_heart():
    torch.manual_seed(0)
    model = build("c3d", num_classes=4, width=1 / 16, num_frames=8, crop=16, dropout=0.0).train()
    clips, classes = 60 * torch.randn(20, 3, 8, 16, 16), torch.arange(20) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    for _ in range(100):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(clips), classes)
        loss.backward()
        optimizer.step()
    assert bool((model(clips).argmax(1) == classes).all())
