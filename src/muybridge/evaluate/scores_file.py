"""The file of scores of an evaluation: Parquet, for our own reading and for pandas, DuckDB and the like.

Shape letters: N videos, V views, K classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from muybridge.types import Sample

__all__ = ["read_scores", "write_scores"]


def write_scores(
    path: Path,
    samples: Sequence[Sample],
    probabilities: npt.NDArray[np.float64],
    logits: Sequence[npt.NDArray[np.float32]],
) -> None:
    """One row a video: which it is, its truth, its scores and those of its views.

    Shape:
        probabilities [N, K]
        logits [V, K] each
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "path": [sample.path.as_posix() for sample in samples],
            "start_seconds": pa.array([sample.start_seconds for sample in samples], pa.float64()),
            "end_seconds": pa.array([sample.end_seconds for sample in samples], pa.float64()),
            "group": [sample.group for sample in samples],
            "split": [sample.split for sample in samples],
            "labels": pa.array([list(sample.labels) for sample in samples], pa.list_(pa.string())),
            "probabilities": _rows(probabilities),
            # View after view: [V, K] of each video in one list.
            "logits": pa.array([views.ravel() for views in logits], pa.list_(pa.float32())),
        }
    )
    pq.write_table(table, path, compression="zstd")


def read_scores(
    path: Path,
) -> tuple[tuple[Sample, ...], npt.NDArray[np.float64], tuple[npt.NDArray[np.float32], ...]]:
    """What `write_scores` wrote.

    Shape:
        probabilities [N, K]
        logits [V, K] each
    """
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    names = ("path", "start_seconds", "end_seconds", "group", "split", "labels")
    rows = zip(*(table[name].to_pylist() for name in names), strict=True)
    samples = tuple(
        Sample(
            path=Path(path),
            start_seconds=start,
            end_seconds=end,
            group=group,
            split=split,
            labels=tuple(labels),
        )
        for path, start, end, group, split, labels in rows
    )
    probabilities = table["probabilities"].combine_chunks().flatten().to_numpy().reshape(len(samples), -1)
    num_classes = probabilities.shape[1]
    logits = tuple(row.values.to_numpy().reshape(-1, num_classes) for row in table["logits"])
    return samples, probabilities, logits


def _rows(values: npt.NDArray[Any]) -> Any:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
