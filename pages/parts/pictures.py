"""Small drawings in SVG: a stack as a row of cells, and the inside of an intra-hybrid block."""

import base64
from collections.abc import Iterator
from html import escape
from itertools import groupby

from hybrid_core.design.spec import ArchSpec
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.mixers.registry import WRITTEN

# The letters that strategies place. M has the colour of Mamba-2, whichever Mamba it stands for.
COLOURS = {letter: kind.entry.colour for letter, kind in WRITTEN.items()}

FEW = 40  # a stack of more layers is drawn without gaps between its cells


def colours(spec: ArchSpec) -> dict[str, str]:
    """The colour of each of a design's letters."""
    return {layer.letter: layer.mixer.entry.colour for layer in spec.stack}


def lines(pattern: str, colours: dict[str, str]) -> dict[str, str]:
    """A row of cells, one per layer and ten units wide, as one SVG path per colour."""
    gap = 0
    if len(pattern) <= FEW:
        gap = 1
    drawn: dict[str, str] = {}
    for letter, cells in _runs(pattern):
        colour = colours[letter]
        line = f"M{10 * cells.start} 8h{10 * len(cells) - gap}"
        drawn[colour] = drawn.get(colour, "") + line
    return drawn


def strip(pattern: str, colours: dict[str, str]) -> str:
    """A row of cells as an image in Markdown, as high as a line of text."""
    drawn = ""
    for colour, line in lines(pattern, colours).items():
        drawn += f'<path stroke="{colour}" stroke-width="16" d="{line}"/>'
    width = 10 * len(pattern)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{min(width, 130)}" height="16" '
        f'viewBox="0 0 {width} 16" '
        f'preserveAspectRatio="none">{drawn}</svg>'
    )
    encoded = base64.b64encode(svg.encode()).decode()
    return f"![{pattern}](data:image/svg+xml;base64,{encoded})"


def _runs(pattern: str) -> Iterator[tuple[str, range]]:
    """Each run of equal letters, with its layers counted from 0. In a stack of few layers every
    layer is its own run, because its cells are drawn apart."""
    if len(pattern) <= FEW:
        for layer, letter in enumerate(pattern):
            yield letter, range(layer, layer + 1)
        return
    start = 0
    for letter, run in groupby(pattern):
        length = len(list(run))
        yield letter, range(start, start + length)
        start += length


# The intra-hybrid block is drawn from left to right on a canvas of 700 x 160: the input, a row per
# branch, the sum, the joint projection, the output. These are the heights of its lines.
_TOP = 40
_BOTTOM = 130
_MIDDLE = 85

# What each branch is multiplied by: attention, Mamba.
_SCALAR = {
    "none": ("", ""),
    "scale": ("scale", "scale"),
    "gate": ("gate", "gate"),
    "diff_t": ("", "times λ"),
}
_SIGN = {"add": "+", "diff": "-", "concat": "‖"}


def intra_block(mixer: IntraMixer, ink: str) -> str:
    """An intra-hybrid block, with each of its axes where it acts. `ink`: the colour of text and
    lines."""
    attention_scalar, mamba_scalar = _SCALAR[mixer.scalar]
    drawn = "".join(
        [
            _line((40, _MIDDLE), (60, _MIDDLE)),
            _words(14, _MIDDLE, "x"),
            *_branch(_TOP, "Attention", COLOURS["A"], attention_scalar, mixer),
            *_branch(_BOTTOM, "Mamba-2", COLOURS["M"], mamba_scalar, mixer),
            *_values(mixer),
            *_joined(mixer),
        ]
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 160" width="840" height="192" '
        'font-size="14" font-family="sans-serif" '
        f'color="{ink}" fill="{ink}">{drawn}</svg>'
    )


def _branch(
    y: int,
    name: str,
    colour: str,
    scalar: str,
    mixer: IntraMixer,
) -> Iterator[str]:
    """A branch: its mixer, norm, scalar and projection, with the lines between them."""
    yield _line((60, _MIDDLE), (60, y), (80, y))
    yield _box(80, y, 92, name, colour)
    yield _line((172, y), (192, y))
    if mixer.norm == "group":
        yield _box(192, y, 92, "group norm")
    else:
        yield _faint_box(192, y, 92, "no norm")
    yield _line((284, y), (304, y))
    if scalar:
        yield _box(304, y, 82, scalar)
    else:
        yield _faint_box(304, y, 82, "no scalar")
    yield _line((386, y), (406, y))
    if mixer.out == "separate":
        yield _box(406, y, 86, "out")
    else:
        yield _faint_box(406, y, 86, "no out yet")
    edge_of_the_sum = _MIDDLE - 15
    if y > _MIDDLE:
        edge_of_the_sum = _MIDDLE + 15
    yield _line((492, y), (535, y), (535, edge_of_the_sum))


def _values(mixer: IntraMixer) -> Iterator[str]:
    """Whether the Mamba branch reads the attention's values."""
    if mixer.value == "shared":
        yield _line((126, _TOP + 17), (126, _BOTTOM - 17))
        yield _words(134, _MIDDLE, "values shared")
    else:
        yield _words(80, _MIDDLE, "values separate", ' opacity="0.7"')


def _joined(mixer: IntraMixer) -> Iterator[str]:
    """How the branches join, the projection after that, and the output."""
    yield (
        f'<circle cx="535" cy="{_MIDDLE}" r="15" fill="none" stroke="currentColor" '
        'stroke-width="2"/>'
    )
    yield (
        f'<text x="535" y="{_MIDDLE + 6}" text-anchor="middle" font-weight="bold">'
        f"{_SIGN[mixer.fusion]}</text>"
    )
    yield _line((550, _MIDDLE), (570, _MIDDLE))
    if mixer.out == "joint":
        yield _box(570, _MIDDLE, 86, "out")
    else:
        yield _faint_box(570, _MIDDLE, 86, "no joint out")
    yield _line((656, _MIDDLE), (680, _MIDDLE))
    yield _words(684, _MIDDLE, "y")


def _box(
    x: int,
    y: int,
    width: int,
    text: str,
    colour: str = "currentColor",
    frame_style: str = "",
    text_style: str = "",
) -> str:
    """A box around a word, centred at the height `y`."""
    return (
        f'<rect x="{x}" y="{y - 17}" width="{width}" height="34" rx="6" fill="none" '
        f'stroke="{colour}" stroke-width="2"{frame_style}/>'
        f'<text x="{x + width / 2}" y="{y + 5}" text-anchor="middle"{text_style}>'
        f"{escape(text)}</text>"
    )


def _faint_box(x: int, y: int, width: int, text: str) -> str:
    """A dashed box: a part that the design leaves out."""
    return _box(
        x,
        y,
        width,
        text,
        frame_style=' opacity="0.45" stroke-dasharray="3 4"',
        text_style=' opacity="0.7"',
    )


def _words(x: int, y: int, text: str, style: str = "") -> str:
    return f'<text x="{x}" y="{y + 5}"{style}>{text}</text>'


def _line(*points: tuple[int, int]) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
