"""Small drawings in SVG: where a placement puts its blocks, and what happens inside an intra-hybrid
block."""

import base64
from collections.abc import Iterator
from html import escape
from itertools import groupby

from hybrid_core.design.spec import ArchSpec
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.mixers.registry import WRITTEN

# Of the letters that strategies place. M has the colour of Mamba-2, whichever Mamba it stands for.
COLOURS = {letter: kind.entry.colour for letter, kind in WRITTEN.items()}

FEW = 40  # layers; the cells of more stand side by side without a gap


def colours(spec: ArchSpec) -> dict[str, str]:
    """The colour of each of a design's letters."""
    return {layer.letter: layer.mixer.entry.colour for layer in spec.stack}


def lines(pattern: str, colours: dict[str, str]) -> dict[str, str]:
    """A row of cells, ten wide and one per layer, as SVG paths by their colour: short also for a
    deep stack."""
    drawn: dict[str, str] = {}
    for letter, cells in _runs(pattern):
        drawn[colours[letter]] = (
            drawn.get(colours[letter], "")
            + f"M{10 * cells.start} 8h{10 * len(cells) - (len(pattern) <= FEW)}"
        )
    return drawn


def strip(pattern: str, colours: dict[str, str]) -> str:
    """A row of cells as an image of Markdown, which shows it as high as a line of text."""
    drawn = "".join(
        f'<path stroke="{colour}" stroke-width="16" d="{line}"/>'
        for colour, line in lines(pattern, colours).items()
    )
    width = 10 * len(pattern)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{min(width, 130)}" height="16" '
        f'viewBox="0 0 {width} 16" '
        f'preserveAspectRatio="none">{drawn}</svg>'
    )
    return f"![{pattern}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _runs(pattern: str) -> Iterator[tuple[str, range]]:
    """Letters and the layers, from 0, that they stand for in a row; one by one in a stack of few,
    whose cells stand apart."""
    cells = enumerate(pattern)
    for (letter, _), run in groupby(
        cells, lambda cell: (cell[1], cell[0] if len(pattern) <= FEW else None)
    ):
        layers = [i for i, _ in run]
        yield letter, range(layers[0], layers[-1] + 1)


# What each branch is multiplied by: attention, Mamba.
_SCALAR = {
    "none": ("", ""),
    "scale": ("scale", "scale"),
    "gate": ("gate", "gate"),
    "diff_t": ("", "times λ"),
}
_SIGN = {"add": "+", "diff": "-", "concat": "‖"}
_TOP, _BOTTOM, _MIDDLE = 40, 130, 85


def _box(
    x: int, y: int, width: int, text: str, colour: str = "currentColor", chosen: bool = True
) -> str:
    """A box with a word; a part that the design leaves out is a faint dashed one."""
    style = "" if chosen else ' opacity="0.45" stroke-dasharray="3 4"'
    faint = "" if chosen else ' opacity="0.7"'
    return (
        f'<rect x="{x}" y="{y - 17}" width="{width}" height="34" rx="6" fill="none" '
        f'stroke="{colour}" stroke-width="2"{style}/>'
        f'<text x="{x + width / 2}" y="{y + 5}" text-anchor="middle"{faint}>'
        f"{escape(text)}</text>"
    )


def _line(*points: tuple[int, int]) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-width="1.5"/>'


def intra_block(mixer: IntraMixer, ink: str) -> str:
    """The block, its two branches from left to right, each axis where it acts. `ink` is the colour
    of words and lines."""
    parts = [_line((40, _MIDDLE), (60, _MIDDLE)), f'<text x="14" y="{_MIDDLE + 5}">x</text>']
    for y, name, colour, scalar in (
        (_TOP, "Attention", COLOURS["A"], _SCALAR[mixer.scalar][0]),
        (_BOTTOM, "Mamba-2", COLOURS["M"], _SCALAR[mixer.scalar][1]),
    ):
        separate = mixer.out == "separate"
        grouped = mixer.norm == "group"
        norm = "group norm" if grouped else "no norm"
        out = "out" if separate else "no out yet"
        towards_the_sum = 15 if y == _BOTTOM else -15
        parts += [
            _line((60, _MIDDLE), (60, y), (80, y)),
            _box(80, y, 92, name, colour),
            _line((172, y), (192, y)),
            _box(192, y, 92, norm, chosen=grouped),
            _line((284, y), (304, y)),
            _box(304, y, 82, scalar or "no scalar", chosen=bool(scalar)),
            _line((386, y), (406, y)),
            _box(406, y, 86, out, chosen=separate),
            _line((492, y), (535, y), (535, _MIDDLE + towards_the_sum)),
        ]
    if mixer.value == "shared":
        parts += [
            _line((126, _TOP + 17), (126, _BOTTOM - 17)),
            f'<text x="134" y="{_MIDDLE + 5}">values shared</text>',
        ]
    else:
        parts.append(f'<text x="80" y="{_MIDDLE + 5}" opacity="0.7">values separate</text>')
    parts += [
        f'<circle cx="535" cy="{_MIDDLE}" r="15" fill="none" stroke="currentColor" '
        'stroke-width="2"/>',
        f'<text x="535" y="{_MIDDLE + 6}" text-anchor="middle" font-weight="bold">'
        f"{_SIGN[mixer.fusion]}</text>",
        _line((550, _MIDDLE), (570, _MIDDLE)),
        _box(
            570,
            _MIDDLE,
            86,
            "out" if mixer.out == "joint" else "no joint out",
            chosen=mixer.out == "joint",
        ),
        _line((656, _MIDDLE), (680, _MIDDLE)),
        f'<text x="684" y="{_MIDDLE + 5}">y</text>',
    ]
    drawn = "".join(parts)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 160" width="840" height="192" '
        'font-size="14" font-family="sans-serif" '
        f'color="{ink}" fill="{ink}">{drawn}</svg>'
    )
