"""Which videos there are and what they show: folders and label files in, a list of samples out.

Labels are names, here and everywhere; numbers for the network are made from the sorted names (`label_names`)
and travel inside the checkpoint. Samples come sorted by path (from a CSV: in its order), so that a sample's
index means the same on every machine.
"""

import csv
import difflib
import io
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from muybridge.config import DataConfig
from muybridge.errors import DataError
from muybridge.types import Sample

# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4",
    ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogg", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m",
))
SPLIT_FOLDERS = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing"))
# fmt: on
LABELS = "labels.csv"
COLUMNS = ("path", "label", "split", "group", "start", "end")
MAX_LISTED = 10

# Blank, Gorelick et al., "Actions as Space-Time Shapes", 2005; one person has two of some: "run1".
WEIZMANN = re.compile(
    r"(?P<person>daria|denis|eli|ido|ira|lena|lyova|moshe|shahar)_"
    r"(?P<action>bend|jack|jump|pjump|run|side|skip|walk|wave1|wave2)\d?\.\w+",
    re.IGNORECASE,
)

# Chen, Jafari, Kehtarnavaz, "UTD-MHAD", 2015: a<action>_s<subject>_t<trial>_<camera>.
UTD_MHAD = re.compile(r"a(?P<action>\d+)_s(?P<subject>\d+)_t\d+_(?P<camera>color|depth)\.\w+", re.IGNORECASE)
# fmt: off
UTD_MHAD_ACTIONS = (
    "swipe_left", "swipe_right", "wave", "clap", "throw", "arm_cross", "basketball_shoot", "draw_x",
    "draw_circle_cw", "draw_circle_ccw", "draw_triangle", "bowling", "boxing", "baseball_swing",
    "tennis_swing", "arm_curl", "tennis_serve", "push", "knock", "catch", "pickup_throw", "jog", "walk",
    "sit2stand", "stand2sit", "lunge", "squat",
)
# fmt: on
UTD_MHAD_TRAIN_SUBJECTS = (1, 3, 5, 7)  # of the authors' protocol; 2, 4, 6, 8 test


class DataWarning(UserWarning):
    """Something in a data set that is allowed, but seldom what was meant."""


def read_samples(config: DataConfig) -> list[Sample]:
    """The samples of the data set at `config.root`.

    Raises:
        DataError: there is nothing there, or it does not hold together.
    """
    root = Path(config.root).expanduser()
    if not root.exists():
        raise DataError(f"no data at {root}: `data.root` must be a folder of videos or a CSV file")
    format_ = config.format if config.format != "auto" else detect_format(root)
    known = {"folder": from_folder, "csv": from_csv, "weizmann": from_weizmann, "utd_mhad": from_utd_mhad}
    return known[format_](root)


def detect_format(root: Path) -> str:
    """The format that "auto" stands for: a file, or a folder with labels.csv, is "csv"; then names decide."""
    if root.is_file() or (root / LABELS).is_file():
        return "csv"
    names = [path.name for path in find_videos(root)]
    if names and all(WEIZMANN.fullmatch(name) for name in names):
        return "weizmann"
    if names and all(UTD_MHAD.fullmatch(name) for name in names):
        return "utd_mhad"
    return "folder"


def label_names(samples: Iterable[Sample]) -> tuple[str, ...]:
    """The class names, sorted; numbers by their value, so that labels 0 .. K - 1 keep their order.

    >>> label_names([Sample(path=Path("a.mp4"), labels=("wave", "clap"))])
    ('clap', 'wave')
    >>> label_names([Sample(path=Path("a.mp4"), labels=("10", "9"))])
    ('9', '10')
    """
    names = {label for sample in samples for label in sample.labels}
    if _are_numbers(names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def find_videos(root: Path) -> list[Path]:
    """All video files below a folder, sorted, without hidden ones and what lies in hidden folders."""
    found = [
        path
        for path in root.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and not path.is_dir()
    ]
    return sorted(found, key=Path.as_posix)


def from_folder(root: Path | str) -> list[Sample]:
    """A folder a class, named as the class: `root/wave/1.mp4`; videos may lie deeper inside.

    Where all folders are named as splits (`root/train/wave/1.mp4`), the samples carry that split.

    Raises:
        DataError: no videos, or videos that lie in no class folder.
    """
    root = _folder(root)
    videos = find_videos(root)
    if not videos:
        raise _no_videos(root)
    places = [path.relative_to(root).parts for path in videos]
    depth = 1 if all(parts[0].lower() in SPLIT_FOLDERS for parts in places) else 0
    stray = [path for path, parts in zip(videos, places, strict=True) if len(parts) < depth + 2]
    if stray:
        raise DataError(
            f"{len(stray)} of {len(videos)} videos in {root} lie in no class folder: {listed(stray)}. "
            f"Put each into a folder named as its class, or list them in a CSV file with columns path,label"
        )
    _warn_of_empty(root, {parts[0] for parts in places})
    return [
        Sample(path=path, labels=(parts[depth],), split=parts[0].lower() if depth else "")
        for path, parts in zip(videos, places, strict=True)
    ]


def from_weizmann(root: Path | str) -> list[Sample]:
    """Weizmann actions: `<person>_<action>.avi` in any folders below `root`; the group is the person.

    Raises:
        DataError: no videos, or a file with another name.
    """
    return [
        Sample(path=path, labels=(found["action"].lower(),), group=found["person"].lower())
        for path, found in _named(_folder(root), WEIZMANN, "<person>_<action>.avi")
    ]


def from_utd_mhad(root: Path | str) -> list[Sample]:
    """UTD-MHAD, one camera: `a<action>_s<subject>_t<trial>_color.avi` (or depth) in any folders below `root`.

    The group is the subject, "s1" to "s8"; the split is the authors': odd subjects train, even ones test.

    Raises:
        DataError: no videos, a file with another name, an unknown action, or both cameras at once.
    """
    root = _folder(root)
    named = _named(root, UTD_MHAD, "a<action>_s<subject>_t<trial>_<color or depth>.mp4")
    if len({found["camera"].lower() for _, found in named}) > 1:
        raise DataError(
            f"{root} holds colour and depth videos of the same trials: name the folder of one camera, "
            f"or the same performance counts twice"
        )
    samples = []
    for path, found in named:
        action, subject = int(found["action"]), int(found["subject"])
        if not 1 <= action <= len(UTD_MHAD_ACTIONS):
            raise DataError(f"{path}: UTD-MHAD has the actions 1 to {len(UTD_MHAD_ACTIONS)}, not {action}")
        split = "train" if subject in UTD_MHAD_TRAIN_SUBJECTS else "test"
        label = UTD_MHAD_ACTIONS[action - 1]
        samples.append(Sample(path=path, labels=(label,), group=f"s{subject}", split=split))
    return samples


def from_csv(path: Path | str) -> list[Sample]:
    """A table with a header: path, label, and if wanted split, group, start, end (seconds).

    Several labels of one video are joined by "|". Relative paths start at the table's folder. Other columns
    are left alone. Fields are separated by commas, semicolons or tabs. Of a folder, its labels.csv is read.

    Raises:
        DataError: not such a table, a bad row (its line is named), or videos that are not there (all named).
    """
    path = Path(path)
    if path.is_dir():
        path = path / LABELS
    rows = _read_rows(path)
    samples = [_sample(path, row) for row in rows]
    _refuse_duplicates(path, rows, samples)
    missing = list(dict.fromkeys(sample.path for sample in samples if not sample.path.is_file()))
    if missing:
        raise DataError(
            f"{len(missing)} of {len(samples)} videos that {path} names are not there: {listed(missing)}. "
            f"Relative paths start at {path.parent.absolute()}"
        )
    names = label_names(samples)
    if _are_numbers(names):
        warnings.warn(
            f"the labels of {path.name} are numbers, {names[0]} to {names[-1]}: they are taken as the names "
            f"of {len(names)} classes, not as indices; class 0 of the network is '{names[0]}'",
            DataWarning,
            stacklevel=2,
        )
    return samples


class _Row(NamedTuple):
    line: int
    values: dict[str, str]


def _read_rows(path: Path) -> list[_Row]:
    table, delimiter = _read_table(path)
    header = [name.strip().lower() for name in table[0][1]] if table else []
    _check_header(path, header)
    rows = []
    for line, fields in table[1:]:
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(fields)} fields where the header has {len(header)}: "
                f"put quotes around values that contain '{delimiter}'"
            )
        rows.append(_Row(line, {name: field.strip() for name, field in zip(header, fields, strict=True)}))
    if not rows:
        raise DataError(f"{path} lists no videos: there is only a header")
    return rows


def _read_table(path: Path) -> tuple[list[tuple[int, list[str]]], str]:
    """The fields of each line, with its number, and what separates them."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # Excel writes a byte order mark
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8 CSV") from None
    except OSError as error:
        raise DataError(f"cannot read the label file {path}: {error.strerror}") from None
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        return [(reader.line_num, fields) for fields in reader], delimiter
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not a CSV line ({error})") from None


def _check_header(path: Path, header: Sequence[str]) -> None:
    wanted = f"the first line must name the columns path,label and if wanted {','.join(COLUMNS[2:])}"
    missing = [name for name in COLUMNS[:2] if name not in header]
    if missing:
        found = ", ".join(header) or "nothing"
        raise DataError(f"{path} has no column '{missing[0]}': {wanted}; it has {found}")
    if len(set(header)) < len(header):
        raise DataError(f"{path} names a column twice: {', '.join(header)}")
    for name in header:
        close = difflib.get_close_matches(name, COLUMNS, n=1, cutoff=0.75)
        if close and close[0] not in header:
            raise DataError(f"{path} has a column '{name}'; did you mean '{close[0]}'? {wanted}")


def _sample(path: Path, row: _Row) -> Sample:
    where = f"{path}, line {row.line}"
    labels = tuple(dict.fromkeys(label.strip() for label in row.values["label"].split("|")))
    if not row.values["path"] or not all(labels):
        raise DataError(f"{where}: a {'label' if row.values['path'] else 'path'} is empty")
    try:
        return Sample(
            path=path.parent / Path(row.values["path"]).expanduser(),
            labels=labels,
            start_seconds=float(row.values.get("start") or 0),
            end_seconds=float(row.values["end"]) if row.values.get("end") else None,
            group=row.values.get("group", ""),
            split=row.values.get("split", ""),
        )
    except ValueError:
        start, end = row.values.get("start", ""), row.values.get("end", "")
        raise DataError(
            f"{where}: start and end must be seconds, start before end; got start '{start}', end '{end}'"
        ) from None


def _refuse_duplicates(path: Path, rows: Sequence[_Row], samples: Sequence[Sample]) -> None:
    lines: dict[tuple[str, float, float | None], list[int]] = {}
    for row, sample in zip(rows, samples, strict=True):
        key = (os.path.normpath(sample.path), sample.start_seconds, sample.end_seconds)
        lines.setdefault(key, []).append(row.line)
    twice = [
        f"{Path(key[0]).name} in lines {' and '.join(map(str, at))}" for key, at in lines.items() if at[1:]
    ]
    if twice:
        raise DataError(
            f"{path} lists videos more than once: {listed(twice)}. "
            f"Keep one line of each; several labels of one video go into one line, joined by '|'"
        )


def _folder(root: Path | str) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: name a folder of videos, or a CSV file")
    return root


def _named(root: Path, pattern: re.Pattern[str], looks: str) -> list[tuple[Path, re.Match[str]]]:
    videos = find_videos(root)
    if not videos:
        raise _no_videos(root)
    matches = [(path, pattern.fullmatch(path.name)) for path in videos]
    if others := [path for path, found in matches if found is None]:
        raise DataError(
            f"{len(others)} of {len(videos)} videos in {root} are not named {looks}: {listed(others)}. "
            f"Take them out, or read the folder with `data.format: folder`"
        )
    return [(path, found) for path, found in matches if found is not None]


def _no_videos(root: Path) -> DataError:
    return DataError(
        f"no videos in {root}: looked for {' '.join(sorted(VIDEO_SUFFIXES))} in it and in its folders"
    )


def _warn_of_empty(root: Path, used: set[str]) -> None:
    folders = [path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if empty := sorted(set(folders) - used):
        warnings.warn(f"no videos in these folders of {root}: {listed(empty)}", DataWarning, stacklevel=3)


def _are_numbers(names: Iterable[str]) -> bool:
    names = list(names)
    return bool(names) and all(name.isascii() and name.isdigit() for name in names)


def listed(items: Sequence[object]) -> str:
    """The first few, and how many more.

    >>> listed(range(12))
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more'
    """
    rest = f" and {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else ""
    return ", ".join(map(str, items[:MAX_LISTED])) + rest
