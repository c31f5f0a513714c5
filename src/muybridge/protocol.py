"""Protocols: which views of a video are looked at, and how their scores become one.

A number without its protocol means nothing, so two digests go with every number that is written down: `views`
(temporal positions, crops and aggregation: `Protocol.digest`) and `spec` (the ClipSpecs: `specs_digest`).

Shape letters: V views, K classes.
"""

import difflib
import re
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator

from muybridge.config import ClipSpec, Config, Positive, short_digest
from muybridge.data.views import plan_view
from muybridge.errors import ConfigError, MissingViewsError
from muybridge.models.tsn_consensus import integrate_windows
from muybridge.types import Sample, VideoInfo, View
from muybridge.video.crops import CropKind
from muybridge.video.sampling import clip_span, frame_range, view_positions

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "aggregate",
    "get_protocol",
    "plan_views",
    "softmax",
    "view_probabilities",
]

Aggregation = Literal["softmax_mean", "logit_mean", "sigmoid_mean", "m_twi"]
CROP_COUNTS: dict[CropKind, int] = {"center": 1, "three": 3, "five": 5, "ten": 10}
_COUNT_CROPS: dict[int, CropKind] = {count: crops for crops, count in CROP_COUNTS.items()}


class Protocol(Config):
    """How a video is tested.

    Attributes:
        name: what it is called; it does not change the digest.
        clips: N clips, spread evenly from the first possible place in the video to the last; one lies in the
            middle.
        crops: of each clip: "center"; "three" along the longer side; "five", the corners and the center;
            "ten", those five and their mirror images.
        step: a sliding window instead of N clips: one every so many frames of the file, from its first frame
            on; as many as lie whole in the video, but one at least. None does not slide.
        step_seconds: the same, counted in seconds.
        aggregation: "softmax_mean" is the mean of the views' probabilities, "logit_mean" the softmax of their
            mean logits, "sigmoid_mean" the mean of independent probabilities (several labels a video),
            "m_twi" TSN's windows over one clip a second, in front of the softmax; of several crops the best
            one counts.

    >>> PROTOCOLS["10x3"].num_views
    30
    """

    name: str
    clips: Positive = 1
    crops: CropKind = "center"
    step: Positive | None = None
    step_seconds: Annotated[float, Field(gt=0)] | None = None
    aggregation: Aggregation = "softmax_mean"

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.slides and self.clips != 1:
            step = self.step or f"{self.step_seconds:g} s"
            raise ValueError(f"give clips ({self.clips}) or a step ({step}), not both")
        if self.step is not None and self.step_seconds is not None:
            raise ValueError(f"give step ({self.step}) or step_seconds ({self.step_seconds:g}), not both")
        if self.aggregation == "m_twi" and self.step_seconds != 1:
            raise ValueError(
                '"m_twi" takes one clip a second: name the protocol m_twi or m_twi10, or give step_seconds=1'
            )
        return self

    @property
    def slides(self) -> bool:
        """Whether a longer video has more views."""
        return self.step is not None or self.step_seconds is not None

    @property
    def num_crops(self) -> int:
        """Crops of one clip."""
        return CROP_COUNTS[self.crops]

    @property
    def num_views(self) -> int:
        """V: clips times crops, and what a video costs as a multiple of one view.

        Raises:
            ConfigError: the window slides, so each video has its own number.
        """
        if self.slides:
            raise ConfigError(
                f"the protocol '{self.name}' looks at more views of a longer video, so it has no number of "
                "them: take NxM, N clips of M crops"
            )
        return self.clips * self.num_crops

    def takes(self, num_views: int) -> bool:
        """Whether a score can be made of so many views of one video."""
        if self.slides:
            return num_views > 0 and num_views % self.num_crops == 0
        return num_views == self.num_views

    def seen(self, specs: tuple[ClipSpec, ...]) -> tuple[ClipSpec, ...]:
        """How a network that sees clips like these sees those of this protocol: "m_twi" has lone snippets."""
        if self.aggregation != "m_twi":
            return specs
        return tuple(spec.model_copy(update={"num_segments": 1}) for spec in specs)

    def digest(self) -> str:
        """The `views` digest: of the temporal positions, the crops and the aggregation, not of the name.

        >>> get_protocol("1x1").digest() == get_protocol("center").digest()
        True
        """
        positions: object = [round(position, 9) for position in view_positions(self.clips)]
        if self.step is not None:
            positions = {"step": self.step}
        if self.step_seconds is not None:
            positions = {"step_seconds": self.step_seconds}
        return short_digest(
            {"positions": positions, "crops": self.crops, "aggregation": self.aggregation},
        )

    def explain(self) -> str:
        """What it does and what it costs, for people.

        >>> print(get_protocol("10x3").explain())
        10x3: 10 clips, evenly from the start of the video to its end; of each the left, center and right part
        (top, center and bottom of an upright video); the score is the mean of the views' probabilities.
        30 views a video: 30 times the work of "center". Digest of the views: 8874ad84.
        """
        if self.slides:
            cost = "More views of a longer video."
        elif self.num_views == 1:
            cost = "1 view a video: the cheapest there is."
        else:
            cost = f'{self.num_views} views a video: {self.num_views} times the work of "center".'
        return (
            f"{self.name}: {self._clips_text()}; of each {_CROP_TEXTS[self.crops]}; the score is "
            f"{_AGGREGATION_TEXTS[self.aggregation]}.\n{cost} Digest of the views: {self.digest()}."
        )

    def _clips_text(self) -> str:
        if self.step is not None:
            return f"a clip every {self.step} frames, from the first one on"
        if self.step_seconds is not None:
            every = "second" if self.step_seconds == 1 else f"{self.step_seconds:g} seconds"
            return f"a clip every {every}, from the first frame on"
        if self.clips == 1:
            return "one clip from the middle of the video"
        return f"{self.clips} clips, evenly from the start of the video to its end"


_CROP_TEXTS: dict[CropKind, str] = {
    "center": "the center",
    "three": "the left, center and right part\n(top, center and bottom of an upright video)",
    "five": "the four corners and the center",
    "ten": "the four corners and the center, and the mirror images of these",
}
_AGGREGATION_TEXTS: dict[Aggregation, str] = {
    "softmax_mean": "the mean of the views' probabilities",
    "logit_mean": "the softmax of the views' mean logits",
    "sigmoid_mean": "the mean of the views' independent probabilities, one a class",
    "m_twi": "the softmax of the best seconds of windows of 1 to 16 seconds, averaged (M-TWI)",
}

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="center"),
        Protocol(name="10x1", clips=10),
        Protocol(name="10x3", clips=10, crops="three"),
        Protocol(name="m_twi", step_seconds=1, aggregation="m_twi"),
    )
}


def get_protocol(name: str | Protocol) -> Protocol:
    """The protocol of this name: one of PROTOCOLS, or "NxM" for N clips of M crops (1, 3, 5 or 10).

    "slidingN" has a clip every N frames of the file. "m_twi" is TSN's for untrimmed video, windows over one
    clip a second; "m_twi10" has ten crops of each. "/logit_mean" or "/sigmoid_mean" behind the name changes
    the aggregation.

    Raises:
        ConfigError: no such protocol; names the nearest one.

    >>> protocol = get_protocol("25x10/logit_mean")
    >>> protocol.clips, protocol.crops, protocol.aggregation
    (25, 'ten', 'logit_mean')
    >>> get_protocol("centre")
    Traceback (most recent call last):
        ...
    muybridge.errors.ConfigError: no protocol 'centre'; did you mean 'center'?
    """
    if isinstance(name, Protocol):
        return name
    base, slash, aggregation = name.partition("/")
    if slash and aggregation not in _AGGREGATION_TEXTS:
        known = ", ".join(_AGGREGATION_TEXTS)
        raise ConfigError(f"protocol '{name}': no aggregation '{aggregation}'; there are {known}")
    protocol = PROTOCOLS.get(base) or _parse(base)
    return Protocol(**{**protocol.to_dict(), "name": name, **({"aggregation": aggregation} if slash else {})})


def plan_views(
    info: VideoInfo, sample: Sample, specs: tuple[ClipSpec, ...], protocol: Protocol
) -> tuple[View, ...]:
    """All views of one video, clip after clip, the crops of a clip side by side: V of them.

    A video too short for N different clips still has N: the score of a protocol is always made of V views.

    Raises:
        VideoTooShortError: fewer frames than a clip needs, and the spec's policy is "error".
        ConfigError: the protocol slides, and a clip is spread over the whole video.
    """
    positions = _positions(info, sample, specs, protocol)
    return tuple(
        plan_view(
            info,
            sample,
            specs,
            position=position,
            crops=protocol.crops,
            crop_index=crop_index,
            clip_name=f"clip {clip}/{len(positions)}",
        )
        for clip, position in enumerate(positions, start=1)
        for crop_index in range(protocol.num_crops)
    )


def _positions(
    info: VideoInfo, sample: Sample, specs: tuple[ClipSpec, ...], protocol: Protocol
) -> tuple[float, ...]:
    """Where the clips of one video lie, as `plan_view` takes it."""
    if not protocol.slides:
        return view_positions(protocol.clips)
    if any(spec.frame_stride is None or spec.num_segments > 1 for spec in specs):
        raise ConfigError(
            f"the protocol '{protocol.name}' slides a clip through the video, but the network's clips are "
            "spread over all of it: give the clip a frame_stride and one segment, or take another protocol"
        )
    step = protocol.step or max(1.0, (protocol.step_seconds or 0) * info.fps)
    first, stop = frame_range(info, sample.start_seconds, sample.end_seconds)
    last = max(0, stop - first - max(clip_span(spec, info.fps) for spec in specs))  # place where a clip fits
    return tuple(round(n * step) / max(1, last) for n in range(int(last / step) + 1))


def aggregate(logits: npt.ArrayLike, protocol: Protocol) -> npt.NDArray[np.float64]:
    """One video's probabilities from the logits of all its views, summed in float64.

    Raises:
        MissingViewsError: more or fewer rows than the protocol has views; a missing view is never a zero.

    Shape:
        logits [V, K]
        output [K]; it sums to 1, except for "sigmoid_mean".

    >>> aggregate([[0.0, 0.0], [0.0, 100.0]], Protocol(name="2x1", clips=2))
    array([0.25, 0.75])
    """
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or not protocol.takes(len(values)):
        wanted = "one or more" if protocol.slides else protocol.num_views
        raise MissingViewsError(
            f"the protocol '{protocol.name}' makes a score of {wanted} views, got logits of "
            f"shape {list(values.shape)}: run the missing views again; none may be left out"
        )
    if protocol.aggregation == "m_twi":
        of_crops = values.reshape(-1, protocol.num_crops, values.shape[1])
        return softmax(integrate_windows(torch.from_numpy(of_crops)).numpy())
    if protocol.aggregation == "logit_mean":
        return softmax(values.mean(axis=0))
    return np.asarray(view_probabilities(values, protocol).mean(axis=0))


def view_probabilities(logits: npt.ArrayLike, protocol: Protocol) -> npt.NDArray[np.float64]:
    """What each view says by itself.

    Shape:
        logits [..., K]
        output [..., K]
    """
    values = np.asarray(logits, dtype=np.float64)
    if protocol.aggregation == "sigmoid_mean":
        return np.exp(-np.logaddexp(0.0, -values))  # 1 / (1 + exp(-x)) without overflow
    return softmax(values)


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """exp(x) / sum(exp(x)) over the last axis, without overflow."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _parse(name: str) -> Protocol:
    if sliding := re.fullmatch(r"sliding([1-9]\d{0,3})", name):
        return Protocol(name=name, step=int(sliding[1]))
    if windows := re.fullmatch(r"m_twi(3|5|10)", name):
        kind = _COUNT_CROPS[int(windows[1])]
        return Protocol(name=name, crops=kind, step_seconds=1, aggregation="m_twi")
    match = re.fullmatch(r"([1-9]\d{0,3})x(\d{1,3})", name)
    if match is None:
        close = difflib.get_close_matches(name, PROTOCOLS, n=1)
        known = f"{', '.join(PROTOCOLS)}, or NxM: N clips of M crops, or slidingN"
        raise ConfigError(f"no protocol '{name}'; " + (f"did you mean '{close[0]}'?" if close else known))
    clips, crops = int(match[1]), int(match[2])
    if crops not in _COUNT_CROPS:
        counts = ", ".join(f"{count} ({crops})" for count, crops in _COUNT_CROPS.items())
        raise ConfigError(f"protocol '{name}': no {crops} crops of a clip; there are {counts}")
    return Protocol(name=name, clips=clips, crops=_COUNT_CROPS[crops])
