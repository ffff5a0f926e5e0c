"""A report lists where its numbers come from, and each number leads to its entry of
profiles/numbers.yaml."""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybrid_core.design import presets
from hybrid_core.interop import link, published
from hybrid_core.report import references
from hybrid_core.report.charts import charts
from hybrid_core.report.figures.stack import stack_chart
from hybrid_core.report.html import design_report, report
from hybrid_core.report.references import References
from hybrid_core.report.sources import Origin, origins
from hybrid_core.runs.store import Run, open_store
from hybrid_core.workload import Workload
from tests.designs import design

ENTRIES: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[2] / "profiles/numbers.yaml").read_text("utf-8")
)
VIEW = link.View(design=presets.get("inter-1to5-1b").spec)
MARK = re.compile(r'<sup class="ref"><a href="#source-(\w+)" title="([^"]*)">(\d+)</a></sup>')


@pytest.fixture(autouse=True)
def _own_data(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("HYBRID_DATABASE_URL", raising=False)


def profiled() -> Run:
    """A run that measured its decode speed and its cache."""
    store = open_store()
    run_id = store.create("profile", design("AM"), {}, "cpu")
    speed = {
        "context_len": 64,
        "tokens_per_s": 50.0,
        "predicted_tokens_per_s": 80.0,
        "repeats": 3,
        "median_s": 0.02,
        "min_s": 0.01,
        "max_s": 0.03,
    }
    store.put_part(run_id, "decode", {"batch_size": 1, "rows": [speed]})
    row = {"context_len": 64, "live_bytes": 512, "exact_bytes": 512, "paper_bytes": 512}
    store.put_part(run_id, "cache", {"rows": [row]})
    store.finish(run_id, "done")
    return store.get(run_id)


def pages() -> Iterator[str]:
    yield design_report(VIEW)
    yield report([profiled()])


def entries(page: str) -> dict[str, str]:
    """Key -> text of its entry in the list at the end, in order."""
    _, _, after = page.partition("<h2>Where the numbers come from</h2>")
    found = re.findall(r'<li id="source-(\w+)">(.*?)</li>', after, re.DOTALL)
    return dict(found)


def test_each_small_number_is_the_place_of_its_entry_in_the_list() -> None:
    for page in pages():
        listed = list(entries(page))
        marks = MARK.findall(page)
        assert {key for key, _, _ in marks} == set(listed)
        for key, title, number in marks:
            assert listed[int(number) - 1] == key
            assert unescape(title) == ENTRIES[key]["label"]
        first_seen = list(dict.fromkeys(key for key, _, _ in marks))
        assert first_seen == listed


def test_an_entry_says_conventions_formula_function_and_source() -> None:
    for page in pages():
        for key, text in entries(page).items():
            entry = ENTRIES[key]
            words = unescape(text)
            assert f"<b>{entry['label']}</b>, {entry['unit']}" in words
            for convention, what in entry["conventions"].items():
                assert f"<b>{convention}</b>: {what}" in words
            assert '<math display="block">' in text
            assert f"<code>{entry['where']}</code>" in words
            assert f"Source: {entry['source']}" in words


def marked(page: str, before: str) -> str:
    """The key of the small number behind some text."""
    found = re.search(re.escape(before) + MARK.pattern, page)
    assert found, before
    return found[1]


def test_the_numbers_of_a_design_lead_to_their_own_entries() -> None:
    page = next(pages())
    assert marked(page, "959M parameters without embedding (exact).") == "parameters"
    assert marked(page, "<td>cache per sequence at 8K (exact)") == "cache"
    assert marked(page, "<td>training FLOPs per token at 8K (paper)") == "training_flops"
    assert marked(page, "The stack: what each layer is, and its share") == "layer_parameters"
    assert marked(page, "<th>accuracy") == "accuracy"
    assert "needles_recalled" not in entries(page)


def test_the_numbers_of_a_run_lead_to_their_own_entries() -> None:
    page = report([profiled()])
    assert marked(page, "<span>decode at 64, batch 1") == "decode"
    assert marked(page, "<td>decode at 64 tokens (predicted)") == "decode"
    assert marked(page, "<td>cache at 64 tokens (measured)") == "live_cache"
    assert "<td>device</td>" in page  # no number


def test_a_report_on_a_mamba_1_design_says_what_its_neighbours_are() -> None:
    page = design_report(link.View(design=published.models()["Falcon-Mamba-7B"].spec))
    said = "quoted, 60B tokens. The paper measured Mamba-2; this design's Mamba layers are Mamba-1."
    assert said in unescape(page)


def test_what_stands_in_an_entry_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = ENTRIES["cache"] | {"label": '<b>"bold"</b>', "source": "<script>"}
    known = origins() | {"cache": Origin.make(**fields)}
    monkeypatch.setattr(references, "origins", lambda: known)
    assert MARK.findall(References().mark("cache"))[0][1] == "&lt;b&gt;&#34;bold&#34;&lt;/b&gt;"
    page = design_report(VIEW)
    assert "<li><b>&lt;b&gt;" in page.replace(' id="source-cache"', "")
    assert "Source: &lt;script&gt;" in page


def test_one_entry_keeps_its_number() -> None:
    found = References()
    first = found.mark("cache", "nll")
    assert [number for _, _, number in MARK.findall(first)] == ["1", "2"]
    assert MARK.findall(found.mark("nll"))[0][2] == "2"
    assert [cited.anchor for cited in found.cited()] == ["source-cache", "source-nll"]
    with pytest.raises(KeyError):
        found.mark("no such number")


def test_a_chart_has_the_entries_of_what_it_draws() -> None:
    stack = stack_chart(presets.get("llama-1b").spec, Workload())
    (drawn,) = charts([stack])
    assert drawn.sources == ("layer_parameters", "layer_flops")
    assert 'id="chart-0"' in drawn.plot
