"""A video for people beside a store: the frames, and the flow that starts at each in colours."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from muybridge.flow.store import FlowReader
from muybridge.types import Size, UInt8Array
from muybridge.video.decode import VideoReader
from muybridge.video.encode import write_video
from muybridge.viz_flow import flow_picture, longest_shown

__all__ = ["write_preview"]

SCALED_BY = 32  # fields, evenly over the video, that decide how long a full colour is
PIECE = 16  # fields at a time


def write_preview(video: Path | str, store: Path | str, path: Path | str) -> None:
    """Writes frames on the left and their flow on the right, at the rate of the video.

    Args:
        video: the file that the flow is of.
        store: its flow; of the fields over several gaps those of the first are shown.
        path: of the preview: .mp4, .webm, .gif, ...

    Raises:
        DecodeError: the video or the store is damaged.
        StorageError: the disk is full, or the folder cannot be written.
    """
    with FlowReader(store) as flow, VideoReader(video) as reader:
        write_video(path, _pictures(reader, flow), fps=flow.header.fps)


def _pictures(reader: VideoReader, flow: FlowReader) -> Iterator[UInt8Array]:
    """Each uint8 [H, 2 W, 3], cut to even sizes."""
    header = flow.header
    gap, size = header.gaps[0], Size(*header.size)
    count = header.num_pairs(gap)
    evenly = np.unique(np.linspace(0, count - 1, min(count, SCALED_BY)).round().astype(int)).tolist()
    longest = longest_shown(flow.fields([(first, first + gap) for first in evenly]))
    for start in range(0, count, PIECE):
        numbers = range(start, min(start + PIECE, count))
        fields = flow.fields([(first, first + gap) for first in numbers])
        for frame, field in zip(reader.read(numbers, size=size), fields, strict=True):
            colors = np.asarray(flow_picture(field, longest=longest))
            picture = np.concatenate([frame, colors], axis=1)
            yield picture[: size.height // 2 * 2, : size.width * 2]
