"""Lists of module names in quantisation configs, and whether a list names a module."""

import re
from collections import defaultdict
from collections.abc import Iterable
from fnmatch import translate
from functools import lru_cache
from itertools import combinations
from typing import Any

from hybrid_core.interop.module_names import ROOTS
from hybrid_core.validation import SpecError, short

# Limit for names with * and regular expressions together. Plain names are looked up in a set, so
# they need no limit.
MOST_PATTERNS = 2_000


class Modules:
    """Module names, names with *, and regular expressions after `re:`.

    A name matches the module and all modules inside it. Part of a path matches every path that
    contains it."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names: set[str] = set()
        # names with *, by the layer number in them; "" means any layer
        self._globs_of: dict[str, list[str]] = defaultdict(list)
        self._expressions: list[Any] = []
        for name in names:
            self._add(name)
        patterns = len(self._expressions)
        for globs in self._globs_of.values():
            patterns += len(globs)
        if patterns > MOST_PATTERNS:
            rule = f"there may be at most {MOST_PATTERNS:,}"
            raise SpecError(f"quantization_config: {patterns:,} patterns - {rule}")
        self._globs: dict[str, re.Pattern[str]] = {}
        for layer, globs in self._globs_of.items():
            either = "|".join(f"(?:{glob})" for glob in globs)
            self._globs[layer] = re.compile(either)

    def _add(self, name: str) -> None:
        if name.startswith("re:"):
            self._expressions.append(_linear_time_regex(name.removeprefix("re:")))
        elif set("*?[") & set(name):
            numbered = re.match(r"[^*?\[]*?layers\.(\d+)\.", name)
            layer = numbered[1] if numbered else ""
            self._globs_of[layer].append(translate(name))
            self._globs_of[layer].append(translate(f"{name}.*"))
        else:
            self._names.add(name)

    def hold(self, number: int | None, modules: Iterable[str]) -> bool:
        """Whether the list contains one of these modules. `number`: their layer, from 0; None
        outside the layers."""
        for module in modules:
            for path in _paths(number, module):
                if self._names_path(path, str(number)):
                    return True
        return False

    def _names_path(self, path: str, number: str) -> bool:
        if not self._names.isdisjoint(_runs(path)):
            return True
        for layer in ("", number):
            globs = self._globs.get(layer)
            if globs and globs.match(path):
                return True
        return any(expression.match(path) for expression in self._expressions)


def _paths(number: int | None, module: str) -> list[str]:
    """The full names that a module of a layer may have in a checkpoint."""
    if number is None:
        return [module]
    return [f"{root}.{number}.{module}" for root in ROOTS]


@lru_cache(maxsize=8192)  # every list of a config looks up the same few paths
def _runs(path: str) -> frozenset[str]:
    """Every run of components of a dotted path."""
    parts = path.split(".")
    runs = set()
    for start, end in combinations(range(len(parts) + 1), 2):
        runs.add(".".join(parts[start:end]))
    return frozenset(runs)


def _linear_time_regex(text: str) -> Any:
    """A regular expression from an untrusted file. RE2 matches in linear time, so no expression can
    hang the process. Raises SpecError."""
    import re2  # slow to import, and few configs have an expression

    options = re2.Options()
    options.log_errors = False
    options.max_mem = 2**20
    try:
        return re2.compile(text, options)
    except re2.error:
        rule = "not a regular expression that RE2 supports"
        raise SpecError(f"quantization_config: {short(text)} - {rule}") from None
