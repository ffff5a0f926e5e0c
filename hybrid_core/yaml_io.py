"""Safe reading of untrusted YAML, and writing of readable YAML that does not change on a second
save."""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from hybrid_core.files import MAX_BYTES, decoded, too_long
from hybrid_core.validation import SpecError, cut, short

MAX_DEPTH = 20


class _Loader(yaml.SafeLoader):
    """A SafeLoader that rejects aliases (bombs), deep nesting and duplicate keys."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            line = event.start_mark.line + 1
            raise SpecError(f"line {line}: aliases (*name) are not allowed in a design")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise SpecError(f"nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = getattr(key_node, "value", None)
            if isinstance(key, str):
                if key in seen:
                    line = key_node.start_mark.line + 1
                    raise SpecError(f"{cut(' '.join(key.split()))}: given twice (line {line})")
                seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


# YAML 1.1 reads 1e6 and 1e-5 as text, but people mean numbers. The reader and the writer agree on
# this, so a name like "1e6" is quoted.
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def safe_mapping(text: str | bytes) -> dict[str, Any]:
    """Parse YAML into a mapping with text keys. Raises SpecError (one line) on anything else."""
    if len(text) > MAX_BYTES:
        raise SpecError(too_long(len(text), "design"))
    try:
        data = yaml.load(decoded(text) if isinstance(text, bytes) else text, _Loader)
    except SpecError:
        raise
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise SpecError(
            f"not YAML - {line}{(error.problem or 'cannot be read')}".replace("\n", " ")
        ) from None
    except ValueError:  # int() refuses thousands of digits
        raise SpecError("not YAML - a number has thousands of digits") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise SpecError(f"not YAML - {str(error).splitlines()[0][:120]}") from None
    if not isinstance(data, dict):
        kind = "empty" if data is None else f"a {type(data).__name__}"
        raise SpecError(
            f"{kind} - a design is a mapping of keys to values, starting with 'schema: 1'"
        )
    odd = next((key for key in data if not isinstance(key, str)), None)
    if odd is not None:
        raise SpecError(f"{short(odd)}: a key must be text")
    return data


def dump(data: dict[str, Any]) -> str:
    """A mapping as YAML: one top-level key per line in the given order, sections in flow style."""
    return "".join(_line(key, value) for key, value in data.items())


def _line(key: str, value: Any) -> str:
    options: dict[str, Any] = {
        "sort_keys": False,
        "width": 10**6,
        "allow_unicode": True,
    }
    if isinstance(value, dict | list):
        return f"{key}: {yaml.dump(value, Dumper=_Dumper, default_flow_style=True, **options)}"
    return str(yaml.dump({key: value}, Dumper=_Dumper, default_flow_style=False, **options))
