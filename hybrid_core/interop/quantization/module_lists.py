"""Lists of modules, as quantisation configs write them."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from fnmatch import translate
from typing import Any

from hybrid_core.interop.module_names import ROOTS
from hybrid_core.validation import SpecError, short

# Names with * and expressions. Names as they are may be as many as the file holds.
MOST_PATTERNS = 2_000


class Modules:
    """Names of modules, names with *, and regular expressions behind `re:`.

    A name also stands for what is below it, and a part of a path for every path that holds it."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names: set[str] = set()
        # names with *, by the layer that they are about; "" is any
        self._of_layer: dict[str, list[str]] = defaultdict(list)
        self._expressions: list[Any] = []
        for name in names:
            self._add(name)
        patterns = sum(map(len, self._of_layer.values())) + len(self._expressions)
        if patterns > MOST_PATTERNS:
            rule = f"there may be {MOST_PATTERNS:,} at most"
            raise SpecError(f"quantization_config: {patterns:,} patterns - {rule}")
        self._globs: dict[str, re.Pattern[str]] = {}
        for layer, globs in self._of_layer.items():
            self._globs[layer] = re.compile("|".join(f"(?:{glob})" for glob in globs))

    def _add(self, name: str) -> None:
        if name.startswith("re:"):
            self._expressions.append(linear_time_regex(name[3:]))
        elif set("*?[") & set(name):
            numbered = re.match(r"[^*?\[]*?layers\.(\d+)\.", name)
            layer = numbered[1] if numbered else ""
            self._of_layer[layer] += [translate(name), translate(f"{name}.*")]
        else:
            self._names.add(name)

    def hold(self, number: int | None, modules: Iterable[str]) -> bool:
        """Whether the list speaks of one of these modules of a layer (numbered from 0), or of one
        outside the layers (None)."""
        return any(self._hold(number, module) for module in modules)

    def _hold(self, number: int | None, module: str) -> bool:
        paths = [module]
        if number is not None:
            paths = [f"{root}.{number}.{module}" for root in ROOTS]
        return any(self._names_path(path, str(number)) for path in paths)

    def _names_path(self, path: str, number: str) -> bool:
        if self._names and not self._names.isdisjoint(_runs(path)):
            return True
        for layer in ("", number):
            globs = self._globs.get(layer)
            if globs and globs.match(path):
                return True
        return any(expression.match(path) for expression in self._expressions)


def _runs(path: str) -> Iterator[str]:
    """Every run of components of a dotted path."""
    parts = path.split(".")
    for start in range(len(parts)):
        for end in range(start + 1, len(parts) + 1):
            yield ".".join(parts[start:end])


def linear_time_regex(text: str) -> Any:
    """A regular expression from a stranger's file, which no text takes long to fail on (RE2).
    Raises SpecError."""
    import re2  # loaded where a config has one

    options = re2.Options()
    options.log_errors = False
    options.max_mem = 2**20
    try:
        return re2.compile(text, options)
    except re2.error:
        rule = "not a regular expression that can be searched with"
        raise SpecError(f"quantization_config: {short(text)} - {rule}") from None
