"""Links carry a design and nothing else."""

import base64
import re
import zlib

import pytest

from hybrid_core.design import presets
from hybrid_core.interop import link
from hybrid_core.validation import SpecError
from hybrid_core.workload import Workload


def pack(text: bytes) -> str:
    return "1." + base64.urlsafe_b64encode(zlib.compress(text)).decode().rstrip("=")


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_survives_a_link_short_enough_for_a_browser(name: str) -> None:
    spec = presets.get(name).spec
    assert link.encode(spec) == name
    mine = spec.replace(name="mine", norm_eps=1e-6)
    assert link.decode(link.encode(mine)) == mine
    assert len(link.encode(mine)) < 200


def test_a_link_of_the_first_version_still_opens() -> None:
    spec = presets.get("inter-1to5-1b").spec
    assert link.decode(pack(spec.to_yaml().encode())) == spec


def test_a_whole_view_survives_its_query() -> None:
    llama, intra = presets.get("llama-1b").spec, presets.get("intra-1to5-1b").spec
    work = Workload(batch_size=4, context_len=65536, kv_cache_dtype="fp8")
    view = link.View(
        design=intra.replace(name="mine"),
        workload=work,
        hardware="rtx_4090",
        reference=llama,
        compared=(llama, intra),
    )
    query = {
        key: value if isinstance(value, list) else [value]
        for key, value in link.to_query(view).items()
    }
    assert link.from_query(query) == view
    assert link.from_query({}) == link.View(design=presets.get(presets.FIRST).spec)


@pytest.mark.parametrize(
    "query",
    [
        {"context": ["1e9"]},
        {"context": ["-1"]},
        {"context": ["9" * 5000]},
        {"batch": ["0"]},
        {"weights": ["<script>"]},
        {"device": ["../../etc/passwd"]},
        {"reference": ["nobody"]},
        {"with": ["llama-1b"] * 4},
        {"with": ["llama-1b", "2.cut"]},
    ],
    ids=str,
)
def test_bad_views_are_one_line(query: dict[str, list[str]]) -> None:
    with pytest.raises(SpecError) as error:
        link.from_query(query)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


GOOD = link.encode(presets.get("llama-1b").spec.replace(name="mine", n_layers=15))
HOSTILE = {
    "cut": GOOD[:-20],
    "forged": GOOD[:30] + "AAAA" + GOOD[34:],
    "newer version": "3" + GOOD[1:],
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


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"device": ["toaster"]}, "device: 'toaster' - must be one of"),
        ({"context": ["0"]}, "context: 0 - must be greater than or equal to 1"),
        (
            {"weights": ["int3"]},
            "weights: 'int3' - must be "
            "'fp32', 'bf16', 'fp16', 'fp8', 'int8', 'int4', 'mxfp4' or 'nvfp4'",
        ),
        ({"with": ["llama-1b"] * 9}, "with: 9 designs - at most 3"),
    ],
)
def test_a_refusal_has_the_links_own_words_and_leaves_its_design(
    query: dict[str, list[str]], says: str
) -> None:
    given = {"design": ["intra-1to5-1b"]} | query
    with pytest.raises(SpecError, match=re.escape(says)):
        link.from_query(given)
    assert link.design_of(given) == presets.get("intra-1to5-1b").spec
    assert link.design_of({"design": ["2.cut"]}) is None and link.design_of({}) is None
