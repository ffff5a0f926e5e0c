"""YAML from strangers, read safely, and YAML for people, written so that a second save changes no byte."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1_000_000
MAX_DEPTH = 20


class TextError(ValueError):
    """A file or text that is not what it should be: one line."""


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases (bombs), without deep nesting, and without a key given twice."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise TextError(f"line {self.peek_event().start_mark.line + 1}: aliases (*name) are not allowed in a design")  # type: ignore[no-untyped-call]
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TextError(f"nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = getattr(key_node, "value", None)
            if isinstance(key, str):
                if key in seen:
                    raise TextError(f"{' '.join(key.split())[:60]}: given twice (line {key_node.start_mark.line + 1})")
                seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


# YAML 1.1 takes 1e6 and 1e-5 for text; people mean numbers. Reader and writer agree, so that a name like "1e6" is quoted.
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))


def read_text(path: Path, what: str = "design") -> bytes:
    """The bytes of a small file. Raises TextError when it is missing, a folder, unreadable or too large, before reading it."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise TextError(f"{path}: not a file")
        if size > MAX_BYTES:
            raise TextError(f"{path}: {too_long(size, what)}")
        return path.read_bytes()
    except OSError as error:
        raise TextError(f"{path}: {error.strerror or error}") from None


def too_long(size: int, what: str) -> str:
    """The line that refuses text from strangers."""
    return f"{size:,} bytes - a {what} may have at most {MAX_BYTES:,}"


def safe_mapping(text: str | bytes) -> dict[str, Any]:
    """Parse YAML into a mapping with text keys. Raises TextError (one line) on anything else."""
    if len(text) > MAX_BYTES:
        raise TextError(too_long(len(text), "design"))
    try:
        plain = text.decode("utf-8") if isinstance(text, bytes) else text
        data = yaml.load(plain, _Loader)
    except UnicodeDecodeError as error:
        raise TextError(f"not UTF-8 text (byte {error.start})") from None
    except TextError:
        raise
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise TextError(f"not YAML - {line}{(error.problem or 'cannot be read')}".replace("\n", " ")) from None
    except ValueError:  # int() refuses thousands of digits
        raise TextError("not YAML - a number has thousands of digits") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise TextError(f"not YAML - {str(error).splitlines()[0][:120]}") from None
    if not isinstance(data, dict):
        kind = "empty" if data is None else f"a {type(data).__name__}"
        raise TextError(f"{kind} - a design is a mapping of keys to values, starting with 'schema: 1'")
    odd = next((key for key in data if not isinstance(key, str)), None)
    if odd is not None:
        raise TextError(f"{odd!r}: a key must be text")
    return data


def dump(data: dict[str, Any]) -> str:
    """Top-level keys one per line in the order given, sections in flow style, as people write designs."""
    return "".join(_line(key, value) for key, value in data.items())


def _line(key: str, value: Any) -> str:
    options: dict[str, Any] = {"sort_keys": False, "width": 10**6, "allow_unicode": True}
    if isinstance(value, dict | list):
        return f"{key}: {yaml.dump(value, Dumper=_Dumper, default_flow_style=True, **options)}"
    return str(yaml.dump({key: value}, Dumper=_Dumper, default_flow_style=False, **options))
