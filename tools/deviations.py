"""Collects the lines `Deviation: ...` of the code into docs/deviations.md: `make docs`.

A test holds the page to what is collected.
"""

import ast
import io
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "muybridge"
PAGE = ROOT / "docs" / "deviations.md"
MARK = "Deviation:"
HEADER = """# Deviations

Where our code departs from a paper or from its authors' code, and why. Each line stands in the code, where it
applies; `make docs` collects them here.
"""


def blocks(source: str) -> list[list[str]]:
    """The lines of each docstring and of each run of comment lines, without quotes and `#`, as they stand."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = {
        node.body[0].lineno: (ast.get_docstring(node) or "").splitlines()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, owners) and node.body
    }
    run: list[str] = []
    last_row = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            run = run if token.start[0] == last_row + 1 else found.setdefault(token.start[0], [])
            run.append(token.string.lstrip("# "))
            last_row = token.start[0]
    return [found[row] for row in sorted(found)]


def deviations(source: str) -> list[str]:
    r"""Each deviation of a module in one line; it ends at an empty line, at the next one, or with its block.

    >>> deviations('# Deviation: one\n# and more\n# Deviation: two\nx = 1\n# not this')
    ['one and more', 'two']
    """
    found: list[str] = []
    for block in blocks(source):
        inside = False
        for line in map(str.strip, block):
            if line.startswith(MARK):
                found.append(line.removeprefix(MARK).strip())
                inside = True
            elif inside and line:
                found[-1] += f" {line}"
            else:
                inside = False
    return found


def page() -> str:
    """The whole page."""
    parts = [HEADER]
    for path in sorted(SOURCE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if lines := deviations(source):
            title = (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
            parts.append(f"\n## {path.relative_to(SOURCE).as_posix()}\n\n{title}\n\n")
            parts.extend(f"* {line}\n" for line in lines)
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {page().count(chr(10) + '* ')} deviations")
