"""A view as a short text for a URL, and back: the design on screen, what it is asked about, and
what it is compared with.

A design is the name of a preset or of a published model, or its YAML deflated behind the version of
this form. Whatever comes in is validated like any other input."""

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop import published
from hybrid_core.speed import hardware
from hybrid_core.validation import Frozen, SpecError, short
from hybrid_core.workload import Workload

VERSION = "2"
MAX_LINK = 8_000
MAX_YAML = 20_000
MAX_COMPARED = 3  # beside the design itself
# What designs mostly say, so that a link holds what is particular to one. Part of the form: a
# change of it is a new version.
_USUAL = (
    b"schema: 1\nname: intra-1to5-1b\nvocab_size: 128256\ntie_embeddings: true\nnorm_eps: 1.0e-05\nd_model: 2048\nn_layers: 13\n"
    b"layers: {strategy: custom, pattern: MMMAMMMAMMMMM}\nlayers: {strategy: inter, ratio: '1:5', placement: middle}\n"
    b"attention: {n_heads: 32, n_kv_heads: 8, head_dim: 64, position: rope, rope_theta: 500000.0, rope_fraction: 1.0, "
    b"rope_scaling: {factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context_len: 8192}}\n"
    b"swa: {window: 512, sink: 64, rope_theta: 10000.0}\n"
    b"ssm: {kind: mamba2, d_ssm: 4096, head_dim: 128, d_state: 128, d_conv: 4, n_groups: 1, chunk_size: 128}\n"
    b"intra: {n_heads: 16, n_kv_heads: 4, qk_head_dim: 72, v_head_dim: 128, d_ssm: 2304, norm: group, scalar: none, fusion: diff, "
    b"value: separate, out: separate}\nffn: {kind: swiglu, d_ff: 8192}\n"
)
_DICTIONARY = {"1": b"", VERSION: _USUAL}


class View(Frozen):
    """What a link carries. `reference` None: the Llama of the design's size."""

    design: ArchSpec
    workload: Workload = Workload()
    hardware: str = "h100_sxm"
    reference: ArchSpec | None = None
    compared: tuple[ArchSpec, ...] = ()

    @property
    def others(self) -> tuple[ArchSpec, ...]:
        """What stands beside the design: of those compared each once, and not one that was kept and
        not changed since."""
        return tuple(dict.fromkeys(spec for spec in self.compared if spec != self.design))


_WORKLOAD_KEYS = {
    "context": "context_len",
    "batch": "batch_size",
    "weights": "weight_dtype",
    "cache": "kv_cache_dtype",
    "state": "state_dtype",
    "chunk": "max_batched_tokens",
}


_NUMBERS = ("context_len", "batch_size", "max_batched_tokens")


def to_query(view: View) -> dict[str, str | list[str]]:
    """The view as parameters of a URL; what has its usual value is left out."""
    usual = Workload()
    query: dict[str, str | list[str]] = {"design": encode(view.design)}
    for key, field in _WORKLOAD_KEYS.items():
        if (value := getattr(view.workload, field)) != getattr(usual, field):
            query[key] = str(value)
    if view.hardware != View.model_fields["hardware"].default:
        query["device"] = view.hardware
    if view.reference:
        query["reference"] = encode(view.reference)
    if view.compared:
        query["with"] = [encode(spec) for spec in view.compared]
    return query


def address(view: View, home: str, page: str = "") -> str:
    """The link to a view on a page of the server `home`."""
    return f"{home}/{page}?{urlencode(to_query(view), doseq=True)}"


def from_query(query: Mapping[str, Sequence[str]]) -> View:
    """The view of a link's parameters, each a list of values; unknown ones are other people's.
    Raises SpecError with one line."""
    given = {key: values[-1] for key, values in query.items() if values}
    fields: dict[str, Any] = (
        {"design": decode(given["design"])}
        if "design" in given
        else {"design": presets.get(presets.FIRST).spec}
    )
    asked = {field: _number(key, given[key]) if field in _NUMBERS else given[key]
             for key, field in _WORKLOAD_KEYS.items() if key in given}  # fmt: skip
    try:
        fields["workload"] = Workload.make(**asked)
        if "device" in given:
            fields["hardware"] = hardware.get(given["device"][:100]).key
    except SpecError as error:
        raise SpecError(_in_the_links_words(str(error))) from None
    if "reference" in given:
        fields["reference"] = decode(given["reference"])
    if len(compared := query.get("with", ())) > MAX_COMPARED:
        raise SpecError(
            f"with: {len(compared)} designs - at most {MAX_COMPARED} stand beside the first"
        )
    return View(**fields, compared=tuple(map(decode, compared)))


def _in_the_links_words(line: str) -> str:
    """A refusal that names the key as the link has it."""
    key, colon, rest = line.partition(":")
    names = {field: key for key, field in _WORKLOAD_KEYS.items()} | {"hardware": "device"}
    return f"{names.get(key, key)}{colon}{rest}"


def design_of(query: Mapping[str, Sequence[str]]) -> ArchSpec | None:
    """The design of a link of which something else may be wrong; None where there is none to be
    had."""
    try:
        return decode(query["design"][-1])
    except (KeyError, IndexError, SpecError):
        return None


def _number(key: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise SpecError(f"{key}: {short(text)} - must be a whole number")
    return int(text)


def _named(name: str) -> ArchSpec | None:
    """The preset or published model of that name."""
    return (
        published.resolve(name) if name in presets.names() or name in published.models() else None
    )


@lru_cache(maxsize=256)
def encode(spec: ArchSpec) -> str:
    """The name of the preset or published model that the design is, else its YAML, deflated, in the
    URL-safe alphabet, behind the version of this form."""
    if _named(spec.name) == spec:
        return spec.name
    deflate = zlib.compressobj(9, zdict=_DICTIONARY[VERSION])
    packed = deflate.compress(spec.to_yaml().encode()) + deflate.flush()
    return f"{VERSION}.{base64.urlsafe_b64encode(packed).decode().rstrip('=')}"


def decode(text: str) -> ArchSpec:
    """The design of a link. Raises SpecError with one line for a link that is cut, forged, too
    large or of a newer version."""
    if (named := _named(text)) is not None:
        return named
    version, _, packed = text.partition(".")
    if version.isascii() and version.isdigit() and len(version) < 4 and version not in _DICTIONARY:
        raise SpecError(
            f"link: version {version} - was made by a newer explorer; this one reads up to {VERSION}"
        )
    if version not in _DICTIONARY or not packed:
        raise SpecError(f"link: {text[:20]!r} - is neither a preset's name nor a design link")
    if len(packed) > MAX_LINK:
        raise SpecError(f"link: {len(packed):,} characters - may have at most {MAX_LINK:,}")
    try:
        raw = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
        unpacker = zlib.decompressobj(zdict=_DICTIONARY[version])
        yaml = unpacker.decompress(raw, MAX_YAML)
    except (binascii.Error, ValueError, zlib.error):
        raise SpecError("link: cut or damaged - copy the whole link again") from None
    if not unpacker.eof:
        raise SpecError("link: cut, or larger than a design can be - copy the whole link again")
    return ArchSpec.from_yaml(yaml)
