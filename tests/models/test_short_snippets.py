"""Beyond Short Snippets: identities of the five poolings and of the LSTM, counts, references in plain loops.

Mutations that a test here must notice: the maximum one layer earlier or later, a window more or less, another
stride of windows, windows side by side in another order, the gain of a step exchanged with its neighbour's,
the answer of another rule, a peephole that sees the cell of another step, the gates in another order.
"""

import json
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from tolerances import FLOAT64_SAME, NOTICED, relative_error
from torch import Tensor, nn

from muybridge.config import DataConfig, TrainConfig
from muybridge.data.loader import Batch
from muybridge.errors import ConfigError
from muybridge.models.contract import VideoModel
from muybridge.models.count import count_macs, count_parameters
from muybridge.models.registry import SHORT_SNIPPETS, build
from muybridge.models.short_snippets import ARCHITECTURES, FeaturePooling, expand, num_windows
from muybridge.models.short_snippets_lstm import LSTMStack, PeepholeLSTM, SnippetLSTM, StepHead, step_weights
from muybridge.models.short_snippets_towers import ALEXNET, clip_spec
from muybridge.train.loop import clip_losses, forward_backward
from muybridge.weights.store import load, save

SMALL = {"num_classes": 5, "width": 1 / 32, "crop": 96}
POOLINGS = list(ARCHITECTURES)
FRAMES = 17  # windows of 10 and a stride of 5: frames 0 to 9 and 5 to 14
# Of AlexNet with 487 classes: conv1 to conv3, fc6 to fc8.
SINGLE_FRAME = 34_944 + 1_990_912 + 1_638_656 + 37_752_832 + 16_781_312 + 1_995_239
MORE = {"local": 22 * 4096 * 487, "time_conv": 256 * 256 * 90 + 256}


def pooling_net(pooling: str, **arguments: object) -> FeaturePooling:
    """In float64, with biases that matter."""
    torch.manual_seed(0)
    name = "short_snippets_time_conv" if pooling == "time_conv" else f"short_snippets_{pooling}_pooling"
    model = build(name, **(SMALL | {"num_frames": FRAMES} | arguments)).double().eval()
    assert isinstance(model, FeaturePooling)
    _stir(model)
    return model


def lstm_net(**arguments: object) -> SnippetLSTM:
    torch.manual_seed(0)
    model = build("short_snippets_lstm", **(SMALL | {"num_frames": 6} | arguments)).double().eval()
    assert isinstance(model, SnippetLSTM)
    _stir(model)
    return model


def _stir(model: nn.Module) -> None:
    for name, one in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(one, std=0.3)
        elif name.startswith("head"):
            nn.init.normal_(one)


def clip(frames: int = FRAMES, *, channels: int = 3) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, channels, frames, 96, 96, dtype=torch.float64)


def still(frames: int) -> Tensor:
    return clip(1).expand(-1, -1, frames, -1, -1)


# By the paper, frame by frame: 2D functions of torch, no code of ours.


def alexnet_maps(model: nn.Module, frame: Tensor) -> Tensor:
    """[B, C, H, W] -> the last maps."""
    tower = model.get_submodule("tower")
    for n, stride in ((1, 4), (2, 1), (3, 1)):
        conv = tower.get_submodule(f"conv{n}")
        weight = conv.weight[:, :, 0]
        frame = F.conv2d(frame, weight, conv.bias, stride, weight.shape[-1] // 2).relu()
        frame = F.max_pool2d(frame, min(3, frame.shape[-1]), 2, ceil_mode=True)
        frame = F.local_response_norm(frame, 5, alpha=5e-4, beta=0.75, k=2.0)
    return frame


def full(model: nn.Module, name: str, x: Tensor) -> Tensor:
    layer = model.get_submodule(name)
    return (x.flatten(1) @ layer.weight.T + layer.bias).relu()


def windows(steps: list[Tensor]) -> list[list[Tensor]]:
    return [steps[start : start + 10] for start in range(0, len(steps) - 9, 5)]


def most(steps: list[Tensor]) -> Tensor:
    result = steps[0]
    for one in steps[1:]:
        result = torch.where(one > result, one, result)
    return result


def by_the_paper(model: FeaturePooling, x: Tensor) -> Tensor:
    maps = [alexnet_maps(model, x[:, :, t]) for t in range(x.shape[2])]

    def fc6(one: Tensor) -> Tensor:
        return full(model, "fc6", one)

    def fc7(one: Tensor) -> Tensor:
        return full(model, "fc7", one)

    match model.pooling:
        case "conv":
            features = fc7(fc6(most(maps)))
        case "late":
            features = most([fc7(fc6(one)) for one in maps])
        case "slow":
            features = fc7(most([fc6(most(window)) for window in windows(maps)]))
        case "local":
            features = torch.cat([fc7(fc6(most(window))) for window in windows(maps)], dim=1)
        case _:
            weight, bias = model.time_conv.weight, model.time_conv.bias
            answers = [
                sum(F.conv2d(one, weight[:, :, t], padding=1) for t, one in enumerate(window))
                + bias[:, None, None]
                for window in windows(maps)
            ]
            features = fc7(fc6(most([one.relu() for one in answers])))
    return features @ model.head.fc.weight.T + model.head.fc.bias


@torch.no_grad()
@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_five_architectures_frame_by_frame(pooling):
    model, x = pooling_net(pooling), clip()
    torch.testing.assert_close(model(x), by_the_paper(model, x), **FLOAT64_SAME)


@torch.no_grad()
@pytest.mark.parametrize("pooling", POOLINGS)
def test_snippets_apart_are_a_clip(pooling):
    model, x = pooling_net(pooling), clip()
    snippets = x.transpose(1, 2).unsqueeze(3)  # [B, S, 3, 1, H, W]
    torch.testing.assert_close(model(snippets), model(x), **FLOAT64_SAME)


@torch.no_grad()
@pytest.mark.parametrize("tower", ["alexnet", "googlenet"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_only_conv_and_late_pooling_are_blind_to_the_order_of_frames(pooling, tower):
    # In training mode, since fresh running statistics of 0 and 1 let GoogLeNet's signals fade.
    model, x = pooling_net(pooling, tower=tower, dropout=0.0, num_frames=20).train(), clip(20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    change = relative_error(model(x[:, :, order]), model(x))
    assert change < 1e-9 if pooling in ("conv", "late") else change > NOTICED


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 7, 15, 30])
@pytest.mark.parametrize("pooling", ["conv", "late", "slow", "local"])
def test_on_a_still_video_an_expanded_network_answers_as_that_of_one_frame(pooling, frames):
    single, longer = pooling_net("conv", num_frames=1), pooling_net(pooling, num_frames=frames)
    nn.init.normal_(longer.fc7.bias)
    assert expand(single, longer) == ()
    torch.testing.assert_close(longer(still(frames)), single(still(1)), **FLOAT64_SAME)


@torch.no_grad()
def test_expanding_from_30_to_120_frames_keeps_the_answer_of_each_window():
    fewer, more = pooling_net("local", num_frames=30), pooling_net("local", num_frames=120)
    assert (fewer.num_windows, more.num_windows) == (5, 23)
    assert expand(fewer, more) == ()
    torch.testing.assert_close(more(still(120)), fewer(still(30)), **FLOAT64_SAME)
    assert more.head.fc.weight.shape == (5, 23 * 128)


@torch.no_grad()
def test_expanding_to_the_lstm_and_to_the_time_convolution_leaves_what_is_new():
    single = pooling_net("conv", num_frames=1)
    lstm = lstm_net()
    random = expand(single, lstm)
    assert {name.split(".")[0] for name in random} == {"lstm", "head"}
    torch.testing.assert_close(lstm.fc7.weight, single.fc7.weight, rtol=0, atol=0)
    assert expand(single, pooling_net("time_conv")) == ("time_conv.weight", "time_conv.bias")
    other = build("short_snippets_conv_pooling", **(SMALL | {"num_classes": 7}))
    assert expand(single, other) == ("head.fc.weight", "head.fc.bias")


@torch.no_grad()
def test_a_flow_network_starts_from_rgb_as_with_a_third_channel_of_zeros():
    single = pooling_net("conv", num_frames=1)
    flow = pooling_net("conv", modality="flow")
    assert flow.modalities == ("flow",)
    assert expand(single, flow) == ()
    x = clip(channels=2)
    stored = torch.cat((x, torch.zeros_like(x[:, :1])), dim=1)
    torch.testing.assert_close(flow(x), pooling_like(single)(stored), **FLOAT64_SAME)


def pooling_like(single: FeaturePooling) -> FeaturePooling:
    longer = pooling_net("conv")
    longer.load_state_dict(single.state_dict())
    return longer


def test_expanding_another_tower_says_so():
    wide = build("short_snippets_conv_pooling", **(SMALL | {"width": 1 / 16}))
    with pytest.raises(
        ConfigError,
        match=r"short_snippets_lstm cannot start from short_snippets_conv_pooling: tower\.conv1\.weight dif",
    ):
        expand(wide, lstm_net())


@torch.no_grad()
@pytest.mark.parametrize("chosen", [0, 3, 9])
def test_a_time_convolution_that_picks_one_frame_is_conv_pooling_of_these_frames(chosen):
    conv, timed = pooling_net("conv"), pooling_net("time_conv", num_frames=30)
    expand(conv, timed)
    timed.time_conv.weight.zero_()
    timed.time_conv.bias.zero_()
    channels = len(timed.time_conv.weight)
    assert timed.time_conv.weight.shape == (channels, channels, 10, 3, 3)
    timed.time_conv.weight[:, :, chosen, 1, 1] = torch.eye(channels)
    x = clip(30)
    picked = x[:, :, chosen : chosen + 21 : 5]
    assert picked.shape[2] == num_windows(30, 10, 5)
    torch.testing.assert_close(timed(x), conv(picked), **FLOAT64_SAME)


def test_the_gradient_of_a_maximum_goes_to_one_frame():
    model = pooling_net("conv")
    maps: list[Tensor] = []

    def keep(module: nn.Module, args: object, output: Tensor) -> None:
        output.retain_grad()
        maps.append(output)

    model.tower.register_forward_hook(keep)
    model(clip()).square().sum().backward()
    frames_with_gradient = (maps[0].grad != 0).sum(2)
    assert int(frames_with_gradient.max()) == 1
    assert int(frames_with_gradient.sum()) > 100


@torch.no_grad()
def test_googlenet_is_averaged_before_frames_are_pooled_and_has_no_full_layers():
    model, x = pooling_net("conv", tower="googlenet"), clip(3)
    frames = [model.tower(x[:, :, t : t + 1]).mean((2, 3, 4)) for t in range(3)]
    expected = most(frames) @ model.head.fc.weight.T + model.head.fc.bias
    torch.testing.assert_close(model(x), expected, **FLOAT64_SAME)
    assert model.stage_names[-1] == "tower.Mixed_5c"
    assert pooling_net("slow", tower="googlenet").stage_names[-2:] == ("fc6", "fc7")


# The LSTM.


@torch.no_grad()
@pytest.mark.parametrize("tower", ["alexnet", "googlenet"])
def test_the_lstm_sees_frame_after_frame_and_answers_at_each(tower):
    model = lstm_net(tower=tower)
    x = clip(6)
    steps = []
    for t in range(6):
        frame = x[:, :, t]
        if tower == "alexnet":
            steps.append(full(model, "fc7", full(model, "fc6", alexnet_maps(model, frame))))
        else:
            steps.append(model.tower(frame[:, :, None]).mean((2, 3, 4)))
    theirs = nn.LSTM(steps[0].shape[1], 16, num_layers=5).double()
    theirs.load_state_dict(model.lstm.layers.state_dict())
    hidden, _ = theirs(torch.stack(steps))  # [T, B, U]
    logits = hidden.transpose(0, 1) @ model.head.fc.weight.T + model.head.fc.bias
    rows, weights = model.training_logits(x)
    torch.testing.assert_close(rows, logits, **FLOAT64_SAME)
    assert weights == pytest.approx([t / 5 for t in range(6)])
    answer = sum(g * row.softmax(1) for g, row in zip(weights, logits.unbind(1), strict=True)) / 3
    torch.testing.assert_close(model(x), answer.log(), **FLOAT64_SAME)
    # What comes later changes no earlier answer, and the order of frames matters.
    torch.testing.assert_close(model.training_logits(x[:, :, :4])[0], rows[:, :4], **FLOAT64_SAME)
    assert relative_error(model.training_logits(x.flip(2))[0][:, -1], rows[:, -1]) > 1e-5


@torch.no_grad()
def test_four_ways_to_one_answer():
    torch.manual_seed(0)
    heads = {kind: StepHead(4, 5, dropout=0.5, answer=kind) for kind in ("linear", "uniform", "last", "max")}
    nn.init.normal_(heads["linear"].fc.weight)
    for head in heads.values():
        head.double().eval().load_state_dict(heads["linear"].state_dict())
    x = torch.randn(3, 7 * 4, dtype=torch.float64)
    p = [
        [(step @ heads["linear"].fc.weight.T).softmax(0) for step in one.view(7, 4)]
        for one in x  # biases are 0
    ]
    for b in range(3):
        expected = {
            "last": p[b][6],
            "max": torch.stack([max(p[b], key=lambda one, k=k: float(one[k]))[k] for k in range(5)]),
            "uniform": sum(p[b]),
            "linear": sum(t * one for t, one in enumerate(p[b])),
        }
        for kind, scores in expected.items():
            answer = heads[kind](x)[b].softmax(0)
            torch.testing.assert_close(answer, scores / scores.sum(), **FLOAT64_SAME)
    equal = x[:, :4].repeat(1, 7)
    answers = [head(equal).softmax(1) for head in heads.values()]
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], **FLOAT64_SAME)


@pytest.mark.parametrize("steps", [2, 30, 121])
def test_the_gain_rises_from_0_to_1(steps):
    g = step_weights("linear", steps)
    assert (g[0], g[-1], len(g)) == (0.0, 1.0, steps)
    assert sum(g) == pytest.approx(steps / 2)  # (T + 1) / 2 of t = 0 ... T
    assert {round(b - a, 12) for a, b in pairwise(g)} == {round(1 / (steps - 1), 12)}
    assert step_weights("uniform", steps) == (1.0,) * steps
    assert step_weights("last", steps) == (0.0,) * (steps - 1) + (1.0,)


def a_batch(x: Tensor, target: Tensor) -> Batch:
    count = len(target)
    weight = torch.ones(count)
    return Batch(inputs=(x,), target=target, index=torch.arange(count), weight=weight, global_count=count)


def gradients(model: VideoModel) -> dict[str, Tensor]:
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("weighting", ["linear", "uniform", "last"])
def test_training_takes_a_loss_at_every_step(weighting):
    config = TrainConfig(data=DataConfig(root="videos"))
    model = lstm_net(weighting=weighting, dropout=0.0).float().train()
    x, target = clip(6).float(), torch.tensor([3, 0])
    seen = forward_backward(model, a_batch(x, target), config, 2, torch.device("cpu"))
    found = gradients(model)
    model.zero_grad()
    rows, g = model.training_logits(x)
    rows.retain_grad()
    losses = [g[t] * -rows[b, t].log_softmax(0)[target[b]] for b in range(2) for t in range(6)]
    loss = torch.stack(losses).sum()
    (loss / 2).backward()
    assert float(seen[0]) == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, expected in gradients(model).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)
    silent = rows.grad.flatten(2).abs().sum((0, 2)) == 0
    assert silent.tolist() == [gain == 0 for gain in g]


def test_a_network_of_one_answer_trains_to_the_bit_as_with_one_loss():
    config = TrainConfig(data=DataConfig(root="videos"))
    model = pooling_net("slow", dropout=0.0).float().train()
    x, target = clip().float(), torch.tensor([3, 0])
    seen = forward_backward(model, a_batch(x, target), config, 2, torch.device("cpu"))
    found = gradients(model)
    model.zero_grad()
    logits = model(x)
    loss = clip_losses(logits, target, "cross_entropy", 0.0).sum()
    (loss / 2).backward()
    assert seen.tolist() == [float(loss.detach()), float((logits.argmax(1) == target).sum()), 2.0]
    assert all(torch.equal(found[name], one) for name, one in gradients(model).items())


@torch.no_grad()
def test_peepholes_see_the_cell():
    torch.manual_seed(0)
    layer = PeepholeLSTM(3, 4).double()
    nn.init.normal_(layer.w_c)
    x = torch.randn(2, 5, 3, dtype=torch.float64)

    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    y = layer(x)
    for b in range(2):
        h, c = [0.0] * 4, [0.0] * 4
        for t in range(5):
            z = [
                float(layer.w_x.bias[row])
                + sum(float(layer.w_x.weight[row, k]) * float(x[b, t, k]) for k in range(3))
                + sum(float(layer.w_h.weight[row, k]) * h[k] for k in range(4))
                for row in range(16)
            ]
            new_h, new_c = [], []
            for u in range(4):
                i = sigmoid(z[u] + float(layer.w_c[0, u]) * c[u])
                f = sigmoid(z[4 + u] + float(layer.w_c[1, u]) * c[u])
                cell = f * c[u] + i * math.tanh(z[8 + u])
                o = sigmoid(z[12 + u] + float(layer.w_c[2, u]) * cell)
                new_c.append(cell)
                new_h.append(o * math.tanh(cell))
            h, c = new_h, new_c
            torch.testing.assert_close(y[b, t], torch.tensor(h, dtype=torch.float64), **FLOAT64_SAME)


@torch.no_grad()
def test_without_peepholes_it_is_torch_s():
    torch.manual_seed(0)
    ours = LSTMStack(3, 4, peepholes=True).double()
    theirs = LSTMStack(3, 4, peepholes=False).double()
    for n, layer in enumerate(ours.layers):
        nn.init.zeros_(layer.w_c)
        theirs.layers.load_state_dict(
            {
                **theirs.layers.state_dict(),
                f"weight_ih_l{n}": layer.w_x.weight,
                f"weight_hh_l{n}": layer.w_h.weight,
                f"bias_ih_l{n}": layer.w_x.bias,
                f"bias_hh_l{n}": torch.zeros(16),
            }
        )
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), **FLOAT64_SAME)


@pytest.mark.parametrize("peepholes", [True, False])
def test_signals_do_not_fade_from_layer_to_layer(peepholes):
    torch.manual_seed(0)
    stack = LSTMStack(64, 64, peepholes=peepholes)
    x = torch.randn(8, 64, 10)
    deviation = stack(x)[:, :, -1].std(0).mean()  # of the clips
    assert 0.05 < float(deviation.detach()) < 0.5  # 0.0005 with the first weights of torch


# Counts.


@pytest.mark.parametrize("pooling", POOLINGS)
def test_counts_of_the_poolings(pooling):
    with torch.device("meta"):
        model = FeaturePooling(pooling)
    assert count_parameters(model) == SINGLE_FRAME + MORE.get(pooling, 0)
    frame = (
        3 * 121 * 96 * 55**2 + 96 * 81 * 256 * 27**2 + 256 * 25 * 256 * 13**2  # 55, 27, 13: AlexNet's maps
    )
    fc6, fc7, head = 9216 * 4096, 4096**2, 4096 * 487
    steps = {
        "conv": fc6 + fc7 + head,
        "late": 120 * (fc6 + fc7) + head,
        "slow": 23 * fc6 + fc7 + head,
        "local": 23 * (fc6 + fc7 + head),
        "time_conv": 23 * 36 * 90 * 256 * 256 + fc6 + fc7 + head,
    }
    assert count_macs(model, (3, 120, 220, 220)) == 120 * frame + steps[pooling]
    assert model.feature_dim == (94_208 if pooling == "local" else 4096)


def test_the_maps_are_alexnet_s():
    with torch.device("meta"):
        tower = FeaturePooling().tower
    assert list(tower.sides.values()) == [55, 27, 27, 27, 13, 13, 13, 6, 6]
    assert [row.kernel[1] for row in ALEXNET if hasattr(row, "channels")] == [11, 9, 5]


@pytest.mark.parametrize(
    ("channels", "peepholes", "parameters"),
    [(1024, False, 11_554_816), (4096, False, 17_846_272), (1024, True, 11_544_576 + 7_680)],
)
def test_counts_of_the_lstm(channels, peepholes, parameters):
    with torch.device("meta"):
        stack = LSTMStack(channels, 512, peepholes=peepholes)
    assert count_parameters(stack) == parameters


@pytest.mark.parametrize("tower", ["alexnet", "googlenet"])
def test_counts_of_the_whole_lstm_network(tower):
    with torch.device("meta"):
        model = SnippetLSTM(tower=tower)
        frame = FeaturePooling("conv", tower=tower, num_frames=1)
    features = 4096 if tower == "alexnet" else 1024
    assert count_parameters(model.head) == 249_831
    lstm = 4 * 512 * (features + 512) + 4 * (4 * 512 * 1024)
    assert count_parameters(model.lstm) == lstm + 5 * 2 * 2048
    trunk = count_parameters(frame) - count_parameters(frame.head)
    assert count_parameters(model) == trunk + count_parameters(model.lstm) + 249_831
    per_frame = count_macs(frame, (3, 1, 220, 220)) - features * 487
    assert count_macs(model, (3, 30, 220, 220)) == 30 * (per_frame + lstm + 512 * 487)


# The contract, and what goes wrong.


def test_the_registry_names_the_paper_s_six():
    assert [f"short_snippets_{name}" for name in SHORT_SNIPPETS] == [
        "short_snippets_conv_pooling",
        "short_snippets_late_pooling",
        "short_snippets_slow_pooling",
        "short_snippets_local_pooling",
        "short_snippets_time_conv",
        "short_snippets_lstm",
    ]


@pytest.mark.parametrize("tower", ["alexnet", "googlenet"])
@pytest.mark.parametrize("name", ["slow", "local", "time_conv", "lstm"])
def test_it_is_saved_with_all_it_needs_and_trains_in_bf16(name, tower, tmp_path):
    options = {"tower": tower, "modality": "flow", "num_frames": 10}
    if name == "lstm":
        model = lstm_net(**options, weighting="uniform+max", peepholes=True).float()
    else:
        model = pooling_net(name, **options, window=4, window_stride=3).float()
    x = clip(10, channels=2).float()
    labels = [f"class {n}" for n in range(5)]
    save(tmp_path / "net.safetensors", model, labels=labels)
    again = load(tmp_path / "net.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    assert json.loads(json.dumps(again.arguments)) == model.arguments
    again.reset_head(7)
    again.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows, weights = again.training_logits(x)
    assert rows.shape == (2, len(weights), 7)
    F.cross_entropy(rows.float()[:, -1], torch.tensor([3, 6])).backward()
    assert again.bf16_safe
    assert all(one.grad is not None and one.grad.isfinite().all() for one in again.parameters())


def test_features_of_a_layer_are_means_over_frames():
    model, x = pooling_net("late"), clip(3)
    with torch.no_grad():
        each = [full(model, "fc6", alexnet_maps(model, x[:, :, t])) for t in range(3)]
        torch.testing.assert_close(model.embed(x, layer="fc6"), sum(each) / 3, **FLOAT64_SAME)
        lstm = lstm_net()
        steps = lstm.forward_features(x).view(2, 3, -1)
        torch.testing.assert_close(lstm.embed(x, layer="lstm"), steps.mean(1), **FLOAT64_SAME)


def test_clips_of_the_paper():
    rgb, flow = clip_spec("rgb", 120), clip_spec("flow", 120)
    assert (rgb.num_frames, rgb.fps, rgb.crop, rgb.resize) == (120, 1, 220, 256)
    assert (flow.num_segments, flow.num_frames, flow.fps, flow.modality) == (120, 1, 15, "flow")
    assert (flow.flow_method, flow.flow_bound) == ("tvl1", 40)
    assert clip_spec("rgb", 4, crop=110).resize == 128


@torch.no_grad()
@pytest.mark.parametrize("kind", ["pooling", "lstm"])
def test_dropout_lies_behind_fc6_and_fc7(kind):
    model = pooling_net("late", dropout=0.75) if kind == "pooling" else lstm_net(dropout=0.75)
    seen: dict[str, Tensor] = {}
    following = model.head.fc if kind == "pooling" else model.lstm
    for name, one in (("fc7", model.fc7), ("next", following)):
        one.register_forward_pre_hook(lambda _, args, name=name: seen.update({f"into {name}": args[0]}))
    for name, one in (("fc6", model.fc6), ("fc7", model.fc7)):
        one.register_forward_hook(lambda _, args, y, name=name: seen.update({name: y}))
    model.train()(clip(1))
    for given, taken in (("fc6", "into fc7"), ("fc7", "into next")):
        before, after = seen[given].flatten(), seen[taken].flatten()
        kept = after != 0
        torch.testing.assert_close(after[kept], 4 * before[kept], **FLOAT64_SAME)
        assert 0 < int(kept.sum()) < int((before != 0).sum()) / 2
    assert model.head.dropout.p == 0.75


def test_first_weights_are_he_s_and_those_into_a_cell_are_larger():
    torch.manual_seed(0)
    timed, lstm = (build(f"short_snippets_{name}", **SMALL) for name in ("time_conv", "lstm"))
    for layer in (timed.time_conv, timed.fc6, timed.fc7, lstm.fc6, lstm.fc7):
        std = (2 / layer.weight[0].numel()) ** 0.5
        assert float(layer.weight.detach().std()) == pytest.approx(std, rel=0.1)
        assert not layer.bias.detach().any()
    for peepholes, name in ((False, "weight_ih_l0"), (True, "0.w_x.weight")):
        weight = LSTMStack(100, 64, peepholes=peepholes).layers.get_parameter(name)
        stds = [float(gate.std()) for gate in weight.detach().chunk(4)]  # i, f, cell, o
        others = (1 / 64 / 3) ** 0.5  # torch's: uniform to 1 / sqrt(U)
        assert stds == pytest.approx([others, others, 2 / 10, others], rel=0.1)


def test_windows_are_those_that_fit():
    assert [num_windows(t, 10, 5) for t in (1, 9, 10, 14, 15, 30, 120)] == [1, 1, 1, 1, 2, 5, 23]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"tower": "vgg"}, "tower must be one of alexnet, googlenet, got 'vgg'"),
        ({"modality": "depth"}, "modality must be one of rgb, flow, got 'depth'"),
        ({"window_stride": 0}, "window_stride must be above 0, got 0"),
        ({"num_frames": 0}, "num_frames must be above 0, got 0"),
        ({"crop": 4, "tower": "alexnet", "pooling": "sum"}, "pooling must be one of conv, late, slow"),
    ],
)
def test_arguments_that_make_no_sense(arguments, text):
    with pytest.raises(ConfigError, match=text):
        FeaturePooling(**{"width": 1 / 32, **arguments})


@pytest.mark.parametrize(
    ("weighting", "gain", "answer"),
    [("linear", "linear", "linear"), ("uniform+max", "uniform", "max"), ("last+linear", "last", "linear")],
)
def test_one_weighting_for_the_loss_and_one_for_the_answer(weighting, gain, answer):
    model = lstm_net(weighting=weighting)
    assert (model.gain, model.head.answer) == (gain, answer)
    assert model.training_logits(clip(6))[1] == step_weights(gain, 6)


@pytest.mark.parametrize("weighting", ["max", "linear+mean", "linear+last+last", ""])
def test_a_weighting_that_is_none(weighting):
    with pytest.raises(ConfigError, match=r"weighting must be one of linear, uniform, last, or two such as"):
        SnippetLSTM(width=1 / 32, weighting=weighting)


def test_pictures_of_another_size():
    with pytest.raises(
        ConfigError, match=r"built for 96 x 96 pixels, .*, got 80 x 96: build it with crop=80"
    ):
        pooling_net("late")(clip()[..., :80, :])
    with pytest.raises(ConfigError, match="lstm was built for 96 x 96 pixels"):
        lstm_net()(clip(6)[..., :80, :])
    assert lstm_net(tower="googlenet")(clip(6)[..., :80, :]).shape == (2, 5)


def test_clips_that_do_not_fit():
    with pytest.raises(
        ConfigError, match="time_conv convolves 10 frames at once, got clips of 9: sample more"
    ):
        pooling_net("time_conv")(clip(9))
    with pytest.raises(
        ConfigError, match=r"for 2 windows, .*, got 3 of a clip of 20 frames: build it with num_"
    ):
        pooling_net("local")(clip(20))
    with pytest.raises(
        ConfigError, match=r"takes snippets \[B, S, 2, T, H, W\], got \[2, 17, 3, 1, 96, 96\]"
    ):
        pooling_net("conv", modality="flow")(clip().transpose(1, 2).unsqueeze(3))
    with pytest.raises(
        ConfigError, match=r"short_snippets_lstm takes \[B, 3, T, H, W\], got \[2, 2, 6, 96, 96\]"
    ):
        lstm_net()(clip(6, channels=2))
