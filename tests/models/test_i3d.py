"""The five architectures of "Quo Vadis": the paper's counts, float64 references, what two streams do.

The trunks are held to their reference in test_inception.py. Mutations that a test here must notice: the last
pooling a plain mean, x and y or the fields of a stack exchanged, the two halves of a joint head exchanged, a
term of the LSTM without its normalisation, the LSTM's answer from another step, snippets in another order.
"""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from random_norms import randomize_norms
from tolerances import FLOAT64_SAME, NOTICED, relative_error
from torch import Tensor, nn

from muybridge.errors import ConfigError
from muybridge.models.contract import VideoModel
from muybridge.models.count import count_macs, count_parameters
from muybridge.models.i3d import CHANNELS, JointHead, TwoStreamI3D, clip_spec, mean_of_windows
from muybridge.models.i3d_baselines import CONVNET_3D, snippets_as_frames
from muybridge.models.inception import Conv
from muybridge.models.recurrent import BatchNormLSTM, ClipNorm
from muybridge.models.registry import I3D_PAPER, build
from muybridge.train.optim import set_trainable

SMALL = {"num_classes": 5, "width": 1 / 16}
# Numbers of frames, or of snippets, that make small inputs.
FEW = {
    "i3d_rgb": {"num_frames": 9},
    "i3d_flow": {"num_frames": 9},
    "i3d_two_stream": {"num_frames": 9},
    "i3d_convnet_lstm": {"num_frames": 3},
    "i3d_convnet_3d": {"num_frames": 4, "crop": 32},
    "i3d_2d_two_stream": {"num_frames": 2, "num_fields": 3},
    "i3d_fused_two_stream": {"num_frames": 2, "num_fields": 3},
}

# Parameters; the paper's millions (Table 1); GMAC of the clip that it trains on.
TABLE_1 = {
    "i3d_rgb": (12_697_264, None, 111.2),
    "i3d_flow": (12_675_312, None, 102.3),
    "i3d_two_stream": (25_372_576, 25, 213.5),
    "i3d_convnet_lstm": (8_954_928, 9, 37.5),
    "i3d_convnet_3d": (79_645_520, 79, 19.8),
    "i3d_2d_two_stream": (12_073_120, 12, 3.7),
    "i3d_fused_two_stream": (39_770_896, 39, 25.3),
}
TWO_STREAMS = ["i3d_two_stream", "i3d_2d_two_stream", "i3d_fused_two_stream"]


def small(name: str, **arguments: object) -> VideoModel:
    """In float64, its BatchNorms away from the identity."""
    torch.manual_seed(0)
    model = build(name, **(SMALL | FEW[name] | arguments)).double().eval()
    randomize_norms(model)
    nn.init.normal_(model.head.get_submodule("rgb.fc" if hasattr(model.head, "rgb") else "fc").bias)
    return model


def inputs_of(model: VideoModel, *, batch: int = 2, side: int = 32) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    specs = model.default_specs
    return tuple(
        torch.randn(batch, spec.num_channels, spec.num_frames, side, side, dtype=torch.float64)
        for spec in specs
    )


@pytest.fixture(scope="module", params=FEW)
def model(request: pytest.FixtureRequest) -> VideoModel:
    return small(request.param)


def test_the_tables_name_all_of_them():
    assert list(FEW) == list(TABLE_1) == list(I3D_PAPER)


@pytest.mark.parametrize("name", TABLE_1)
def test_counts_of_table_1(name):
    parameters, millions, gmac = TABLE_1[name]
    with torch.device("meta"):
        model = build(name)
    assert count_parameters(model) == parameters
    if millions is not None:
        assert (
            math.floor(parameters / 1e6 + 0.05) == millions
        )  # the paper's numbers are whole; ours 8.95, 79.65
    shapes = [(spec.num_channels, spec.num_frames, spec.crop, spec.crop) for spec in model.default_specs]
    assert count_macs(model, *shapes) / 1e9 == pytest.approx(gmac, abs=0.0501)


def test_gmac_of_other_lengths_and_of_one_frame():
    with torch.device("meta"):
        model = build("i3d_rgb")
    for frames, gmac in ((16, 27.8), (32, 55.6)):
        assert round(count_macs(model, (3, frames, 224, 224)) / 1e9, 1) == gmac
    with torch.device("meta"):
        model = build("i3d_2d_two_stream")
    total, stream = count_parameters(model), count_parameters(model.flow) + count_parameters(model.head.flow)
    assert total - stream == 6_009_904
    macs = count_macs(model, (3, 1, 224, 224), (2, 10, 224, 224))
    stem = 112 * 112 * 49 * 64  # the flow stream's first convolution has 20 channels, not 3
    assert round((macs - 17 * stem) / 2 / 1e9, 3) == 1.498


def test_the_keys_of_one_stream_are_those_of_the_ports():
    with torch.device("meta"):
        model = build("i3d_rgb")
    keys = set(model.state_dict())
    assert len(keys) == 344
    assert {"Conv3d_1a_7x7.conv.weight", "Mixed_3b.b1a.bn.running_mean", "Mixed_5c.b3b.conv.weight"} <= keys
    assert {"head.fc.weight", "head.fc.bias"} <= keys


@torch.no_grad()
def test_logits_are_the_head_of_the_features(model: VideoModel):
    inputs = inputs_of(model)
    features = model.forward_features(*inputs)
    assert features.shape == (2, model.feature_dim)
    logits = model(*inputs)
    assert logits.shape == (2, 5)
    torch.testing.assert_close(logits, model.head(features), rtol=0, atol=0)
    torch.testing.assert_close(model.embed(*inputs), features, rtol=0, atol=0)
    torch.testing.assert_close(model(*(x[1:] for x in inputs)), logits[1:], **FLOAT64_SAME)


@torch.no_grad()
def test_every_stage_is_embedded_and_they_are_the_whole_trunk(model: VideoModel):
    inputs = inputs_of(model)
    for stage in model.stage_names[::3]:
        assert model.embed(*inputs, layer=stage).shape[0] == 2
    prefixes = tuple(f"{name}." for name in (*model.stage_names, "head"))
    assert all(name.startswith(prefixes) for name, _ in model.named_parameters())


@torch.no_grad()
def test_arguments_rebuild_it_through_json(model: VideoModel):
    again = build(model.name, **json.loads(json.dumps(model.arguments)))
    again.double().load_state_dict(model.state_dict())
    inputs = inputs_of(model)
    torch.testing.assert_close(again.eval()(*inputs), model(*inputs), rtol=0, atol=0)


def test_it_trains_in_bf16_with_a_new_head_and_frozen_stages(model: VideoModel):
    again = build(model.name, **model.arguments)
    again.load_state_dict(model.state_dict())
    again.reset_head(7)
    assert again.bf16_safe
    assert (again.num_classes, again.arguments["num_classes"]) == (7, 7)
    first, *_, last = again.stage_names
    set_trainable(again, frozen=(first,))
    inputs = [x.float() for x in inputs_of(again)]
    for lone in (False, True):  # a step of one clip as well
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = again(*(x[: 1 if lone else 2] for x in inputs))
        F.cross_entropy(logits.float(), torch.tensor([3, 6][: len(logits)])).backward()
    assert logits.shape == (1, 7)
    gradients = {name: one.grad for name, one in again.named_parameters()}
    trains = {name for name, grad in gradients.items() if grad is not None}
    assert all(gradients[name].isfinite().all() for name in trains)
    assert trains == {name for name in gradients if not name.startswith(f"{first}.")}
    assert any(name.startswith(f"{last}.") for name in trains)
    set_trainable(again, head_only=True)
    trains = {name for name, one in again.named_parameters() if one.requires_grad}
    assert trains == {name for name in gradients if name.startswith("head.")}


@pytest.mark.parametrize("name", TWO_STREAMS[:2])
def test_a_new_joint_head_is_joint_and_keeps_place_type_and_mode(name):
    model = build(name, **SMALL).double().train()
    trunk = {key: value.clone() for key, value in model.state_dict().items() if not key.startswith("head.")}
    old = model.head
    model.reset_head(3)
    assert isinstance(model.head, JointHead)
    assert model.head is not old
    assert (model.head.fusion, model.head.training) == (old.fusion, True)
    assert model.head.flow.fc.weight.dtype == torch.float64
    assert model.head.rgb.dropout.p == old.rgb.dropout.p
    assert all(torch.equal(model.state_dict()[key], value) for key, value in trunk.items())
    assert model.card is None


@torch.no_grad()
def test_the_joint_head_adds_logits_or_averages_probabilities():
    torch.manual_seed(0)
    heads = {
        fusion: JointHead(8, 5, dropout=0.5, fusion=fusion).double().eval()
        for fusion in ("logits", "probabilities")
    }
    for module in heads["logits"].modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    heads["probabilities"].load_state_dict(heads["logits"].state_dict())
    x = torch.randn(3, 8, dtype=torch.float64)
    rgb, flow = (
        x[:, part] @ head.fc.weight.T + head.fc.bias
        for part, head in ((slice(4), heads["logits"].rgb), (slice(4, 8), heads["logits"].flow))
    )
    torch.testing.assert_close(heads["logits"](x), rgb + flow, **FLOAT64_SAME)
    mean = (rgb.softmax(1) + flow.softmax(1)) / 2
    torch.testing.assert_close(heads["probabilities"](x).softmax(1), mean, **FLOAT64_SAME)
    torch.testing.assert_close(heads["probabilities"](x), mean.log(), **FLOAT64_SAME)
    with pytest.raises(ConfigError, match="fusion must be 'logits' or 'probabilities', got 'sum'"):
        TwoStreamI3D(width=1 / 16, fusion="sum")


@torch.no_grad()
def test_two_stream_i3d_is_its_two_streams():
    model, rgb, flow = (small(name) for name in ("i3d_two_stream", "i3d_rgb", "i3d_flow"))
    for stream, name in ((rgb, "rgb"), (flow, "flow")):
        state = {key: value for key, value in stream.state_dict().items() if not key.startswith("head.")}
        model.get_submodule(name).load_state_dict(state)
        model.head.get_submodule(name).load_state_dict(stream.head.state_dict())
    x, y = inputs_of(model)
    torch.testing.assert_close(model(x, y), rgb(x) + flow(y), **FLOAT64_SAME)
    torch.testing.assert_close(model.embed(x, y, layer="head.flow"), flow(y), **FLOAT64_SAME)
    longer = torch.cat((y, y), dim=2)  # the streams need not be of one length
    torch.testing.assert_close(model(x, longer), rgb(x) + flow(longer), **FLOAT64_SAME)


@torch.no_grad()
@pytest.mark.parametrize(("frames", "steps"), [(16, 2), (9, 2), (41, 6)])
def test_i3d_averages_the_scores_of_windows_of_two_steps(frames, steps):
    model = small("i3d_rgb")
    x = torch.randn(2, 3, frames, 40, 33, dtype=torch.float64)
    y = x
    for name, layer in model.named_children():
        y = y if name == "head" else layer(y)
    assert y.shape[2] == steps
    windows = F.avg_pool3d(y, (2, *y.shape[3:]), stride=1)  # VALID
    kernel = model.head.fc.weight[:, :, None, None, None]
    scores = F.conv3d(windows, kernel, model.head.fc.bias)  # Conv3d_0c_1x1 of the authors' code
    assert scores.shape[2] == steps - 1
    torch.testing.assert_close(model(x), scores.mean((2, 3, 4)), **FLOAT64_SAME)
    if steps > 2:
        assert relative_error(y.mean((2, 3, 4)), mean_of_windows(y)) > NOTICED


@torch.no_grad()
def test_the_lstm_is_torch_s_where_the_normalisation_is_the_identity():
    torch.manual_seed(0)
    ours = BatchNormLSTM(6, 4, bn_eps=1e-5).double().eval()
    nn.init.normal_(ours.w_x.bias)
    nn.init.ones_(ours.gamma_h)
    ours.norm_h.running_var.fill_(1 - 1e-5)
    theirs = nn.LSTM(6, 4, batch_first=True).double()
    theirs.load_state_dict(
        {
            "weight_ih_l0": ours.w_x.weight,
            "weight_hh_l0": ours.w_h.weight,
            "bias_ih_l0": ours.w_x.bias,
            "bias_hh_l0": torch.zeros(16),
        }
    )
    x = torch.randn(3, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x.transpose(1, 2))[0].transpose(1, 2), **FLOAT64_SAME)


def test_a_new_lstm_remembers_and_its_recurrent_term_is_small():
    lstm = BatchNormLSTM(6, 4, bn_eps=1e-5)
    assert lstm.w_x.bias.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8  # of i, f, g, o
    assert lstm.gamma_h.detach().unique().tolist() == pytest.approx([0.1])


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_the_lstm_normalises_its_recurrent_term(training):
    torch.manual_seed(0)
    lstm = BatchNormLSTM(6, 4, bn_eps=1e-3).double().train(training)
    nn.init.uniform_(lstm.gamma_h, 0.1, 1.0)
    nn.init.normal_(lstm.norm_h.running_mean)
    mean, var = lstm.norm_h.running_mean.clone(), lstm.norm_h.running_var.uniform_(0.5, 2).clone()
    x = torch.randn(3, 6, 5, dtype=torch.float64)
    y = lstm(x)
    hidden, cell = torch.zeros(3, 4, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64)
    for step in range(5):
        term = hidden @ lstm.w_h.weight.T
        if training:
            normal = (term - term.mean(0)) / (term.var(0, unbiased=False) + 1e-3).sqrt()
            if step:  # the first has no statistics
                mean = 0.9 * mean + 0.1 * term.mean(0)
                var = 0.9 * var + 0.1 * term.var(0)
        else:
            normal = (term - lstm.norm_h.running_mean) / (var + 1e-3).sqrt() * (step > 0)
        gates = x[:, :, step] @ lstm.w_x.weight.T + lstm.w_x.bias + lstm.gamma_h * normal
        for unit in range(4):
            i, f, g, o = (gates[:, unit + 4 * gate] for gate in range(4))
            cell[:, unit] = f.sigmoid() * cell[:, unit] + i.sigmoid() * g.tanh()
            hidden[:, unit] = o.sigmoid() * cell[:, unit].tanh()
        torch.testing.assert_close(y[:, :, step], hidden, **FLOAT64_SAME)
    torch.testing.assert_close(lstm.norm_h.running_mean, mean, **FLOAT64_SAME)
    torch.testing.assert_close(lstm.norm_h.running_var, var, **FLOAT64_SAME)


@torch.no_grad()
def test_a_lone_clip_is_normalised_by_the_running_statistics():
    torch.manual_seed(0)
    norm = ClipNorm(4).double().train()
    nn.init.normal_(norm.running_mean)
    before = norm.running_mean.clone()
    x = torch.randn(2, 4, dtype=torch.float64)
    torch.testing.assert_close(norm(x[:1]), norm.eval()(x[:1]), **FLOAT64_SAME)
    assert torch.equal(norm.running_mean, before)
    torch.testing.assert_close(norm.train()(x), nn.BatchNorm1d(4).double()(x), **FLOAT64_SAME)
    assert not torch.equal(norm.running_mean, before)


@torch.no_grad()
def test_the_lstm_network_answers_after_the_last_frame_and_trains_at_every_one():
    model = small("i3d_convnet_lstm")
    (x,) = inputs_of(model)
    steps = model.step_logits(x)
    assert steps.shape == (2, 3, 5)
    torch.testing.assert_close(model(x), steps[:, -1], **FLOAT64_SAME)
    # A network of frames sees one frame at a time, and the LSTM those that came before.
    for count in (1, 2):
        torch.testing.assert_close(model(x[:, :, :count]), steps[:, count - 1], **FLOAT64_SAME)
    frame = model.frames(x[:, :, 1:2]).mean((3, 4))
    torch.testing.assert_close(frame, model.frames(x).mean((3, 4))[:, :, 1:2], **FLOAT64_SAME)
    assert relative_error(model(x.flip(2)), model(x)) > NOTICED
    model.train()
    torch.testing.assert_close(model(x), model.step_logits(x).mean(1), **FLOAT64_SAME)


@torch.no_grad()
@pytest.mark.parametrize(("frames", "crop"), [(4, 32), (16, 56), (5, 33)])
def test_the_3d_convnet_is_c3d_with_norms_written_out(frames, crop):
    model = small("i3d_convnet_3d", num_frames=frames, crop=crop)
    (x,) = inputs_of(model, side=crop)
    y = x

    def norm(y: Tensor, bn: nn.Module) -> Tensor:
        shape = (1, -1, *[1] * (y.ndim - 2))
        mean, var, scale, shift = (
            one.view(shape) for one in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
        )
        return ((y - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)

    for row in CONVNET_3D:
        if isinstance(row, Conv):
            unit = model.get_submodule(row.name)
            y = norm(F.conv3d(y, unit.conv.weight, padding=1), unit.bn)
        else:
            odd = [size % 2 for size in y.shape[:1:-1]]
            y = F.max_pool3d(F.pad(y, [pad for after in odd for pad in (0, after)], value=-torch.inf), 2)
    assert y.shape[2:] == (math.ceil(frames / 32), math.ceil(crop / 32), math.ceil(crop / 32))
    y = y.flatten(1)
    for unit in (model.fc6, model.fc7):
        y = norm(y @ unit.fc.weight.T, unit.bn)
    torch.testing.assert_close(model(x), y @ model.head.fc.weight.T + model.head.fc.bias, **FLOAT64_SAME)
    torch.testing.assert_close(model.embed(x, layer="fc7"), y, **FLOAT64_SAME)


def test_the_3d_convnet_halves_time_in_every_pooling():
    with torch.device("meta"):
        model = build("i3d_convnet_3d")
    x, sizes = torch.empty(2, 3, 16, 112, 112, device="meta"), []
    for row in CONVNET_3D:
        x = model.get_submodule(row.name)(x)
        if row.name.startswith("pool"):
            sizes.append(tuple(x.shape[2:]))
    assert sizes == [(8, 56, 56), (4, 28, 28), (2, 14, 14), (1, 7, 7), (1, 4, 4)]
    assert model.fc6.fc.in_features == 8192


@torch.no_grad()
def test_snippets_are_stacked_as_x1_y1_x2_y2():
    rgb = torch.arange(2 * 3 * 4.0).view(2, 3, 4, 1, 1)  # [B, 3, S, H, W]
    flow = torch.randn(2, 2, 4 * 3, 1, 1)  # [B, 2, S * L, H, W]
    frames, stacks = snippets_as_frames((rgb, flow), 3, "it")
    assert torch.equal(frames, rgb)
    for snippet in range(4):
        for field in range(3):
            for axis in range(2):
                expected = flow[:, axis, 3 * snippet + field]
                assert torch.equal(stacks[:, 2 * field + axis, snippet], expected)
    apart = rgb.transpose(1, 2).unsqueeze(3), torch.stack(flow.split(3, dim=2), dim=1)
    assert (apart[0].shape, apart[1].shape) == ((2, 4, 3, 1, 1, 1), (2, 4, 2, 3, 1, 1))
    for found, expected in zip(snippets_as_frames(apart, 3, "it"), (frames, stacks), strict=True):
        assert torch.equal(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["i3d_2d_two_stream", "i3d_fused_two_stream"])
def test_a_clip_and_its_snippets_apart_are_one_input(name):
    model = small(name)
    rgb, flow = inputs_of(model)
    apart = rgb.transpose(1, 2).unsqueeze(3), torch.stack(flow.split(3, dim=2), dim=1)
    torch.testing.assert_close(model(*apart), model(rgb, flow), rtol=0, atol=0)


@torch.no_grad()
def test_two_stream_averages_the_snippets_of_each_stream():
    model = small("i3d_2d_two_stream")
    rgb, flow = inputs_of(model)
    single = [(rgb[:, :, s : s + 1], flow[:, :, 3 * s : 3 * s + 3]) for s in range(2)]
    scores = []
    for stream in ("head.rgb", "head.flow"):
        mean = sum(model.embed(*snippet, layer=stream) for snippet in single) / 2
        torch.testing.assert_close(model.embed(rgb, flow, layer=stream), mean, **FLOAT64_SAME)
        scores.append(mean)
    expected = ((scores[0].softmax(1) + scores[1].softmax(1)) / 2).log()
    torch.testing.assert_close(model(rgb, flow), expected, **FLOAT64_SAME)
    # One snippet is a frame through a 2D network, whatever the order in which others come.
    torch.testing.assert_close(
        model(rgb.flip(2), torch.cat(flow.split(3, dim=2)[::-1], 2)), expected, **FLOAT64_SAME
    )


@torch.no_grad()
def test_fused_two_stream_convolves_both_grids_over_space_and_time():
    model = small("i3d_fused_two_stream")
    rgb, flow = inputs_of(model, side=64)
    frames, stacks = snippets_as_frames((rgb, flow), 3, "it")
    grids = torch.cat((model.rgb(frames), model.flow(stacks)), dim=1)
    assert grids.shape == (2, 128, 2, 2, 2)
    unit = model.fusion
    y = F.conv3d(grids, unit.conv.weight, padding=1)
    bn = nn.BatchNorm3d(32).double().eval()
    bn.load_state_dict(unit.bn.state_dict())
    y = F.max_pool3d(bn(y).relu(), 3, 1, 1).mean((2, 3, 4))
    torch.testing.assert_close(model(rgb, flow), model.head(y), **FLOAT64_SAME)
    swapped = torch.cat(flow.split(3, dim=2)[::-1], 2)
    assert relative_error(model(rgb, swapped), model(rgb, flow)) > NOTICED


def test_clips_are_made_as_table_1_says():
    spans = {}
    for name in I3D_PAPER:
        with torch.device("meta"):
            specs = build(name, width=1 / 16).default_specs
        assert all((spec.fps, spec.num_segments) == (25, 1) for spec in specs)
        assert tuple(spec.modality for spec in specs) == build(name, width=1 / 16).modalities
        spans[name] = [(spec.num_frames, spec.frame_stride) for spec in specs]
    assert spans == {
        "i3d_rgb": [(64, 1)],
        "i3d_flow": [(64, 1)],
        "i3d_two_stream": [(64, 1), (64, 1)],
        "i3d_convnet_lstm": [(25, 5)],
        "i3d_convnet_3d": [(16, 1)],
        "i3d_2d_two_stream": [(1, 10), (10, 1)],
        "i3d_fused_two_stream": [(5, 10), (50, 1)],
    }


def test_values_lie_between_minus_one_and_one():
    rgb, flow = clip_spec("rgb", 64), clip_spec("flow", 64)
    assert (rgb.resize, rgb.crop, flow.resize, flow.crop) == (256, 224, 256, 224)
    assert (flow.flow_method, flow.flow_bound) == ("tvl1", 20)
    for spec in (rgb, flow):
        assert [(value - spec.mean[0]) / spec.std[0] for value in (0, 0.5, 1)] == [-1, 0, 1]
        assert len(spec.mean) == CHANNELS[spec.modality]
    assert clip_spec("rgb", 16, crop=112).resize == 128


@pytest.mark.parametrize("name", ["i3d_rgb", "i3d_flow", "i3d_two_stream"])
def test_too_few_frames_for_the_strides_of_time(name):
    model = build(name, **SMALL)
    inputs = [x.float() for x in inputs_of(small(name))]
    with pytest.raises(
        ConfigError, match=rf"{name} takes 9 frames or more, got 8: of 8 its strides leave one"
    ):
        model(*inputs[:-1], inputs[-1][:, :, :8])


@pytest.mark.parametrize("name", TWO_STREAMS)
def test_two_streams_take_two_inputs_of_the_same_clips(name):
    model = small(name)
    rgb, flow = inputs_of(model)
    with pytest.raises(ConfigError, match=rf"{name} takes two inputs, model\(rgb, flow\), got 1"):
        model(rgb)
    with pytest.raises(ConfigError, match=rf"{name} takes RGB and flow of the same clips, got 2 and 1 clips"):
        model(rgb, flow[:1])
    with pytest.raises(ConfigError, match=rf"{name} takes \[B, 3, T, H, W\], got \[2, 2,"):
        model(flow, rgb)


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        (((1, 3, 2, 8, 8), (1, 2, 5, 8, 8)), "takes 3 flow fields for each RGB frame, got 5 for 2: build it"),
        (((1, 2, 3, 1, 8, 8), (1, 2, 3, 2, 8, 8)), r"takes snippets \[B, S, 2, T, H, W\], got \[1, 2, 3, 2"),
        (((1, 2, 1, 3, 8, 8), (1, 2, 2, 3, 8, 8)), r"takes snippets \[B, S, 3, T, H, W\], got \[1, 2, 1, 3"),
    ],
)
def test_snippets_that_do_not_fit(shapes, text):
    with pytest.raises(ConfigError, match=text):
        small("i3d_2d_two_stream")(*(torch.zeros(shape, dtype=torch.float64) for shape in shapes))


def test_the_3d_convnet_takes_exactly_its_clips():
    model = small("i3d_convnet_3d")
    with pytest.raises(
        ConfigError, match="was built for clips of exactly 4x32x32, got 8x32x32: build it with"
    ):
        model(torch.zeros(1, 3, 8, 32, 32, dtype=torch.float64))


@pytest.mark.parametrize("name", I3D_PAPER)
def test_arguments_that_make_no_sense(name):
    for key in ("width", *FEW[name]):
        with pytest.raises(ConfigError, match=f"{key} must be above 0, got 0"):
            build(name, **{key: 0})
