"""Links carry a design and nothing else."""

import base64
import zlib

import pytest

from hybrid_core import link, presets
from hybrid_core.spec import SpecError


def pack(text: bytes) -> str:
    return "1." + base64.urlsafe_b64encode(zlib.compress(text)).decode().rstrip("=")


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_survives_a_link_short_enough_for_a_browser(name: str) -> None:
    spec = presets.get(name).spec
    assert link.decode(link.encode(spec)) == spec
    assert len(link.encode(spec)) < 1000


GOOD = link.encode(presets.get("llama-1b").spec)
HOSTILE = {
    "cut": GOOD[:-20],
    "forged": GOOD[:30] + "AAAA" + GOOD[34:],
    "newer version": "2" + GOOD[1:],
    "script": "<script>alert(1)</script>",
    "empty": "",
    "zip bomb": pack(b" " * 10_000_000),
    "huge": "1." + "A" * 1_000_000,
    "yaml bomb": pack(b"a: &a [1,1]\nb: [*a,*a]"),
    "not a design": pack(b"schema: 1\nname: x\n"),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_bad_links_are_one_line(text: str) -> None:
    with pytest.raises(SpecError) as error:
        link.decode(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
