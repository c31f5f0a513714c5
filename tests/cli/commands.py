"""Helpers of the tests of the command line."""

import subprocess
import sys

ACTIONS = ("step_left", "walk")


def in_process(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "muybridge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def only_line(err: str) -> str:
    """The message of a user's error: one line."""
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    return err.strip()
