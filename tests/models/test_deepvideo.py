"""DeepVideo against the paper's counts, its identities, and each network written out with 2D convolutions.

Mutations that a test here must notice, each by `test_the_reference_notices`: time reversed, height and width
exchanged, another beta, a normalisation left out, windows of a pooling elsewhere, fovea and context
exchanged, the order in which fc6 sees frames and streams.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tolerances import FLOAT32_PEER, FLOAT64_GRADIENT, FLOAT64_PEER, FLOAT64_SAME, NOTICED, relative_error
from torch import Tensor, nn

from muybridge.config import AugmentConfig
from muybridge.data.views import load_view, plan_random_view, video_info
from muybridge.errors import ConfigError
from muybridge.models.alexnet import LocalResponseNorm
from muybridge.models.contract import VideoModel
from muybridge.models.count import count_macs, count_parameters
from muybridge.models.deepvideo import FUSIONS, DeepVideo, two_resolutions
from muybridge.models.registry import build
from muybridge.train.optim import set_trainable
from muybridge.types import Sample
from muybridge.weights.store import load, save

# Parameters with 487 classes: full frame; fovea and context apart; with shared convolutions.
COUNTS = {
    "single": (73_908_071, 129_035_495, 125_288_295),
    "early": (74_221_703, 129_035_495 + 2 * 313_632, 125_288_295 + 313_632),
    "late": (125_288_295, 129_035_495 + 2 * 12_544 * 4096, 125_288_295 + 2 * 12_544 * 4096),
    "slow": (75_511_751, 129_035_495 + 2 * 1_603_680, 125_288_295 + 1_603_680),
}
# Of the single frame: parameters of each layer, and its output without the batch.
LAYERS = {
    "full.conv1": (34_944, (96, 1, 54, 54)),
    "full.pool1": (0, (96, 1, 27, 27)),
    "full.conv2": (614_656, (256, 1, 27, 27)),
    "full.pool2": (0, (256, 1, 14, 14)),
    "full.conv3": (885_120, (384, 1, 14, 14)),
    "full.conv4": (1_327_488, (384, 1, 14, 14)),
    "full.conv5": (884_992, (256, 1, 14, 14)),
    "full.pool5": (0, (256, 1, 7, 7)),
    "fc6": (51_384_320, (4096, 1, 1, 1)),
    "fc7": (16_781_312, (4096, 1, 1, 1)),
    "head": (1_995_239, (487,)),
}
STREAMS: dict[str, dict[str, object]] = {
    "full": {},
    "two": {"multires": True},
    "shared": {"multires": True, "shared_streams": True},
    "fovea": {"multires": True, "stream": "fovea"},
    "context": {"multires": True, "stream": "context"},
}


def shapes_only(fusion: str = "single", **arguments: object) -> DeepVideo:
    """A network without memory: for counting."""
    with torch.device("meta"):
        return DeepVideo(fusion, **arguments)


def small(fusion: str = "single", *, crop: int = 52, **arguments: object) -> DeepVideo:
    """In float64, all biases random, its first weights whole, so that the normalisations matter."""
    torch.manual_seed(0)
    model = DeepVideo(fusion, num_classes=5, width=1 / 16, crop=crop, **arguments).double().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
        elif name.endswith("conv1.weight"):
            parameter.data *= 8
    return model


def clip_of(model: DeepVideo, *, batch: int = 2) -> Tensor:
    torch.manual_seed(1)
    return 60 * torch.randn(batch, 3, model.num_frames, model.crop, model.crop, dtype=torch.float64)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_counts(fusion: str):
    full, apart, shared = COUNTS[fusion]
    assert count_parameters(shapes_only(fusion)) == full
    assert count_parameters(shapes_only(fusion, **STREAMS["two"])) == apart
    assert count_parameters(shapes_only(fusion, **STREAMS["shared"])) == shared
    for stream in ("fovea", "context"):
        assert count_parameters(shapes_only(fusion, **STREAMS[stream])) == full


def test_counts_of_ucf101_and_multiply_adds():
    assert count_parameters(shapes_only(num_classes=101)) == 72_326_629
    macs = 54**2 * 34_848 + 27**2 * 614_400 + 14**2 * (884_736 + 1_327_104 + 884_736)
    macs += 12_544 * 4096 + 4096 * 4096 + 4096 * 487
    assert count_macs(shapes_only(), (3, 1, 170, 170)) == macs
    streams = 27**2 * 34_848 + 14**2 * 614_400 + 7**2 * (884_736 + 1_327_104 + 884_736)
    macs = 2 * streams + 2 * 12_544 * 4096 + 4096 * 4096 + 4096 * 487
    assert count_macs(shapes_only(multires=True), (3, 1, 178, 178)) == macs


def shapes_in(model: VideoModel, names: list[str], clip: Tensor) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda _, args, out, name=name: shapes.update({name: tuple(out.shape[1:])})
        )
    model.eval()(clip)
    return shapes


def test_each_layer_of_the_single_frame_network():
    model = shapes_only()
    shapes = shapes_in(model, list(LAYERS), torch.empty(1, 3, 1, 170, 170, device="meta"))
    found = {name: (count_parameters(model.get_submodule(name)), shapes[name]) for name in LAYERS}
    assert found == LAYERS
    assert list(shapes) == list(LAYERS)  # also in this order


@pytest.mark.parametrize("streams", ["two", "shared"])
def test_the_last_maps_of_each_stream_are_7_x_7(streams: str):
    model = shapes_only(**STREAMS[streams])
    names = [f"{name}.conv5" for name in model.stream_names]
    shapes = shapes_in(model, names, torch.empty(1, 3, 1, 178, 178, device="meta"))
    assert set(shapes.values()) == {(256, 1, 7, 7)}
    assert model.default_specs[0].crop == 178


@pytest.mark.parametrize("streams", ["full", "two"])
def test_slow_fusion_goes_from_10_frames_to_4_to_2_to_1(streams: str):
    model = shapes_only("slow", **STREAMS[streams])
    names = [f"{model.stream_names[0]}.conv{number}" for number in range(1, 6)]
    shapes = shapes_in(model, names, torch.empty(1, 3, 10, model.crop, model.crop, device="meta"))
    assert [shape[1] for shape in shapes.values()] == [4, 2, 1, 1, 1]


# Each network written out: 2D convolutions in a loop over steps and frames, torch's own normalisation.


def convolved(x: Tensor, conv: nn.Conv3d, stride_t: int, **arguments: int) -> Tensor:
    kernel_t = conv.weight.shape[2]
    steps = range(0, x.shape[2] - kernel_t + 1, stride_t)
    taps = [
        [F.conv2d(x[:, :, t + k], conv.weight[:, :, k], None, **arguments) for k in range(kernel_t)]
        for t in steps
    ]
    y = torch.stack([torch.stack(one).sum(0) for one in taps], 2)
    return (y + conv.bias.view(1, -1, 1, 1, 1)).clamp(min=0)


def pooled(x: Tensor) -> Tensor:
    pad = (0, x.shape[4] % 2, 0, x.shape[3] % 2)
    return torch.stack([F.max_pool2d(F.pad(one, pad, value=-1e9), 2) for one in x.unbind(2)], 2)


def written_out_tower(tower: nn.Module, x: Tensor, *, slow: bool, last_pool: bool) -> Tensor:
    norm = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.5, k=2)
    stride = 2 if slow else 1
    x = pooled(norm(convolved(x, tower.conv1, stride, stride=3)))
    x = pooled(norm(convolved(x, tower.conv2, stride, padding=2)))
    x = convolved(x, tower.conv3, stride, padding=1)
    x = convolved(convolved(x, tower.conv4, 1, padding=1), tower.conv5, 1, padding=1)
    return pooled(x) if last_pool else x


def written_out(model: DeepVideo, x: Tensor, fusion: str) -> Tensor:
    side = model.crop // 2
    at = (model.crop - side) // 2
    halves = F.interpolate(x, scale_factor=(1, 0.5, 0.5), mode="area")
    pictures = {"full": [x], "fovea": [x[..., at : at + side, at : at + side]], "context": [halves]}
    pictures["streams"] = [*pictures["fovea"], *pictures["context"]]
    maps = [
        written_out_tower(
            model.get_submodule(name), one, slow=fusion == "slow", last_pool=model.stream_names == ("full",)
        )
        for name in model.stream_names
        for one in pictures[name]
    ]
    flat = [one[:, :, t].flatten(1) for t in range(maps[0].shape[2]) for one in maps]
    y = F.linear(torch.cat(flat, 1), model.fc6.weight, model.fc6.bias).clamp(min=0)
    return model.head.fc(F.linear(y, model.fc7.weight, model.fc7.bias).clamp(min=0))


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_outputs_and_gradients_are_those_of_the_network_written_out(fusion: str, streams: str):
    model = small(fusion, **STREAMS[streams])
    clip, gradients = clip_of(model), []
    for run in (model, lambda x: written_out(model, x, fusion)):
        model.zero_grad()
        F.cross_entropy(run(clip), torch.tensor([3, 1])).backward()
        gradients.append([one.grad for one in model.parameters()])
    with torch.no_grad():
        expected = written_out(model, clip, fusion)
        assert relative_error(model(clip), expected) < FLOAT64_PEER
        for ours, theirs in zip(*gradients, strict=True):
            assert relative_error(ours, theirs) < FLOAT64_GRADIENT
        assert relative_error(model.float()(clip.float()), expected) < FLOAT32_PEER


def another_beta(model: DeepVideo) -> None:
    model.fovea.norm1.beta = 0.75


def no_second_norm(model: DeepVideo) -> None:
    model.context.norm2 = nn.Identity()


def windows_elsewhere(model: DeepVideo) -> None:
    model.fovea.pool2 = nn.MaxPool3d((1, 2, 2), padding=(0, 1, 1))  # of 3: {0} {1, 2} instead of {0, 1} {2}


def exchanged_streams(model: DeepVideo) -> None:
    model.stream_names = ("context", "fovea")


def fc6_sees_frames_exchanged(model: DeepVideo) -> None:
    halves = model.fc6.weight.data.chunk(2, 1)
    model.fc6.weight.data = torch.cat(halves[::-1], 1)


def reversed_time(model: DeepVideo) -> None:
    model.register_forward_pre_hook(lambda _, args: (args[0].flip(2),))


def exchanged_height_and_width(model: DeepVideo) -> None:
    model.register_forward_pre_hook(lambda _, args: (args[0].transpose(3, 4),))


MUTATIONS = [
    another_beta,
    no_second_norm,
    windows_elsewhere,
    exchanged_streams,
    fc6_sees_frames_exchanged,
    reversed_time,
    exchanged_height_and_width,
]


@torch.no_grad()
@pytest.mark.parametrize("mutate", MUTATIONS)
def test_the_reference_notices(mutate: Callable[[DeepVideo], None]):
    model = small("late", multires=True)
    clip = clip_of(model)
    expected = written_out(model, clip, "late")
    mutate(model)
    assert relative_error(model(clip), expected) > NOTICED


# Identities


def like_single(fusion: str, single: DeepVideo, **arguments: object) -> DeepVideo:
    """A network of several frames with the weights of the single frame, spread evenly over time."""
    model = small(fusion, **arguments)
    mine = model.state_dict()
    for name, value in single.state_dict().items():
        if mine[name].ndim == 5:
            mine[name] = value.expand_as(mine[name]) / mine[name].shape[2]
        elif name == "fc6.weight":
            copies = mine[name].shape[1] // value.shape[1]
            mine[name] = value.repeat(1, copies) / copies
        else:
            mine[name] = value
    model.load_state_dict(mine)
    return model


@torch.no_grad()
@pytest.mark.parametrize("streams", ["full", "two"])
@pytest.mark.parametrize("fusion", ["early", "late", "slow"])
def test_equal_frames_and_weights_spread_over_time_give_the_single_frame_network(fusion: str, streams: str):
    single = small(**STREAMS[streams])
    model = like_single(fusion, single, **STREAMS[streams])
    frame = clip_of(single)
    still = frame.expand(-1, -1, model.num_frames, -1, -1)
    torch.testing.assert_close(model(still), single(frame), **FLOAT64_SAME)


@torch.no_grad()
def test_late_fusion_with_frames_exchanged_is_fc6_with_its_halves_exchanged():
    model = small("late")
    clip = clip_of(model)
    expected = model(clip.flip(2))
    assert relative_error(model(clip), expected) > NOTICED
    fc6_sees_frames_exchanged(model)
    torch.testing.assert_close(model(clip), expected, **FLOAT64_SAME)


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["early", "slow"])
def test_early_and_slow_fusion_see_every_frame_and_their_order(fusion: str):
    model = small(fusion)
    clip = clip_of(model)
    before = model(clip)
    for t in range(10):
        moved = clip.clone()
        moved[:, :, t] *= -1
        assert relative_error(model(moved), before) > NOTICED
    assert relative_error(model(clip[:, :, [1, 0, *range(2, 10)]]), before) > NOTICED


def test_the_fovea_is_the_centre_and_the_context_the_whole_frame():
    torch.manual_seed(0)
    frames = torch.randn(2, 3, 2, 178, 178, dtype=torch.float64)
    fovea, context = two_resolutions(frames)
    assert torch.equal(fovea, frames[..., 44:133, 44:133])
    assert fovea.shape == context.shape == (2, 3, 2, 89, 89)
    torch.testing.assert_close(context.mean((3, 4)), frames.mean((3, 4)), **FLOAT64_SAME)
    torch.testing.assert_close(context[..., 0, 88], frames[..., :2, 176:].mean((3, 4)), **FLOAT64_SAME)


@torch.no_grad()
@pytest.mark.parametrize(("stream", "sees_the_rim"), [("fovea", False), ("context", True)])
def test_a_stream_alone_sees_its_part(stream: str, sees_the_rim: bool):
    model = small(multires=True, stream=stream)
    clip = clip_of(model)
    changed = clip.clone()
    changed[..., :13, :] = 0  # of 52: the fovea starts there
    assert (relative_error(model(changed), model(clip)) > NOTICED) == sees_the_rim
    assert torch.equal(model(changed), model(clip)) or sees_the_rim


@torch.no_grad()
def test_shared_streams_are_two_streams_of_equal_weights():
    shared, apart = small("late", **STREAMS["shared"]), small("late", **STREAMS["two"])
    state = {key: value for key, value in shared.state_dict().items() if not key.startswith("streams.")}
    for key, value in shared.streams.state_dict().items():
        state |= {f"fovea.{key}": value, f"context.{key}": value}
    apart.load_state_dict(state)
    clip = clip_of(shared)
    torch.testing.assert_close(shared(clip), apart(clip), **FLOAT64_SAME)
    for layer in ("conv2", "conv5"):  # the features of a shared layer are the mean over both streams
        means = [apart.embed(clip, layer=f"{name}.{layer}") for name in ("fovea", "context")]
        torch.testing.assert_close(
            shared.embed(clip, layer=f"streams.{layer}"), torch.stack(means).mean(0), **FLOAT64_SAME
        )


def test_crop_and_flip_are_the_same_in_all_frames_of_a_clip():
    (spec,) = small("slow", crop=40).default_specs
    assert (spec.resize, spec.crop) == (47, 40)
    texture = np.random.default_rng(0).integers(0, 200, (47, 60, 3))
    frames = (texture + np.arange(30)[:, None, None, None]).astype(np.uint8)  # frame t is brighter by t
    info, views = video_info(frames), set()
    for seed in range(8):
        view = plan_random_view(info, Sample(path=Path("frames")), spec, AugmentConfig(), random.Random(seed))
        clip = load_view(frames, view, spec)
        steps = clip - clip[:, :1]
        assert torch.equal(steps, torch.arange(10.0).view(1, 10, 1, 1).expand_as(steps))
        views.add((view.box, view.flip))
    assert len(views) == 8
    assert {flip for _, flip in views} == {True, False}


# As all other networks


@torch.no_grad()
@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_it_is_rebuilt_saved_and_loaded_from_its_arguments(fusion: str, streams: str, tmp_path: Path):
    torch.manual_seed(0)
    arguments = {"num_classes": 3, "width": 1 / 32, "crop": 32, **STREAMS[streams]}
    model = build(f"deepvideo_{fusion}", **arguments).eval()
    assert json.loads(json.dumps(model.arguments)) == model.arguments
    save(tmp_path / "it.safetensors", model, labels=("a", "b", "c"))
    again = load(tmp_path / "it.safetensors")
    clip = torch.randn(2, 3, model.arguments["num_frames"], 32, 32)
    assert torch.equal(again(clip), model(clip))
    assert all(name.startswith((*model.stage_names, "head")) for name, _ in model.named_parameters())
    for stage in model.stage_names:
        assert model.embed(clip, layer=stage).shape[0] == 2
    torch.testing.assert_close(model.embed(clip, layer="fc7"), model.forward_features(clip))


def test_how_it_sees_videos():
    specs = {fusion: shapes_only(fusion).default_specs[0] for fusion in FUSIONS}
    assert {fusion: spec.span for fusion, spec in specs.items()} == {
        "single": 1,
        "early": 10,
        "late": 16,
        "slow": 10,
    }
    assert {(spec.scale, spec.mean, spec.std) for spec in specs.values()} == {
        (255, (117, 117, 117), (1, 1, 1))
    }
    assert {(spec.resize, spec.crop) for spec in specs.values()} == {(200, 170)}
    (multires,) = shapes_only(multires=True).default_specs
    assert (multires.resize, multires.crop) == (200, 178)


def test_three_depths_of_the_transfer_to_ucf101():
    model = small()
    for frozen, trained in (
        (("full", "fc6", "fc7"), {"head"}),
        (("full",), {"fc6", "fc7", "head"}),
        ((), {"full", "fc6", "fc7", "head"}),
    ):
        set_trainable(model, frozen=frozen)
        found = {name.split(".")[0] for name, one in model.named_parameters() if one.requires_grad}
        assert found == trained


def test_first_weights_are_he_s_and_those_of_conv1_an_eighth():
    torch.manual_seed(0)
    model = DeepVideo(width=1 / 4, crop=52)
    for layer, gain in ((model.full.conv1, 1 / 8), (model.full.conv2, 1), (model.fc6, 1), (model.fc7, 1)):
        std = gain * (2 / layer.weight[0].numel()) ** 0.5
        assert float(layer.weight.detach().std()) == pytest.approx(std, rel=0.05)
        assert not layer.bias.detach().any()


def test_dropout_lies_behind_fc6_and_fc7():
    model = small(dropout=0.9).train()
    seen: dict[str, Tensor] = {}
    model.fc6.register_forward_hook(lambda _, args, y: seen.update(fc6=y))
    model.fc7.register_forward_pre_hook(lambda _, args: seen.update(fc7=args[0]))
    model.head.fc.register_forward_pre_hook(lambda _, args: seen.update(fc8=args[0]))
    model(clip_of(model, batch=8))
    kept = seen["fc7"] != 0
    torch.testing.assert_close(seen["fc7"][kept], 10 * seen["fc6"][kept], **FLOAT64_SAME)
    assert 0 < int(kept.sum()) < int((seen["fc6"] != 0).sum()) / 4
    assert model.head.dropout.p == 0.9
    assert not [module for module in shapes_only().modules() if isinstance(module, nn.Dropout) and module.p]


def test_it_has_two_normalisations_with_a_beta_of_one_half():
    norms = [module for module in shapes_only().modules() if isinstance(module, LocalResponseNorm)]
    assert [(norm.k, norm.n, norm.alpha, norm.beta) for norm in norms] == [(2, 5, 1e-4, 0.5)] * 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"fusion": "mid"}, "no fusion 'mid': choose from single, early, late, slow"),
        ({"width": 0}, "width must be above 0, got 0"),
        (
            {"num_frames": 4},
            "DeepVideo 'single' takes clips of exactly 1 frame, got num_frames=4: leave it out",
        ),
        ({"fusion": "slow", "num_frames": 11}, "'slow' takes clips of exactly 10 frames, got num_frames=11"),
        ({"fusion": "early", "num_frames": 0}, "num_frames must be at least 1, got 0"),
        (
            {"stream": "fovea"},
            "shared_streams and stream go with multires=True: the full frame is one stream",
        ),
        ({"shared_streams": True}, "shared_streams and stream go with multires=True"),
        ({"multires": True, "stream": "left"}, "stream must be one of both, fovea, context, got 'left'"),
        ({"multires": True, "crop": 177}, "multires halves the crop, so that it must be even, got 177"),
        (
            {"multires": True, "shared_streams": True, "stream": "fovea"},
            "shared_streams needs both streams, got stream='fovea'",
        ),
        ({"crop": 10}, "conv1 leaves nothing of a picture of 10 x 10: take a larger crop"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, object], text: str):
    with torch.device("meta"), pytest.raises(ConfigError, match=text):
        DeepVideo(**arguments)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((1, 3, 8, 170, 170), r"exactly 10 x 170 x 170, got 8 x 170 x 170: build it with num_frames=8"),
        ((1, 3, 10, 112, 112), r"exactly 10 x 170 x 170, got 10 x 112 x 112: build it with crop=112"),
        ((1, 2, 10, 170, 170), r"takes \[B, 3, T, H, W\], got \[1, 2, 10, 170, 170\]"),
        ((1, 10, 3, 170, 170), "is time before the channels"),
    ],
)
def test_clips_of_another_size_are_refused(shape: tuple[int, ...], text: str):
    with pytest.raises(ConfigError, match=text):
        shapes_only("early")(torch.empty(shape, device="meta"))


def test_bf16_steps_stay_finite_where_maps_are_smaller_than_kernels():
    torch.manual_seed(0)
    model = build("deepvideo_slow", num_classes=4, width=1 / 16, crop=32).train()
    assert model.bf16_safe
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for step in range(4):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(60 * torch.randn(4, 3, 10, 32, 32))
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 3])).backward()
        bad = [key for key, one in model.named_parameters() if not one.grad.isfinite().all()]
        assert not bad, (step, bad)
        optimizer.step()


@pytest.mark.parametrize("streams", ["full", "two"])
def test_it_learns_a_few_clips_by_heart(streams: str):
    torch.manual_seed(0)
    model = build("deepvideo_slow", num_classes=4, width=1 / 16, crop=32, **STREAMS[streams]).train()
    clips, classes = 60 * torch.randn(12, 3, 10, 32, 32), torch.arange(12) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(clips), classes).backward()
        optimizer.step()
    assert bool((model(clips).argmax(1) == classes).all())
