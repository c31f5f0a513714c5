"""Which frames of a video a network sees: integers in, integers out, before anything is decoded.

`clip_indices` is the one entry for callers. What it is built from:

  frame_range        seconds -> the frames [first, stop) of a piece of the file
  strided_offsets    T frames, tau apart, at the rate that the clip asks for -> offsets from its first frame
  one_per_part       one place in each of S equal parts: S = 1 is the start of a clip, S segments are TSN's,
                     S = T frames are a clip that is spread over the whole piece
  strided, segments, spread       the three kinds of clip
  loop, repeat_last, refuse_short what becomes of a video that is shorter than the clip
  view_positions, dense_positions where the clips of a test lie

Two rules hold everywhere:
  nearest frame      a moment of t seconds is frame floor(t * fps + 0.5), so that a clip asked for at another
                     rate than the file's skips frames (lower rate) or repeats them (higher rate)
  position p         in [0, 1]: 0 is the first possible place, 1 the last, 0.5 the middle one; of P places it
                     is number floor(P * p), P - 1 at most
"""

import math
import random
from collections.abc import Sequence

from muybridge.config import ClipSpec
from muybridge.errors import VideoTooShortError
from muybridge.types import VideoInfo

__all__ = [
    "clip_indices",
    "clip_span",
    "dense_positions",
    "frame_range",
    "frames_per_segment",
    "loop",
    "one_per_part",
    "refuse_short",
    "repeat_last",
    "segments",
    "spread",
    "strided",
    "strided_offsets",
    "view_positions",
]

ROUNDING = 1e-7  # of a place: 374 * (3 / 11) is 102, and a little less in floating point


def clip_indices(
    spec: ClipSpec,
    info: VideoInfo,
    *,
    position: float | None = None,
    rng: random.Random | None = None,
    start_seconds: float = 0.0,
    end_seconds: float | None = None,
    span: int | None = None,
) -> tuple[int, ...]:
    """The source frames of one view, in the order the network sees them.

    Args:
        spec: frames, stride, rate, segments, short policy.
        info: how many frames the file has, and at which rate.
        position: where the clip lies among its possible places (with segments, or spread: where inside each
            part); None is the middle, unless `rng` is given.
        rng: draws the place, or one place in each part: training.
        start_seconds: where the piece of the file starts.
        end_seconds: where it ends, exclusive; None is the end of the file.
        span: the frames to leave room for where another modality of the same view needs more than this one,
            so that both start at the same frame; None is the clip's own `clip_span`.

    Returns:
        `num_segments` times `frames_per_segment(spec)` indices, segment after segment.

    Raises:
        VideoTooShortError: no frames in the piece, or fewer than the clip needs under short_policy="error".

    >>> info = VideoInfo(path="a.mp4", num_frames=50, exact=True, fps=25, height=120, width=160,
    ...                  duration_seconds=2, codec="h264")
    >>> clip_indices(ClipSpec(num_frames=4, frame_stride=4), info)                # the middle of the video
    (19, 23, 27, 31)
    >>> clip_indices(ClipSpec(num_frames=4, frame_stride=4), info, position=1)    # ends with the last frame
    (37, 41, 45, 49)
    >>> clip_indices(ClipSpec(num_frames=4, fps=15), info, position=0)            # 15 fps from 25 fps
    (0, 2, 3, 5)
    >>> clip_indices(ClipSpec(num_frames=4, fps=50), info, position=0)            # 50 fps repeats frames
    (0, 1, 1, 2)
    >>> clip_indices(ClipSpec(num_frames=4, frame_stride=None), info)             # spread over the video
    (6, 18, 31, 43)
    >>> clip_indices(ClipSpec(num_frames=1, num_segments=5), info)                # TSN's test segments
    (5, 15, 25, 35, 45)
    >>> clip_indices(ClipSpec(num_frames=4), info, start_seconds=1, end_seconds=1.08)    # 2 frames, looped
    (25, 26, 25, 26)
    """
    if rng is not None and position is not None:
        raise ValueError("give a position or an rng, not both")
    if rng is None and position is None:
        position = 0.5
    first, stop = frame_range(info, start_seconds, end_seconds)
    length = stop - first
    needed = _frames_needed(spec, info.fps)
    if spec.short_policy == "error":
        refuse_short(length, needed, spec, info.path)

    per_segment = frames_per_segment(spec)
    if spec.frame_stride is None:
        picks = spread(length, spec.num_segments * per_segment, position=position, rng=rng)
    else:
        offsets = strided_offsets(per_segment, spec.frame_stride, rate=_rate(spec, info.fps))
        room = max(span or 1, offsets[-1] + 1)
        if spec.num_segments == 1:
            picks = strided(length, offsets, span=room, position=position, rng=rng)
        else:
            picks = segments(length, offsets, spec.num_segments, span=room, position=position, rng=rng)
        picks = loop(picks, length) if spec.short_policy == "loop" else repeat_last(picks, length)
    return tuple(first + index for index in picks)


def frames_per_segment(spec: ClipSpec) -> int:
    """Source frames behind one segment of the tensor: T of them, or T + 1 for what lies between two frames.

    A flow field or an RGB difference runs from one index to the next, so T of them need T + 1 frames.

    >>> rgb, difference = ClipSpec(num_frames=5), ClipSpec(num_frames=5, modality="rgb_diff")
    >>> frames_per_segment(rgb), frames_per_segment(difference)
    (5, 6)
    """
    return spec.num_frames if spec.modality == "rgb" else spec.num_frames + 1


def clip_span(spec: ClipSpec, fps: float) -> int:
    """Frames of a file of that rate from the first to the last one of a clip (of a segment), both included.

    1 where the stride is None: such a clip fits any video.

    >>> clip_span(ClipSpec(num_frames=16, frame_stride=2), fps=25)
    31
    >>> clip_span(ClipSpec(num_frames=16, frame_stride=2, fps=15), fps=25)    # 30 steps of 1/15 s are 2 s
    51
    """
    if spec.frame_stride is None:
        return 1
    return strided_offsets(frames_per_segment(spec), spec.frame_stride, rate=_rate(spec, fps))[-1] + 1


def frame_range(
    info: VideoInfo, start_seconds: float = 0.0, end_seconds: float | None = None
) -> tuple[int, int]:
    """The frames [first, stop) of a piece of the file, by the mean frame rate; at least one.

    Both ends go to the nearest frame, so pieces that touch in seconds share no frame and leave none out.

    Raises:
        VideoTooShortError: the file has no frames, or ends before the piece starts.

    >>> info = VideoInfo(path="a.mp4", num_frames=50, exact=True, fps=25, height=120, width=160,
    ...                  duration_seconds=2, codec="h264")
    >>> frame_range(info), frame_range(info, 0.5, 1.0), frame_range(info, 1.0, 9.0)
    ((0, 50), (13, 25), (25, 50))
    """
    if info.num_frames < 1:
        raise VideoTooShortError(f"{info.path}: the video has no frames; see: muybridge probe FILE")
    first = math.floor(start_seconds * info.fps + 0.5)
    if first >= info.num_frames:
        raise VideoTooShortError(
            f"{info.path}: the piece starts at {start_seconds:g} s, but the video ends at "
            f"{info.num_frames / info.fps:.2f} s ({info.num_frames} frames); correct start_seconds"
        )
    if end_seconds is None:
        return first, info.num_frames
    stop = math.floor(end_seconds * info.fps + 0.5)
    return first, min(max(stop, first + 1), info.num_frames)


def strided_offsets(num_frames: int, frame_stride: int, *, rate: float = 1.0) -> tuple[int, ...]:
    """Where the frames of a clip lie, counted from its first one.

    Args:
        num_frames: T.
        frame_stride: tau, counted at the rate that the clip asks for.
        rate: source frames for each frame at that rate: 25 fps asked for at 15 is 5 / 3; below 1 repeats.

    >>> strided_offsets(5, 2), strided_offsets(5, 1, rate=5 / 3), strided_offsets(5, 1, rate=0.5)
    ((0, 2, 4, 6, 8), (0, 2, 3, 5, 7), (0, 1, 1, 2, 2))
    """
    return tuple(math.floor(i * frame_stride * rate + 0.5) for i in range(num_frames))


def one_per_part(
    num_places: int, num_parts: int, *, position: float | None = None, rng: random.Random | None = None
) -> tuple[int, ...]:
    """One of the places [0, num_places) from each of `num_parts` equal parts, in order.

    With `rng` the place is random inside its part (parts of unequal length differ by one place); otherwise
    `position` says where inside (None: the middle). With fewer places than parts, places repeat.

    >>> one_per_part(9, 3), one_per_part(9, 3, position=0), one_per_part(9, 3, position=1)
    ((1, 4, 7), (0, 3, 6), (2, 5, 8))
    >>> one_per_part(2, 4)
    (0, 0, 1, 1)
    >>> one_per_part(9, 3, rng=random.Random(0))
    (1, 4, 6)
    """
    picks = []
    for part in range(num_parts):
        first = num_places * part // num_parts
        end = num_places * (part + 1)  # of the part, times num_parts
        last = -(-end // num_parts) - 1
        if rng is None:
            inside = 0.5 if position is None else position
            place = num_places * (part + inside) / num_parts
            picks.append(min(math.floor(place + ROUNDING), last))
        elif num_places >= num_parts:  # a place on the border belongs to the later part, so none comes twice
            picks.append(rng.randint(first, end // num_parts - 1))
        else:
            picks.append(rng.randint(first, last))
    return tuple(picks)


def strided(
    length: int,
    offsets: Sequence[int],
    *,
    span: int | None = None,
    position: float | None = None,
    rng: random.Random | None = None,
) -> tuple[int, ...]:
    """A plain clip: its offsets from one of the places where it fits; from 0 where the video is too short.

    >>> strided(10, (0, 2, 4)), strided(10, (0, 2, 4), position=0), strided(10, (0, 2, 4), position=1)
    ((3, 5, 7), (0, 2, 4), (5, 7, 9))
    >>> strided(4, (0, 2, 4))    # loop or repeat_last brings the 4 back into the video
    (0, 2, 4)
    """
    return segments(length, offsets, 1, span=span, position=position, rng=rng)


def segments(
    length: int,
    offsets: Sequence[int],
    num_segments: int,
    *,
    span: int | None = None,
    position: float | None = None,
    rng: random.Random | None = None,
) -> tuple[int, ...]:
    """TSN's segments (arXiv:1608.00859, Sec. 3.1): one snippet from each of S equal parts of the video.

    The places where a snippet can start are cut into the parts, as in tsn-pytorch: a snippet may run into
    the next part, and every frame of the video can be drawn. (The authors' Caffe code keeps a snippet inside
    its part and never draws the last `length % S` frames.) The middle places are those of tsn-pytorch's test.

    >>> segments(10, (0,), 5), segments(12, (0, 1, 2), 2)
    ((1, 3, 5, 7, 9), (2, 3, 4, 7, 8, 9))
    >>> segments(12, (0, 1, 2), 2, rng=random.Random(1))
    (1, 2, 3, 9, 10, 11)
    """
    num_places = max(1, length - max(span or 1, offsets[-1] + 1) + 1)
    starts = one_per_part(num_places, num_segments, position=position, rng=rng)
    return tuple(start + offset for start in starts for offset in offsets)


def spread(
    length: int, num_frames: int, *, position: float | None = None, rng: random.Random | None = None
) -> tuple[int, ...]:
    """T frames over the whole video: one from each of T equal parts; a shorter video repeats frames in place.

    >>> spread(20, 4), spread(20, 4, position=0), spread(3, 6)
    ((2, 7, 12, 17), (0, 5, 10, 15), (0, 0, 1, 1, 2, 2))
    """
    return one_per_part(length, num_frames, position=position, rng=rng)


def loop(indices: Sequence[int], length: int) -> tuple[int, ...]:
    """Past its end the video starts again.

    >>> loop((0, 2, 4, 6), 5)
    (0, 2, 4, 1)
    """
    return tuple(index % length for index in indices)


def repeat_last(indices: Sequence[int], length: int) -> tuple[int, ...]:
    """Past its end the video stands still.

    >>> repeat_last((0, 2, 4, 6), 5)
    (0, 2, 4, 4)
    """
    return tuple(min(index, length - 1) for index in indices)


def refuse_short(length: int, needed: int, spec: ClipSpec, path: str) -> None:
    """The policy "error".

    Raises:
        VideoTooShortError: says how many frames the clip needs and how many there are.
    """
    if length >= needed:
        return
    frames = f"{spec.num_frames} frames"
    if spec.num_segments > 1:
        frames = f"{spec.num_segments} segments of {frames}"
    if spec.frame_stride is None:
        frames += " spread over the video"
    else:
        frames += f" at stride {spec.frame_stride}"
    if spec.fps is not None and spec.frame_stride is not None:
        frames += f" and {spec.fps:g} fps"
    raise VideoTooShortError(
        f"{path}: the clip ({frames}) needs {needed} frames, found {length}; choose short_policy 'loop' or "
        "'repeat_last', or a shorter clip"
    )


def view_positions(num_clips: int) -> tuple[float, ...]:
    """Positions of N clips, evenly from the first possible place to the last; one clip lies in the middle.

    >>> view_positions(1), view_positions(3)
    ((0.5,), (0.0, 0.5, 1.0))
    """
    if num_clips == 1:
        return (0.5,)
    return tuple(i / (num_clips - 1) for i in range(num_clips))


def dense_positions(length: int, span: int, *, step: int) -> tuple[float, ...]:
    """Positions of a sliding window: a clip every `step` frames, and one that ends with the last frame.

    Args:
        length: frames of the video, or of the piece.
        span: frames of a clip from its first to its last: `clip_span`.
        step: frames from the start of one clip to the next one's; 1 is every clip there is.

    Returns:
        What `clip_indices` takes as `position`, in order; (0.0,) where the video is not longer than the clip.

    >>> dense_positions(10, 4, step=4)    # clips that start at frames 0, 4 and 6 of the places 0 ... 6
    (0.0, 0.6666666666666666, 1.0)
    """
    last = length - span
    if last < 1:
        return (0.0,)
    starts = [*range(0, last, step), last]
    return tuple(start / last for start in starts)


def _rate(spec: ClipSpec, fps: float) -> float:
    """Source frames for each frame at the rate that the clip asks for."""
    return 1.0 if spec.fps is None else fps / spec.fps


def _frames_needed(spec: ClipSpec, fps: float) -> int:
    """The frames that a video must have so that no frame is used twice only because it is short."""
    if spec.frame_stride is None:
        return spec.num_segments * frames_per_segment(spec)
    return clip_span(spec, fps) + spec.num_segments - 1
