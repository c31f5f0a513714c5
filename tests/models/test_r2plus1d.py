"""R(2+1)D and its relatives against the paper's counts, identities, loops in float64 and torchvision.

Mutations that a test here must notice, each by `test_parity_notices`: time reversed, height and width
exchanged, a temporal padding or a stride moved, a BatchNorm dropped, another eps, a ReLU missing.
"""

from collections.abc import Callable

import pytest
import torch
import torchvision
from random_norms import randomize_norms
from tolerances import FLOAT32_PEER, FLOAT64_GRADIENT, FLOAT64_PEER, FLOAT64_SAME, NOTICED, relative_error
from torch import Tensor, nn

from muybridge.errors import ConfigError
from muybridge.models.count import count_macs, count_parameters
from muybridge.models.r2plus1d import VARIANTS, Conv2Plus1d, VideoResNet, mid_channels
from muybridge.models.registry import build
from muybridge.weights.convert import convert

# Parameters and GMAC (8 frames, 16 frames) of 18 layers at 112 x 112 and 400 classes, and the GMAC that the
# authors' repository prints. R2D's parameters depend on the frames.
TABLE = {
    "r2d": ((11_447_568, 11_522_832), (1.93, 2.17), (1.9, 2.2)),
    "fr2d": ((11_381_712,) * 2, (13.80, 27.60), (13.8, 27.6)),
    "r3d": ((33_371_472,) * 2, (20.35, 40.70), (20.3, 40.7)),
    "mc2": ((11_400_528,) * 2, (14.27, 28.55), (14.3, 28.5)),
    "mc3": ((11_695_440,) * 2, (21.67, 43.34), (21.7, 43.3)),
    "mc4": ((12_727_632,) * 2, (19.98, 39.95), (20, 40)),
    "mc5": ((16_856_400,) * 2, (19.95, 39.90), (20, 39.9)),
    "rmc2": ((33_352_656,) * 2, (19.88, 39.75), (19.9, 39.8)),
    "rmc3": ((33_057_744,) * 2, (12.48, 24.95), (12.5, 25)),
    "rmc4": ((32_025_552,) * 2, (14.55, 29.09), (14.5, 29.1)),
    "rmc5": ((27_896_784,) * 2, (15.39, 30.79), (15.4, 30.8)),
    "r2plus1d": ((33_370_839,) * 2, (20.75, 41.50), (20.7, 41.5)),
}
PEERS = {"r3d_18": "r3d_18", "mc3_18": "mc3_18", "r2plus1d_18_torchvision": "r2plus1d_18"}


def shapes_only(name: str, **arguments: object) -> VideoResNet:
    """A network without memory: for counting."""
    with torch.device("meta"):
        model = build(name, **arguments)
    assert isinstance(model, VideoResNet)
    return model


def test_the_table_is_the_whole_family():
    assert list(TABLE) == list(VARIANTS)


@pytest.mark.parametrize("variant", TABLE)
def test_counts_of_18_layers(variant):
    parameters, gmacs, printed = TABLE[variant]
    for num_frames, count, gmac, authors in zip((8, 16), parameters, gmacs, printed, strict=True):
        model = shapes_only(f"{variant}_18", num_frames=num_frames)
        assert count_parameters(model) == count
        ours = count_macs(model, (3, num_frames, 112, 112)) / 1e9
        assert round(ours, 2) == gmac
        assert ours == pytest.approx(authors, abs=0.0501)  # one digit, and not always rounded the same way


@pytest.mark.parametrize(
    ("name", "arguments", "parameters", "num_frames", "gmac"),
    [
        ("r3d_34", {}, 63_681_104, 8, 37.7),
        ("r3d_34", {}, 63_681_104, 32, 150.8),
        ("r2plus1d_34", {}, 63_697_175, 8, 38.1),
        ("r2plus1d_34", {}, 63_697_175, 32, 152.4),
        ("r2plus1d_34", {"num_classes": 487}, 63_741_806, 32, 152.4),  # IG-65M's heads
        ("r2plus1d_34", {"num_classes": 359}, 63_676_142, 32, 152.4),
        ("r2plus1d_18_torchvision", {}, 31_505_325, 16, 40.5),
    ],
)
def test_counts_of_other_networks(name, arguments, parameters, num_frames, gmac):
    model = shapes_only(name, **arguments)
    assert count_parameters(model) == parameters
    assert round(count_macs(model, (3, num_frames, 112, 112)) / 1e9, 1) == gmac


def test_34_layers_at_128_pixels_cost_what_the_authors_repository_says():
    model = shapes_only("r2plus1d_34")
    assert count_macs(model, (3, 8, 128, 128)) / 1e9 == pytest.approx(49.8, abs=0.06)  # 49.749
    assert count_macs(model, (3, 32, 128, 128)) / 1e9 == pytest.approx(199.0, abs=0.06)


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "mid"),
    [
        (64, 64, 144),
        (64, 128, 230),
        (128, 128, 288),
        (128, 256, 460),
        (256, 256, 576),
        (256, 512, 921),
        (512, 512, 1152),
    ],
)
def test_mid_channels_cost_what_the_3d_convolution_costs(in_channels, out_channels, mid):
    assert mid_channels(in_channels, out_channels) == mid
    full, one_channel = 27 * in_channels * out_channels, 9 * in_channels + 3 * out_channels
    factored = (
        count_parameters(Conv2Plus1d(in_channels, out_channels, mid=mid)) - 2 * mid
    )  # without BatchNorm
    assert full - one_channel < factored <= full


def test_each_convolution_has_its_own_middle_width():
    def mids(name: str) -> list[int]:
        convs = [one for one in shapes_only(name).modules() if isinstance(one, Conv2Plus1d)]
        return [one.spatial.out_channels for one in convs]

    same = [144] * 4
    assert mids("r2plus1d_18") == [45, *same, 230, 288, 288, 288, 460, 576, 576, 576, 921, 1152, 1152, 1152]
    assert mids("r2plus1d_18_torchvision") == [
        45, *same, 230, 230, 288, 288, 460, 460, 576, 576, 921, 921, 1152, 1152,
    ]  # fmt: skip


def test_the_paper_s_parity_holds_for_the_whole_network_and_not_for_torchvision_s():
    ours, r3d = count_parameters(shapes_only("r2plus1d_18")), count_parameters(shapes_only("r3d_18"))
    assert abs(ours / r3d - 1) < 0.001
    assert count_parameters(shapes_only("r2plus1d_18_torchvision")) / r3d < 0.95


def test_width_scales_every_count_and_the_middle_follows():
    model = shapes_only("r2plus1d_18", width=0.5)
    assert model.stem.conv.spatial.out_channels == 22
    assert [stage[0].conv_a.temporal.out_channels for stage in model.stages] == [32, 64, 128, 256]
    assert model.stages[1][0].conv_a.spatial.out_channels == mid_channels(32, 64)
    assert model.feature_dim == 256


@pytest.mark.parametrize(
    ("variants", "lengths"),
    [
        (("r2d",), (1, 1, 1, 1, 1)),
        (("fr2d", "mc2", "mc3"), (16, 16, 16, 16, 16)),
        (("mc4",), (16, 16, 8, 8, 8)),
        (("mc5",), (16, 16, 8, 4, 4)),
        (("r3d", "r2plus1d", "rmc2", "rmc3"), (16, 16, 8, 4, 2)),
        (("rmc4",), (16, 16, 16, 8, 4)),
        (("rmc5",), (16, 16, 16, 16, 8)),
    ],
)
def test_time_and_space_after_each_group(variants, lengths):
    for variant in variants:
        model = shapes_only(f"{variant}_18", width=1 / 16)
        x = model.stem(torch.empty(1, 3, 16, 112, 112, device="meta"))
        shapes = [x.shape]
        for stage in model.stages:
            x = stage(x)
            shapes.append(x.shape)
        assert [shape[2] for shape in shapes] == list(lengths), variant
        assert [shape[3] for shape in shapes] == [56, 56, 28, 14, 7]


def naive_conv3d(x: Tensor, weight: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """The definition, position by position, zeros outside."""
    kernel = weight.shape[2:]
    pads = [size // 2 for size in kernel]
    outs = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(x.shape[2:], pads, kernel, stride, strict=True)]
    y = torch.zeros(len(x), len(weight), *outs, dtype=x.dtype)
    for position in torch.cartesian_prod(*map(torch.arange, outs)).tolist():
        for tap in torch.cartesian_prod(*map(torch.arange, kernel)).tolist():
            at = [o * s + k - p for o, s, k, p in zip(position, stride, tap, pads, strict=True)]
            if all(0 <= a < n for a, n in zip(at, x.shape[2:], strict=True)):
                t, h, w = position
                y[:, :, t, h, w] += x[:, :, at[0], at[1], at[2]] @ weight[:, :, tap[0], tap[1], tap[2]].T
    return y


@torch.no_grad()
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (1, 2, 2)])
def test_conv2plus1d_is_figure_2_in_loops(stride):
    torch.manual_seed(0)
    conv = Conv2Plus1d(3, 4, mid=5, stride=stride, bn_eps=1e-3).double().eval()
    randomize_norms(conv)
    x = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    y = naive_conv3d(x, conv.spatial.weight, (1, *stride[1:]))
    bn = conv.mid_bn
    mean, var, scale, shift = (
        one.view(1, -1, 1, 1, 1) for one in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    y = ((y - mean) / (var + 1e-3).sqrt() * scale + shift).clamp(min=0)
    y = naive_conv3d(y, conv.temporal.weight, (stride[0], 1, 1))
    torch.testing.assert_close(conv(x), y, **FLOAT64_SAME)


@torch.no_grad()
def test_fr2d_on_a_frozen_clip_is_the_2d_network_and_does_not_see_order():
    torch.manual_seed(0)
    model = build("fr2d_18", num_classes=7, width=1 / 8).double().eval()
    randomize_norms(model)
    frame = torch.randn(2, 3, 1, 40, 40, dtype=torch.float64)
    torch.testing.assert_close(model(frame.expand(-1, -1, 6, -1, -1)), model(frame), **FLOAT64_SAME)
    clip = torch.randn(2, 3, 6, 40, 40, dtype=torch.float64)
    torch.testing.assert_close(model(clip.flip(2)), model(clip), **FLOAT64_SAME)


@torch.no_grad()
def test_r2d_is_a_2d_network_over_the_frames_as_channels():
    torch.manual_seed(0)
    model = build("r2d_18", num_classes=7, width=1 / 8, num_frames=4).double().eval()
    randomize_norms(model)
    clip = torch.randn(2, 3, 4, 40, 40, dtype=torch.float64)
    as_channels = nn.functional.conv2d(
        clip.flatten(1, 2), model.stem.conv.weight.flatten(1, 2), stride=2, padding=3
    )
    y = model.stem.relu(model.stem.bn(as_channels[:, :, None]))
    torch.testing.assert_close(model.head(model.stages(y).mean((2, 3, 4))), model(clip), **FLOAT64_SAME)
    assert relative_error(model(clip.flip(2)), model(clip)) > NOTICED


def test_r2d_takes_exactly_its_frames():
    model = build("r2d_10", num_classes=7, width=1 / 8, num_frames=8)
    text = "r2d_10 was built for clips of exactly 8 frames, got 16: build it with num_frames=16, or sample 8"
    for frames in (16, 7):
        with pytest.raises(ConfigError, match=text.replace("16", str(frames))):
            model(torch.zeros(1, 3, frames, 32, 32))


@torch.no_grad()
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "r2d"])
def test_weights_of_8_frames_run_on_32(variant):
    model = build(f"{variant}_10", num_classes=7, width=1 / 16, num_frames=8).eval()
    assert model(torch.zeros(1, 3, 32, 24, 24)).shape == (1, 7)


@torch.no_grad()
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "fr2d"])
def test_all_but_fr2d_see_the_order_of_frames(variant):
    torch.manual_seed(0)
    model = build(f"{variant}_10", num_classes=7, width=1 / 16, num_frames=8).eval()
    randomize_norms(model)
    clip = torch.randn(2, 3, 8, 32, 32)
    assert relative_error(model(clip.flip(2)), model(clip)) > NOTICED


def paired(ours_name: str, *, num_classes: int = 11) -> tuple[VideoResNet, nn.Module]:
    """Ours and torchvision's with the same random weights, in float64."""
    torch.manual_seed(0)
    theirs = getattr(torchvision.models.video, PEERS[ours_name])(num_classes=num_classes).double()
    randomize_norms(theirs)
    ours = build(ours_name, num_classes=num_classes).double()
    ours.load_state_dict(convert(theirs.state_dict()).tensors)
    assert isinstance(ours, VideoResNet)
    return ours.eval(), theirs.eval()


@pytest.mark.parametrize("name", PEERS)
def test_outputs_and_gradients_are_torchvision_s(name):
    ours, theirs = paired(name)
    clip = torch.randn(2, 3, 8, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        assert relative_error(ours(clip), theirs(clip)) < FLOAT64_PEER
    for model in (ours, theirs):
        model.train()
        nn.functional.cross_entropy(model(clip), torch.tensor([3, 5])).backward()
    gradients = convert({key: one.grad for key, one in theirs.named_parameters()}).tensors
    for key, parameter in ours.named_parameters():
        assert relative_error(parameter.grad, gradients[key]) < FLOAT64_GRADIENT, key
    statistics = convert(theirs.state_dict()).tensors
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, statistics[key], **FLOAT64_SAME)
    ours, theirs = ours.eval().float(), theirs.eval().float()
    with torch.no_grad():
        assert relative_error(ours(clip.float()), theirs(clip.float())) < FLOAT32_PEER


def drop_inner_norm(model: VideoResNet) -> None:
    model.stages[1][0].conv_b.mid_bn = nn.Identity()


def drop_outer_norm(model: VideoResNet) -> None:
    model.stages[2][1].bn_a = nn.Identity()


def drop_inner_relu(model: VideoResNet) -> None:
    model.stages[0][0].conv_a.relu = nn.Identity()


def stride_in_the_other_convolution(model: VideoResNet) -> None:
    block = model.stages[1][0]
    block.conv_a.temporal.stride, block.conv_b.temporal.stride = (1, 1, 1), (2, 1, 1)


def pad_time_at_one_end(model: VideoResNet) -> None:
    conv = model.stages[0][0].conv_b.temporal
    conv.register_forward_pre_hook(lambda _, args: (torch.roll(args[0], 1, dims=2),))


def other_eps(model: VideoResNet) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-2


def reversed_time(model: VideoResNet) -> None:
    model.register_forward_pre_hook(lambda _, args: (args[0].flip(2),))


def exchanged_height_and_width(model: VideoResNet) -> None:
    model.register_forward_pre_hook(lambda _, args: (args[0].transpose(3, 4),))


def no_identity(model: VideoResNet) -> None:
    block = model.stages[0][1]
    block.shortcut = nn.Identity()
    block.shortcut.register_forward_hook(lambda module, args, output: 0 * output)


MUTATIONS = [
    drop_inner_norm,
    drop_outer_norm,
    drop_inner_relu,
    stride_in_the_other_convolution,
    pad_time_at_one_end,
    other_eps,
    reversed_time,
    exchanged_height_and_width,
    no_identity,
]


@torch.no_grad()
@pytest.mark.parametrize("mutate", MUTATIONS)
def test_parity_notices(mutate: Callable[[VideoResNet], None]):
    torch.manual_seed(0)
    model, mutant = (build("r2plus1d_18", num_classes=11, width=1 / 8).eval() for _ in range(2))
    randomize_norms(model)
    mutant.load_state_dict(model.state_dict())
    mutate(mutant)
    clip = torch.randn(2, 3, 8, 32, 32)
    assert relative_error(mutant(clip), model(clip)) > NOTICED


@pytest.mark.parametrize(
    ("name", "threads"), [("r3d_10", 1), ("r3d_10", 2), ("r2plus1d_10", 1), ("rmc3_10", 1)]
)
def test_bf16_steps_stay_finite_with_two_frames_in_the_last_stage(name, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = build(name, num_classes=5, width=1 / 8).train()
    assert model.bf16_safe
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(15):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(torch.randn(4, 3, 16, 32, 32))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 3])).backward()
        bad = [key for key, one in model.named_parameters() if not one.grad.isfinite().all()]
        assert not bad, (step, bad)
        optimizer.step()


def test_clips_are_made_as_the_paper_and_torchvision_make_them():
    (spec,) = shapes_only("r3d_18").default_specs
    assert (spec.num_frames, spec.frame_stride, spec.fps, spec.resize, spec.crop) == (
        16,
        1,
        None,
        (128, 171),
        112,
    )
    assert spec.resize_filter == "antialias"
    (spec,) = shapes_only("r2plus1d_18_torchvision").default_specs
    weights = torchvision.models.video.R2Plus1D_18_Weights.KINETICS400_V1
    preset = weights.transforms()
    assert (spec.fps, spec.resize_filter) == (15, "bilinear")
    assert list(spec.resize) == list(preset.resize_size)
    assert [spec.crop, spec.crop] == list(preset.crop_size)
    assert (list(spec.mean), list(spec.std)) == (list(preset.mean), list(preset.std))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"variant": "r4d"}, "no variant 'r4d': choose from r2d, fr2d"),
        ({"variant": "r3d", "layers": 50}, "layers must be one of 10, 18, 34, got 50"),
        ({"variant": "r3d", "width": 0}, "width and num_frames must be above 0, got 0 and 16"),
        ({"variant": "r3d", "num_frames": 0}, "width and num_frames must be above 0, got 1.0 and 0"),
        ({"variant": "r3d", "mid_width": "x"}, "mid_width must be 'paper' or 'torchvision', got 'x'"),
    ],
)
def test_arguments_that_make_no_sense(arguments, text):
    with pytest.raises(ConfigError, match=text):
        VideoResNet(**arguments)
