"""Links: a view of the app as URL parameters, and back. A view is the design on screen, its
workload, and the designs that it is compared with.

A design is the name of a preset or of a published model, or else `VERSION.` and its deflated YAML.
Links are untrusted input, so they are validated like any other input."""

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
MAX_COMPARED = 3  # in addition to the design itself
# The compression dictionary: text that most designs contain, so that links are short. Links need
# the dictionary of their version, so changing the text means adding a new version.
_USUAL = (
    b"schema: 1\nname: intra-1to5-1b\nvocab_size: 128256\ntie_embeddings: true\n"
    b"norm_eps: 1.0e-05\nd_model: 2048\nn_layers: 13\n"
    b"layers: {strategy: custom, pattern: MMMAMMMAMMMMM}\n"
    b"layers: {strategy: inter, ratio: '1:5', placement: middle}\n"
    b"attention: {n_heads: 32, n_kv_heads: 8, head_dim: 64, position: rope, "
    b"rope_theta: 500000.0, rope_fraction: 1.0, "
    b"rope_scaling: {factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, "
    b"original_context_len: 8192}}\n"
    b"swa: {window: 512, sink: 64, rope_theta: 10000.0}\n"
    b"ssm: {kind: mamba2, d_ssm: 4096, head_dim: 128, d_state: 128, d_conv: 4, "
    b"n_groups: 1, chunk_size: 128}\n"
    b"intra: {n_heads: 16, n_kv_heads: 4, qk_head_dim: 72, v_head_dim: 128, d_ssm: 2304, "
    b"norm: group, scalar: none, fusion: diff, value: separate, out: separate}\n"
    b"ffn: {kind: swiglu, d_ff: 8192}\n"
)
_DICTIONARY = {"1": b"", VERSION: _USUAL}


class View(Frozen):
    """The contents of a link. `reference`: the design that ratios refer to; None is the Llama of
    the design's size."""

    design: ArchSpec
    workload: Workload = Workload()
    hardware: str = "h100_sxm"
    reference: ArchSpec | None = None
    compared: tuple[ArchSpec, ...] = ()

    @property
    def others(self) -> tuple[ArchSpec, ...]:
        """The compared designs, each once, without the design itself."""
        different = [spec for spec in self.compared if spec != self.design]
        return tuple(dict.fromkeys(different))


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
    """The view as URL parameters. Default values are left out."""
    usual = Workload()
    query: dict[str, str | list[str]] = {"design": encode(view.design)}
    for key, field in _WORKLOAD_KEYS.items():
        value = getattr(view.workload, field)
        if value != getattr(usual, field):
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
    """The view of a link. `query`: the values of each parameter; the last one counts. Unknown
    parameters are ignored, because other software adds its own to links. Raises SpecError with one
    line."""
    given = {key: values[-1] for key, values in query.items() if values}
    fields: dict[str, Any] = {}
    if "design" in given:
        fields["design"] = decode(given["design"])
    else:
        fields["design"] = presets.get(presets.FIRST).spec
    workload = _workload_fields(given)
    try:
        fields["workload"] = Workload.make(**workload)
        if "device" in given:
            name = given["device"][:100]
            fields["hardware"] = hardware.get(name).key
    except SpecError as error:
        raise SpecError(_with_link_keys(str(error))) from None
    if "reference" in given:
        fields["reference"] = decode(given["reference"])
    compared = query.get("with", ())
    if len(compared) > MAX_COMPARED:
        rule = f"at most {MAX_COMPARED} can be compared with the first"
        raise SpecError(f"with: {len(compared)} designs - {rule}")
    return View(**fields, compared=tuple(map(decode, compared)))


def _workload_fields(given: Mapping[str, str]) -> dict[str, Any]:
    """The fields of the workload that the link sets."""
    found: dict[str, Any] = {}
    for key, field in _WORKLOAD_KEYS.items():
        if key not in given:
            continue
        text = given[key]
        found[field] = _number(key, text) if field in _NUMBERS else text
    return found


def _with_link_keys(line: str) -> str:
    """An error message about the workload or the hardware, with the link's own key."""
    ours, colon, rest = line.partition(":")
    names = {"hardware": "device"}
    for key, field in _WORKLOAD_KEYS.items():
        names[field] = key
    return f"{names.get(ours, ours)}{colon}{rest}"


def design_of(query: Mapping[str, Sequence[str]]) -> ArchSpec | None:
    """The design of a link whose other parameters may be wrong. None if the design itself cannot
    be read."""
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
    if name in presets.names() or name in published.models():
        return published.resolve(name)
    return None


@lru_cache(maxsize=256)
def encode(spec: ArchSpec) -> str:
    """A design as a parameter: its name if it is a preset or a published model, else `VERSION.` and
    its YAML, deflated, in the URL-safe alphabet."""
    if _named(spec.name) == spec:
        return spec.name
    deflate = zlib.compressobj(level=9, zdict=_DICTIONARY[VERSION])
    packed = deflate.compress(spec.to_yaml().encode())
    packed += deflate.flush()
    text = base64.urlsafe_b64encode(packed).decode()
    return f"{VERSION}.{text.rstrip('=')}"


def decode(text: str) -> ArchSpec:
    """The design of a parameter. Raises SpecError with one line if the link is cut off, forged, too
    large or of a newer version."""
    named = _named(text)
    if named is not None:
        return named
    version, _, packed = text.partition(".")
    if version not in _DICTIONARY and _is_version(version):
        rule = f"was made by a newer explorer; this one reads up to {VERSION}"
        raise SpecError(f"link: version {version} - {rule}")
    if version not in _DICTIONARY or not packed:
        raise SpecError(f"link: {text[:20]!r} - is neither a preset's name nor a design link")
    if len(packed) > MAX_LINK:
        raise SpecError(f"link: {len(packed):,} characters - may have at most {MAX_LINK:,}")
    return ArchSpec.from_yaml(_unpacked(packed, _DICTIONARY[version]))


def _is_version(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 4


def _unpacked(packed: str, dictionary: bytes) -> bytes:
    """The YAML of a link, at most MAX_YAML bytes. Raises SpecError if the link is cut off, forged
    or larger."""
    padding = "=" * (-len(packed) % 4)  # encode() leaves it out
    try:
        raw = base64.b64decode(packed + padding, altchars=b"-_", validate=True)
        unpacker = zlib.decompressobj(zdict=dictionary)
        yaml = unpacker.decompress(raw, MAX_YAML)
    except (binascii.Error, ValueError, zlib.error):
        raise SpecError("link: cut or damaged - copy the whole link again") from None
    if not unpacker.eof:
        raise SpecError("link: cut, or larger than a design can be - copy the whole link again")
    return yaml
