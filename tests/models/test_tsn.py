"""TSN: counts, the network in loops, its backbones by themselves, cross-modality start, partial BatchNorm.

Mutations that the loops must notice, by `test_the_loops_notice`: the channels of a stack in another order,
segments mixed among clips.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from tolerances import FLOAT32_PEER, FLOAT64_PEER, FLOAT64_SAME, NOTICED, relative_error
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from muybridge.config import ClipSpec
from muybridge.data.views import load_view, plan_view, video_info
from muybridge.errors import ConfigError
from muybridge.models import tsn as tsn_module
from muybridge.models.contract import VideoModel
from muybridge.models.count import count_macs, count_parameters
from muybridge.models.image_network import cross_modality
from muybridge.models.registry import build
from muybridge.models.two_stream_inputs import stack_channels
from muybridge.types import Sample
from muybridge.weights.store import init_trunk, load, save

WIDTH = 1 / 32
SIDE = 32
NAMES = ("average", "max", "top_k", "linear", "attention")
LABELS = [f"class {index}" for index in range(5)]


def tiny(*, seed: int = 0, **arguments: object) -> VideoModel:
    """A small network in eval mode, in float64, whose BatchNorms and consensus are not fresh ones."""
    torch.manual_seed(seed)
    width = {} if "/" in str(arguments.get("backbone", "")) else {"width": WIDTH}
    model = build("tsn", num_classes=5, **width, **arguments).double().eval()
    for name, parameter in model.named_parameters():
        if name.startswith("head."):
            nn.init.normal_(parameter)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    return model


def snippets_for(model: VideoModel, *, batch: int = 2, num_segments: int = 3, side: int = SIDE) -> Tensor:
    torch.manual_seed(7)
    spec = model.default_specs[0]
    shape = (batch, num_segments, spec.num_channels, spec.num_frames, side, side)
    return torch.randn(shape, dtype=torch.float64)


# Counts


@pytest.mark.parametrize(
    ("arguments", "num_classes", "expected"),
    [
        ({}, 1000, 11_295_240),
        ({}, 101, 10_373_765),
        ({"modality": "flow"}, 101, 10_395_717),
        ({"modality": "warped_flow"}, 101, 10_395_717),
        ({"modality": "rgb_diff"}, 101, 10_373_765 + 12 * 49 * 64),  # 15 channels
        ({"backbone": "resnet50"}, 400, 24_327_632),
        ({"backbone": "torchvision/resnet50"}, 400, 24_327_632),
        ({"backbone": "resnet101"}, 1000, 44_549_160),  # torchvision's
        ({"consensus": "linear", "num_segments": 7}, 101, 10_373_765 + 7),
        ({"consensus": "attention"}, 101, 10_373_765 + 1024),
    ],
)
def test_parameters(arguments, num_classes, expected):
    with torch.device("meta"):
        model = build("tsn", num_classes=num_classes, **arguments)
    assert count_parameters(model) == expected


def test_multiply_adds_are_those_of_the_backbone_for_each_segment():
    with torch.device("meta"):
        resnet = torchvision.models.resnet50(num_classes=101)
        counter = FlopCounterMode(display=False)
        with counter:
            resnet(torch.empty(1, 3, 224, 224, device="meta"))
        model = build("tsn", backbone="resnet50", num_classes=101)
    one = counter.get_total_flops() // 2
    assert count_macs(model, (3, 3, 1, 224, 224)) == 3 * one
    assert count_macs(model, (3, 1, 224, 224)) == one


def test_multiply_adds_of_bn_inception():
    from test_bn_inception import convolutions

    for modality, channels, frames in (("rgb", 3, 1), ("flow", 2, 5)):
        with torch.device("meta"):
            model = build("tsn", modality=modality, num_classes=101)
        by_hand = (
            sum(k * k * c * o * side**2 for k, c, o, side in convolutions(channels * frames)) + 1024 * 101
        )
        assert count_macs(model, (25, channels, frames, 224, 224)) == 25 * by_hand


# What it computes


def stack_in_loops(snippet: Tensor) -> Tensor:
    """[C, T, H, W] -> [1, T * C, 1, H, W]: all channels of the first frame or field, then of the next."""
    planes = [snippet[c, t] for t in range(snippet.shape[1]) for c in range(snippet.shape[0])]
    return torch.stack(planes)[None, :, None]


def in_loops(model: VideoModel, x: Tensor) -> Tensor:
    """Snippet after snippet, then the consensus of each class."""
    head, answers = model.head, []
    for clip in x:
        features = [model.backbone(stack_in_loops(snippet)).mean((2, 3, 4))[0] for snippet in clip]
        scores = [head.fc.weight @ one + head.fc.bias for one in features]
        weights = [1 / len(clip)] * len(clip)
        kind = type(head.consensus).__name__
        if kind == "TopK":
            best = torch.stack(scores).sort(0, descending=True).values[: head.consensus.k]
            answers.append(best.mean(0))
            continue
        if kind == "Linear":
            weights = head.consensus.weight.tolist()
        elif kind == "Attention":
            powers = [float((head.consensus.weight @ one).exp()) for one in features]
            weights = [power / sum(powers) for power in powers]
        answers.append(sum(a * f for a, f in zip(weights, scores, strict=True)))
    return torch.stack(answers)


@torch.no_grad()
@pytest.mark.parametrize("modality", ["rgb", "rgb_diff", "flow", "warped_flow"])
@pytest.mark.parametrize("backbone", ["bn_inception", "resnet50"])
def test_the_network_in_loops(backbone, modality):
    model = tiny(backbone=backbone, modality=modality)
    x = snippets_for(model, side=64)
    assert relative_error(model(x), in_loops(model, x)) < FLOAT64_PEER


@torch.no_grad()
@pytest.mark.parametrize("consensus", NAMES)
def test_every_consensus_in_loops(consensus):
    model = tiny(consensus=consensus, top_k=2)
    x = snippets_for(model)
    assert relative_error(model(x), in_loops(model, x)) < FLOAT64_PEER


@torch.no_grad()
def test_the_loops_notice(monkeypatch: pytest.MonkeyPatch):
    model = tiny(modality="flow")
    x = snippets_for(model)
    expected = in_loops(model, x)
    assert relative_error(model(x.transpose(0, 1).reshape(x.shape)), expected) > NOTICED
    monkeypatch.setattr(tsn_module, "stack_channels", lambda one: one.flatten(1, 2).unsqueeze(2))
    assert relative_error(model(x), expected) > NOTICED


@torch.no_grad()
@pytest.mark.parametrize("consensus", ["average", "max", "top_k", "attention"])
def test_of_one_segment_it_is_its_backbone(consensus):
    """A network of clips, with its own classifier and input."""
    torch.manual_seed(0)
    alone = build("r3d_10", num_classes=5, width=1 / 16).double().eval()
    model = build(
        "tsn", backbone="r3d_10", num_segments=1, top_k=1, consensus=consensus, num_classes=5, width=1 / 16
    )
    model.double().eval()
    model.backbone.load_state_dict({k: v for k, v in alone.state_dict().items() if not k.startswith("head.")})
    model.head.fc.load_state_dict(alone.head.fc.state_dict())
    x = torch.randn(2, 3, 16, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(model(x), alone(x), **FLOAT64_SAME)
    torch.testing.assert_close(model(x[:, None]), alone(x), **FLOAT64_SAME)
    assert model.default_specs == alone.default_specs


@torch.no_grad()
def test_of_one_segment_it_is_torchvision_s_network():
    torch.manual_seed(0)
    alone = torchvision.models.resnet18(num_classes=5).double().eval()
    model = tiny(backbone="torchvision/resnet18")
    state = {key: value for key, value in alone.state_dict().items() if not key.startswith("fc.")}
    model.backbone.network.load_state_dict(state)
    model.head.fc.load_state_dict(alone.fc.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(model(x[:, :, None]), alone(x), **FLOAT64_SAME)
    three = torch.stack([x, x.flip(3), x], 1)[:, :, :, None]
    torch.testing.assert_close(model(three), (2 * alone(x) + alone(x.flip(3))) / 3, **FLOAT64_SAME)


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names of a ResNet as those of ours."""
    ours = {}
    for key, value in state.items():
        place, _, leaf = key.rpartition(".")
        layer, *inner = place.split(".")
        if layer in ("conv1", "bn1"):
            name = f"stem.{layer[:-1]}"
        elif layer.startswith("layer"):
            block, part, *which = inner
            if part == "downsample":
                part = f"shortcut.{'conv' if which == ['0'] else 'bn'}"
            else:
                part = f"{part[:-1]}_{'abc'[int(part[-1]) - 1]}"
            name = f"stages.{int(layer[-1]) - 1}.{block}.{part}"
        else:
            continue  # the classifier
        ours[f"backbone.{name}.{leaf}"] = value.unsqueeze(2) if value.ndim == 4 else value
    return ours


@torch.no_grad()
def test_resnet_50_is_torchvision_s():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(num_classes=5).double().eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    model = build("tsn", backbone="resnet50", num_classes=5).double().eval()
    missing = model.load_state_dict(from_torchvision(theirs.state_dict()), strict=False)
    assert missing.missing_keys == ["head.fc.weight", "head.fc.bias"]
    assert not missing.unexpected_keys
    model.head.fc.load_state_dict(theirs.fc.state_dict())
    x = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    expected = theirs(x)
    assert relative_error(model(x[:, :, None]), expected) < FLOAT64_PEER
    assert relative_error(model.float()(x[:, :, None].float()), theirs.float()(x.float())) < FLOAT32_PEER


@pytest.mark.parametrize("backbone", ["bn_inception", "resnet50", "r3d_10"])
def test_every_batchnorm_has_the_eps_and_first_weights_are_msra_s(backbone):
    torch.manual_seed(0)
    model = build("tsn", backbone=backbone, width=1 / 4, bn_eps=1e-3)
    assert {one.eps for one in model.modules() if isinstance(one, nn.BatchNorm3d)} == {1e-3}
    for conv in (one for one in model.modules() if isinstance(one, nn.Conv3d)):
        fan_out = conv.weight[:, 0].numel()
        assert float(conv.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.2)
        assert conv.bias is None or not conv.bias.detach().any()


@torch.no_grad()
def test_equal_snippets_answer_as_one_and_their_order_is_nothing_to_the_average():
    model = tiny()
    x = snippets_for(model)
    one = x[:, :1]
    torch.testing.assert_close(model(one.expand(-1, 4, -1, -1, -1, -1)), model(one), **FLOAT64_SAME)
    torch.testing.assert_close(model(x.flip(1)), model(x), **FLOAT64_SAME)
    linear = tiny(consensus="linear")
    assert relative_error(linear(x.flip(1)), linear(x)) > NOTICED


@torch.no_grad()
def test_features_and_layers_are_means_over_snippets():
    for model in (tiny(consensus="max"), tiny(backbone="r3d_10", modality="rgb_diff", num_frames=4)):
        x = snippets_for(model)
        each = torch.stack([model.forward_features(one) for one in x.unbind(1)], 1)
        torch.testing.assert_close(model.forward_features(x), each.mean(1), **FLOAT64_SAME)
        torch.testing.assert_close(model.snippet_features(x), each, **FLOAT64_SAME)
        scores = model.head.fc(each)
        torch.testing.assert_close(model.embed(x, layer="head.fc"), scores.mean(1), **FLOAT64_SAME)
        for stage in (model.stage_names[0], model.stage_names[-1]):
            layers = torch.stack([model.embed(one, layer=stage) for one in x.unbind(1)], 1)
            torch.testing.assert_close(model.embed(x, layer=stage), layers.mean(1), **FLOAT64_SAME)


def test_a_new_head_has_the_old_consensus():
    model = tiny(consensus="attention")
    model.reset_head(9)
    assert model(snippets_for(model)).shape == (2, 9)
    assert float(model.head.consensus.weight.detach().abs().sum()) == 0
    assert model.head.dropout.p == 0.8


@torch.no_grad()
@pytest.mark.parametrize(
    "arguments",
    [
        {"modality": "flow", "consensus": "linear", "num_segments": 4},
        {"backbone": "i3d_flow", "modality": "warped_flow", "num_frames": 16, "consensus": "attention"},
        {"backbone": "resnet101", "modality": "rgb_diff", "consensus": "top_k", "bn_eps": 1e-3},
        {"backbone": "torchvision/mobilenet_v3_small", "modality": "flow", "num_frames": 10},
    ],
)
def test_it_is_saved_and_loaded(arguments, tmp_path: Path):
    model = tiny(**arguments).float()
    save(tmp_path / "a.safetensors", model, labels=LABELS)
    again = load(tmp_path / "a.safetensors")
    x = snippets_for(model, num_segments=model.default_specs[0].num_segments).float()
    assert torch.equal(again(x), model(x))
    assert again.modalities == (model.default_specs[0].modality,)
    assert again.default_specs == model.default_specs


# How it sees a video


def test_default_specs_are_the_papers():
    rgb, diff, flow, warped = (
        tiny(modality=modality).default_specs[0] for modality in ("rgb", "rgb_diff", "flow", "warped_flow")
    )
    for spec in (rgb, diff, flow, warped):
        assert (spec.resize, spec.crop, spec.scale, spec.num_segments) == ((256, 340), 224, 255, 3)
        assert spec.std == (1,) * spec.num_channels
        assert ClipSpec.from_dict(spec.to_dict()) == spec
    assert (rgb.channel_order, rgb.mean, rgb.num_frames) == ("bgr", (104, 117, 123), 1)
    assert (diff.channel_order, diff.mean, diff.num_frames) == ("bgr", (0, 0, 0), 5)
    for spec in (flow, warped):
        assert (spec.mean, spec.num_frames, spec.flow_method, spec.flow_bound) == ((128, 128), 5, "tvl1", 20)
    images = tiny(backbone="torchvision/resnet18", modality="flow").default_specs[0]
    assert (images.scale, images.resize, images.std) == (1, 256, pytest.approx((0.226, 0.226)))
    assert images.mean == pytest.approx((128 / 255, 128 / 255))
    clips = tiny(backbone="r2plus1d_10", modality="rgb_diff", num_frames=8).default_specs[0]
    assert (clips.num_frames, clips.crop, clips.mean, clips.modality) == (8, 112, (0, 0, 0), "rgb_diff")


@torch.no_grad()
def test_the_view_of_a_video_goes_through_it():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (40, 40, 56, 3), np.uint8)
    for modality in ("rgb", "rgb_diff"):
        model = tiny(modality=modality, num_segments=4).float()
        spec = model.default_specs[0].model_copy(update={"resize": (32, 48), "crop": 32})
        view = plan_view(video_info(frames), Sample(path=Path("a"), labels=("x",)), spec)
        x = load_view(frames, view, spec)
        assert x.shape == (4, 3, spec.num_frames, 32, 32)
        assert model(x[None]).shape == (1, 5)
        if modality == "rgb_diff":  # channel 3 t + c is frame t + 1 less frame t: of each segment by itself
            pixels = load_view(frames, view, spec.model_copy(update={"modality": "rgb", "num_frames": 6}))
            planes = stack_channels(x)[:, :, 0]
            for t in range(5):
                for c in range(3):
                    change = pixels[:, c, t + 1] - pixels[:, c, t]
                    torch.testing.assert_close(planes[:, 3 * t + c], change)


# Cross-modality initialisation


@torch.no_grad()
@pytest.mark.parametrize("shape", [(4, 3, 7, 7), (4, 3, 1, 7, 7)])
@pytest.mark.parametrize("channels", [2, 10, 15])
def test_cross_modality_is_the_mean_repeated(shape, channels):
    filters = torch.randn(shape, dtype=torch.float64)
    new = cross_modality(filters, channels)
    assert new.shape == (shape[0], channels, *shape[2:])
    for o in range(shape[0]):
        mean = (filters[o, 0] + filters[o, 1] + filters[o, 2]) / 3
        for c in range(channels):
            torch.testing.assert_close(new[o, c], mean, **FLOAT64_SAME)


@torch.no_grad()
def test_on_equal_channels_the_first_layer_answers_as_on_a_grey_picture(tmp_path: Path):
    rgb = tiny()
    save(tmp_path / "rgb.safetensors", rgb, labels=LABELS)
    grey = torch.randn(2, 1, 1, 1, SIDE, SIDE, dtype=torch.float64)
    for modality, channels in (("flow", 10), ("rgb_diff", 15)):
        model = tiny(seed=1, modality=modality)
        report = init_trunk(model, tmp_path / "rgb.safetensors")
        first = model.backbone.conv1_7x7_s2.conv
        equal = grey.expand(-1, -1, channels // 5, 5, -1, -1)
        found = first(stack_channels(equal.flatten(0, 1)))
        expected = rgb.backbone.conv1_7x7_s2.conv(grey.expand(-1, -1, 3, -1, -1, -1).flatten(0, 1))
        bias = first.bias.view(1, -1, 1, 1, 1)
        torch.testing.assert_close(found - bias, (expected - bias) * channels / 3, **FLOAT64_SAME)

        theirs = rgb.state_dict()
        assert report.adapted == ("backbone.conv1_7x7_s2.conv.weight",)
        assert report.random == ("head.fc.weight", "head.fc.bias")
        assert set(report.dropped) == {"head.fc.weight", "head.fc.bias"}
        assert set(report.loaded) == {name for name in theirs if name.startswith("backbone.")} - set(
            report.adapted
        )
        assert all(torch.equal(model.state_dict()[name], theirs[name]) for name in report.loaded)
        assert "1 tensors adapted (backbone)" in str(report)


def test_nothing_is_adapted_where_it_fits(tmp_path: Path):
    save(tmp_path / "rgb.safetensors", tiny(), labels=LABELS)
    model = tiny(seed=1, consensus="attention", num_segments=7)
    report = init_trunk(model, tmp_path / "rgb.safetensors")
    assert not report.adapted
    assert report.random == ("head.fc.weight", "head.fc.bias", "head.consensus.weight")


def test_it_starts_from_the_network_that_is_its_backbone(tmp_path: Path):
    torch.manual_seed(0)
    alone = build("r3d_10", num_classes=5, width=WIDTH)
    save(tmp_path / "alone.safetensors", alone, labels=LABELS)
    model = build("tsn", backbone="r3d_10", num_classes=5, width=WIDTH)
    report = init_trunk(model, tmp_path / "alone.safetensors")
    assert not report.adapted
    assert report.random == ("head.fc.weight", "head.fc.bias")
    for name, value in alone.state_dict().items():
        assert name.startswith("head.") or torch.equal(model.state_dict()[f"backbone.{name}"], value)


# Partial BatchNorm


def moved(model: VideoModel, step: Tensor) -> set[str]:
    """The buffers that a forward pass changes."""
    before = {name: one.clone() for name, one in model.named_buffers()}
    with torch.no_grad():
        model(step)
    return {name for name, one in model.named_buffers() if not torch.equal(one, before[name])}


@pytest.mark.parametrize("backbone", ["bn_inception", "resnet50", "r3d_10", "torchvision/resnet18"])
def test_partial_batchnorm_moves_the_statistics_of_the_first_alone(backbone):
    model = tiny(backbone=backbone)
    x = snippets_for(model)
    first = next(
        name for name, one in model.named_modules() if isinstance(one, nn.BatchNorm2d | nn.BatchNorm3d)
    )
    assert len({name.rpartition(".")[0] for name in moved(model.train(), x)}) > 5
    model.partial_batchnorm = "statistics"
    for _ in range(2):  # and again after a test in between
        model.eval()
        assert not moved(model, x)
        assert moved(model.train(), x) == {
            f"{first}.{buffer}" for buffer in ("running_mean", "running_var", "num_batches_tracked")
        }
    assert model.head.dropout.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.partial_batchnorm = "frozen"
    resting = {name for name, one in model.train().named_parameters() if not one.requires_grad}
    norms = {name for name, one in model.named_modules() if isinstance(one, nn.BatchNorm2d | nn.BatchNorm3d)}
    assert resting == {f"{name}.{leaf}" for name in norms - {first} for leaf in ("weight", "bias")}


def test_each_modality_has_its_own_first_batchnorm():
    model = build("i3d_two_stream", num_classes=5, width=WIDTH)
    norms = [name for name, one in model.named_modules() if isinstance(one, nn.BatchNorm3d)]
    model.partial_batchnorm = "statistics"
    model.train()
    free = [name for name in norms if model.get_submodule(name).training]
    assert free == ["rgb.Conv3d_1a_7x7.bn", "flow.Conv3d_1a_7x7.bn"]


def test_without_it_every_batchnorm_trains():
    model = tiny()
    assert model.partial_batchnorm is None
    assert all(module.training for module in model.train().modules())
    assert not any(module.training for module in model.eval().modules())


# Bad input


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"modality": "depth"}, "modality must be one of rgb, rgb_diff, flow, warped_flow, got 'depth'"),
        ({"num_segments": 0}, "num_segments must be above 0, got 0"),
        ({"num_frames": -1}, "num_frames must be above 0, got -1"),
        ({"width": 0}, "width must be above 0, got 0"),
        (
            {"num_frames": 5},
            "an RGB snippet is one frame for backbone bn_inception, got num_frames=5: take it as",
        ),
        (
            {"backbone": "torchvision/resnet18", "width": 0.5},
            "width must be 1 for torchvision/resnet18, got 0.5",
        ),
        ({"backbone": "bn_incepton"}, r"no backbone 'bn_incepton'; did you mean 'bn_inception'\?"),
        (
            {"backbone": "xyz"},
            "no backbone 'xyz'; there are bn_inception, resnet50, resnet101, torchvision/NAME",
        ),
        (
            {"backbone": "r3d_10", "modality": "flow"},
            "backbone r3d_10 sees rgb, got modality 'flow': take another",
        ),
        ({"backbone": "i3d_flow"}, "backbone i3d_flow sees flow, got modality 'rgb': take another"),
        ({"backbone": "i3d_two_stream"}, "backbone i3d_two_stream sees rgb and flow, got modality 'rgb'"),
        ({"backbone": "slow_r50_4x16", "num_frames": 5, "consensus": "x"}, "consensus must be one of"),
    ],
)
def test_arguments_that_do_not_go_together(arguments, text):
    with pytest.raises(ConfigError, match=text), torch.device("meta"):
        build("tsn", **{"width": 1 / 16 if "/" not in str(arguments.get("backbone")) else 1, **arguments})


def test_a_backbone_of_a_fixed_length_says_which():
    with pytest.raises(
        ConfigError, match="backbone deepvideo_single sees clips of 1, got num_frames=3: leave"
    ):
        tsn_module.make_backbone(
            "deepvideo_single", "rgb", lambda *_: build("r3d_10", width=WIDTH, num_frames=1), num_frames=3
        )


@pytest.mark.parametrize(
    ("modality", "shape", "text"),
    [
        (
            "flow",
            (2, 3, 2, 10, 32, 32),
            r"built for snippets of 5 frames or fields, got 10: build it with num_fr",
        ),
        ("rgb_diff", (2, 3, 3, 4, 32, 32), r"built for snippets of 5 frames or fields, got 4"),
        (
            "rgb",
            (2, 3, 2, 1, 32, 32),
            r"'rgb' takes snippets \[B, S, 3, T, H, W\], got \[2, 3, 2, 1, 32, 32\]",
        ),
        ("flow", (2, 3, 3, 5, 32, 32), r"of modality 'flow' takes snippets \[B, S, 2, T, H, W\], got"),
        ("rgb", (3, 1, 32, 32), r"takes snippets \[B, S, 3, T, H, W\], got \[3, 1, 32, 32\]"),
    ],
)
def test_inputs_that_it_does_not_take(modality, shape, text):
    with pytest.raises(ConfigError, match=text):
        tiny(modality=modality)(torch.zeros(shape, dtype=torch.float64))


def test_it_takes_one_modality():
    x = torch.zeros(1, 3, 3, 1, SIDE, SIDE)
    with pytest.raises(ConfigError, match=r"tsn is called as model\(rgb\), got 2 inputs"):
        tiny()(x, x)
