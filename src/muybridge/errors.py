"""What can go wrong. Catch `MuybridgeError` for all of it.

Each message says what was asked, what was found and what to do. The command line prints it in one line
and exits with 1; a traceback means that the mistake is ours.

MuybridgeError
  VideoError              a file: missing, a directory, not a video      (muybridge probe FILE shows more)
    DecodeError           frames that were asked for do not decode       (cut short, damaged)
    VideoTooShortError    fewer frames than the clip needs, and the policy is to say so
  DataError               a data set: no videos, a label file, a split, an unknown class
    BrokenFilesError      more files failed than the limit allows; lists them
    MissingViewsError     an evaluation lacks a view or a video; never a zero instead
  ConfigError             a YAML key or value; names the file and the place in it
  WeightsError            a checkpoint: cut short, another network's, missing or unexpected keys (lists them)
  UnknownModelError       no network of that name; also a KeyError
  InflationError          a 2D network has an operation that is not known for clips; names it
  TrainingError           a run cannot go on or cannot be resumed
    NonFiniteError        a loss or a gradient is not a number
  StorageError            a result cannot be written: disk full, no permission; what was there stays whole
  MissingExtraError       an optional library is not installed; gives the pip line
"""

__all__ = [
    "BrokenFilesError",
    "ConfigError",
    "DataError",
    "DecodeError",
    "InflationError",
    "MissingExtraError",
    "MissingViewsError",
    "MuybridgeError",
    "NonFiniteError",
    "StorageError",
    "TrainingError",
    "UnknownModelError",
    "VideoError",
    "VideoTooShortError",
    "WeightsError",
]


class MuybridgeError(Exception):
    """Anything that the user can mend. Catch this one to catch them all."""


class VideoError(MuybridgeError):
    """The file is missing, is no video, or has no video stream: name another file."""


class DecodeError(VideoError):
    """Frames that were asked for do not decode: the file is cut short or damaged; get it anew or drop it."""


class VideoTooShortError(VideoError):
    """The video has fewer frames than the clip needs: choose another `short_policy` or a shorter clip."""


class DataError(MuybridgeError):
    """A data set does not hold together: a label file, a split, a class, no videos at all."""


class BrokenFilesError(DataError):
    """More files failed than `max_broken` allows: mend or drop the files that the message lists."""


class MissingViewsError(DataError):
    """An evaluation lacks views: run it again, with `--skip-broken` if the files cannot be mended."""


class ConfigError(MuybridgeError):
    """A key or a value in a configuration: the message names the file and the place in it."""


class WeightsError(MuybridgeError):
    """A checkpoint cannot be used: cut short, of another network, or with keys missing or left over."""


class UnknownModelError(MuybridgeError, KeyError):
    """No network has this name: `muybridge models` lists those there are."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would print the message in quotes


class InflationError(MuybridgeError):
    """A 2D network cannot be made 3D: the message names the operation, see docs/inflation.md."""


class TrainingError(MuybridgeError):
    """A training run cannot start, go on or be resumed: the message says what to change."""


class NonFiniteError(TrainingError):
    """A loss or a gradient is infinite or not a number: lower the learning rate or train in float32."""


class StorageError(MuybridgeError):
    """A result could not be written; what stood there before is untouched: free some space and try again."""


class MissingExtraError(MuybridgeError):
    """An optional library is missing: the message gives the `pip install` line."""
