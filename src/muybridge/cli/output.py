"""How verbs print: tables and JSON lines to stdout, failures to stderr."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer


def print_json(value: Mapping[str, Any]) -> None:
    """One object on one line of stdout."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "", right: Sequence[str] = ()
) -> None:
    """A table on stdout; not cut to 80 columns where stdout is a file or a pipe.

    Args:
        columns: their headings.
        rows: one cell a column; None is an empty cell.
        title: a line above the table.
        right: headings of the columns of numbers, which are aligned to the right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=200)
    console.print(table)


def print_pairs(pairs: Mapping[str, object]) -> None:
    """Names and values, one pair a line."""
    width = max(len(name) for name in pairs)
    for name, value in pairs.items():
        print(f"{name:<{width}}  {value}")


def say(message: str) -> None:
    """A line of progress or of warning: to stderr, so that stdout holds results only."""
    typer.echo(message, err=True)


@contextmanager
def progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr where that is a terminal; gives the function to call with (done, total)."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def report_failure(message: object) -> None:
    """One file that failed among many: one line on stderr."""
    say(f"muybridge: {message}")


def finish(num_failed: int, num_asked: int) -> None:
    """Ends a verb that was given many files: exit code 1 if none could be done, 3 if some failed."""
    if not num_failed:
        return
    if num_asked > 1:
        say(f"muybridge: {num_failed} of {num_asked} files failed")
    raise typer.Exit(1 if num_failed == num_asked else 3)
