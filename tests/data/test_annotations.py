"""Folders and label files become samples; a mistake in them becomes a sentence that says where it is."""

from collections import Counter
from pathlib import Path

import pytest

from muybridge.config import DataConfig
from muybridge.data.annotations import (
    DataWarning,
    from_csv,
    from_folder,
    from_utd_mhad,
    from_weizmann,
    label_names,
    read_samples,
)
from muybridge.errors import DataError
from muybridge.types import Sample


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"video")


def table(root: Path, text: str, *, videos: str = "a.mp4 b.mp4 c.mp4") -> Path:
    touch(root, *videos.split())
    path = root / "list.csv"
    path.write_bytes(text.encode())
    return path


# Folders


def test_a_folder_is_a_class(tmp_path: Path) -> None:
    touch(tmp_path, "wave/b.mp4", "wave/a.AVI", "clap/deep/er/c.webm", "clap/notes.txt", "README.md")
    touch(tmp_path, "wave/.hidden.mp4", ".trash/d.mp4", "wave/._a.mp4", "clap/.old/e.mp4")
    samples = read_samples(DataConfig(root=str(tmp_path)))
    assert samples == [
        Sample(path=tmp_path / "clap/deep/er/c.webm", labels=("clap",)),
        Sample(path=tmp_path / "wave/a.AVI", labels=("wave",)),
        Sample(path=tmp_path / "wave/b.mp4", labels=("wave",)),
    ]
    assert label_names(samples) == ("clap", "wave")


def test_folders_named_as_splits_hold_the_classes(tmp_path: Path) -> None:
    touch(tmp_path, "train/wave/a.mp4", "validation/wave/b.mp4", "Test/clap/c.mp4")
    assert [(s.label, s.split) for s in from_folder(tmp_path)] == [
        ("clap", "test"),
        ("wave", "train"),
        ("wave", "validation"),
    ]
    touch(tmp_path, "other/d.mp4")  # now "train" is a class like any other
    assert {s.label for s in from_folder(tmp_path)} == {"train", "validation", "Test", "other"}


def test_videos_outside_class_folders_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "wave/b.mp4")
    with pytest.raises(
        DataError, match=r"1 of 2 videos in .* lie in no class folder: .*a\.mp4\. Put each into"
    ):
        from_folder(tmp_path)


def test_no_videos_at_all(tmp_path: Path) -> None:
    touch(tmp_path, "wave/notes.txt")
    with pytest.raises(DataError, match=r"no videos in .*: looked for .*\.avi .*\.mp4"):
        read_samples(DataConfig(root=str(tmp_path)))
    with pytest.raises(DataError, match="no videos in"):
        read_samples(DataConfig(root=str(tmp_path), format="weizmann"))
    with pytest.raises(
        DataError, match=r"no data at .*nowhere: `data.root` must be a folder of videos or a CSV"
    ):
        read_samples(DataConfig(root=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match="is not a folder: name a folder of videos, or a CSV"):
        read_samples(DataConfig(root=str(tmp_path / "wave/notes.txt"), format="folder"))


def test_a_class_folder_without_videos_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "wave/a.mp4", "clap/notes.txt")
    with pytest.warns(DataWarning, match=r"no videos in these folders of .*: clap"):
        from_folder(tmp_path)


# CSV


def test_csv_with_everything(tmp_path: Path) -> None:
    text = (
        '\ufeffPath , label,Split,group,start,end,note\r\n"sub/a, b.mp4","run, fast",train,s1,,,x\r\n'
        "c.mp4,wave | clap,test,s2,1.5,3,y\r\n\r\nc.mp4,wave,test,s2,3,,z\r\n"
    )
    path = table(tmp_path, text, videos="c.mp4")
    touch(tmp_path, "sub/a, b.mp4")
    assert read_samples(DataConfig(root=str(path))) == [
        Sample(path=tmp_path / "sub/a, b.mp4", labels=("run, fast",), group="s1", split="train"),
        Sample(
            path=tmp_path / "c.mp4",
            labels=("wave", "clap"),
            group="s2",
            split="test",
            start_seconds=1.5,
            end_seconds=3.0,
        ),
        Sample(path=tmp_path / "c.mp4", labels=("wave",), group="s2", split="test", start_seconds=3.0),
    ]


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_csv_of_other_programs(tmp_path: Path, separator: str, newline: str) -> None:
    rows = [["path", "label"], ["a.mp4", "one, two"], ["b.mp4", "three"]]
    path = table(tmp_path, newline.join(separator.join(row) for row in rows))
    assert [s.label for s in from_csv(path)] == ["one, two", "three"]


def test_absolute_paths_stay(tmp_path: Path) -> None:
    touch(tmp_path, "videos/a.mp4")
    path = table(tmp_path / "lists", f"path,label\n{tmp_path / 'videos/a.mp4'},wave\n")
    assert from_csv(path)[0].path == tmp_path / "videos/a.mp4"


def test_a_folder_with_labels_csv_is_read_by_it(tmp_path: Path) -> None:
    touch(tmp_path, "wave/a.mp4", "wave/b.mp4")
    (tmp_path / "labels.csv").write_text("path,label,group\nwave/a.mp4,wave,s1\n")
    assert [s.group for s in read_samples(DataConfig(root=str(tmp_path)))] == ["s1"]
    assert len(read_samples(DataConfig(root=str(tmp_path), format="folder"))) == 2


@pytest.mark.parametrize("first", [0, 1])
def test_numbers_are_names_and_it_says_so(tmp_path: Path, first: int) -> None:
    numbers = range(first, first + 11)
    text = "path,label\n" + "".join(f"{i}.mp4,{i}\n" for i in reversed(numbers))
    path = table(tmp_path, text, videos=" ".join(f"{i}.mp4" for i in numbers))
    said = f"numbers, {first} to {first + 10}: they are taken as the names of 11 classes, not as indices"
    with pytest.warns(DataWarning, match=said):
        samples = from_csv(path)
    assert label_names(samples) == tuple(map(str, numbers))  # by value: not "1", "10", "11", "2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            r"list.csv has no column 'path': the first line must name the columns .*; it has nothing",
        ),
        ("file,label\na.mp4,x\n", r"has no column 'path': .*; it has file, label"),
        ("path,class\na.mp4,x\n", r"has no column 'label'"),
        ("path,label,label\na.mp4,x,y\n", r"names a column twice"),
        ("path,label,gruop\na.mp4,x,s1\n", r"has a column 'gruop'; did you mean 'group'\?"),
        ("path,label\n\n", r"lists no videos: there is only a header"),
        (
            "path,label\na.mp4,x\nb.mp4,run, fast\n",
            r"line 3: 3 fields where the header has 2: put quotes .* ','",
        ),
        ("path,label\na.mp4\n", r"line 2: 1 fields where the header has 2"),
        ("path,label\na.mp4,\n", r"line 2: a label is empty"),
        ("path,label\na.mp4,x||y\n", r"line 2: a label is empty"),
        ("path,label\n,x\n", r"line 2: a path is empty"),
        ('path,label\na.mp4,"x\n', r"line 2: not a CSV line"),
        (
            "path,label,start\na.mp4,x,soon\n",
            r"line 2: start and end must be seconds, start before end; got start 'soon', end ''",
        ),
        ("path,label,start,end\na.mp4,x,3,2\n", r"line 2: start and end .* got start '3', end '2'"),
        (
            "path,label\na.mp4,x\nb.mp4,x\nd/../a.mp4,y\n",
            r"lists videos more than once: a.mp4 in lines 2 and 4\. Keep one line of each",
        ),
        (
            "path,label\na.mp4,x\ngone.mp4,x\nlost.mp4,y\n",
            r"2 of 3 videos that .* names are not there: .*gone.mp4, .*lost.mp4\. Relative paths start at ",
        ),
    ],
)
def test_mistakes_in_a_csv(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_csv(table(tmp_path, text))


def test_a_csv_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes("path,label\nä.mp4,wave\n".encode("utf-16"))
    with pytest.raises(DataError, match="is not UTF-8 text"):
        from_csv(path)
    with pytest.raises(DataError, match=r"cannot read the label file .*: No such file"):
        from_csv(tmp_path / "none.csv")


# Data sets


def test_weizmann_by_its_names(tmp_path: Path) -> None:
    touch(tmp_path, "lena_run1.avi", "lena_run2.avi", "deep/ido_wave2.avi", "moshe_pjump.avi")
    samples = read_samples(DataConfig(root=str(tmp_path)))
    assert [(s.label, s.group) for s in samples] == [
        ("wave2", "ido"),
        ("run", "lena"),
        ("run", "lena"),
        ("pjump", "moshe"),
    ]
    touch(tmp_path, "extra/other.avi")
    with pytest.raises(
        DataError, match=r"1 of 5 videos in .* are not named <person>_<action>.avi: .*other.avi"
    ):
        from_weizmann(tmp_path)


def test_utd_mhad_by_its_names(tmp_path: Path) -> None:
    touch(tmp_path, "a1_s1_t1_color.avi", "a27_s8_t4_color.avi")
    assert [(s.label, s.group, s.split) for s in read_samples(DataConfig(root=str(tmp_path)))] == [
        ("swipe_left", "s1", "train"),
        ("squat", "s8", "test"),
    ]
    touch(tmp_path, "a28_s1_t1_color.avi")
    with pytest.raises(DataError, match="has the actions 1 to 27, not 28"):
        from_utd_mhad(tmp_path)
    touch(tmp_path, "a1_s1_t1_depth.mp4")
    with pytest.raises(DataError, match="holds colour and depth videos of the same trials"):
        from_utd_mhad(tmp_path)


@pytest.mark.real
def test_the_real_weizmann(data_dir: Path) -> None:
    samples = read_samples(DataConfig(root=str(data_dir / "weizmann")))
    assert len(samples) == 90
    assert Counter(s.label for s in samples) == dict.fromkeys(label_names(samples), 9)
    assert len(label_names(samples)) == 10
    assert set(Counter(s.group for s in samples).values()) == {10}
    assert all(s.label == s.path.parent.name for s in samples)


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "clips", "classes"), [("utd_mhad_depth", 861, 27), ("utd_mhad_rgb", 160, 5)]
)
def test_the_real_utd_mhad(data_dir: Path, folder: str, clips: int, classes: int) -> None:
    samples = read_samples(DataConfig(root=str(data_dir / folder)))
    assert (len(samples), len(label_names(samples))) == (clips, classes)
    assert {s.group for s in samples} == {f"s{i}" for i in range(1, 9)}
    assert {s.group for s in samples if s.split == "train"} == {"s1", "s3", "s5", "s7"}
    assert {s.split for s in samples} == {"train", "test"}
    # Labels come from the action's number: the folders, named by hand, must say the same.
    assert all(s.label == s.path.parent.name for s in samples)


@pytest.mark.real
def test_two_cameras_at_once_are_refused(data_dir: Path) -> None:
    with pytest.raises(DataError, match=r"videos in .* are not named"):
        from_utd_mhad(data_dir)
