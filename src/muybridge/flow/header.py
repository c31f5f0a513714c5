"""What a store of flow says of itself, and whether that is what is wanted.

Fields are in the order of `gaps`: all that run to the next frame, then, say, all that run two frames on.

    lossless    FFV1: the codes, byte for byte
    high        HEVC: end-point error of a JPEG folder of quality 95 at most
    small       HEVC: end-point error of a JPEG folder of quality 75 at most
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

from pydantic import model_validator

from muybridge.config import Config, Positive, ResizeFilter
from muybridge.errors import ConfigError
from muybridge.flow.recipe import FlowKind, FlowRecipe, Pair, recipe_name
from muybridge.types import Size

__all__ = ["QUALITIES", "VERSION", "FlowHeader", "frames_on"]

VERSION = 1


class Coding(NamedTuple):
    """How codes become packets.

    Attributes:
        codec: of `video.encode.GreyEncoder`.
        gop: packets from one key to the next: so many are decoded at most to have one.
        crf: its quality; None where there is nothing to choose.
    """

    codec: str
    gop: int
    crf: int | None = None


QUALITIES = {
    "lossless": Coding("ffv1", 1),
    "high": Coding("hevc", 8, 12),
    "small": Coding("hevc", 8, 20),
}


class FlowHeader(Config):
    """How the fields of a store were made.

    Attributes:
        version: of the layout.
        source: name of the video's file.
        source_sha256: of its bytes.
        num_frames: of the video.
        fps: of the video.
        source_size: height and width of the video, pixels.
        size: height and width of the frames that the fields are of, pixels.
        resize_filter: how frames got that size; None where they had it.
        method: of the flow.
        parameters: all of the method's.
        warped: the motion of the camera was taken away.
        bound: of the quantiser, pixels.
        gaps: frames from the first of a pair to the second: every pair of each gap is there.
        quality: a key of `QUALITIES`.
        setup: what the decoder needs first, in base64.
        made_by: versions of the libraries.
    """

    version: Literal[1] = 1
    source: str
    source_sha256: str
    num_frames: Positive
    fps: float
    source_size: tuple[Positive, Positive]
    size: tuple[Positive, Positive]
    resize_filter: ResizeFilter | None = None
    method: str
    parameters: dict[str, Any]
    warped: bool = False
    bound: float
    gaps: tuple[int, ...] = (1,)
    quality: str = "lossless"
    setup: str = ""
    made_by: str = ""

    @model_validator(mode="after")
    def _known_quality(self) -> Self:
        if self.quality not in QUALITIES:
            raise ValueError(f"no quality '{self.quality}'; there are: {', '.join(QUALITIES)}")
        return self

    @property
    def name(self) -> str:
        """What a `ClipSpec` calls the method and its parameters."""
        try:
            return recipe_name(self.method, self.parameters)
        except ConfigError:
            return self.method  # another version of the package made it, or another tool

    @property
    def num_fields(self) -> int:
        """Fields of all gaps."""
        return sum(self.num_pairs(gap) for gap in self.gaps)

    def num_pairs(self, gap: int) -> int:
        """Fields that run so many frames on."""
        return max(0, self.num_frames - abs(gap))

    def field_number(self, pair: Pair) -> int | None:
        """Position of a pair of frames among the fields; None where it is not there."""
        first, second = pair
        if second - first not in self.gaps or not 0 <= min(pair) <= max(pair) < self.num_frames:
            return None
        place = self.gaps.index(second - first)
        return sum(self.num_pairs(gap) for gap in self.gaps[:place]) + min(pair)

    def differences(
        self,
        wanted: FlowKind,
        *,
        size: Size | None = None,
        resize_filter: ResizeFilter | None = None,
        gaps: Sequence[int] = (),
    ) -> list[str]:
        """What is other than it was expected, each with both values; empty where all is well.

        Args:
            wanted: the flow.
            size: of the frames; None does not matter.
            resize_filter: how they got that size.
            gaps: frames from the first to the second of the pairs that are wanted.
        """
        found = []
        if self.name != wanted.name:
            found.append(f"method {self._apart(wanted.name)}")
        if self.warped != wanted.warped:
            kinds = ("plain", "warped")
            found.append(f"{kinds[self.warped]} flow, not {kinds[wanted.warped]}")
        if self.bound != wanted.bound:
            found.append(f"bound {self.bound:g}, not {wanted.bound:g}")
        if size is not None and self.size != tuple(size):
            found.append(f"{self.size[1]}x{self.size[0]} pixels, not {size.width}x{size.height}")
        elif self.resize_filter is not None and resize_filter not in (None, self.resize_filter):
            found.append(f"resize filter {self.resize_filter}, not {resize_filter}")
        missing = sorted(set(gaps) - set(self.gaps))
        if missing:
            found.append(
                f"fields over {frames_on(self.gaps)}, not over {frames_on(missing)} (stride and frame rate)"
            )
        return found

    def _apart(self, wanted: str) -> str:
        """Both methods and, where it is one method, the parameters that tell them apart."""
        try:
            other = FlowRecipe.of(wanted)
        except ConfigError:
            return f"{self.name}, not {wanted}"
        if other.method != self.method:
            return f"{self.name}, not {wanted}"
        theirs = other.parameters
        keys = [key for key in theirs if self.parameters.get(key) != theirs[key]]
        values = [", ".join(f"{key} {one.get(key)}" for key in keys) for one in (self.parameters, theirs)]
        return f"{self.name} ({values[0]}), not {wanted} ({values[1]})"

    def __repr__(self) -> str:
        warped = ", warped" if self.warped else ""
        size = f"{self.size[1]}x{self.size[0]}"
        return (
            f"FlowHeader({self.source}: {self.num_fields} fields, {size}, {self.name}, "
            f"bound {self.bound:g}{warped}, {self.quality})"
        )

    __str__ = __repr__


def frames_on(gaps: Sequence[int]) -> str:
    """Gaps in words.

    >>> frames_on((1,)), frames_on((1, 2))
    ('1 frame', '1, 2 frames')
    """
    return f"{', '.join(map(str, gaps))} frame{'' if tuple(gaps) == (1,) else 's'}"
