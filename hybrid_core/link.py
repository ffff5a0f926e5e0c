"""A design as a short text for a URL, and back."""

import base64
import binascii
import zlib

from hybrid_core.spec import ArchSpec, SpecError

VERSION = "1"
MAX_LINK = 8_000
MAX_YAML = 20_000


def encode(spec: ArchSpec) -> str:
    """The design's YAML, deflated, in the URL-safe alphabet, behind the version of this form."""
    packed = base64.urlsafe_b64encode(zlib.compress(spec.to_yaml().encode(), 9)).decode()
    return f"{VERSION}.{packed.rstrip('=')}"


def decode(text: str) -> ArchSpec:
    """The design of a link. Raises SpecError with one line for a link that is cut, forged, too large or of another version."""
    version, _, packed = text.partition(".")
    if version != VERSION or not packed:
        raise SpecError(f"link: {text[:20]!r} - is not a design link of version {VERSION}")
    if len(packed) > MAX_LINK:
        raise SpecError(f"link: {len(packed):,} characters - may have at most {MAX_LINK:,}")
    try:
        raw = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
        unpacker = zlib.decompressobj()
        yaml = unpacker.decompress(raw, MAX_YAML)
    except (binascii.Error, ValueError, zlib.error):
        raise SpecError("link: cut or damaged - copy the whole link again") from None
    if not unpacker.eof:
        raise SpecError("link: cut, or larger than a design can be - copy the whole link again")
    return ArchSpec.from_yaml(yaml)
