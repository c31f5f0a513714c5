"""Configurations: unknown keys name their neighbour, values come back as they went in."""

from pathlib import Path

import pytest
import yaml

from muybridge.config import AugmentConfig, ClipSpec, TrainConfig, short_digest, specs_digest
from muybridge.errors import ConfigError
from muybridge.types import MeanCube


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "clip: [{num_frames: 8, frame_strid: 4}]",
            r"exp.yaml, clip.0: unknown key 'frame_strid'; did you mean 'frame_stride'\?",
        ),
        ("optim: {kindd: sgd}", r"exp.yaml, optim: unknown key 'kindd'; did you mean 'kind'\?"),
        ("epohs: 3", r"exp.yaml: unknown key 'epohs'; did you mean 'epochs'\?"),
        ("zzzz: 3", r"exp.yaml: unknown key 'zzzz'; known keys: data, model, clip"),
        ("epochs: 0", r"exp.yaml, epochs: .*greater than or equal to 1, got 0"),
        (
            "clip: [{num_frames: 8, resize: 64, crop: 80}]",
            r"crop \(80\) is larger than resize \(64\): raise resize",
        ),
        ("clip: [{frame_stride: 1}]", r"exp.yaml, clip.0: the key 'num_frames' is missing"),
        ("augment: {short_side: [320, 256]}", r"short_side must be a range"),
        ("[1, 2]", r"exp.yaml: expected keys and values, got list"),
        ("a: [", r"exp.yaml is not YAML"),
    ],
)
def test_a_bad_file_says_what_and_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "exp.yaml"
    plain = text[0] not in "[a" or text.startswith("augment")
    path.write_text(f"data: {{root: videos}}\n{text}\n" if plain else text)
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_yaml(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*none.yaml"):
        TrainConfig.from_yaml(tmp_path / "none.yaml")


def test_yaml_goes_out_and_comes_back(tmp_path: Path) -> None:
    config = TrainConfig.from_dict(
        {
            "data": {"root": "videos"},
            "clip": [{"num_frames": 8, "resize": [128, 171], "crop": 112}],
            "epochs": 3,
        }
    )
    (tmp_path / "a.yaml").write_text(config.to_yaml())
    assert TrainConfig.from_yaml(tmp_path / "a.yaml") == config
    assert yaml.safe_load(config.to_yaml())["clip"][0]["resize"] == [128, 171]


def test_the_constructor_gives_the_same_errors() -> None:
    with pytest.raises(ConfigError, match=r"num_frames: .*greater than or equal to 1, got 0"):
        ClipSpec(num_frames=0)
    with pytest.raises(ConfigError, match="unknown key 'flop'; did you mean 'flip'"):
        AugmentConfig(flop=True)


def test_flow_must_say_how_it_was_made() -> None:
    with pytest.raises(ConfigError, match="flow needs flow_method and flow_bound"):
        ClipSpec(num_frames=10, modality="flow", mean=(0, 0), std=(1, 1))


def test_every_field_changes_the_digest() -> None:
    spec = ClipSpec(num_frames=8)
    changes = {
        "num_frames": 9, "frame_stride": None, "fps": 15.0, "num_segments": 2, "resize": 257, "crop": 223,
        "resize_filter": "bilinear", "scale": 255, "channel_order": "bgr", "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "modality": "rgb_diff", "flow_method": "tvl1", "flow_bound": 20.0, "mean_subtraction": True,
        "short_policy": "error", "mean_cube": MeanCube("0123abcd"),
    }  # fmt: skip
    assert set(changes) == set(ClipSpec.model_fields)
    digests = {specs_digest((spec.model_copy(update={name: value}),)) for name, value in changes.items()}
    assert len(digests | {specs_digest((spec,))}) == len(changes) + 1


def test_the_digest_is_fixed() -> None:
    assert short_digest({"a": 1}) == "015abd7f"  # printf '{"a":1}' | sha256sum
