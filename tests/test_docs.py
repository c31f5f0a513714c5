"""What the pages say is true: their code runs, their links lead somewhere, their numbers are the code's."""

import importlib.util
import re
import shlex
import shutil
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import typer
from typer.main import get_command

from muybridge.cli import app, main
from muybridge.data.figures import render
from muybridge.models.count import count_macs, count_parameters
from muybridge.models.registry import MODELS, build
from muybridge.protocol import PROTOCOLS
from muybridge.weights.store import save

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SLOW_VERBS = ("train", "demo")  # their lines are parsed, not run: tests/train and tests/test_demo.py run them
FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A fenced block of code of a page."""

    page: Path
    line: int
    language: str
    mark: str
    code: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def blocks(language: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            block = Block(page, line, match[1], match[2].strip(), match[3])
            if block.language == language:
                found.append(block)
    return found


def names(found: list[Block]) -> list[str]:
    return [block.name for block in found]


PYTHON, CONSOLE, SHELL = blocks("python"), blocks("console"), blocks("sh")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages talk of: clip.mp4, new.mp4, a folder `videos`, a run `runs/mine`."""
    folder = tmp_path_factory.mktemp("docs")
    actions = ("jump", "walk")
    render(
        folder / "videos", num_groups=2, clips_per_group=1, num_frames=20, short_side_px=48, actions=actions
    )
    clips = sorted(folder.glob("videos/*/*.mp4"))
    shutil.copy(clips[0], folder / "clip.mp4")
    shutil.copy(clips[-1], folder / "new.mp4")
    model = build("r3d_10", num_classes=2, width=0.05)
    spec = model.default_specs[0].model_copy(update={"resize": 48, "crop": 32, "num_frames": 8})
    save(folder / "runs" / "mine" / "model.safetensors", model, labels=actions, specs=(spec,))
    return folder


@pytest.mark.parametrize("block", PYTHON, ids=names(PYTHON))
def test_python_runs(block: Block, workplace: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(workplace)
    code = compile(block.code, block.name, "exec")
    if block.mark != "no-run":
        exec(code, {"__name__": "__main__"})
        return
    imports = [line for line in block.code.splitlines() if line.startswith(("import ", "from "))]
    exec("\n".join(imports), {})


@pytest.mark.parametrize("block", CONSOLE, ids=names(CONSOLE))
def test_console_runs(block: Block, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(workplace)
    for line in block.code.splitlines():
        if not line.startswith("$ muybridge "):
            continue
        arguments = shlex.split(line.removeprefix("$ muybridge "), comments=True)
        check_arguments(arguments)
        if arguments[0] not in SLOW_VERBS:
            code = main(arguments)
            assert code == 0, f"{block.name}: {line}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("block", SHELL, ids=names(SHELL))
def test_shell_lines_name_what_exists(block: Block):
    makefile = (ROOT / "Makefile").read_text()
    for line in block.code.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), line
        if "muybridge" in words:
            check_arguments(words[words.index("muybridge") + 1 :])


def check_arguments(arguments: list[str]) -> None:
    """Parses a command without running it: every verb and option there is."""
    group = get_command(app)
    verb = group.get_command(typer.Context(group), arguments[0])
    assert verb is not None, f"no verb {arguments[0]}"
    verb.make_context(arguments[0], arguments[1:])


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_links_lead_somewhere(page: Path):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(other), f"{page.name} links to {target}, which has no such heading"


def anchors(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_page_is_reached_from_the_index():
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target).resolve() for target in LINK.findall(index.read_text())}
    assert linked >= {page for page in PAGES if page.parent != ROOT and page != index}


def test_no_page_names_this_machine():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/(work|tmp|root|home)\b", text), page.name


def test_deviations_are_those_of_the_code():
    tool = load_tool("deviations")
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page(), "run: make docs"
    assert "BatchNorm eps is 1e-5" in tool.page()
    assert tool.deviations("# Deviation: one\n# and more\n# Deviation: two\nx = 1\n# not this") == [
        "one and more",
        "two",
    ]


def test_the_readme_counts_as_the_code_does():
    tool = load_tool("networks")
    text = tool.README.read_text(encoding="utf-8")
    assert tool.with_table(text) == text, "run: make docs"
    assert "| `c3d` |" in text


def test_the_page_on_r2plus1d_counts_as_the_code_does():
    import torch

    page = (ROOT / "docs" / "papers" / "r2plus1d.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert len(rows) == 12
    for name, parameters, gmac, authors, top1 in rows:
        with torch.device("meta"):
            model = build(name)
        assert f"{count_parameters(model):,}" == parameters
        counted = count_macs(model, (3, 16, 112, 112)) / 1e9
        assert f"{counted:.2f}" == gmac
        assert abs(counted - float(authors)) <= 0.051, f"{name}: {counted}, the authors' table has {authors}"
        assert re.search(rf"top-1 {re.escape(top1)}\b", MODELS[name].accuracy)


def test_the_page_on_3d_resnets_counts_as_the_code_does():
    import torch

    page = (ROOT / "docs" / "papers" / "resnet3d.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ResNet-\d+ \| `(\w+)` \| ([\d,]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert len(rows) == 6
    for name, parameters, gmac in rows:
        with torch.device("meta"):
            model = build(name)
        assert f"{count_parameters(model):,}" == parameters
        assert f"{count_macs(model, (3, 16, 112, 112)) / 1e9:.2f}" == gmac


def test_the_page_on_protocols_has_their_digests():
    text = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| `([0-9a-f]{8})` \|$", text, re.MULTILINE))
    assert rows == {name: protocol.digest() for name, protocol in PROTOCOLS.items()}


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool
