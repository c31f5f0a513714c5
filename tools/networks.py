"""Writes the table of networks into README.md as the code counts it: `make docs`. A test holds it to that."""

from pathlib import Path

import torch

from muybridge.models.count import count_macs, count_parameters, input_shapes
from muybridge.models.registry import build, find

README = Path(__file__).resolve().parent.parent / "README.md"
HEADER = "| name | paper | clip | parameters | GMAC a view |\n|---|---|---|---:|---:|\n"

# One network of each kind, and the page of its paper.
SHOWN = {
    "deepvideo_slow": "deepvideo",
    "two_stream": "two_stream",
    "short_snippets_conv_pooling": "short_snippets",
    "short_snippets_lstm": "short_snippets",
    "two_stream_fusion": "two_stream_fusion",
    "tsn": "tsn",
    "c3d": "c3d",
    "i3d_rgb": "i3d",
    "i3d_two_stream": "i3d",
    "i3d_r50": "nonlocal",
    "i3d_r50_nl5": "nonlocal",
    "r3d_18": "r2plus1d",
    "mc3_18": "r2plus1d",
    "r2plus1d_18": "r2plus1d",
    "r2plus1d_34": "r2plus1d",
    "resnet3d_50": "resnet3d",
    "slow_r50_8x8": "slowfast",
    "slowfast_r50_4x16": "slowfast",
    "slowfast_r50_8x8": "slowfast",
    "slowfast_r101_8x8": "slowfast",
}


def row(name: str, page: str) -> str:
    """A line of the table."""
    with torch.device("meta"):
        model = build(name)
    shapes = input_shapes(model)
    clip = " + ".join(clip_size(shape) for shape in shapes)
    gmac = count_macs(model, *shapes) / 1e9
    paper = f"[{find(name).paper}](docs/papers/{page}.md)"
    return f"| `{name}` | {paper} | {clip} | {count_parameters(model):,} | {gmac:.2f} |\n"


def clip_size(shape: list[int]) -> str:
    """Frames and pixels of an input: "16x112x112", or "3 of 1x224x224" for three snippets."""
    *snippets, _, frames, height, width = shape
    return "".join(f"{count} of " for count in snippets) + f"{frames}x{height}x{width}"


def table() -> str:
    """The whole table."""
    return HEADER + "".join(row(name, page) for name, page in SHOWN.items())


def with_table(text: str) -> str:
    """The README with its table made anew."""
    before, _, rest = text.partition(HEADER)
    return before + table() + rest[rest.index("\n\n") + 1 :]


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
