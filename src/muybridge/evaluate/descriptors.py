"""One row of features a video: the C3D descriptor (Tran et al. 2015, Sec. 3.3), for any network and layer.

The features of a video's clips are averaged, and the mean is made as long as 1.

Shape letters: N videos, V views, D features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from muybridge.config import ClipSpec
from muybridge.data.cache import FrameCache
from muybridge.data.dataset import Broken
from muybridge.errors import DataError, WeightsError
from muybridge.models.contract import VideoModel
from muybridge.predict import VideoFeatures, run_features, specs_of
from muybridge.protocol import Protocol, get_protocol
from muybridge.types import Sample

__all__ = ["SLIDING", "Descriptors", "describe", "descriptor", "side_by_side"]

SLIDING = "sliding8"  # Sec. 3.3: clips of 16 frames, 8 of which the next one has too

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Descriptors:
    """One row of features a video.

    Attributes:
        samples: the videos that could be read.
        values: float64 [N, D].
        layers: what the features are of, such as "c3d fc6"; several where networks stand side by side.
        protocol: the views of each video.
        specs: how the networks saw them.
        broken: the videos that could not be read.
    """

    samples: tuple[Sample, ...]
    values: FloatArray
    layers: tuple[str, ...]
    protocol: Protocol
    specs: tuple[ClipSpec, ...]
    broken: tuple[Broken, ...] = ()

    def of(self, samples: Sequence[Sample]) -> "Descriptors":
        """Those of these videos alone."""
        keys = {sample.key for sample in samples}
        rows = [row for row, sample in enumerate(self.samples) if sample.key in keys]
        return replace(self, samples=tuple(self.samples[row] for row in rows), values=self.values[rows])

    def __repr__(self) -> str:
        videos, features = self.values.shape
        return f"Descriptors({videos} videos, {features} features: {' + '.join(self.layers)})"


def describe(
    model: VideoModel,
    samples: Sequence[Sample],
    *,
    layer: str | None = None,
    protocol: str | Protocol = SLIDING,
    device: torch.device | str | None = None,
    batch_size: int = 8,
    num_workers: int = 1,
    skip_broken: bool = False,
    cache: FrameCache | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Descriptors:
    """The descriptors of videos; a video of no view that can be read is left out, or raises.

    Args:
        model: the network.
        samples: the videos, labelled or not.
        layer: whose features, such as "fc6"; None takes what the head takes.
        protocol: a protocol or its name; its views are averaged.
        device: moves the network there first; None leaves it where it is.
        batch_size: views that go through the network at once.
        num_workers: threads that decode; 0 decodes between two batches.
        skip_broken: list the videos that cannot be read, instead of raising.
        cache: decoded clips on disk; None decodes each time.
        on_progress: called with the number of videos done and of all videos.

    Raises:
        DataError: no video could be read.
        VideoError: a video cannot be read, and `skip_broken` is not set.
        WeightsError: all features of a video are zero.
    """
    protocol = get_protocol(protocol)
    found = list(
        run_features(
            model,
            samples,
            protocol,
            layer=layer,
            device=device,
            batch_size=batch_size,
            num_workers=num_workers,
            skip_broken=skip_broken,
            cache=cache,
            on_progress=on_progress,
        )
    )
    rows = [one for one in found if isinstance(one, VideoFeatures)]
    broken = tuple(one for one in found if isinstance(one, Broken))
    if not rows:
        raise DataError(f"no video of {len(samples)} can be read; the first: {broken[0].reason}")
    name = f"{model.name or type(model).__name__} {layer or 'features'}"
    return Descriptors(
        samples=tuple(one.sample for one in rows),
        values=np.stack([descriptor(one.features, who=f"{one.sample.path}, {name}") for one in rows]),
        layers=(name,),
        protocol=protocol,
        specs=specs_of(model),
        broken=broken,
    )


def descriptor(features: npt.ArrayLike, *, who: str = "a video") -> FloatArray:
    """The mean of the features of all views, made as long as 1.

    Raises:
        WeightsError: it is zero and has no direction.

    Shape:
        features [V, D]
        output [D]

    >>> descriptor([[2.0, 4.0], [4.0, 4.0]])
    array([0.6, 0.8])
    """
    mean = np.asarray(features, np.float64).mean(axis=0)
    length = float(np.linalg.norm(mean))
    if not length:
        raise WeightsError(
            f"{who}: all features are zero, so there is nothing to learn from: take another layer"
        )
    return np.asarray(mean / length)


def side_by_side(parts: Sequence[Descriptors]) -> Descriptors:
    """The descriptors of several networks as one longer row a video (the paper's "3 nets").

    Raises:
        DataError: they are not of the same videos, or of other views.
    """
    if not parts:
        raise DataError("no network to take features of: give one checkpoint at least")
    first = parts[0]
    for other in parts[1:]:
        if other.protocol.digest() != first.protocol.digest() or other.samples != first.samples:
            raise DataError(
                f"{first.layers[0]} and {other.layers[0]} are not of the same videos and views: describe the "
                "same list under the same protocol"
            )
    return replace(
        first,
        values=np.concatenate([one.values for one in parts], axis=1),
        layers=tuple(layer for one in parts for layer in one.layers),
        specs=tuple(spec for one in parts for spec in one.specs),
    )
