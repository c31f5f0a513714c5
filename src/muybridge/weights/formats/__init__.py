"""State dicts of others, one module a code base: tensors by their names in, tensors by ours out."""

from collections.abc import Mapping

from torch import Tensor

from muybridge.weights.formats import (
    caffe,
    inception,
    kenshohara,
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
        kenshohara.FORMAT,
        tsn_pytorch.FORMAT,
        caffe.FORMAT,
        vmz.FORMAT,
    )
}


def recognise(tensors: Mapping[str, Tensor]) -> Format | None:
    """The format that these tensors have, mostly by their names; None if it is none of these."""
    return next((one for one in FORMATS.values() if one.recognises(tensors)), None)
