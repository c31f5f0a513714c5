"""muybridge names the action in a video.

>>> import muybridge
>>> model = muybridge.build("r2plus1d_18", num_classes=5, width=0.125)  # random weights
>>> model.num_classes
5

Networks: `build`, `load`, `VideoModel`.  A video: `probe`, `VideoReader`, `write_video`.
From a file to a network's input: `ClipSpec`, `View`, `load_view`.  To a prediction: `recognize`,
`run_views`, `Protocol`.  A data set: `DataConfig`, `read_samples`, `Sample`.  To train and to test:
`muybridge.train.train` with a `TrainConfig`, `muybridge.evaluate.evaluate`.  What can go wrong:
`MuybridgeError`, whose leaves are in `muybridge.errors`.

The names are loaded when they are first used, so `import muybridge` costs nothing and imports no torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muybridge.config import AugmentConfig, ClipSpec, DataConfig, ModelConfig, OptimConfig, TrainConfig
    from muybridge.data.annotations import read_samples
    from muybridge.data.views import load_view
    from muybridge.errors import MuybridgeError
    from muybridge.models.contract import VideoModel
    from muybridge.predict import recognize, run_views
    from muybridge.protocol import Protocol
    from muybridge.types import Clip, Prediction, Sample, VideoInfo, View
    from muybridge.video.decode import VideoReader, probe
    from muybridge.video.encode import write_video
    from muybridge.weights.store import build, load

__version__ = "0.1.0"

__all__ = [
    "AugmentConfig",
    "Clip",
    "ClipSpec",
    "DataConfig",
    "ModelConfig",
    "MuybridgeError",
    "OptimConfig",
    "Prediction",
    "Protocol",
    "Sample",
    "TrainConfig",
    "VideoInfo",
    "VideoModel",
    "VideoReader",
    "View",
    "build",
    "load",
    "load_view",
    "probe",
    "read_samples",
    "recognize",
    "run_views",
    "write_video",
]

# Where each public name is defined; the imports above tell the same to type checkers and editors.
_HOMES = {
    "muybridge.config": (
        "AugmentConfig",
        "ClipSpec",
        "DataConfig",
        "ModelConfig",
        "OptimConfig",
        "TrainConfig",
    ),
    "muybridge.data.annotations": ("read_samples",),
    "muybridge.data.views": ("load_view",),
    "muybridge.errors": ("MuybridgeError",),
    "muybridge.models.contract": ("VideoModel",),
    "muybridge.predict": ("recognize", "run_views"),
    "muybridge.protocol": ("Protocol",),
    "muybridge.types": ("Clip", "Prediction", "Sample", "VideoInfo", "View"),
    "muybridge.video.decode": ("VideoReader", "probe"),
    "muybridge.video.encode": ("write_video",),
    "muybridge.weights.store": ("build", "load"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first asked for (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'muybridge' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *(name for name in __all__ if name not in globals())])
