"""Inflation of whole networks: the fixed point, torchvision's own 3D network, the counts of the I3D ResNets.

Mutations that a test here must notice (each was tried once): 1 / N left out; a filter at the frame after the
centre; zeros in place of replicated frames; the window one frame late; a stride over time lost; BatchNorm of
other statistics; an average pooling that leaves time out.
"""

import re
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from random_norms import randomize_norms
from tolerances import FLOAT32_PEER, FLOAT64_PEER, FLOAT64_SAME, NOTICED, relative_error
from torch import Tensor, nn

from muybridge.errors import ConfigError, InflationError
from muybridge.models.count import count_parameters
from muybridge.models.inflate import Temporal, check_inflation, inflate, inflate_weight
from muybridge.models.inflate.layers import InflatedConv3d

# Each is followed at the size it was made for and run at this one.
NETWORKS = {
    "torchvision/resnet50": 64,
    "torchvision/vgg16_bn": 64,
    "torchvision/googlenet": 64,
    "torchvision/inception_v3": 80,
    "torchvision/densenet121": 64,
    "torchvision/squeezenet1_1": 64,
    "torchvision/mnasnet1_0": 64,
    "torchvision/mobilenet_v3_large": 64,
    "torchvision/shufflenet_v2_x1_0": 64,
    "torchvision/regnet_y_400mf": 64,
    "torchvision/efficientnet_b0": 64,
    "torchvision/convnext_tiny": 64,
    "timm/tf_efficientnet_lite0": 64,
    "timm/mixnet_s": 64,
    "timm/ghostnet_100": 64,
    "timm/ecaresnet26t": 64,
    "timm/skresnet18": 64,
    "timm/resnest26d": 64,
    "timm/resnetblur50": 64,
    "timm/dla34": 64,
    "timm/hrnet_w18_small": 64,
}
# Sheet of Non-local Neural Networks, Sec. 4.2 and the authors' code: which blocks have a kernel over time.
I3D_PATTERN = {"conv1": (5, 1), "layer1.*.{}": (3, 1), "layer[23].[024].{}": (3, 1), "layer4.1.{}": (3, 1)}


def two_d(name: str, **arguments: object) -> nn.Module:
    """A 2D network with random weights; BatchNorms far from the identity, which would hide a mistake."""
    torch.manual_seed(0)
    library, _, model = name.partition("/")
    if library == "timm":
        network = timm.create_model(model, pretrained=False)
    else:
        extra = {
            "googlenet": {"init_weights": False, "aux_logits": False},
            "vgg16_bn": {"init_weights": False},
        }
        extra["inception_v3"] = extra["googlenet"]
        network = torchvision.models.get_model(model, weights=None, **extra.get(model, {}), **arguments)
    randomize_norms(network)
    return network.eval()


def windows(inflated: nn.Module) -> dict[str, int]:
    """Name of each convolution that sees more than one frame -> how many."""
    convs = ((key, one) for key, one in inflated.named_modules() if isinstance(one, InflatedConv3d))
    return {key: one.kernel_size[0] for key, one in convs if one.kernel_size[0] > 1}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_boring_video_is_its_picture_in_every_layer(name):
    network, size = two_d(name), NETWORKS[name]
    inflated = inflate(network)
    check = check_inflation(inflated, network, num_frames=3, image=(3, size, size))
    assert check.worst < FLOAT32_PEER, str(check)
    leaves = [key for key, one in network.named_modules() if isinstance(one, nn.Conv2d | nn.BatchNorm2d)]
    assert {layer.name for layer in check.layers} >= set(leaves)
    own, theirs = inflated.state_dict(), network.state_dict()
    assert set(own) == set(theirs)
    assert len(windows(inflated)) >= 8
    for key in windows(inflated):
        total = own[f"{key}.weight"].sum(2)
        torch.testing.assert_close(total, theirs[f"{key}.weight"], rtol=1e-5, atol=1e-7)


def test_zeros_before_the_first_frame_break_the_fixed_point_and_centred_filters_keep_it():
    network = two_d("torchvision/resnet18")
    broken = check_inflation(inflate(network, padding="zero"), network)
    assert broken.output > 0.1
    errors = {layer.name: layer.error for layer in broken.layers}
    assert errors["conv1"] > 0.1
    centred = inflate(network, padding="zero", filters="centre")
    assert check_inflation(centred, network).worst < FLOAT32_PEER


def test_the_check_prints_each_layer_and_leaves_both_networks_as_they_were():
    network = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)), nn.AdaptiveAvgPool2d(1))
    inflated = inflate(network.train())
    inflated.get_submodule("0.0").weight.data *= 2
    check = check_inflation(inflated, network, num_frames=2, image=(3, 8, 8))
    rows = [line.split() for line in str(check).splitlines()]
    assert [row[1:] for row in rows] == [
        ["0.0", "InflatedConv3d"],
        ["0.1", "ReLU"],
        ["0", "Module"],
        ["1", "PoolTimeThenSpace"],
        ["output"],
    ]
    assert float(rows[0][0]) > 0.5
    assert check.worst == max(check.output, *(layer.error for layer in check.layers))
    assert network.training
    assert inflated.training
    assert not any(one._forward_hooks for net in (network, inflated) for one in net.modules())


def test_the_check_wants_the_network_of_which_it_was_made():
    inflated = inflate(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3))))
    with pytest.raises(InflationError, match="InflatedSequential was not inflated from this Conv2d"):
        check_inflation(inflated, nn.Conv2d(3, 4, 3))


@torch.no_grad()
def test_training_mode_has_the_fixed_point_too():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2)
    ).double()
    inflated = inflate(network.train())
    images = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    clips = images.unsqueeze(2).expand(-1, -1, 5, -1, -1)
    torch.testing.assert_close(inflated(clips), network(images).unsqueeze(2).expand(-1, -1, 5, -1, -1))
    assert inflated.get_buffer("1.num_batches_tracked") == 1
    torch.testing.assert_close(inflated.get_buffer("1.running_mean"), network.get_buffer("1.running_mean"))


def from_r3d(key: str) -> str:
    """torchvision's name of a tensor of its 3D ResNet -> of its 2D ResNet."""
    key = re.sub(r"^stem\.(\d)", lambda match: ("conv1", "bn1")[int(match[1])], key)
    return re.sub(
        r"(layer\d\.\d)\.conv(\d)\.(\d)",
        lambda match: f"{match[1]}.{('conv', 'bn')[int(match[3])]}{match[2]}",
        key,
    )


@torch.no_grad()
def test_a_resnet_inflated_to_r3d_18_computes_what_torchvision_s_r3d_18_does():
    torch.manual_seed(0)
    theirs = torchvision.models.video.r3d_18(num_classes=7).eval()
    randomize_norms(theirs)
    network = torchvision.models.resnet18(num_classes=7)
    network.maxpool = nn.Identity()  # R3D has none
    rule = {
        "conv1": (3, 1),
        "layer[234].0.conv1": (3, 2),
        "layer*.downsample.0": (1, 2),
        "layer*.conv?": (3, 1),
    }
    ours = inflate(network, rule=rule, padding="zero").eval()
    ours.load_state_dict({from_r3d(key): value for key, value in theirs.state_dict().items()})
    clip = torch.randn(2, 3, 9, 40, 32)  # an odd number of frames, and three ends of them
    assert relative_error(ours(clip), theirs(clip)) < FLOAT32_PEER
    assert relative_error(ours(clip.flip(2)), theirs(clip)) > NOTICED


@pytest.mark.parametrize(("kernel", "parameters"), [("conv1", 28_043_472), ("conv2", 33_433_808)])
def test_resnet50_inflated_as_in_non_local_networks_has_their_parameters(kernel, parameters):
    with torch.device("meta"):
        network = torchvision.models.resnet50(num_classes=400)
    rule = {key.format(kernel): value for key, value in I3D_PATTERN.items()}
    inflated = inflate(network, rule=rule)
    assert len(windows(inflated)) == 1 + 3 + 2 + 3 + 1
    assert count_parameters(inflated) == parameters


@torch.no_grad()
def test_without_windows_a_network_is_the_mean_of_its_frames_and_does_not_see_order():
    network = two_d("torchvision/resnet18").double()
    inflated = inflate(network, rule="none", padding="zero")
    assert not windows(inflated)
    clip = torch.randn(1, 3, 4, 64, 64, dtype=torch.float64)
    frames = network(clip[0].transpose(0, 1)).mean(0, keepdim=True)
    assert relative_error(inflated(clip), frames) < FLOAT64_PEER
    torch.testing.assert_close(inflated(clip.flip(2)), inflated(clip), **FLOAT64_SAME)
    sees_order, shuffled = inflate(network), clip[:, :, [2, 0, 3, 1]]
    assert relative_error(sees_order(shuffled), sees_order(clip)) > NOTICED
    # The same filter at each frame is symmetric in time: the direction is learnt.
    assert relative_error(sees_order(clip.flip(2)), sees_order(clip)) < FLOAT64_PEER


def test_every_second_block_has_a_3x1x1():
    def chosen(network: nn.Module) -> list[str]:
        found = windows(inflate(network, rule="alternate_3x1x1"))
        assert set(found.values()) <= {3}
        return list(found)

    with torch.device("meta"):
        assert chosen(torchvision.models.resnet50()) == [
            "layer1.0.conv1", "layer1.2.conv1", "layer2.0.conv1", "layer2.2.conv1", "layer3.0.conv1",
            "layer3.2.conv1", "layer3.4.conv1", "layer4.0.conv1", "layer4.2.conv1",
        ]  # fmt: skip
    # The first convolution of a stage's shortcut is a 1 x 1 with a stride, and it is not taken.
    assert chosen(torchvision.models.regnet_y_400mf())[:2] == [
        "trunk_output.block1.block1-0.f.a.0",
        "trunk_output.block2.block2-0.f.a.0",
    ]
    assert chosen(timm.create_model("tf_efficientnet_lite0"))[:3] == [
        "blocks.1.0.conv_pw",
        "blocks.2.0.conv_pw",
        "blocks.3.0.conv_pw",
    ]
    for network in (torchvision.models.resnet18(), nn.Conv2d(3, 3, 1)):
        with pytest.raises(
            InflationError, match=r"no repeated block of .* has a 1 x 1 .* take the rule 'all'"
        ):
            inflate(network, rule="alternate_3x1x1")


@pytest.mark.parametrize(
    ("kernel", "window"), [(3, 3), ((7, 7), 7), (2, 2), ((1, 7), 1), ((5, 3), 3), (1, 1)]
)
def test_what_is_k_by_k_becomes_k_by_k_by_k(kernel, window):
    found = windows(inflate(nn.Sequential(nn.Conv2d(3, 4, kernel)), rule="all"))
    assert found == ({"0": window} if window > 1 else {})


def test_a_rule_of_the_caller_is_asked_for_convolutions_and_pooling_by_name():
    asked = {}

    def rule(name: str, layer: nn.Module) -> Temporal:
        asked[name] = type(layer)
        return Temporal(2, 2) if name == "maxpool" else Temporal(5) if name == "conv1" else Temporal()

    with torch.device("meta"):
        network = torchvision.models.resnet18()
    inflated = inflate(network, rule=rule)
    assert asked["maxpool"] is nn.MaxPool2d
    assert asked["conv1"] is nn.Conv2d
    assert set(asked.values()) == {nn.MaxPool2d, nn.Conv2d}
    assert windows(inflated) == {"conv1": 5}
    assert inflated.get_submodule("maxpool").temporal == (2, 2)
    seen = []
    inflated.get_submodule("layer1.0.conv1").register_forward_hook(
        lambda _, args, output: seen.append(output)
    )
    inflated(torch.empty(1, 3, 7, 64, 64, device="meta"))
    assert seen[0].shape == (1, 64, 4, 16, 16)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("al", r"no inflation rule 'al': choose from all, alternate_3x1x1, none, or map layers"),
        ({"conv9": (3, 1)}, r"inflation rule: 'conv9' fits no layer; there are conv1, "),
        ({"conv1": 3}, r"gives 3 for 'conv1': a kernel and a stride are wanted, whole numbers from 1 on"),
        ({"conv1": (3, 0)}, r"gives \(3, 0\) for 'conv1'"),
        (lambda name, layer: (1.5, 1), r"gives \(1.5, 1\) for 'conv1'"),
    ],
)
def test_a_rule_that_is_none_is_refused(rule, text):
    network = nn.Sequential()
    network.add_module("conv1", nn.Conv2d(3, 4, 3))
    with pytest.raises(ConfigError, match=text):
        inflate(network, rule=rule)


def test_other_words_are_refused():
    with pytest.raises(ConfigError, match="filters is one of mean, centre, not 'center'"):
        inflate(nn.Conv2d(3, 4, 3), filters="center")
    with pytest.raises(ConfigError, match="padding is one of zero, replicate, not 'same'"):
        inflate(nn.Conv2d(3, 4, 3), padding="same")


def test_strides_over_time_that_do_not_meet_are_found_at_once():
    network = torchvision.models.resnet18()
    text = r"'add' \(add_2\) of the inflated network does not run on \[\[2, 128, 8, .*\], \[2, 128, 16, "
    with pytest.raises(InflationError, match=text):
        inflate(network, rule={"layer2.0.conv1": (3, 2)})  # and not its shortcut


@pytest.mark.parametrize("how", ["mean", "centre"])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_filters_over_time_add_up_to_the_2d_filter(how, kernel):
    weight = torch.randn(6, 2, 3, 5, dtype=torch.float64)
    inflated = inflate_weight(weight, kernel, how)
    torch.testing.assert_close(inflated.sum(2), weight)
    taps = [tap for tap in range(kernel) if bool(inflated[:, :, tap].any())]
    assert taps == (list(range(kernel)) if how == "mean" else [(kernel - 1) // 2])


def naive(x: Tensor, kernel: int, stride: int, padding: str, work: Callable[[Tensor], Tensor]) -> Tensor:
    """`work` on the frames of each window over time, [B, C, N, H, W] -> [B, O, H, W], window by window."""
    front, places = (kernel - 1) // 2, range(0, x.shape[2], stride)
    outs = []
    for place in places:
        taps = range(place - front, place - front + kernel)
        if padding == "replicate":
            frames = [x[:, :, min(max(tap, 0), x.shape[2] - 1)] for tap in taps]
        else:
            frames = [x[:, :, tap] if 0 <= tap < x.shape[2] else torch.zeros_like(x[:, :, 0]) for tap in taps]
        outs.append(work(torch.stack(frames, 2)))
    return torch.stack(outs, 2)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # the 2D layer's
@pytest.mark.parametrize("padding", ["zero", "replicate"])
@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("temporal", [(1, 1), (1, 2), (2, 1), (3, 1), (3, 2), (5, 2)])
def test_each_kind_of_convolution_is_its_2d_convolutions_over_a_window(temporal, frames, padding):
    torch.manual_seed(0)
    kernel, stride = temporal
    layers = [
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, 1, bias=False),
        nn.Conv2d(4, 6, 1, stride=2),
        nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False),
        nn.Conv2d(4, 8, 3, padding=(0, 2), dilation=(1, 2), groups=2),
        nn.Conv2d(4, 2, (2, 4), padding="same"),
        nn.Conv2d(4, 2, (1, 7), padding=(0, 3)),
        timm.layers.Conv2dSame(4, 6, 3, stride=2),
    ]
    x = torch.randn(2, 4, frames, 7, 6, dtype=torch.float64)
    for layer in (one.double() for one in layers):
        inflated = inflate(layer, rule=lambda name, one: temporal, padding=padding, image=(4, 7, 6))
        conv = next(one for one in inflated.modules() if isinstance(one, InflatedConv3d))
        nn.init.normal_(conv.weight)  # 1 / N of the same filter at each frame would hide a reversed window
        bias = torch.zeros(layer.out_channels, dtype=torch.float64) if layer.bias is None else layer.bias

        def work(
            window: Tensor, layer: nn.Conv2d = layer, conv: nn.Conv3d = conv, bias: Tensor = bias
        ) -> Tensor:
            total = 0
            for tap in range(kernel):
                layer.weight.copy_(conv.weight[:, :, tap])
                total = total + layer(window[:, :, tap]) - bias.view(1, -1, 1, 1)
            return total + bias.view(1, -1, 1, 1)

        for clip in (x, x.contiguous(memory_format=torch.channels_last_3d)):
            with torch.enable_grad():  # depthwise, another way to compute the same
                trained = inflated(clip)
            torch.testing.assert_close(trained, inflated(clip), **FLOAT64_SAME)
            torch.testing.assert_close(
                inflated(clip), naive(x, kernel, stride, padding, work), **FLOAT64_SAME
            )


@pytest.mark.parametrize("groups", [1, 2, 4], ids=["full", "grouped", "depthwise"])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((3, 3, 5), (1, 1, 1)), ((5, 3, 3), (2, 2, 1)), ((1, 3, 3), (2, 2, 2)), ((3, 1, 1), (2, 1, 1))],
)
def test_outputs_and_gradients_are_torch_s_own(kernel, stride, groups):
    torch.manual_seed(0)
    ends = [(one // 2, one // 2) for one in kernel[1:]]
    ours = InflatedConv3d(4, 8, kernel, stride=stride, space_padding=ends, groups=groups, bias=True).double()
    peer = nn.Conv3d(4, 8, kernel, stride, [one // 2 for one in kernel], groups=groups).double()
    peer.load_state_dict(ours.state_dict())
    clip = torch.randn(2, 4, 5, 7, 6, dtype=torch.float64)
    results = []
    for conv in (ours, peer):
        leaf = clip.clone().requires_grad_()
        y = conv(leaf)
        weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)
        results.append((y, *torch.autograd.grad((y * weights).sum(), (leaf, conv.weight, conv.bias))))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, **FLOAT64_SAME)
    with torch.no_grad():
        torch.testing.assert_close(ours(clip), results[0][0], **FLOAT64_SAME)


@torch.no_grad()
@pytest.mark.parametrize("temporal", [(1, 1), (1, 2), (2, 2), (3, 1), (3, 2)])
def test_each_kind_of_pooling_is_its_2d_pooling_over_a_window(temporal):
    kernel, stride = temporal
    x = torch.randn(2, 4, 5, 7, 6, dtype=torch.float64)
    for layer in (
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d((1, 3), 1, (0, 1), dilation=1),
        timm.layers.create_pool2d("max", 3, 2, padding="same"),
    ):
        inflated = inflate(layer, rule=lambda name, one: temporal, padding="zero", image=(4, 7, 6))
        expected = naive(x, kernel, stride, "replicate", lambda window, layer=layer: layer(window.amax(2)))
        torch.testing.assert_close(inflated(x), expected, **FLOAT64_SAME)
    for layer in (
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(2, 1, divisor_override=3),
        timm.layers.create_pool2d("avg", 3, 2, padding="same"),
    ):
        for padding in ("zero", "replicate"):
            inflated = inflate(layer, rule=lambda name, one: temporal, padding=padding, image=(4, 7, 6))
            expected = naive(x, kernel, stride, padding, lambda window, layer=layer: layer(window.mean(2)))
            torch.testing.assert_close(inflated(x), expected, **FLOAT64_SAME)


@torch.no_grad()
def test_adaptive_pooling_takes_time_along():
    x = torch.randn(2, 3, 5, 7, 6, dtype=torch.float64)
    for layer, peer in (
        (nn.AdaptiveAvgPool2d((2, 3)), nn.AdaptiveAvgPool3d((1, 2, 3))),
        (nn.AdaptiveMaxPool2d(1), nn.AdaptiveMaxPool3d(1)),
    ):
        torch.testing.assert_close(inflate(layer, image=(3, 7, 6))(x), peer(x), **FLOAT64_SAME)


def test_weights_that_rest_keep_resting_and_the_2d_network_is_left_alone():
    network = torchvision.models.resnet18().train()
    network.conv1.weight.requires_grad_(False)
    network.bn1.bias.requires_grad_(False)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    inflated = inflate(network)
    resting = {key for key, one in inflated.named_parameters() if not one.requires_grad}
    assert resting == {"conv1.weight", "bn1.bias"}
    assert inflated.training
    assert network.training
    with torch.no_grad():
        for one in inflated.parameters():
            one.zero_()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("groups", [1, 4, 32], ids=["full", "grouped", "depthwise"])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 5, 5), (3, 1, 1), (5, 5, 5)])
def test_bf16_gradients_are_right_where_the_input_is_smaller_than_the_kernel(groups, kernel):
    torch.manual_seed(0)
    for stride in ((1, 1, 1), (2, 2, 2)):
        for size in ((2, 5, 5), (1, 1, 1), (3, 2, 1)):
            ends = tuple((one // 2, one // 2) for one in kernel[1:])
            conv = InflatedConv3d(32, 32, kernel, stride=stride, space_padding=ends, groups=groups)
            x = torch.randn(4, 32, *size)
            results = []
            for dtype in (torch.bfloat16, torch.float64):
                conv, leaf = conv.to(dtype), x.to(torch.bfloat16).to(dtype).requires_grad_()
                y = conv(leaf)
                results.append(torch.autograd.grad(y, (leaf, conv.weight), torch.ones_like(y)))
            for found, expected in zip(*results, strict=True):
                assert relative_error(found, expected) < 0.02
