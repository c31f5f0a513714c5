"""Warped flow: what moves once the motion of the camera is taken away.

Temporal Segment Networks, Wang et al., ECCV 2016 (arXiv:1608.00859), Sec. 3.2, "warped optical flow"; the way
is that of improved dense trajectories, Wang and Schmid, ICCV 2013, Sec. 3.1:

    1. matches between two frames: features within 25 pixels of each other, and corners carried by the flow
    2. a homography from them, by RANSAC
    3. the second frame is warped back by it, and flow is computed once more, to the warped frame

Deviation: features are SIFT's; the paper takes SURF, which is patented and missing from OpenCV's packages.
Deviation: the authors' code (extract_warp_gpu) finds features in the first frame of a video alone and matches
those with every later frame, looks for corners in the second frame of a pair where the flow starts at the
first, and reads the y of a corner's flow at the wrong place; here all three are as in dense trajectories.
Deviation: where the homography is the identity since there were too few matches, flow is not computed twice:
the second time would give the first.

No persons are detected to be left out, as in TSN (in dense trajectories they are).

Shape letters: T frames, H height, W width. x is to the right, y down.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from muybridge.flow.methods import estimate
from muybridge.flow.quantise import Float32Array
from muybridge.types import UInt8Array

__all__ = ["CameraMotion", "camera_motion", "undo", "warped"]

Points = npt.NDArray[np.float32]  # [N, 2], x and y

MAX_FEATURES = 2000  # the strongest: what they are compared in grows with the square
MATCH_WINDOW_PX = 25
MAX_CORNERS, CORNER_QUALITY, CORNER_DISTANCE_PX = 1000, 0.001, 3
RANSAC_PX = 1.0
MIN_MATCHES, MIN_INLIERS = 50, 25  # more than these, or the camera is taken to stand still
MARGIN_PX = 5


@dataclass(frozen=True)
class CameraMotion:
    """How the background moves from one frame to the next.

    Attributes:
        homography: float64 [3, 3], from places in the first frame to places in the second, x before y.
        num_matches: pairs of points that were found.
        num_inliers: those of them that agree with the homography.
    """

    homography: npt.NDArray[np.float64]
    num_matches: int
    num_inliers: int

    @property
    def stands_still(self) -> bool:
        """Too few matches, or too few that agree: nothing is taken away."""
        return bool(np.array_equal(self.homography, np.eye(3)))

    def __repr__(self) -> str:
        shift = "identity" if self.stands_still else np.array2string(self.homography, precision=4)
        return f"CameraMotion({self.num_inliers} of {self.num_matches} matches, {shift})"


class Features:
    """What a frame is recognised by: places and descriptors; a frame's serve two pairs."""

    def __init__(self, frame: UInt8Array) -> None:
        self.grey = np.asarray(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY), np.uint8)
        sift: Any = cv2.SIFT.create(MAX_FEATURES)
        keypoints, descriptors = sift.detectAndCompute(self.grey, None)
        self.points: Points = np.array([keypoint.pt for keypoint in keypoints], np.float32).reshape(-1, 2)
        self.descriptors = np.zeros((0, 128), np.float32) if descriptors is None else descriptors


def warped(frames: UInt8Array, *, method: str = "tvl1", **options: Any) -> Float32Array:
    """Flow between successive frames without the motion of the camera.

    Args:
        frames: RGB, at least two.
        method: as for `estimate`.
        options: as for `estimate`.

    Raises:
        MuybridgeError: as `estimate`.

    Shape:
        frames [T, H, W, 3], uint8
        output [T - 1, 2, H, W], float32

    >>> warped(np.zeros((3, 24, 32, 3), np.uint8), method="dis").any()
    np.False_
    """
    fields = estimate(frames, method=method, **options)
    features = Features(frames[0])
    for i, second in enumerate(frames[1:]):
        first_features, features = features, Features(second)
        motion = _motion(first_features, features, fields[i])
        if not motion.stands_still:
            pair = np.stack([frames[i], undo(motion, frames[i], second)])
            fields[i] = estimate(pair, method=method, **options)[0]
    return fields


def camera_motion(first: UInt8Array, second: UInt8Array, field: Float32Array) -> CameraMotion:
    """The homography of the background between two frames.

    Args:
        first: RGB.
        second: RGB.
        field: flow from the first to the second.

    Shape:
        first, second [H, W, 3], uint8
        field [2, H, W]
    """
    return _motion(Features(first), Features(second), field)


def undo(motion: CameraMotion, first: UInt8Array, second: UInt8Array) -> UInt8Array:
    """The second frame as a camera that stood still would have seen it.

    Where it would have to show what lies outside of the frame, or within 5 pixels of its border, it shows the
    first frame, so that there is no flow.

    Shape:
        first, second, output [H, W, 3], uint8
    """
    height, width = first.shape[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    image = cv2.warpPerspective(np.ascontiguousarray(second), motion.homography, (width, height), flags=flags)
    x, y = _carried(motion.homography, height, width)
    inside = (x >= MARGIN_PX) & (x < width - MARGIN_PX) & (y >= MARGIN_PX) & (y < height - MARGIN_PX)
    return np.where(inside[..., None], image, first)


def _motion(first: Features, second: Features, field: Float32Array) -> CameraMotion:
    pairs = [_feature_matches(first, second), _corner_matches(first, field)]
    before, after = (np.concatenate(points) for points in zip(*pairs, strict=True))
    still = CameraMotion(np.eye(3), len(before), 0)
    if len(before) <= MIN_MATCHES:
        return still
    homography, is_inlier = cv2.findHomography(before, after, cv2.RANSAC, RANSAC_PX)
    num_inliers = 0 if homography is None else int(np.count_nonzero(is_inlier))
    if num_inliers <= MIN_INLIERS:
        return CameraMotion(np.eye(3), len(before), num_inliers)
    return CameraMotion(np.asarray(homography, np.float64), len(before), num_inliers)


def _feature_matches(first: Features, second: Features) -> tuple[Points, Points]:
    """For each feature of the second frame the nearest one of the first, within the window."""
    if not len(first.points) or not len(second.points):
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    apart = np.abs(second.points[:, None] - first.points[None]).max(axis=-1)
    allowed = (apart < MATCH_WINDOW_PX).astype(np.uint8)
    found: Sequence[Any] = cv2.BFMatcher(cv2.NORM_L2).match(second.descriptors, first.descriptors, allowed)
    before = [match.trainIdx for match in found]
    after = [match.queryIdx for match in found]
    return first.points[before], second.points[after]


def _corner_matches(first: Features, field: Float32Array) -> tuple[Points, Points]:
    """Corners of the first frame, and where the flow carries them."""
    corners = cv2.goodFeaturesToTrack(first.grey, MAX_CORNERS, CORNER_QUALITY, CORNER_DISTANCE_PX)
    before: Points = np.zeros((0, 2), np.float32) if corners is None else np.rint(corners.reshape(-1, 2))
    x, y = before.T.astype(np.intp)
    return before, before + field[:, y, x].T


def _carried(homography: npt.NDArray[np.float64], height: int, width: int) -> npt.NDArray[np.float64]:
    """Where the homography carries each pixel.

    Shape:
        output [2, H, W], x and y
    """
    y, x = np.mgrid[:height, :width].astype(np.float64)
    carried = np.tensordot(homography, np.stack([x, y, np.ones_like(x)]), axes=1)
    return np.asarray(carried[:2] / carried[2], np.float64)
