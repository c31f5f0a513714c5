"""Flow on the road: stored or computed at that moment, the same bytes.

Seen to fail: flow computed at the size of the view instead of the spec's; the flip without the sign; a field
too few a segment; a mean of the crop instead of the frame; a store asked for without its checks.
"""

import pickle
import random
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from muybridge.config import AugmentConfig, ClipSpec
from muybridge.data.cache import FrameCache
from muybridge.data.dataset import Broken, Item, ViewDataset
from muybridge.data.views import load_view, plan_random_view, plan_view, video_info
from muybridge.errors import ConfigError, DataError, DecodeError
from muybridge.flow.methods import estimate
from muybridge.flow.quantise import dequantise, quantise
from muybridge.flow.recipe import FlowRecipe, sha256_of
from muybridge.flow.source import FlowStore
from muybridge.flow.stack import mirror
from muybridge.flow.store import FlowReader
from muybridge.flow.video import StoreSettings, write_flow
from muybridge.types import Box, Sample, Size, UInt8Array, View
from muybridge.video.decode import VideoReader
from muybridge.video.encode import write_video

BOUND = 5.0
FLOW = ClipSpec(
    num_frames=5,
    resize=48,
    crop=40,
    modality="flow",
    flow_method="dis",
    flow_bound=BOUND,
    mean=(0.5, 0.5),
    std=(0.5, 0.5),
)  # in units of the bound, so -1 is -BOUND pixels
TSN_RGB = ClipSpec(num_frames=1, num_segments=3, resize=48, crop=40)
TSN_FLOW = FLOW.model_copy(update={"num_segments": 3, "num_frames": 2, "mean_subtraction": True})
WARPED = FLOW.model_copy(update={"modality": "warped_flow"})
EVERYTHING = AugmentConfig(crop="area", short_side=(56, 72), brightness=0.3)


def drifting(num_frames: int, height: int = 56, width: int = 72) -> Iterator[UInt8Array]:
    y, x = np.mgrid[:height, :width]
    for t in range(num_frames):
        turn = (x + 1.5 * t) / 5 + np.cos((y - t) / 8)
        yield np.stack([127 + 90 * np.sin(turn + c) for c in range(3)], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos in class folders, as a data set has them."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "drift").mkdir()
    write_video(folder / "drift" / "a.mp4", drifting(20), fps=25)
    write_video(folder / "drift" / "b.mp4", drifting(4), fps=25)
    return folder


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    return folder / "drift" / "a.mp4"


def stored(
    folder: Path, out: Path, spec: ClipSpec = FLOW, name: str = "a.mp4", **changes: object
) -> FlowStore:
    settings = StoreSettings(**({"resize": spec.resize} | changes))
    store = FlowStore(out, root=folder, write=True)
    video = folder / "drift" / name
    recipe = FlowRecipe.of_spec(spec)
    write_flow(video, store.path_of(video), recipe, settings, source_sha256=sha256_of(video))
    return FlowStore(out, root=folder)


def as_tuple(tensors: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tensors if isinstance(tensors, tuple) else (tensors,)


def same(first: Tensor | tuple[Tensor, ...], second: Tensor | tuple[Tensor, ...]) -> bool:
    return all(
        a.numpy().tobytes() == b.numpy().tobytes()
        for a, b in zip(as_tuple(first), as_tuple(second), strict=True)
    )


# Both ways


@pytest.mark.parametrize(
    "specs", [FLOW, WARPED, (TSN_RGB, TSN_FLOW)], ids=["stack", "warped", "rgb and flow of three segments"]
)
def test_stored_and_computed_flow_give_the_same_bytes(
    folder: Path, clip: Path, tmp_path: Path, specs: ClipSpec | tuple[ClipSpec, ...]
) -> None:
    store = stored(folder, tmp_path / "flow", as_specs(specs)[-1])
    cache = FrameCache(tmp_path / "cache")
    info = video_info(clip)
    flips = set()
    for seed in range(4):
        view = plan_random_view(info, Sample(path=clip), specs, EVERYTHING, random.Random(seed))
        flips.add(view.flip)
        computed = load_view(clip, view, specs)
        assert same(load_view(clip, view, specs, flow=store), computed)
        assert same(load_view(clip, view, specs, flow=store, cache=cache), computed)
        assert same(load_view(clip, view, specs, cache=cache), computed)
        assert same(load_view(clip.read_bytes(), view, specs), computed)
        assert all(len(tensor.unique()) > 1 for tensor in as_tuple(computed))
    assert flips == {True, False}


def as_specs(specs: ClipSpec | tuple[ClipSpec, ...]) -> tuple[ClipSpec, ...]:
    return (specs,) if isinstance(specs, ClipSpec) else specs


@pytest.mark.real
@pytest.mark.parametrize("name", ["weizmann/run/daria_run.avi", "wild/tmbo_video2.webm"])
def test_real_clips_by_tvl1_in_both_ways(data_dir: Path, tmp_path: Path, name: str) -> None:
    path = data_dir / name
    spec = FLOW.model_copy(update={"flow_method": "tvl1", "resize": (60, 76), "crop": 56, "num_frames": 10})
    store = FlowStore(tmp_path, write=True)
    for seed in range(3):
        view = plan_random_view(video_info(path), Sample(path=path), spec, EVERYTHING, random.Random(seed))
        assert same(load_view(path, view, spec, flow=store), load_view(path, view, spec))
    with FlowReader(store.path_of(path)) as reader:
        assert reader.header.num_fields == video_info(path).num_frames - 1


def test_the_store_is_what_is_read(folder: Path, clip: Path, tmp_path: Path) -> None:
    """Otherwise equal bytes would mean nothing: a lossy store differs, and a little only."""
    store = stored(folder, tmp_path, quality="small")
    view = plan_view(video_info(clip), Sample(path=clip), FLOW)
    apart = (load_view(clip, view, FLOW, flow=store) - load_view(clip, view, FLOW)).abs()
    assert 0 < apart.mean() < 0.1


# What a tensor holds


def test_a_tensor_is_the_flow_between_its_frames(clip: Path) -> None:
    view = View(indices=((3, 4, 5, 6, 7, 9),), size=Size(48, 61), box=Box(2, 11, 40, 40))
    tensor = load_view(clip, view, FLOW)
    assert tensor.shape == (2, 5, 40, 40)
    with VideoReader(clip) as reader:
        frames = reader.read(view.indices[0], size=view.size)
    pixels = dequantise(quantise(estimate(frames, method="dis"), BOUND), BOUND)[:, :, 2:42, 11:51]
    np.testing.assert_allclose(tensor.numpy() * BOUND, pixels.transpose(1, 0, 2, 3), atol=1e-5)
    assert tensor[0, :4].mean() * BOUND == pytest.approx(-1.5, abs=0.3)  # the pattern goes left
    assert tensor[0, 4].mean() * BOUND == pytest.approx(-3, abs=0.6)  # twice as far over two frames


def test_a_flip_mirrors_and_negates_x(clip: Path) -> None:
    view = View(indices=(tuple(range(6)),), size=Size(48, 61), box=Box(4, 10, 40, 40))
    mirrored = View(indices=view.indices, size=view.size, box=Box(4, 61 - 50, 40, 40), flip=True)
    for spec in (FLOW, FLOW.model_copy(update={"mean_subtraction": True})):
        plain = load_view(clip, view, spec).numpy().transpose(1, 0, 2, 3)
        flipped = load_view(clip, View(**{**vars(view), "flip": True}), spec).numpy().transpose(1, 0, 2, 3)
        np.testing.assert_allclose(flipped, mirror(plain), atol=1e-6)
    assert load_view(clip, mirrored, FLOW)[0].mean() > 0.1  # it drifts to the right now


def test_each_field_loses_the_mean_of_its_whole_frame(clip: Path) -> None:
    spec = FLOW.model_copy(update={"mean_subtraction": True})
    whole = spec.model_copy(update={"crop": 48, "resize": (48, 48)})
    view = View(indices=(tuple(range(6)),), size=Size(48, 48), box=Box(0, 0, 48, 48))
    assert load_view(clip, view, whole).mean(dim=(2, 3)).abs().max() < 1e-5
    cut = View(indices=view.indices, size=Size(48, 61), box=Box(0, 0, 40, 40))
    moved = load_view(clip, cut, FLOW) - load_view(clip, cut, spec)
    assert moved.flatten(2).std(dim=2).max() < 1e-6  # one number a field and component
    assert moved.mean(dim=(1, 2, 3))[0] < -0.1
    assert load_view(clip, cut, spec).mean(dim=(2, 3)).abs().max() > 1e-3  # of the frame, not of the crop


def test_jittered_views_show_the_same_flow_larger(clip: Path) -> None:
    indices = (tuple(range(6)),)
    plain = load_view(clip, View(indices=indices, size=Size(48, 61), box=Box(4, 10, 40, 40)), FLOW)
    large = load_view(clip, View(indices=indices, size=Size(72, 92), box=Box(6, 15, 60, 60)), FLOW)
    assert (plain - large).abs().mean() < 0.02
    assert float(large[0].mean()) == pytest.approx(float(plain[0].mean()), rel=0.05)


# Short and odd videos


def test_a_short_video_stands_still_where_it_starts_again(folder: Path, tmp_path: Path) -> None:
    clip = folder / "drift" / "b.mp4"
    zero = dequantise(quantise(np.zeros(1), BOUND), BOUND).item() / BOUND
    for policy, frames in (("loop", (0, 1, 2, 3, 0, 1)), ("repeat_last", (0, 1, 2, 3, 3, 3))):
        spec = FLOW.model_copy(update={"short_policy": policy})
        view = plan_view(video_info(clip), Sample(path=clip), spec)
        assert view.indices == (frames,)
        tensor = load_view(clip, view, spec)
        still = [t for t in range(5) if torch.allclose(tensor[:, t], torch.tensor(zero))]
        assert still == [t for t in range(5) if frames[t + 1] <= frames[t]]
        assert torch.equal(tensor[:, 0], tensor[:, 4]) == (policy == "loop")
        store = stored(folder, tmp_path / policy, name="b.mp4")
        assert same(load_view(clip, view, spec, flow=store), tensor)


def test_a_video_of_one_frame_does_not_move(tmp_path: Path) -> None:
    path = tmp_path / "one.mp4"
    write_video(path, drifting(1), fps=25)
    view = plan_view(video_info(path), Sample(path=path), FLOW)
    store = FlowStore(tmp_path / "flow", write=True)
    tensor = load_view(path, view, FLOW, flow=store)
    assert (tensor * BOUND).abs().max() <= BOUND / 255 + 1e-6
    assert not list(tmp_path.rglob("*.flow"))


def test_a_size_that_changes_midway_is_brought_to_the_first(tmp_path: Path) -> None:
    path = tmp_path / "changes.h264"
    content = b""
    for first, (height, width) in ((0, (56, 72)), (6, (112, 144))):
        part = tmp_path / "part.h264"
        with av.open(str(part), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for pixels in list(drifting(12))[first : first + 6]:
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(width, height)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        content += part.read_bytes()
    path.write_bytes(content)
    view = View(indices=(tuple(range(3, 9)),), size=Size(48, 61), box=Box(4, 10, 40, 40))
    tensor = load_view(path, view, FLOW)
    assert (tensor[0].mean(dim=(1, 2)) * BOUND + 1.5).abs().max() < 0.5
    store = FlowStore(tmp_path / "flow", write=True)
    assert same(load_view(path, view, FLOW, flow=store), tensor)


def test_frames_smaller_than_a_level_of_the_pyramid(clip: Path) -> None:
    spec = FLOW.model_copy(update={"resize": 14, "crop": 12})
    view = plan_view(video_info(clip), Sample(path=clip), spec)
    with pytest.raises(DataError, match=r"flow method 'dis' needs frames of \d+ pixels a side, got 18x14"):
        load_view(clip, view, spec)


# The folder of stores


def test_a_store_is_written_through_once(folder: Path, clip: Path, tmp_path: Path) -> None:
    store = pickle.loads(pickle.dumps(FlowStore(tmp_path / "flow", root=folder, write=True)))
    view = plan_view(video_info(clip), Sample(path=clip), FLOW)
    first = load_view(clip, view, FLOW, flow=store)
    path = tmp_path / "flow" / "drift" / "a.mp4.flow"
    written = path.stat().st_mtime_ns
    with FlowReader(path) as reader:
        assert reader.header.num_fields == 19
        assert reader.header.source_sha256 == sha256_of(clip)
    assert same(load_view(clip, view, FLOW, flow=store), first)
    assert same(load_view(clip, view, FLOW), first)
    assert path.stat().st_mtime_ns == written
    assert repr(store) == f"FlowStore({tmp_path / 'flow'}, written through)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flow_bound": 20}, "bound 5, not 20"),
        ({"flow_method": "farneback"}, "method dis, not farneback"),
        ({"modality": "warped_flow"}, "plain flow, not warped"),
        ({"frame_stride": 2}, "fields over 1 frame, not over 2 frames"),
        ({"resize": 40}, "61x48 pixels, not 51x40"),
        ({"resize_filter": "bilinear"}, "resize filter antialias, not bilinear"),
    ],
)
def test_another_spec_than_the_stores(
    folder: Path, clip: Path, tmp_path: Path, changes: dict, message: str
) -> None:
    store = stored(folder, tmp_path)
    spec = FLOW.model_copy(update=changes)
    view = plan_view(video_info(clip), Sample(path=clip), spec)
    with pytest.raises(DataError, match=message):
        load_view(clip, view, spec, flow=store)


def test_clips_at_another_rate_find_their_fields(folder: Path, clip: Path, tmp_path: Path) -> None:
    spec = FLOW.model_copy(update={"fps": 20.0})  # of 25: steps of 1 and of 2 frames
    store = stored(folder, tmp_path, fps=20.0)
    for position in (0, 0.3, 1):
        view = plan_view(video_info(clip), Sample(path=clip), spec, position=position)
        assert {b - a for a, b in zip(view.indices[0], view.indices[0][1:], strict=False)} == {1, 2}
        assert same(load_view(clip, view, spec, flow=store), load_view(clip, view, spec))


def test_parameters_of_ones_own_are_known_to_the_store_alone(
    folder: Path, clip: Path, tmp_path: Path
) -> None:
    recipe = FlowRecipe.of("dis", bound=BOUND, num_descents=7)
    spec = FLOW.model_copy(update={"flow_method": recipe.name})
    store = FlowStore(tmp_path, root=folder)
    settings = StoreSettings(resize=48)
    write_flow(clip, store.path_of(clip), recipe, settings, source_sha256=sha256_of(clip))
    view = plan_view(video_info(clip), Sample(path=clip), spec)
    load_view(clip, view, spec, flow=store)
    with pytest.raises(ConfigError, match=r"dis@[0-9a-f]{8}' has parameters of its own"):
        load_view(clip, view, spec)


def test_the_store_of_another_video_and_half_a_store(folder: Path, clip: Path, tmp_path: Path) -> None:
    store = stored(folder, tmp_path)
    view = plan_view(video_info(clip), Sample(path=clip), FLOW)
    path = store.path_of(clip)
    whole = path.read_bytes()
    path.rename(store.path_of(folder / "drift" / "b.mp4"))
    with pytest.raises(DataError, match=r"holds the flow of another video, a\.mp4"):
        load_view(folder / "drift" / "b.mp4", view, FLOW, flow=store)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DecodeError, match=r"a\.mp4\.flow: it is cut short"):
        load_view(clip, view, FLOW, flow=store)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder of flow .*nothing: make it with muybridge flow"):
        FlowStore(tmp_path / "nothing")
    FlowStore(tmp_path / "nothing", write=True)


def test_crops_of_one_clip_share_their_fields(clip: Path) -> None:
    indices = (tuple(range(6, 12)),)
    with VideoReader(clip) as reader:
        load_view(clip, View(indices=indices, size=Size(48, 61), box=Box(0, 0, 40, 40)), FLOW, reader=reader)
        decoded = reader.num_decoded
        load_view(clip, View(indices=indices, size=Size(48, 61), box=Box(8, 21, 40, 40)), FLOW, reader=reader)
        assert reader.num_decoded == decoded


def test_training_reads_the_store(folder: Path, tmp_path: Path) -> None:
    samples = [Sample(path=folder / "drift" / name, labels=("drift",)) for name in ("a.mp4", "b.mp4")]
    store = stored(folder, tmp_path)
    plain = ViewDataset(samples, ["drift"], (FLOW,), EVERYTHING, seed=0)
    fed = ViewDataset(samples, ["drift"], (FLOW,), EVERYTHING, seed=0, flow=store)
    for draw in ((0, 0), (0, 1), (3, 0)):
        first, second = plain[draw], fed[draw]
        assert isinstance(first, Item)
        assert isinstance(second, Item)
        assert same(first.inputs, second.inputs)
    assert plain.blank().inputs[0].shape == (2, 5, 40, 40)
    path = store.path_of(samples[0].path)
    path.write_bytes(path.read_bytes()[:-9])
    broken = fed[0, 0]
    assert isinstance(broken, Broken)
    assert "it is cut short" in broken.reason
