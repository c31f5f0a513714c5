"""Networks of Caffe, from an .npz of their blobs: C3D, and CNN-M-2048, the network of both streams.

Of each layer the blob layer/0 is the weight, layer/1 the bias. C3D has conv1a .. conv5b and fc6-1 .. fc8-1,
CNN-M (VGG_CNN_M_2048) conv1 .. conv5 and fc6 .. fc8; fine-tuned ones may call the last otherwise.
"""

import re
from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from muybridge.weights.formats.frames import snippet_of, with_frame_axis
from muybridge.weights.formats.naming import Converted, Format, Rule, StateDict, put

C3D = (
    Rule(r"(?P<x>conv[1-5][ab]|fc[67])(?:-1)?", "{x}"),
    Rule(r"fc8(?:-1)?", "head.fc"),
)
CNN_M = (
    Rule(r"(?P<x>conv[1-5])", "tower.{x}"),
    Rule(r"fc(?P<x>[67])", "tower.full{x}"),
    Rule(r"fc8(?:[-_]\w+)?", "head.fc"),
)
LEAF = {"0": "weight", "1": "bias"}
CUBE_NOTE = "its authors subtract a mean cube before the crop; until one is given, 128 is subtracted"
IMAGE_NOTE = "its authors subtract a mean image; here it is the mean of each colour"
NORM_NOTE = (
    "the temporal stream here has one normalisation, behind conv1; a file does not say how many its has"
)


def _recognises(names: Collection[str]) -> bool:
    return "conv1a/0" in names or _is_cnn_m(names)


def _is_cnn_m(names: Collection[str]) -> bool:
    return "conv1/0" in names and "conv5/0" in names and "fc6/0" in names


def _convert(state: Mapping[str, Tensor]) -> Converted:
    return _convert_cnn_m(state) if _is_cnn_m(state) else _convert_c3d(state)


def _convert_c3d(state: Mapping[str, Tensor]) -> Converted:
    tensors, adapted = _from_blobs(state, C3D, conv_axes=5)
    return Converted(
        format="C3D of Caffe",
        tensors=tensors,
        arguments={"pool5": "ceil"},
        adapted=adapted,
        notes=(CUBE_NOTE,),
    )


def _convert_cnn_m(state: Mapping[str, Tensor]) -> Converted:
    tensors, adapted = _from_blobs(state, CNN_M, conv_axes=4)
    snippet = snippet_of(tensors["tower.conv1.weight"])
    return Converted(
        format="CNN-M of Caffe",
        tensors=tensors,
        arguments={"backbone": "cnn_m", **snippet.arguments},
        adapted=adapted + with_frame_axis(tensors),
        notes=(IMAGE_NOTE,) if snippet.modality == "rgb" else (NORM_NOTE,),
    )


def _from_blobs(
    state: Mapping[str, Tensor], rules: Sequence[Rule], *, conv_axes: int
) -> tuple[StateDict, tuple[str, ...]]:
    """The blobs by our names, and the names of those that lost axes.

    Old files have four axes and more for all: the first are of length 1.
    """
    tensors: StateDict = {}
    adapted = []
    for key, value in state.items():
        layer, _, index = key.rpartition("/")
        place = next((new for rule in rules if (new := rule.apply(layer)) is not None), None)
        if place is None or index not in LEAF:
            put(tensors, key, value, old=key)
            continue
        name = f"{place}.{LEAF[index]}"
        axes = 1 if index == "1" else conv_axes if re.search(r"conv\w+$", place) else 2
        if value.ndim > axes and not set(value.shape[: value.ndim - axes]) - {1}:
            value = value.flatten(0, value.ndim - axes)
            adapted.append(name)
        put(tensors, name, value, old=key)
    return tensors, tuple(adapted)


FORMAT = Format("caffe", _recognises, _convert)
