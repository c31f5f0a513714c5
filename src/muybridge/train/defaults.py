"""What to train, and for how long, for someone who only has a folder of videos.

The choices are for a CPU and minutes, not for a record: a small R(2+1)D on 16 small frames. Each comes with a
sentence that says what was chosen and why, for the command line to print.
"""

import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from muybridge.config import AugmentConfig, ClipSpec, DataConfig, ModelConfig, OptimConfig, TrainConfig
from muybridge.data.annotations import label_names, read_samples
from muybridge.data.doctor import mirror_sensitive
from muybridge.data.splits import Splits, split
from muybridge.environment import available_cores
from muybridge.errors import ConfigError, DataError, VideoError
from muybridge.models.registry import build
from muybridge.train.log import duration_text
from muybridge.train.setup import read_init
from muybridge.types import Sample, Size, UInt8Array, VideoInfo
from muybridge.video.decode import VideoReader
from muybridge.video.sampling import frame_range

__all__ = ["default_config"]

NUM_FRAMES = 16
WIDTH = 0.25  # of the paper's channels
NUM_PROBED = 24  # files that are opened to learn how large and how long the videos are
LONG_SECONDS = 10.0  # in a longer piece 16 frames over the whole of it lie too far apart to show motion
SIDES = ((112, (112, 96)), (88, (88, 80)), (0, (72, 64)))  # source's short side -> resize, crop
SMALLEST_STD = 0.05  # of near-black videos: a smaller one would blow noise up
SMALLEST_DIFFERENCE_STD = 0.02  # the same, of differences of frames
MOVES = 0.002  # something moves where at least this part of a frame changes from frame to frame of a clip
SAME = 0.03  # white is 1: a cell of 32 x 32 that changes by less has kept its value, noise or not
STILL = 0.75  # the camera stands still where at least this part of a frame keeps its values
EMPTY = 0.75  # nothing is behind the person where at least this part of a frame has one value
LONG_FPS = 8.0  # 16 frames are then 2 s
VAL_FRACTION = 0.2
MIN_VIDEOS_FOR_VAL = 20
CLIPS_OF_A_RUN = 16_000  # what a network of this size needs from scratch, about
EPOCHS = (12, 80)
CACHE_BYTES = 4 << 30

# Clips a second and core that the small network trains on, at 16 frames of 72 x 72, on a server of 2023.
RATE_PER_CORE = 20.0
RATE_PIXELS = 16 * 72 * 72


def default_config(
    root: Path | str,
    *,
    run_dir: Path | str | None = None,
    init: Path | str | None = None,
    model: str | None = None,
    seed: int = 0,
) -> tuple[TrainConfig, list[str]]:
    """A configuration that works on this machine for the videos at `root`, and why it is as it is.

    Args:
        root: a folder of videos or a CSV file.
        run_dir: where the run will be; decoded clips are kept in it if they are small.
        init: a checkpoint to start from: its network and its clips are taken, and the head trains first.
        model: the network; None is a small R(2+1)D, or what `init` says that it is.
        seed: fixes the run.

    Returns:
        the configuration, and one sentence for each choice.

    Raises:
        DataError: no videos there, or none of those looked at can be read.
        WeightsError: the checkpoint cannot be read.
    """
    data = DataConfig(root=str(root))
    with warnings.catch_warnings():  # the run itself reads the data again, and warns
        warnings.simplefilter("ignore")
        samples = read_samples(data)
        given = split(samples, data, seed)
    seen = look_at(given.train)
    said: list[str] = []
    data = _data_config(data, given, seen, run_dir, said)
    num_train = len(given.train) if given.val or not data.val_fraction else round(0.8 * len(given.train))
    network, clip = _network(init, model, seen, said)
    epochs, optim, head_epochs = _schedule(num_train, init is not None, said)
    pixels = sum(one.num_frames * one.crop**2 * one.num_segments for one in clip or ())
    if pixels and init is None:
        seconds = epochs * num_train * pixels / RATE_PIXELS / RATE_PER_CORE / available_cores()
        said.append(
            f"roughly {duration_text(seconds)} on {available_cores()} cores; the run itself measures it"
        )
    several = any(len(sample.labels) != 1 for sample in given.train)
    if several:
        said.append("some videos have several labels, or none: binary cross entropy")
        optim = optim.model_copy(update={"label_smoothing": 0.0})
    config = TrainConfig(
        data=data,
        model=network,
        clip=clip,
        augment=_augment(label_names(given.train), said),
        optim=optim,
        epochs=epochs,
        batch_size=min(8, max(2, num_train // 4)),
        seed=seed,
        loss="bce" if several else "cross_entropy",
        init=str(init) if init is not None else None,
        head_epochs=head_epochs,
    )
    return config, said


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the videos are like, from a few of them.

    Attributes:
        short_side: median, pixels.
        seconds: median length of a piece.
        num_frames: median frames of a file.
        aspects: smallest and largest width / height.
        mean: of each channel, white is 1.
        std: of each channel over all pixels, white is 1.
        kept: what part of a frame has the same values a quarter of the video later, median.
        flat: what part of a frame has one and the same value, median: a depth map, a sheet of paper.
        moved: what part of a frame changes from one frame of a clip of 16 to the next one, median.
        difference_std: of each channel of the difference of these two.
    """

    short_side: int
    seconds: float
    num_frames: int
    aspects: tuple[float, float]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    kept: float
    flat: float
    moved: float
    difference_std: tuple[float, float, float]

    @property
    def shown_by_differences(self) -> bool:
        """Whether differences of frames lay bare what moves: before a still camera and a background.

        Where there is no background the pictures have nothing but who moves, and more of it.
        """
        return self.kept >= STILL and self.flat < EMPTY and self.moved >= MOVES


def look_at(samples: Sequence[Sample]) -> Seen:
    """Opens a few of the videos, evenly from the list, and decodes three pairs of frames of each.

    Raises:
        DataError: none of them can be read.
    """
    infos: list[VideoInfo] = []
    lengths: list[float] = []
    pairs: list[UInt8Array] = []
    problem = ""
    step = max(1, len(samples) // NUM_PROBED)
    for sample in samples[::step][:NUM_PROBED]:
        try:
            with VideoReader(sample.path) as reader:
                info = reader.info
                first, stop = frame_range(info, sample.start_seconds, sample.end_seconds)
                length = stop - first
                firsts = [first + length * part // 4 for part in (1, 2, 3)]
                nexts = [min(index + _gap(length, info.fps), stop - 1) for index in firsts]
                frames = reader.read(firsts + nexts, size=Size(32, 32))
                pairs.append(frames.reshape(2, 3, *frames.shape[1:]))
        except VideoError as error:
            problem = str(error)
            continue
        infos.append(info)
        end = info.duration_seconds if sample.end_seconds is None else sample.end_seconds
        lengths.append(end - sample.start_seconds)
    if not infos:
        raise DataError(f"none of the videos that were looked at can be read; one of them: {problem}")
    looked = np.stack(pairs) / 255.0  # [videos, 2, 3, 32, 32, channels]
    pixels = looked[:, 0].reshape(-1, 3)
    steps = looked[:, 1] - looked[:, 0]
    greys = looked[:, 0].mean(axis=-1)
    keeps = (np.abs(np.diff(greys, axis=1)) < SAME).mean(axis=(1, 2, 3))
    moves = (np.abs(steps.mean(axis=-1)) >= SAME).mean(axis=(1, 2, 3))
    middle = np.median(greys, axis=(2, 3), keepdims=True)
    flats = (np.abs(greys - middle) < SAME).mean(axis=(1, 2, 3))
    aspects = [info.width / info.height for info in infos]
    return Seen(
        short_side=round(statistics.median(min(info.size) for info in infos)),
        seconds=statistics.median(lengths),
        num_frames=round(statistics.median(info.num_frames for info in infos)),
        aspects=(min(aspects), max(aspects)),
        mean=_three(pixels.mean(axis=0)),
        std=_three(np.maximum(pixels.std(axis=0), SMALLEST_STD)),
        kept=float(np.median(keeps)),
        flat=float(np.median(flats)),
        moved=float(np.median(moves)),
        difference_std=_three(steps.reshape(-1, 3).std(axis=0)),
    )


def _gap(length: int, fps: float) -> int:
    """Frames of the file from one frame of a clip to the next one, about."""
    return max(1, round(fps / LONG_FPS) if length > LONG_SECONDS * fps else length // NUM_FRAMES)


def _three(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 3) for value in values)
    return red, green, blue


def _data_config(
    data: DataConfig, given: Splits, seen: Seen, run_dir: Path | str | None, said: list[str]
) -> DataConfig:
    """Adds a validation part and a cache."""
    changes: dict[str, object] = {}
    groups = {sample.group for sample in given.train if sample.group}
    if given.val:
        said.append(f"validation on the {len(given.val)} videos of the data set's own validation part")
    elif len(given.train) < MIN_VIDEOS_FOR_VAL or len(groups) == 1:
        said.append(
            f"no validation: {len(given.train)} videos are too few to spare some; the last epoch counts"
        )
    else:
        changes["val_fraction"] = VAL_FRACTION
        of_what = f"of the {len(groups)} groups" if groups else "of the videos of each class"
        said.append(f"a fifth {of_what} is held out to choose the best epoch")
        if not groups:
            said.append("if clips of one person or one recording lie on both sides, that number is too good")
    num_bytes = len(given.train) * seen.num_frames * _frame_pixels(seen) * 3
    if run_dir is not None and num_bytes < CACHE_BYTES:
        changes["cache"] = str((Path(run_dir) / "cache").resolve())  # a run may go on from elsewhere
        said.append(f"decoded frames are kept in {changes['cache']}, about {num_bytes / 1e6:.0f} MB")
    return data.model_copy(update=changes)


def sides(seen: Seen) -> tuple[int, int]:
    """To what the short side is resized, and the crop of it: as large as the source, up to 112 and 96."""
    return next(pair for at_least, pair in SIDES if seen.short_side >= at_least)


def _same_shape(seen: Seen) -> bool:
    return seen.aspects[1] <= 1.15 * seen.aspects[0]


def _frame_pixels(seen: Seen) -> int:
    side, _ = sides(seen)
    longer = max(seen.aspects[1], 1 / seen.aspects[0])
    return side * side if _same_shape(seen) else round(side * side * longer)


def _network(
    init: Path | str | None, model: str | None, seen: Seen, said: list[str]
) -> tuple[ModelConfig, tuple[ClipSpec, ...] | None]:
    """The network, and how it sees clips."""
    if init is not None:
        started = read_init(init, model or "")
        name = started.model or model
        if name is None:
            raise ConfigError(f"{init} does not say which network it is: name it (--model, or in --config)")
        said.append(f"the network and its clips are those of {init}: {name}, width {started.width:g}")
        return ModelConfig(name=name, width=started.width, arguments=started.arguments), started.specs
    if model is None:
        said.append("a small R(2+1)D, 10 layers at a quarter of the paper's width: 0.9 million parameters")
        return ModelConfig(name="r2plus1d_10", width=WIDTH), (_rgb_clip(NUM_FRAMES, seen, said),)
    width, own = _own_clips(model)
    said.append(f"{model} with {width:g} of the paper's channels")
    if len(own) == 1 and own[0].modality == "rgb" and own[0].num_segments == 1 and own[0].num_frames > 1:
        clip: tuple[ClipSpec, ...] = (_rgb_clip(own[0].num_frames, seen, said),)
    else:
        side, crop = sides(seen)
        clip = tuple(spec.model_copy(update={"resize": side, "crop": crop}) for spec in own)
        said.append(f"its clips are the paper's, of {crop} x {crop} pixels")
    return ModelConfig(name=model, width=width), clip


def _own_clips(model: str) -> tuple[float, tuple[ClipSpec, ...]]:
    """The width of a small network of this name, and the clips that its paper gives it."""
    with torch.device("meta"):  # sizes alone: no weights are made
        try:
            return WIDTH, build(model, width=WIDTH).default_specs
        except ConfigError:  # networks of other libraries have one width
            return 1.0, build(model).default_specs


def _rgb_clip(num_frames: int, seen: Seen, said: list[str]) -> ClipSpec:
    side, crop = sides(seen)
    frames: dict[str, Any] = {"num_frames": num_frames, "frame_stride": None}
    if seen.seconds > LONG_SECONDS:
        frames = {"num_frames": num_frames, "fps": LONG_FPS}
        said.append(
            f"videos are {duration_text(seen.seconds)} long: a clip is {num_frames / LONG_FPS:g} s of one, "
            f"so test with the protocol 10x1"
        )
    else:
        said.append(
            f"a clip is {num_frames} frames spread over the whole video (median {seen.seconds:.1f} s)"
        )
    resize: int | tuple[int, int] = side
    if _same_shape(seen):
        resize = (side, side)
        said.append(f"frames are squeezed to {side} x {side}, so that none of the picture is lost")
    said.append(f"the network sees {crop} x {crop} pixels; mean and std are those of the videos")
    if not seen.shown_by_differences:
        return ClipSpec(**frames, resize=resize, crop=crop, mean=seen.mean, std=seen.std)
    said.append(
        f"the camera stands still ({seen.kept:.0%} of a picture keeps its values): clips are differences of "
        f"frames, which show what moves. For the pictures set in config.yaml: modality: rgb, "
        f"mean: {list(seen.mean)}, std: {list(seen.std)}"
    )
    std = tuple(max(value, SMALLEST_DIFFERENCE_STD) for value in seen.difference_std)
    return ClipSpec(**frames, resize=resize, crop=crop, modality="rgb_diff", mean=(0.0, 0.0, 0.0), std=std)


def _augment(labels: tuple[str, ...], said: list[str]) -> AugmentConfig:
    if names := mirror_sensitive(labels):
        listed = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        said.append(f"clips are not mirrored: that would change the class of {listed}")
    return AugmentConfig(
        crop="area", crop_area=(0.75, 1.2), flip=not names, brightness=0.2, contrast=0.2, saturation=0.2
    )


def _schedule(num_train: int, fine_tuning: bool, said: list[str]) -> tuple[int, OptimConfig, int]:
    """Epochs, optimiser, and epochs of the head alone."""
    epochs = min(EPOCHS[1], max(EPOCHS[0], round(CLIPS_OF_A_RUN / max(1, num_train))))
    optim = OptimConfig(
        kind="adamw",
        lr=1e-3,
        weight_decay=0.05,
        warmup_epochs=min(5.0, epochs / 10),
        clip_grad_norm=5.0,
        ema_decay=0.99,
        label_smoothing=0.1,
    )
    if not fine_tuning:
        said.append(f"{epochs} epochs of {num_train} clips with AdamW, the rate falling as a cosine")
        return epochs, optim, 0
    epochs = max(EPOCHS[0], epochs // 3)
    head_epochs = epochs // 6
    said.append(f"{epochs} epochs; in the first {head_epochs} only the new head trains")
    return epochs, optim.model_copy(update={"lr": 3e-4, "warmup_epochs": float(head_epochs)}), head_epochs
