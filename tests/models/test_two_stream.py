"""Two-Stream: the paper's counts, CNN-M written out with torch's own layers, stacks, fusion, several tasks.

Mutations that a test here must notice, each by `test_the_reference_notices`: x and y exchanged, the fields
in another order, zeros around conv2 left out, a normalisation too many, windows of pool2 elsewhere, height
and width exchanged, dropout that stays on.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tolerances import FLOAT32_PEER, FLOAT64_GRADIENT, FLOAT64_PEER, FLOAT64_SAME, NOTICED, relative_error
from torch import Tensor, nn

from muybridge.data.views import load_view, plan_view, video_info
from muybridge.errors import ConfigError, WeightsError
from muybridge.flow.quantise import quantise
from muybridge.flow.stack import bidirectional, stack, trajectory_stack
from muybridge.flow.tensor import to_tensor
from muybridge.models.alexnet import LocalResponseNorm, Tower, between
from muybridge.models.contract import VideoModel
from muybridge.models.count import count_macs, count_parameters
from muybridge.models.registry import TWO_STREAM, build
from muybridge.models.two_stream import CnnM, TemporalStream, TwoStream
from muybridge.models.two_stream_heads import TaskHeads, own_task
from muybridge.models.two_stream_inputs import check_inputs, flow_spec, rgb_spec, stack_channels
from muybridge.train.optim import set_trainable
from muybridge.types import Box, Sample, Size, View
from muybridge.weights.store import load, save

RGB, FLOW = (3, 1, 224, 224), (2, 10, 224, 224)
# Parameters of the temporal stream's layers (where the spatial one's differ, both), and its outputs.
LAYERS = {
    "conv1": (94_176, (96, 1, 109, 109)),
    "norm1": (0, (96, 1, 109, 109)),
    "pool1": (0, (96, 1, 54, 54)),
    "conv2": (614_656, (256, 1, 26, 26)),
    "pool2": (0, (256, 1, 13, 13)),
    "conv3": (1_180_160, (512, 1, 13, 13)),
    "conv4": (2_359_808, (512, 1, 13, 13)),
    "conv5": (2_359_808, (512, 1, 13, 13)),
    "pool5": (0, (512, 1, 6, 6)),
    "full6": (75_501_568, (4096, 1, 1, 1)),
    "drop6": (0, (4096, 1, 1, 1)),
    "full7": (8_390_656, (2048, 1, 1, 1)),
}
SMALL = {"num_classes": 5, "width": 1 / 32, "crop": 61}  # 61 pixels: pool2 has an odd size to round up
TASKS = {"hmdb51": 3, "ucf101": 4}


def shapes_only(name: str, **arguments: object) -> VideoModel:
    """A network without memory: for counting."""
    with torch.device("meta"):
        return build(name, **arguments)


def small(name: str, **arguments: object) -> VideoModel:
    """In float64, all biases random, the spatial first weights whole, so that the normalisations matter."""
    torch.manual_seed(0)
    model = build(name, **(SMALL | arguments)).double().eval()
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            nn.init.normal_(parameter)
        elif key.endswith("conv1.weight"):
            parameter.data *= 8 if parameter.shape[1] == 3 else 60
    return model


def inputs_of(model: VideoModel, *, batch: int = 2, seed: int = 1) -> tuple[Tensor, ...]:
    torch.manual_seed(seed)
    found = []
    for modality in model.modalities:
        shape = (3, 1) if modality == "rgb" else (2, model.num_flows)
        x = torch.randn(batch, *shape, SMALL["crop"], SMALL["crop"], dtype=torch.float64)
        found.append(60 * x if modality == "rgb" else x)
    return tuple(found)


# Counts


@pytest.mark.parametrize(
    ("name", "arguments", "parameters"),
    [
        ("two_stream_spatial", {"num_classes": 1000}, 92_469_864),
        ("two_stream_spatial", {"num_classes": 101}, 90_627_813),
        ("two_stream_spatial", {"num_classes": 51}, 90_525_363),
        ("two_stream_temporal", {"num_classes": 101}, 90_707_781),
        ("two_stream_temporal", {"num_classes": 51}, 90_605_331),
        ("two_stream_temporal", {"num_classes": 101, "num_flows": 5}, 90_707_781 - 49 * 10 * 96),
        ("two_stream_temporal", {"num_classes": 101, "num_flows": 1}, 90_707_781 - 49 * 18 * 96),
        ("two_stream", {"num_classes": 101}, 181_335_594),
        ("two_stream_spatial", {"num_classes": 101, "backbone": "vgg_16"}, 134_674_341),
        ("two_stream_temporal", {"num_classes": 101, "backbone": "vgg_16"}, 134_684_133),
    ],
)
def test_parameters(name: str, arguments: dict[str, object], parameters: int):
    assert count_parameters(shapes_only(name, **arguments)) == parameters


def test_multiply_adds():
    shared = 26**2 * 614_400 + 13**2 * (1_179_648 + 2 * 2_359_296) + 75_497_472 + 8_388_608 + 2048 * 101
    spatial, temporal = (shared + 109**2 * 49 * channels * 96 for channels in (3, 20))
    assert count_macs(shapes_only("two_stream_spatial", num_classes=101), RGB) == spatial
    assert count_macs(shapes_only("two_stream_temporal", num_classes=101), FLOW) == temporal
    assert count_macs(shapes_only("two_stream", num_classes=101), RGB, FLOW) == spatial + temporal


def test_each_layer_of_figure_1():
    model, shapes = shapes_only("two_stream_temporal"), {}
    for name in LAYERS:
        model.tower.get_submodule(name).register_forward_hook(
            lambda _, args, out, name=name: shapes.update({name: tuple(out.shape[1:])})
        )
    model.eval()(torch.empty(1, *FLOW, device="meta"))
    found = {
        name: (count_parameters(model.tower.get_submodule(name)), shape) for name, shape in shapes.items()
    }
    assert found == LAYERS
    assert list(shapes) == list(LAYERS)  # also in this order
    assert count_parameters(shapes_only("two_stream_spatial").tower.conv1) == 14_208


def test_the_temporal_stream_lacks_the_second_normalisation():
    for name, norms in (("two_stream_temporal", ["norm1"]), ("two_stream_spatial", ["norm1", "norm2"])):
        tower = shapes_only(name).tower
        assert [key for key, one in tower.named_modules() if isinstance(one, LocalResponseNorm)] == norms
        assert (tower.norm1.k, tower.norm1.n, tower.norm1.alpha, tower.norm1.beta) == (2, 5, 1e-4, 0.75)


def test_parts_of_a_tower_have_the_counts_of_the_whole():
    with torch.device("meta"):
        tower = CnnM(20, modality="flow")
        below = Tower(between(tower.rows, until="conv5"), 20, side=224)
    assert count_parameters(below) == 6_608_608
    assert count_parameters(tower) == 90_707_781 - 2049 * 101
    assert (below.sides["conv5"], tower.out_channels, tower.sides["pool5"]) == (13, 2048, 6)


# CNN-M written out


def written_out_tower(tower: nn.Module, x: Tensor) -> Tensor:
    """Fig. 1 with torch's own layers; x is a picture of all channels, [B, C, H, W]."""
    norm = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2)

    def conv(name: str, x: Tensor, **arguments: int) -> Tensor:
        layer = tower.get_submodule(name)
        return F.conv2d(x, layer.weight[:, :, 0], layer.bias, **arguments).clamp(min=0)

    def pool(x: Tensor) -> Tensor:
        pad = 1 - x.shape[-1] % 2  # of even sizes the last window stands out by one
        return F.max_pool2d(F.pad(x, (0, pad, 0, pad), value=-1e9), 3, stride=2)

    spatial = x.shape[1] == 3
    x = pool(norm(conv("conv1", x, stride=2)))
    x = conv("conv2", x, stride=2, padding=1)
    x = pool(norm(x) if spatial else x)
    for name in ("conv3", "conv4", "conv5"):
        x = conv(name, x, padding=1)
    x = pool(x).flatten(1)
    for name in ("full6", "full7"):
        layer = tower.get_submodule(name)
        x = (x @ layer.weight.T + layer.bias).clamp(min=0)
    return x


def picture_of(x: Tensor) -> Tensor:
    """Eq. (1), channel by channel: x and y of the first field, then of the next."""
    if x.shape[1] == 3:
        return x[:, :, 0]
    return torch.stack([x[:, c, k] for k in range(x.shape[2]) for c in (0, 1)], dim=1)


def written_out(model: VideoModel, *inputs: Tensor) -> Tensor:
    if isinstance(model, TwoStream):
        towers, heads = (model.rgb, model.flow), (model.head.rgb, model.head.flow)
    else:
        towers, heads = (model.tower,), (model.head,)
    scores = [
        head.fc(written_out_tower(tower, picture_of(x)))
        for tower, head, x in zip(towers, heads, inputs, strict=True)
    ]
    return scores[0] if len(scores) == 1 else torch.stack([one.softmax(1) for one in scores]).mean(0).log()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("two_stream_spatial", {}),
        ("two_stream_temporal", {"num_flows": 1}),
        ("two_stream_temporal", {"num_flows": 5}),
        ("two_stream_temporal", {"num_flows": 10}),
        ("two_stream", {"num_flows": 10}),
    ],
)
def test_outputs_and_gradients_are_those_of_the_network_written_out(name: str, arguments: dict[str, int]):
    model = small(name, **arguments)
    inputs, gradients = inputs_of(model), []
    for run in (model, lambda *x: written_out(model, *x)):
        model.zero_grad()
        F.cross_entropy(run(*inputs), torch.tensor([3, 1])).backward()
        gradients.append([one.grad for one in model.parameters()])
    with torch.no_grad():
        expected = written_out(model, *inputs)
        assert relative_error(model(*inputs), expected) < FLOAT64_PEER
        for ours, theirs in zip(*gradients, strict=True):
            assert relative_error(ours, theirs) < FLOAT64_GRADIENT
        assert relative_error(model.float()(*(x.float() for x in inputs)), expected) < FLOAT32_PEER


def exchanged_x_and_y(model: VideoModel) -> None:
    model.register_forward_pre_hook(lambda _, args: (args[0].flip(1),))


def other_order_of_fields(model: VideoModel) -> None:
    model.register_forward_pre_hook(lambda _, args: (args[0].flip(2),))


def exchanged_height_and_width(model: VideoModel) -> None:
    model.register_forward_pre_hook(lambda _, args: (args[0].transpose(3, 4),))


def no_zeros_around_conv2(model: VideoModel) -> None:
    def with_edges(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        x = args[0].clone()
        x[..., 0, :] = x[..., :, 0] = 0  # as if it started one later
        return (x,)

    model.tower.conv2.register_forward_pre_hook(with_edges)


def a_second_norm(model: VideoModel) -> None:
    model.tower.conv2.register_forward_hook(lambda _, args, y: LocalResponseNorm()(y))


def windows_elsewhere(model: VideoModel) -> None:
    model.tower.pool2 = nn.MaxPool3d((1, 2, 2), (1, 2, 2))


def dropout_stays_on(model: VideoModel) -> None:
    model.tower.drop6.train()


MUTATIONS = [
    exchanged_x_and_y,
    other_order_of_fields,
    exchanged_height_and_width,
    no_zeros_around_conv2,
    a_second_norm,
    windows_elsewhere,
    dropout_stays_on,
]


@torch.no_grad()
@pytest.mark.parametrize("mutate", MUTATIONS)
def test_the_reference_notices(mutate: Callable[[VideoModel], None]):
    model = small("two_stream_temporal")
    (x,) = inputs_of(model)
    expected = written_out(model, x)
    mutate(model)
    assert relative_error(model(x), expected) > NOTICED


# Stacks


def test_a_stack_has_x_and_y_of_its_first_field_first_as_the_flow_side_has_it():
    fields = np.arange(10, dtype=np.float32).reshape(5, 2, 1, 1)  # field k has (2k, 2k + 1)
    x = torch.from_numpy(fields).transpose(0, 1)[None]
    assert stack_channels(x).shape == (1, 10, 1, 1, 1)
    assert stack_channels(x).flatten().tolist() == list(range(10))
    assert np.array_equal(stack_channels(x)[0, :, 0].numpy(), stack(fields))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["plain", "trajectory", "bidirectional"])
def test_the_temporal_stream_takes_every_kind_of_stack(kind: str):
    model = small("two_stream_temporal", num_flows=4).float()
    side = SMALL["crop"]
    rng = np.random.default_rng(0)
    fields = rng.normal(size=(4, 2, side, side)).astype(np.float32)
    channels = {
        "plain": stack,
        "trajectory": trajectory_stack,
        "bidirectional": lambda f: bidirectional(f[:2], f[2:]),
    }[kind](fields)
    given = torch.from_numpy(channels).view(4, 2, side, side).transpose(0, 1)[None]  # [1, 2, L, H, W]
    seen: list[Tensor] = []
    model.tower.conv1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(given)
    assert torch.equal(seen[0][0, :, 0], torch.from_numpy(channels))
    assert np.array_equal(channels, stack(fields)) == (kind != "trajectory")


def test_flow_comes_in_pixels_without_its_mean_and_a_translation_is_not_seen():
    spec = flow_spec(2, like=rgb_spec(40))
    whole = spec.model_copy(update={"resize": 40, "crop": 40})
    view = View(indices=((0, 1, 2),), size=Size(40, 40), box=Box(0, 0, 40, 40))
    flow = np.random.default_rng(0).uniform(-8, 8, (2, 2, 40, 40)).astype(np.float32)
    step = 40 / 255  # pixels from one code to the next
    seen = to_tensor(quantise(flow, 20), view, whole).numpy().transpose(1, 0, 2, 3)
    assert np.abs(seen - (flow - flow.mean((2, 3), keepdims=True))).max() < 0.6 * step
    assert np.abs(seen.mean((2, 3))).max() < 1e-5
    moved = to_tensor(quantise(flow + np.float32(30 * step), 20), view, whole).numpy()
    np.testing.assert_allclose(moved.transpose(1, 0, 2, 3), seen, atol=1e-5)


@torch.no_grad()
def test_a_view_of_both_modalities_goes_into_the_network():
    model = small("two_stream", num_flows=3).float()
    specs = tuple(
        one.model_copy(update={"flow_method": "dis"} if one.is_flow else {}) for one in model.default_specs
    )
    frames = np.random.default_rng(0).integers(0, 255, (12, 72, 96, 3)).astype(np.uint8)
    view = plan_view(video_info(frames), Sample(path=Path("frames")), specs, position=1.0)
    assert view.indices == ((8,), (8, 9, 10, 11))  # one instant for both
    rgb, flow = load_view(frames, view, specs)
    assert (rgb.shape, flow.shape) == ((3, 1, 61, 61), (2, 3, 61, 61))
    assert model(rgb[None], flow[None]).isfinite().all()


# Two streams


@torch.no_grad()
def test_two_streams_are_the_mean_of_their_softmax_scores():
    joint = small("two_stream")
    spatial = small("two_stream_spatial")
    temporal = small("two_stream_temporal")
    joint.take_streams(spatial, temporal)
    rgb, flow = inputs_of(joint)
    mean = (spatial(rgb).softmax(1) + temporal(flow).softmax(1)) / 2
    torch.testing.assert_close(joint(rgb, flow).softmax(1), mean, **FLOAT64_SAME)
    torch.testing.assert_close(joint(rgb, flow), mean.log(), **FLOAT64_SAME)
    for layer, model, x in (("head.rgb", spatial, rgb), ("head.flow", temporal, flow)):
        torch.testing.assert_close(joint.embed(rgb, flow, layer=layer), model(x), **FLOAT64_SAME)


@torch.no_grad()
def test_the_svm_sees_the_scores_of_each_stream_with_length_1():
    joint, spatial = small("two_stream"), small("two_stream_spatial")
    rgb, flow = inputs_of(joint)
    features = joint.embed(rgb, flow, layer="softmax")
    assert features.shape == (2, 10)
    for layer, block in zip(("head.rgb", "head.flow"), features.split(5, dim=1), strict=True):
        scores = joint.embed(rgb, flow, layer=layer).softmax(1)
        expected = scores / (scores**2).sum(1, keepdim=True).sqrt()
        torch.testing.assert_close(block, expected, **FLOAT64_SAME)
    torch.testing.assert_close(spatial.embed(rgb, layer="softmax"), spatial(rgb).softmax(1), **FLOAT64_SAME)


def test_in_training_each_stream_has_its_own_loss():
    joint, parts = small("two_stream"), (small("two_stream_spatial"), small("two_stream_temporal"))
    joint.take_streams(*parts)
    inputs, target = inputs_of(joint), torch.tensor([3, 1])
    rows, weights = joint.training_logits(*inputs)
    assert (rows.shape, weights) == ((2, 2, 5), (1.0, 1.0))
    losses = F.cross_entropy(rows.flatten(0, 1), target.repeat_interleave(2), reduction="none").view(2, 2)
    (losses * torch.tensor(weights)).sum().backward()
    for tower, part, x in zip((joint.rgb, joint.flow), parts, inputs, strict=True):
        F.cross_entropy(part(x), target, reduction="sum").backward()
        for ours, theirs in zip(tower.parameters(), part.tower.parameters(), strict=True):
            assert relative_error(ours.grad, theirs.grad) < FLOAT64_GRADIENT
    assert torch.equal(parts[0].own_task(rows[:, 0], target), rows[:, 0])  # one task: all of it


def test_streams_that_do_not_fit_are_not_taken():
    joint = build("two_stream", **SMALL)
    before = {key: value.clone() for key, value in joint.state_dict().items()}
    spatial = build("two_stream_spatial", **SMALL)
    for arguments in ({"num_flows": 5}, {"num_classes": 7, "tasks": TASKS}):
        temporal = build("two_stream_temporal", **(SMALL | arguments))
        with pytest.raises(WeightsError, match="the temporal stream is another network than that of two_str"):
            joint.take_streams(spatial, temporal)
    assert all(torch.equal(value, before[key]) for key, value in joint.state_dict().items())


# Several tasks


def multi_task() -> TemporalStream:
    model = small("two_stream_temporal", num_classes=7, tasks=TASKS, num_flows=2)
    assert isinstance(model, TemporalStream)
    return model


def test_the_loss_of_several_tasks_is_the_sum_of_the_losses_of_each():
    torch.manual_seed(0)
    logits = torch.randn(4, 7, dtype=torch.float64)
    target = torch.tensor([0, 3, 2, 6])
    found = F.cross_entropy(own_task(logits, target, (3, 4)), target, reduction="sum")
    hmdb = F.cross_entropy(logits[[0, 2], :3], torch.tensor([0, 2]), reduction="sum")
    ucf = F.cross_entropy(logits[[1, 3], 3:], torch.tensor([0, 3]), reduction="sum")
    torch.testing.assert_close(found, hmdb + ucf, **FLOAT64_SAME)


def test_a_data_set_moves_its_own_classifier_alone():
    model = multi_task()
    (x,) = inputs_of(model)
    for task, target in (("hmdb51", [2, 0]), ("ucf101", [3, 5])):
        model.zero_grad()
        truth = torch.tensor(target)
        F.cross_entropy(model.own_task(model(x), truth), truth).backward()
        for name, head in model.head.of.items():
            assert bool(head.fc.weight.grad.any()) == (name == task)
        assert model.tower.conv1.weight.grad.any()


@torch.no_grad()
def test_one_task_is_kept_with_its_weights(tmp_path: Path):
    model = multi_task()
    (x,) = inputs_of(model)
    expected = model(x)[:, 3:]
    model.keep_task("ucf101")
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    assert (model.num_classes, model.arguments["num_classes"], model.arguments["tasks"]) == (4, 4, None)
    save(tmp_path / "ucf.safetensors", model.float(), labels=tuple("abcd"))
    assert torch.equal(load(tmp_path / "ucf.safetensors")(x.float()), model(x.float()))


@torch.no_grad()
def test_other_classes_are_one_task_again():
    model = multi_task()
    model.reset_head(6)
    assert model(*inputs_of(model)).shape == (2, 6)
    again = build(model.name, **json.loads(json.dumps(model.arguments)))
    again.load_state_dict(model.state_dict())


def test_tasks_that_make_no_sense():
    with pytest.raises(
        ConfigError, match=r"tasks has 3 \(hmdb51\) \+ 4 \(ucf101\) = 7 classes, but there are 9"
    ):
        build("two_stream_temporal", **(SMALL | {"num_classes": 9, "tasks": TASKS}))
    with pytest.raises(ConfigError, match=r"letters, digits and underscores, got 'ucf\.101'"):
        TaskHeads(4, 5, tasks={"ucf.101": 5}, dropout=0)
    with pytest.raises(ConfigError, match="two_stream_temporal has no task 'kth'; its tasks: hmdb51, ucf101"):
        multi_task().keep_task("kth")
    with pytest.raises(ConfigError, match="has no task 'kth'; its tasks: none: it has one classifier"):
        build("two_stream_spatial", **SMALL).keep_task("kth")


# As all other networks


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("two_stream_spatial", {}),
        ("two_stream_temporal", {"num_flows": 5}),
        ("two_stream_temporal", {"num_flows": 2, "tasks": {"hmdb51": 2, "ucf101": 3}}),
        ("two_stream", {"num_flows": 2}),
        ("two_stream_spatial", {"backbone": "vgg_16", "crop": 32}),
        ("two_stream", {"backbone": "bn_inception", "num_flows": 2}),
        ("two_stream", {"backbone": "torchvision/mobilenet_v3_small", "width": 1, "crop": 32}),
    ],
)
def test_it_is_rebuilt_saved_and_loaded_from_its_arguments(
    name: str, arguments: dict[str, object], tmp_path: Path
):
    torch.manual_seed(0)
    model = build(name, **(SMALL | arguments)).eval()
    assert json.loads(json.dumps(model.arguments)) == model.arguments
    save(tmp_path / "it.safetensors", model, labels=tuple("abcde"))
    again = load(tmp_path / "it.safetensors")
    assert again.default_specs == model.default_specs
    inputs = tuple(
        torch.randn(2, spec.num_channels, spec.num_frames, spec.crop, spec.crop)
        for spec in model.default_specs
    )
    assert torch.equal(again(*inputs), model(*inputs))
    assert all(key.startswith((*model.stage_names, "head")) for key, _ in model.named_parameters())
    for stage in model.stage_names:
        assert model.embed(*inputs, layer=stage).shape[0] == 2
    features = model.forward_features(*inputs)
    assert features.shape == (2, model.feature_dim)
    torch.testing.assert_close(model.head(features), model(*inputs))


def test_how_it_sees_videos():
    rgb, flow = shapes_only("two_stream").default_specs
    assert (rgb.num_frames, rgb.resize, rgb.crop, rgb.scale, rgb.std) == (1, 256, 224, 255, (1, 1, 1))
    assert (flow.num_frames, flow.resize, flow.crop, flow.modality) == (10, 256, 224, "flow")
    assert (flow.mean_subtraction, flow.flow_bound, flow.std) == (True, 20, (1 / 40, 1 / 40))
    (outside,) = shapes_only("two_stream_temporal", backbone="torchvision/inception_v3").default_specs
    assert (outside.resize, outside.crop, outside.mean_subtraction) == (342, 299, True)
    for backbone in ("cnn_m", "torchvision/resnet18"):
        (smaller,) = shapes_only("two_stream_spatial", backbone=backbone, crop=112).default_specs
        assert (smaller.resize, smaller.crop) == (128, 112)


@pytest.mark.parametrize("backbone", ["cnn_m", "vgg_16"])
def test_first_weights_of_the_spatial_stream_alone_are_an_eighth(backbone):
    torch.manual_seed(0)
    model = build("two_stream", num_classes=5, width=1 / 4, crop=32, backbone=backbone)
    for tower, gain in ((model.rgb, 1 / 8), (model.flow, 1)):
        first = tower.get_submodule(tower.layer_names[0]).weight.detach()
        assert float(first.std()) == pytest.approx(gain * (2 / first[0].numel()) ** 0.5, rel=0.1)


def test_dropout_lies_behind_full6_and_full7_and_the_last_layer_can_be_trained_alone():
    for name in TWO_STREAM:
        model = shapes_only(name, dropout=0.7)
        probabilities = [one.p for one in model.modules() if isinstance(one, nn.Dropout)]
        assert probabilities == [0.7] * (4 if name == "two_stream" else 2)
    deep = shapes_only("two_stream_temporal", backbone="vgg_16", dropout=0.7)
    assert [one.p for one in deep.modules() if isinstance(one, nn.Dropout)] == [0.7] * 2
    assert {one.p for one in shapes_only("two_stream").modules() if isinstance(one, nn.Dropout)} == {0.9}
    model = small("two_stream_spatial").train()
    set_trainable(model, frozen=("tower",))
    assert [key for key, one in model.named_parameters() if one.requires_grad] == [
        "head.fc.weight",
        "head.fc.bias",
    ]
    assert not model.tower.drop6.training


@pytest.mark.parametrize(
    ("name", "shapes", "text"),
    [
        ("two_stream", [(1, *RGB)], r"two_stream is called as model\(rgb, flow\), got 1 inputs"),
        ("two_stream_spatial", [(1, *RGB), (1, *FLOW)], r"is called as model\(rgb\), got 2 inputs"),
        ("two_stream_temporal", [(1, *RGB)], r"takes \[B, 2, T, H, W\], got \[1, 3, 1, 224, 224\]"),
        ("two_stream", [(1, *FLOW), (1, *RGB)], r"takes \[B, 3, T, H, W\], got \[1, 2, 10, 224, 224\]"),
        (
            "two_stream_spatial",
            [(1, 3, 4, 224, 224)],
            "takes one RGB frame, got 4: sample clips of one frame",
        ),
        (
            "two_stream_temporal",
            [(1, 2, 5, 224, 224)],
            "was built for stacks of 10 flow fields, got 5: build it with num_flows=5, or make clips of 10",
        ),
        (
            "two_stream",
            [(1, *RGB), (1, 2, 10, 112, 112)],
            "built for flow of 224 x 224 pixels, which full6 fixes, got 112 x 112: build it with crop=112",
        ),
        ("two_stream", [(3, *RGB), (2, *FLOW)], "takes rgb and flow of the same clips, got 3 and 2 clips"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(name: str, shapes: list[tuple[int, ...]], text: str):
    model = shapes_only(name)
    with pytest.raises(ConfigError, match=text):
        model(*(torch.empty(shape, device="meta") for shape in shapes))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"backbone": "cnn_s"}, "must be cnn_m, vgg_16, bn_inception, torchvision/NAME or .*, got 'cnn_s'"),
        ({"backbone": "torchvision/resnet18"}, "width must be 1 for torchvision/resnet18, got 0.5"),
        ({"width": 0}, "width and num_flows must be above 0, got 0 and 10"),
        ({"num_flows": 0}, "width and num_flows must be above 0, got 0.5 and 0"),
        ({"crop": 9}, "conv2 leaves nothing of a picture of 9 x 9: take a larger crop"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, object], text: str):
    with torch.device("meta"), pytest.raises(ConfigError, match=text):
        TwoStream(**{"width": 0.5, **arguments})


def test_any_size_goes_through_a_backbone_that_averages():
    (x,) = check_inputs((torch.zeros(1, 2, 3, 20, 30),), ("flow",), 3, crop=None, who="it")
    assert x.shape == (1, 2, 3, 20, 30)


def test_bf16_steps_stay_finite_where_maps_are_smaller_than_kernels():
    torch.manual_seed(0)
    model = build("two_stream", num_classes=4, width=1 / 16, crop=32, num_flows=2).train()
    assert model.bf16_safe
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for step in range(4):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(60 * torch.randn(4, 3, 1, 32, 32), torch.randn(4, 2, 2, 32, 32))
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 3])).backward()
        bad = [key for key, one in model.named_parameters() if not one.grad.isfinite().all()]
        assert not bad, (step, bad)
        optimizer.step()


def test_it_learns_a_few_clips_by_heart():
    torch.manual_seed(0)
    model = build("two_stream", num_classes=4, width=1 / 16, crop=32, num_flows=2, dropout=0.0).train()
    clips = 60 * torch.randn(12, 3, 1, 32, 32), torch.randn(12, 2, 2, 32, 32)
    classes = torch.arange(12) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002)
    first = float(F.cross_entropy(model(*clips), classes).detach())
    assert first == pytest.approx(math.log(4), abs=0.5)  # the first scores are near chance
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(*clips), classes).backward()
        optimizer.step()
    assert bool((model(*clips).argmax(1) == classes).all())
