"""Every network of the registry keeps the contract: all the rest of the toolkit relies on nothing else."""

import inspect
import json

import pytest
import torch
from tiny_models import inputs_for, tiny
from torch import nn

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError, UnknownModelError
from muybridge.models.contract import VideoModel, check_clip
from muybridge.models.count import count_macs, count_parameters
from muybridge.models.registry import MODELS, build, find

CLIP = (2, 3, 4, 16, 16)


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> VideoModel:
    return tiny(request.param)


@torch.no_grad()
def test_logits_come_from_the_features_through_the_head(model: VideoModel):
    x = inputs_for(model)
    features = model.forward_features(*x)
    assert features.shape == (2, model.feature_dim)
    logits = model(*x)
    assert logits.shape == (2, 5)
    torch.testing.assert_close(logits, model.head(features))


@torch.no_grad()
def test_every_stage_can_be_embedded(model: VideoModel):
    x = inputs_for(model)
    for stage in model.stage_names:
        pooled = model.embed(*x, layer=stage)
        assert pooled.ndim == 2
        assert len(pooled) == 2
    if model.stage_names[-1].startswith("stages."):  # one trunk, averaged: that is what the head takes
        torch.testing.assert_close(pooled, model.forward_features(*x))
    torch.testing.assert_close(model.embed(*x), model.forward_features(*x))
    torch.testing.assert_close(model.embed(*x, layer="head"), model(*x))


def test_stages_are_the_whole_trunk(model: VideoModel):
    prefixes = tuple(f"{name}." for name in (*model.stage_names, "head"))
    assert all(name.startswith(prefixes) for name, _ in model.named_parameters())


def test_arguments_rebuild_it_through_json(model: VideoModel):
    again = build(model.name, **json.loads(json.dumps(model.arguments)))
    again.load_state_dict(model.state_dict())
    x = inputs_for(model)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(*x), model(*x), rtol=0, atol=0)
    assert again.arguments == model.arguments


def test_it_says_how_it_sees_clips_and_where_it_comes_from(model: VideoModel):
    assert len(model.default_specs) == len(model.modalities)
    assert all(isinstance(spec, ClipSpec) for spec in model.default_specs)
    if "num_frames" in model.arguments:
        assert model.default_specs[0].num_frames == model.arguments["num_frames"]
    entry = find(model.name)
    assert entry.paper
    assert 2014 <= entry.year <= 2019
    assert entry.summary
    assert "num_classes" in inspect.signature(entry.builder).parameters


def test_bf16_is_safe_until_a_plain_3d_convolution_comes_in(model: VideoModel):
    assert model.bf16_safe
    model.add_module("plain", nn.Conv3d(1, 1, 3))
    assert not model.bf16_safe
    del model.plain
    assert model.bf16_safe


def test_reset_head_keeps_the_trunk_and_forgets_the_labels():
    model = build("r3d_10", num_classes=5, width=1 / 16).double().train()
    trunk = {key: value.clone() for key, value in model.state_dict().items() if not key.startswith("head.")}
    model.reset_head(7)
    assert model(torch.randn(2, 3, 2, 16, 16, dtype=torch.float64)).shape == (2, 7)
    assert (model.num_classes, model.arguments["num_classes"]) == (7, 7)
    assert model.card is None
    assert model.head.training
    for key, value in trunk.items():
        if "running" not in key and "tracked" not in key:
            assert torch.equal(model.state_dict()[key], value)


def test_embedding_a_layer_that_is_not_there_names_the_nearest():
    model, x = build("r3d_10", num_classes=5, width=1 / 16), torch.randn(CLIP)
    with pytest.raises(ConfigError, match=r"r3d_10 has no layer 'stage.2'; did you mean 'stages.2'\?"):
        model.embed(x, layer="stage.2")
    with pytest.raises(ConfigError, match=r"has no layer 'x'; its stages: stem, stages.0"):
        model.embed(x, layer="x")
    model.head.add_module("idle", nn.Dropout())  # never called
    with pytest.raises(ConfigError, match=r"layer 'head\.idle' of r3d_10 gives no single tensor"):
        model.embed(x, layer="head.idle")


@torch.no_grad()
def test_a_layer_s_features_are_its_own_though_later_layers_write_into_them():
    torch.manual_seed(0)
    model, x = build("r3d_10", num_classes=5, width=1 / 16), torch.randn(CLIP)
    before_relu = model.embed(x, layer="stages.0.0.bn_a")
    # BatchNorm in training mode has the mean 0; after the ReLU nothing has.
    assert float(before_relu.mean(0).abs().max()) < 1e-5
    assert float(model.embed(x, layer="stem").min()) > 0


def test_unknown_names_and_arguments_say_what_there_is():
    with pytest.raises(UnknownModelError, match=r"no model 'r3d_81'; did you mean 'r3d_18'\?"):
        build("r3d_81")
    with pytest.raises(KeyError):
        build("zzz")
    with pytest.raises(ConfigError, match=r"r2d_18 has no argument 'frames'; it has: num_frames, bn_eps"):
        build("r2d_18", frames=8)
    with pytest.raises(ConfigError, match="num_classes must be at least 1, got 0"):
        build("r3d_10", num_classes=0, width=0.1)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((1, 16, 3, 112, 112), "got .*: is time before the channels?"),
        ((3, 16, 112, 112), r"got .*: one clip needs a batch axis"),
        ((1, 2, 16, 112, 112), r"r3d_10 takes \[B, 3, T, H, W\], got \[1, 2, 16, 112, 112\]$"),
    ],
)
def test_a_clip_of_another_layout_is_refused(shape, text):
    with pytest.raises(ConfigError, match=text):
        check_clip(torch.empty(shape, device="meta"), channels=3, who="r3d_10")


def test_counting_leaves_the_network_as_it_was():
    model = build("r3d_10", num_classes=5, width=1 / 16).train()
    model.stages[0].eval()
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert count_macs(model, (3, 4, 16, 16)) > 0
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_macs_of_one_convolution_by_hand():
    model = build("fr2d_10", num_classes=5, width=1 / 64)  # channels 1, 2, 4, 8
    by_hand = 4 * (
        (3 * 49 * 1) * 8 * 8  # stem, 16 x 16 -> 8 x 8
        + 2 * (9 * 1 * 1) * 8 * 8  # stages.0
        + ((9 * 1 * 2) + (9 * 2 * 2) + 1 * 2) * 4 * 4  # two convolutions and the shortcut
        + ((9 * 2 * 4) + (9 * 4 * 4) + 2 * 4) * 2 * 2
        + ((9 * 4 * 8) + (9 * 8 * 8) + 4 * 8) * 1 * 1
    ) + (8 * 5)
    assert count_macs(model, (3, 4, 16, 16)) == by_hand
    assert count_parameters(model.head) == 8 * 5 + 5
