"""Training, testing and recognising see the same bytes for the same view: there is one road from a file."""

import numpy as np
import pytest
import torch
from torch import Tensor

from muybridge.config import AugmentConfig, ClipSpec
from muybridge.data.cache import FrameCache
from muybridge.data.dataset import ViewDataset
from muybridge.data.loader import batches
from muybridge.data.views import load_view, plan_view, video_info
from muybridge.evaluate import evaluate
from muybridge.models.contract import Card, VideoModel
from muybridge.predict import recognize
from muybridge.types import Sample
from muybridge.video.encode import write_video

# 25 frames at a stride of 3 leave a single place in a video of 25 frames: training cannot draw another.
SPEC = ClipSpec(num_frames=9, frame_stride=3, resize=40, crop=32, short_policy="error")
LABELS = ("left", "right")


class Recorder(VideoModel):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__(num_classes=2, feature_dim=3, default_specs=(SPEC,), stage_names=())
        self.name = "recorder"
        self.card = Card(model="recorder", arguments={}, specs=(SPEC,), labels=LABELS)
        self.seen: list[Tensor] = []

    def forward_features(self, *inputs: Tensor) -> Tensor:
        self.seen.extend(inputs[0].clone())
        return inputs[0].mean((2, 3, 4))


@pytest.fixture
def sample(tmp_path) -> Sample:
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 256, (7, 12, 3), dtype=np.uint8), np.ones((9, 9, 1), np.uint8))
    path = tmp_path / "a.mp4"
    write_video(path, (np.roll(picture, 2 * t, axis=1)[:60, :100] for t in range(25)), fps=25)
    return Sample(path=path, labels=("right",))


def test_training_testing_and_recognising_see_the_same_bytes(sample, tmp_path):
    augment = AugmentConfig(crop="center", flip=False)
    cache = FrameCache(tmp_path / "cache")
    seen: dict[str, Tensor] = {}

    view = plan_view(video_info(sample.path), sample, SPEC)
    seen["load_view"] = load_view(sample.path, view, SPEC)

    dataset = ViewDataset([sample], LABELS, (SPEC,), augment, seed=3)
    seen["training item"] = dataset[0, 0].inputs[0]
    cached = ViewDataset([sample], LABELS, (SPEC,), augment, seed=4, cache=cache)
    seen["training item, cached"] = cached[7, 0].inputs[0]
    (batch,) = batches(dataset, epoch=2, batch_size=4, seed=3)
    seen["training batch"] = batch.inputs[0][0]

    model = Recorder()
    evaluate(model, [sample])
    evaluate(model, [sample], cache=cache, num_workers=0)
    recognize(sample.path, model)
    recognize(sample.path.read_bytes(), model)
    recognize([sample], model, protocol="1x3")
    names = [
        "testing",
        "testing, cached",
        "recognising a file",
        "recognising bytes",
        "left",
        "center",
        "right",
    ]
    seen |= dict(zip(names, model.seen, strict=True))

    for name in ("left", "right"):  # other views, so that equality means something
        assert not torch.equal(seen.pop(name), seen["load_view"])
    assert len(seen) == 9
    expected = seen["load_view"].numpy().tobytes()
    differing = [name for name, tensor in seen.items() if tensor.contiguous().numpy().tobytes() != expected]
    assert differing == []
    assert {tuple(tensor.shape) for tensor in seen.values()} == {(3, 9, 32, 32)}
