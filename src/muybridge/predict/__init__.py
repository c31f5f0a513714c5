"""From videos to scores. Validation, test, `recognize` and the server all drive on `run_views`.

`run_views` gives the logits of every view of each video, `recognize` the labels.
"""

from muybridge.data.dataset import Broken
from muybridge.predict.loop import VideoScores, run_views, specs_of
from muybridge.predict.recognition import card_of, recognize, recognize_each, to_prediction

__all__ = [
    "Broken",
    "VideoScores",
    "card_of",
    "recognize",
    "recognize_each",
    "run_views",
    "specs_of",
    "to_prediction",
]
