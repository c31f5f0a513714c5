"""State dicts of others, one module a code base: tensors by their names in, tensors by ours out."""

from collections.abc import Collection

from muybridge.weights.formats import (
    caffe,
    inception,
    mmaction2,
    pyslowfast,
    pytorchvideo,
    torchvision,
    tsn_pytorch,
    vmz,
)
from muybridge.weights.formats.naming import Converted, Format, StateDict

__all__ = ["FORMATS", "Converted", "Format", "StateDict", "recognise"]

FORMATS = {
    one.name: one
    for one in (
        torchvision.FORMAT,
        pytorchvideo.FORMAT,
        pyslowfast.PYTH,
        pyslowfast.PKL,
        mmaction2.FORMAT,
        inception.PIERGIAJ_FORMAT,
        inception.HASSONY2_FORMAT,
        inception.TENSORFLOW_FORMAT,
        tsn_pytorch.FORMAT,
        caffe.FORMAT,
        vmz.FORMAT,
    )
}


def recognise(names: Collection[str]) -> Format | None:
    """The format that has these names of tensors; None if none has."""
    return next((one for one in FORMATS.values() if one.recognises(names)), None)
