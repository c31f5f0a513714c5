"""The names of the classes of public data sets, in the order of the logits of public checkpoints."""

from collections.abc import Callable
from pathlib import Path

from muybridge.errors import WeightsError


def kinetics400() -> tuple[str, ...]:
    """Sorted by name, as all public checkpoints have them.

    >>> kinetics400()[:2], len(kinetics400())
    (('abseiling', 'air drumming'), 400)
    """
    from torchvision.models.video import R3D_18_Weights  # here: it takes a second

    names: list[str] = R3D_18_Weights.KINETICS400_V1.meta["categories"]
    return tuple(names)


LABELS: dict[str, Callable[[], tuple[str, ...]]] = {"kinetics400": kinetics400}


def read_labels(path: Path) -> tuple[str, ...]:
    """Names of classes from a text file, one a line, in the order of the logits.

    Raises:
        WeightsError: there is no such file, or it has no names, or one twice.
    """
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"cannot read the names of classes in {path}: {error}") from None
    if not names:
        raise WeightsError(f"{path} has no names of classes: give one a line")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise WeightsError(f"{path} names a class twice: {', '.join(twice)}")
    return tuple(names)
