"""Formulas of profiles/numbers.yaml as MathML, which browsers draw without a script.

Only the LaTeX that those formulas use is understood; anything else raises ValueError."""

import re
from collections.abc import Iterator
from html import escape
from typing import NamedTuple

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|[A-Za-z]+|[0-9]+(?:\.[0-9]+)?|\S")
_SPACES = {
    "\\,": "0.17em",
    "\\;": "0.28em",
    "\\quad": "1em",
    "\\qquad": "2em",
}
_SIGNS = {
    "-": "\N{MINUS SIGN}",
    "'": "\N{PRIME}",
    "\\{": "{",
    "\\}": "}",
    "\\forall": "∀",
    "\\ge": "≥",
    "\\in": "∈",
    "\\int": "∫",
    "\\lceil": "⌈",
    "\\le": "≤",
    "\\mid": "|",
    "\\rceil": "⌉",
    "\\sum": "∑",
}
_FUNCTIONS = {"\\ln": "ln", "\\max": "max", "\\min": "min"}
# Their scripts go below and above, not after.
_LIMITS = {"\\sum", "\\max", "\\min"}


def mathml(latex: str) -> str:
    """A `<math>` element. Raises ValueError on LaTeX that it does not know, or that is not
    closed."""
    reader = _Reader(latex)
    row = "".join(reader.nodes(until=None))
    return f'<math display="block"><mrow>{row}</mrow></math>'


class _Token(NamedTuple):
    """A token, and where the text after it starts."""

    text: str
    end: int


class _Reader:
    """Reads LaTeX from left to right; each method reads one element and returns its MathML."""

    def __init__(self, latex: str) -> None:
        self.latex = latex
        self.at = 0

    def _peek(self) -> _Token | None:
        found = _TOKEN.search(self.latex, self.at)
        if found is None:
            return None
        return _Token(found[0], found.end())

    def _next(self) -> str:
        token = self._peek()
        if token is None:
            raise ValueError(f"formula: {self.latex} - ends too early")
        self.at = token.end
        return token.text

    def nodes(self, until: str | None) -> Iterator[str]:
        """The MathML of everything up to a token, which is read too; up to the end if it is
        None."""
        while True:
            token = self._peek()
            if token is None and until is None:
                return
            text = self._next()
            if text == until:
                return
            yield self._with_scripts(text, self._node(text))

    def _with_scripts(self, text: str, base: str) -> str:
        """A node with its subscript and superscript, in either order."""
        scripts = {}
        token = self._peek()
        while token is not None and token.text in ("_", "^"):
            self.at = token.end
            scripts[token.text] = self._argument()
            token = self._peek()
        if not scripts:
            return base
        below, above = "sub", "sup"
        if text in _LIMITS:
            below, above = "under", "over"
        if len(scripts) == 2:
            name = f"m{below}{above}"
            return f"<{name}>{base}{scripts['_']}{scripts['^']}</{name}>"
        if "_" in scripts:
            return f"<m{below}>{base}{scripts['_']}</m{below}>"
        return f"<m{above}>{base}{scripts['^']}</m{above}>"

    def _argument(self) -> str:
        """The argument of a script or a command: a group in braces or one token."""
        return self._node(self._next())

    def _node(self, text: str) -> str:
        """A token, with its arguments if it takes any."""
        if text == "{":
            return f"<mrow>{''.join(self.nodes(until='}'))}</mrow>"
        if text == "\\frac":
            return f"<mfrac>{self._argument()}{self._argument()}</mfrac>"
        if text == "\\bar":
            return f'<mover accent="true">{self._argument()}<mo>¯</mo></mover>'
        if text in ("\\text", "\\mathrm"):
            text = self._plain_group().replace(" ", "\N{NO-BREAK SPACE}")  # others are dropped
            return f"<mtext>{escape(text)}</mtext>"
        if text in ("\\left", "\\right"):
            fence = self._next()
            return f'<mo stretchy="true">{_SIGNS.get(fence, fence)}</mo>'
        return self._single(text)

    def _single(self, text: str) -> str:
        """A token that takes no argument."""
        if text in _SPACES:
            return f'<mspace width="{_SPACES[text]}"></mspace>'
        if text in _FUNCTIONS:
            return f'<mo lspace="0.17em" rspace="0.17em">{_FUNCTIONS[text]}</mo>'
        if text.isalpha():
            return f"<mi>{text}</mi>"
        if text[0].isdigit():
            return f"<mn>{text}</mn>"
        sign = _SIGNS.get(text, text)
        if sign.startswith("\\") or text in ("}", "_", "^"):
            raise ValueError(f"formula: {self.latex} - {text} is unknown or misplaced")
        return f"<mo>{escape(sign)}</mo>"

    def _plain_group(self) -> str:
        """The text of a group, with its spaces."""
        found = re.compile(r"\{([^{}]*)\}").match(self.latex, self.at)
        if found is None:
            raise ValueError(f"formula: {self.latex} - text needs braces")
        self.at = found.end()
        return found[1]
