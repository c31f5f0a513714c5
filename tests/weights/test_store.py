"""A checkpoint gives back the network that was saved, or an error that says what is wrong with the file."""

import json
import pickle
import struct
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from muybridge.config import ClipSpec
from muybridge.errors import ConfigError, StorageError, UnknownModelError, WeightsError
from muybridge.models.contract import VideoModel
from muybridge.weights.read import read_tensors
from muybridge.weights.store import build, init_trunk, load, read_card, save

LABELS = ("jump", "run", "walk")
SPEC = ClipSpec(num_frames=4, resize=32, crop=24)


@pytest.fixture
def model() -> VideoModel:
    torch.manual_seed(0)
    model = build("r2plus1d_10", num_classes=3, width=1 / 16, bn_eps=1e-3)
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 4, 24, 24))  # BatchNorm's statistics move
    return model


@pytest.fixture
def saved(model: VideoModel, tmp_path: Path) -> Path:
    path = tmp_path / "run" / "model.safetensors"
    save(path, model, labels=LABELS, specs=(SPEC,), training_protocol="1234abcd", metrics={"val_top1": 0.5})
    return path


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torchvision's r2plus1d_18 with random weights."""
    path = tmp_path_factory.mktemp("foreign") / "r2plus1d_18.pth"
    torch.save(torchvision.models.video.r2plus1d_18(num_classes=3).state_dict(), path)
    return path


@torch.no_grad()
def test_load_gives_the_saved_network_from_the_file_or_its_folder(model: VideoModel, saved: Path):
    clip = torch.randn(2, 3, 4, 24, 24)
    for path in (saved, str(saved), saved.parent):
        again = load(path)
        assert not again.training
        assert torch.equal(again(clip), model.eval()(clip))
        assert again.default_specs == (SPEC,)
        assert again.arguments == model.arguments
    assert again.card is not None
    assert again.card.labels == LABELS
    assert again.card.arguments["bn_eps"] == 1e-3
    assert (again.card.training_protocol, again.card.metrics) == ("1234abcd", {"val_top1": 0.5})
    assert read_card(saved) == again.card


def test_load_needs_nothing_but_the_file(saved: Path):
    """In a fresh process; and torchvision, which costs seconds, is not imported."""
    work = (
        "import sys, muybridge; model = muybridge.load(sys.argv[1]); "
        "print(model.card.labels[1], 'torchvision' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", work, saved], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["run", "False"]


def test_saving_over_a_checkpoint_leaves_one_whole_file(model: VideoModel, saved: Path):
    save(saved, model, labels=("a", "b", "c"), specs=(SPEC,))
    assert read_card(saved).labels == ("a", "b", "c")
    assert [path.name for path in saved.parent.iterdir()] == ["model.safetensors"]


def test_the_same_network_is_saved_in_the_same_bytes(model: VideoModel, saved: Path, tmp_path: Path):
    again = tmp_path / "again.safetensors"
    save(
        again,
        load(saved),
        labels=LABELS,
        specs=(SPEC,),
        training_protocol="1234abcd",
        metrics={"val_top1": 0.5},
    )
    assert again.read_bytes() == saved.read_bytes()


def test_a_folder_that_cannot_be_written_is_a_storage_error(model: VideoModel, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot write .*model\.safetensors"):
        save(tmp_path / "file" / "model.safetensors", model, labels=LABELS)


@pytest.mark.parametrize(
    ("labels", "specs", "text"),
    [
        ((), (SPEC,), "labels are empty; a checkpoint names its 3 classes"),
        (("a", "b"), (SPEC,), "2 labels for 3 classes"),
        (LABELS, (), "0 specs for the modalities rgb"),
    ],
)
def test_what_does_not_fit_the_network_is_not_saved(model: VideoModel, tmp_path: Path, labels, specs, text):
    with pytest.raises(WeightsError, match=text):
        save(tmp_path / "a.safetensors", model, labels=labels, specs=specs)
    assert not (tmp_path / "a.safetensors").exists()


def test_a_network_without_a_name_is_not_saved(tmp_path: Path):
    from muybridge.models.r2plus1d import VideoResNet

    with pytest.raises(WeightsError, match=r"only networks made by muybridge\.build can be saved"):
        save(tmp_path / "a.safetensors", VideoResNet("r3d", 10, num_classes=1, width=0.1), labels=("a",))


def test_paths_that_are_no_checkpoints(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"there is no file .*nowhere\.safetensors"):
        load(tmp_path / "nowhere.safetensors")
    with pytest.raises(WeightsError, match=r"holds no model\.safetensors: is it a run of muybridge train\?"):
        load(tmp_path)


@pytest.mark.parametrize("part", [0.5, 0.02, 0.0001, 0])
def test_a_file_cut_short(saved: Path, part: float):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(WeightsError, match=r"is not a whole safetensors file: .* probably cut short"):
        load(saved)
    with pytest.raises(WeightsError, match=r"\(\d+ bytes\) is not a whole safetensors file"):
        build("r2plus1d_10", num_classes=3, width=1 / 16, weights=saved)


def test_a_text_file(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    path.write_text("This is no checkpoint, but a letter to the editor.\n" * 10)
    with pytest.raises(WeightsError, match="is not a whole safetensors file"):
        load(path)


@pytest.mark.parametrize("length", [1 << 20, 1 << 62])
def test_a_header_that_claims_what_is_not_there(tmp_path: Path, length: int):
    path = tmp_path / "a.safetensors"
    tensor = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}
    header = json.dumps({"head.fc.weight": tensor}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(WeightsError, match="is not a whole safetensors file"):
        load(path)
    path.write_bytes(struct.pack("<Q", length) + header)
    with pytest.raises(WeightsError, match="is not a whole safetensors file"):
        load(path)


def rewrite(path: Path, card: object, *, drop: str = "") -> None:
    """The same tensors under another card, or with one of them missing."""
    tensors = read_tensors(path)
    tensors.pop(drop, None)
    metadata = None if card is None else {"muybridge": card if isinstance(card, str) else json.dumps(card)}
    save_file(tensors, path, metadata=metadata)


def test_a_file_without_a_card_is_someone_else_s(saved: Path):
    rewrite(saved, None)
    with pytest.raises(WeightsError, match=r"has no card .* use muybridge\.build\(NAME, weights=FILE\)"):
        load(saved)
    assert build("r2plus1d_10", num_classes=3, width=1 / 16, weights=saved).card is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"labels": []}, "labels are empty; a checkpoint names its 3 classes"),
        ({"labels": ["a", "b"]}, "2 labels for 3 classes"),
        ({"specs": []}, "0 specs for the modalities rgb"),
        (
            {"model": "r2plus1d_11"},
            "cannot be rebuilt: no model 'r2plus1d_11'; did you mean 'r2plus1d_1[08]'",
        ),
        ({"model": "r3d_10"}, "is no whole r3d_10: missing stem.conv.weight"),
        ({"arguments": {"speed": 3}}, "cannot be rebuilt: r2plus1d_10 has no argument 'speed'"),
        ({"lables": []}, "its card: unknown key 'lables'; did you mean 'labels'?"),
    ],
)
def test_a_card_that_does_not_hold(saved: Path, change, text):
    rewrite(saved, {**read_card(saved).to_dict(), **change})
    with pytest.raises(WeightsError, match=text):
        load(saved)


def test_a_card_that_is_no_json(saved: Path):
    rewrite(saved, "{")
    with pytest.raises(WeightsError, match="cannot be used: "):
        read_card(saved)


def test_a_missing_tensor_is_named(saved: Path):
    rewrite(saved, read_card(saved).to_dict(), drop="stages.2.0.bn_a.running_var")
    with pytest.raises(
        WeightsError, match=r"is no whole r2plus1d_10: missing stages\.2\.0\.bn_a\.running_var$"
    ):
        load(saved)


@torch.no_grad()
def test_build_takes_weights_of_torchvision(foreign: Path):
    model = build("r2plus1d_18_torchvision", num_classes=3, weights=foreign).eval()
    peer = torchvision.models.video.r2plus1d_18(num_classes=3).eval()
    peer.load_state_dict(torch.load(foreign, weights_only=True))
    clip = torch.randn(1, 3, 4, 32, 32)
    torch.testing.assert_close(model(clip), peer(clip), rtol=1e-5, atol=1e-6)
    assert model.default_specs[0].fps == 15


def test_torchvision_s_weights_do_not_fit_the_paper_s_network_and_the_error_names_the_right_one(
    foreign: Path,
):
    with pytest.raises(
        WeightsError,
        match=r"does not fit r2plus1d_18, it fits r2plus1d_18_torchvision; here stages\.1\.0\.conv_b",
    ):
        build("r2plus1d_18", num_classes=3, weights=foreign)


def test_another_number_of_classes_says_what_to_do(foreign: Path):
    text = r"has 3 classes, the network 400: build it with num_classes=3, or take the trunk alone .*--init"
    with pytest.raises(WeightsError, match=text):
        build("r2plus1d_18_torchvision", weights=foreign)


def test_build_takes_what_no_tensor_shows_from_the_card(saved: Path):
    model = build("r2plus1d_10", num_classes=3, width=1 / 16, weights=saved)
    assert model.arguments["bn_eps"] == 1e-3
    assert model.card == read_card(saved)
    model = build("r2plus1d_10", num_classes=3, width=1 / 16, bn_eps=1e-2, weights=saved)
    assert model.arguments["bn_eps"] == 1e-2  # said is said


def test_build_without_weights_is_random_and_unknown_names_are_refused():
    assert build("r3d_10", num_classes=2, width=1 / 16).card is None
    with pytest.raises(UnknownModelError, match="did you mean 'r3d_34'"):
        build("r3d_35")
    with pytest.raises(ConfigError, match="no argument 'depth'"):
        build("r3d_10", depth=3)


def test_init_trunk_takes_all_but_the_head_and_reports_it(saved: Path):
    torch.manual_seed(1)
    model = build("r2plus1d_10", num_classes=5, width=1 / 16, bn_eps=1e-3)
    head = model.head.fc.weight.detach().clone()
    report = init_trunk(model, saved.parent)
    source = read_tensors(saved)
    for key, value in model.state_dict().items():
        if not key.startswith("head."):
            assert torch.equal(value, source[key]), key
    assert torch.equal(model.head.fc.weight, head)
    assert set(report.random) == set(report.dropped) == {"head.fc.weight", "head.fc.bias"}
    assert set(report.loaded) | set(report.random) == set(model.state_dict())
    assert report.differs == ()


def test_init_trunk_reports_what_no_tensor_shows(saved: Path):
    report = init_trunk(build("r2plus1d_10", num_classes=5, width=1 / 16), saved)
    assert str(report).endswith("bn_eps is 1e-05 here and 0.001 there")


def test_init_trunk_takes_foreign_files(foreign: Path):
    report = init_trunk(build("r2plus1d_18_torchvision", num_classes=8), foreign)
    assert (len(report.loaded), report.format) == (222, "torchvision")


@torch.no_grad()
def test_a_network_gains_non_local_blocks_and_is_the_same_at_first(tmp_path: Path):
    torch.manual_seed(0)
    plain = build("i3d_r50", num_classes=3, width=1 / 16).eval()
    save(tmp_path / "plain.safetensors", plain, labels=("a", "b", "c"))
    richer = build("i3d_r50_nl5", num_classes=3, width=1 / 16).eval()
    report = init_trunk(richer, tmp_path / "plain.safetensors")
    added = [key for key in richer.state_dict() if ".nl" in key and "num_batches" not in key]
    assert len(added) > 5
    assert set(report.random) == {*added, "head.fc.weight", "head.fc.bias"}
    x = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(richer.forward_features(x), plain.forward_features(x))
    save(tmp_path / "richer.safetensors", richer, labels=("a", "b", "c"))
    with pytest.raises(WeightsError, match=r"does not fit i3d_r50, .*unexpected stages\.1\.nl"):
        init_trunk(plain, tmp_path / "richer.safetensors")


def test_init_trunk_of_another_network_changes_nothing(saved: Path):
    model = build("mc3_10", num_classes=5, width=1 / 16)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(
        WeightsError, match=r"does not fit mc3_10, it fits r2plus1d_10; here missing stem\.conv\.weight"
    ):
        init_trunk(model, saved)
    with pytest.raises(
        WeightsError, match=r"and no other network at this width: stem\.conv\.spatial\.weight is"
    ):
        init_trunk(build("r2plus1d_10", num_classes=5, width=1 / 8), saved)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Payload:
    """Would run code if it were unpickled without care."""

    def __reduce__(self):
        return print, ("this must never be printed",)


def test_pickles_that_are_more_than_weights_are_refused(tmp_path: Path, capsys):
    path = tmp_path / "a.pth"
    for content in (Payload(), {"model": {}, "args": Namespace(lr=0.1)}):
        torch.save(content, path)
        with pytest.raises(WeightsError, match="is not a file of weights alone"):
            read_tensors(path)
    path.write_bytes(pickle.dumps(Payload(), protocol=2))
    with pytest.raises(WeightsError, match="is not a file of weights alone"):
        read_tensors(path)
    assert "never" not in capsys.readouterr().out


def test_pth_files_that_cannot_be_read(foreign: Path, tmp_path: Path):
    path = tmp_path / "a.pth"
    path.write_bytes(foreign.read_bytes()[: foreign.stat().st_size // 2])
    with pytest.raises(WeightsError, match="cannot be read, it is probably cut short"):
        build("r2plus1d_18", weights=path)
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match="cannot be read, it is probably cut short"):
        read_tensors(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(WeightsError, match="holds a list, not a state dict"):
        read_tensors(path)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")  # torch's, and right
def test_a_tensor_of_a_pth_file_that_repeats_a_number_without_end_is_refused(tmp_path: Path):
    """Its header claims four terabytes; the file has four bytes."""
    path = tmp_path / "a.pth"
    torch.save({"state_dict": {"fc.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}}, path)
    assert path.stat().st_size < 10_000
    with pytest.raises(
        WeightsError, match=r"damaged or malicious: fc\.weight claims \[1048576, 1048576\] numbers"
    ):
        build("r3d_10", weights=path)
    sparse = torch.sparse_coo_tensor([[0], [1]], [1.0], (1 << 20, 1 << 20), check_invariants=True)
    torch.save({"fc.weight": sparse}, path)
    with pytest.raises(WeightsError, match=r"damaged or malicious: fc\.weight claims \[1048576"):
        build("r3d_10", weights=path)


def test_pickles_and_npz_files_are_read_as_arrays(tmp_path: Path):
    arrays = {"conv1a/0": np.zeros((2, 3, 3, 3, 3), "f4"), "fc6-1/1": np.ones(4, "f4")}
    np.savez(tmp_path / "a.npz", **arrays)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"blobs": arrays}, protocol=2))
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, tmp_path / "b.pkl")
    for name in ("a.npz", "a.pkl", "b.pkl"):  # the last one is a zip archive of torch's, whatever its name
        found = read_tensors(tmp_path / name)
        assert {key: value.tolist() for key, value in found.items()} == {
            key: value.tolist() for key, value in arrays.items()
        }
    torch.save(arrays["fc6-1/1"].tolist(), tmp_path / "c.pkl", _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match="holds a list, not a state dict"):
        read_tensors(tmp_path / "c.pkl")


def test_a_safetensors_file_is_known_by_its_start(saved: Path, tmp_path: Path):
    other = saved.rename(tmp_path / "best.ckpt")
    assert load(other).card == read_card(other)
    assert build("r2plus1d_10", num_classes=3, width=1 / 16, weights=other).card is not None
