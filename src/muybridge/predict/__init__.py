"""From videos to scores. Validation, test, `recognize` and the server all drive on `run_views`.

`run_views` gives the logits of every view of each video, `run_features` the features of a layer, `recognize`
the labels.
"""

from muybridge.data.dataset import Broken
from muybridge.predict.loop import VideoFeatures, VideoScores, run_features, run_views, specs_of
from muybridge.predict.recognition import card_of, recognize, recognize_each, to_prediction

__all__ = [
    "Broken",
    "VideoFeatures",
    "VideoScores",
    "card_of",
    "recognize",
    "recognize_each",
    "run_features",
    "run_views",
    "specs_of",
    "to_prediction",
]
