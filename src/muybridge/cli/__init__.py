"""The command `muybridge`. Each verb parses, calls one library function, and prints.

Results go to stdout; progress and warnings to stderr; with `--json`, one object a line. Exit codes: 0 all
done; 1 a user's error, in one line; 2 wrong usage; 3 some files failed and are listed; 130 Ctrl-C.

No library is imported here or at the top of a verb's module: `muybridge --help` must answer at once.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, TextIO

import typer
from typer.main import get_command

import muybridge
from muybridge.cli import conversion, extraction, fusion, inspection, recognition, svm, training
from muybridge.errors import MuybridgeError

__all__ = ["app", "main"]

app = typer.Typer(
    name="muybridge",
    help="Name the action in a video: look at data, train a network, test it, use it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (
    recognition.demo,
    recognition.recognize,
    training.train,
    training.evaluate,
    svm.svm,
    fusion.fuse,
    inspection.models,
    conversion.convert,
    extraction.flow,
    inspection.data,
    inspection.probe,
    inspection.env,
):
    app.command("eval" if verb is training.evaluate else verb.__name__)(verb)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"muybridge {muybridge.__version__}")
        raise typer.Exit


@app.callback()
def top_level(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """Name the action in a video: look at data, train a network, test it, use it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and gives its exit code; a mistake of ours raises.

    Args:
        arguments: the words after `muybridge`; None takes those of the process.
    """
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            get_command(app).main(args=None if arguments is None else list(arguments), prog_name="muybridge")
            code = 0
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else int(done.code is not None)
        except MuybridgeError as error:
            print(f"muybridge: {error}", file=sys.stderr)
            code = 1
        except KeyboardInterrupt:
            code = 130
        except BrokenPipeError:
            code = _drop_stdout()
    if code == 130:
        print("muybridge: interrupted", file=sys.stderr)
    return _flushed(code)


def _flushed(code: int) -> int:
    """Flushes stdout here, where a reader that has gone away (`| head`) can still be met quietly."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _drop_stdout()
    return code


def _drop_stdout() -> int:
    """Points stdout to nowhere, so that the interpreter's own last flush does not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Prints a warning as one line, without the place in our source that raised it."""
    print(f"muybridge: warning: {message}", file=file or sys.stderr)
