"""The main job in a real browser, as a person does it."""

from pathlib import Path

from playwright.sync_api import Page, expect

from hybrid_core import link, presets
from hybrid_core.costs.model import model_costs
from hybrid_core.report import units
from hybrid_core.spec import ArchSpec

MINUTES = 60_000


def choose(page: Page, label: str, option: str) -> None:
    """Pick an option of a select box by mouse."""
    box = page.get_by_test_id("stSelectbox").filter(has_text=label).get_by_role("combobox").first
    box.click()
    box.fill(option)  # a long list shows only a part of it
    page.get_by_role("option", name=option, exact=True).click()


def metric(page: Page, label: str) -> str:
    """The value of a key number."""
    return page.get_by_test_id("stMetric").filter(has_text=label).get_by_test_id("stMetricValue").inner_text()


def save(page: Page, button: str, to: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).or_(page.get_by_test_id("stDownloadButton").filter(has_text=button)).first.click()
    download.value.save_as(to)
    return to


def test_opens_on_the_papers_inter_hybrid_with_its_numbers(page: Page, server: str) -> None:
    page.goto(server)
    expect(page.get_by_role("heading", name="inter-1to5-1b")).to_be_visible()
    assert metric(page, "Parameters without embedding") == "959M"
    assert metric(page, "Cache per sequence") == "54.3 MiB"
    expect(page.get_by_text("Cache of one sequence against context")).to_be_visible()
    assert page.locator(".js-plotly-plot").count() >= 5


def test_numbers_follow_a_change_and_bad_input_keeps_the_last_good_design(page: Page, server: str) -> None:
    page.goto(server)
    layers = page.get_by_role("textbox", name="Layers of the expensive kind")
    layers.fill("1, 4, 8")
    layers.press("Enter")
    expect(page.get_by_test_id("stMetricValue").filter(has_text="944M")).to_be_visible()
    layers.fill("4, 99")
    layers.press("Enter")
    expect(page.get_by_text("layers.indices: 99 - must be from 1 to n_layers (13)")).to_be_visible()
    assert metric(page, "Parameters without embedding") == "944M"


def test_compose_profile_and_take_away_by_mouse(page: Page, server: str, tmp_path: Path) -> None:
    page.goto(server)
    choose(page, "Start from", "inter-1to5-100m")
    expect(page.get_by_role("heading", name="inter-1to5-100m")).to_be_visible()
    small = presets.get("inter-1to5-100m").spec
    assert metric(page, "Parameters without embedding") == units.count(model_costs(small).params().non_embedding)

    yaml = save(page, "Download YAML", tmp_path / "design.yaml")
    assert ArchSpec.load(yaml) == small

    page.get_by_role("button", name="Profile this design").click()
    expect(page.get_by_role("heading", name="Profile", exact=True)).to_be_visible()
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(page.get_by_role("heading", name="inter-1to5-100m, done")).to_be_visible(timeout=3 * MINUTES)
    expect(page.get_by_text("traced and exact agree to the last FLOP")).to_be_visible()
    assert "tokens/s" in metric(page, "Prefill")

    report = save(page, "Save report", tmp_path / "report.html")
    page.context.set_offline(True)
    page.goto(report.as_uri())
    expect(page.get_by_role("heading", name="Profile of inter-1to5-100m")).to_be_visible()
    expect(page.get_by_text("Generation speed: predicted, measured, paper")).to_be_visible()
    expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible()
    expect(page.get_by_text("layers: {strategy: inter")).to_be_visible()


def test_a_running_profile_can_be_cancelled(page: Page, server: str) -> None:
    page.goto(f"{server}/?design={link.encode(presets.get('mamba-100m').spec)}")
    expect(page.get_by_role("heading", name="mamba-100m")).to_be_visible()
    page.get_by_role("button", name="Profile this design").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("heading", name="mamba-100m, cancelled")).to_be_visible()
    expect(page.get_by_text("No job is running or waiting.")).to_be_visible()


def test_upload_of_a_design_and_of_nonsense(page: Page, server: str, tmp_path: Path) -> None:
    page.goto(server)
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(presets.get("intra-1to3-1b").spec.replace(name="mine <script>alert(1)</script>").to_yaml())
    bad.write_text("a: &a [1]\nb: *a\n")
    page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(good)
    expect(page.get_by_role("heading", name="mine <script>alert(1)</script>")).to_be_visible()
    page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(bad)
    expect(page.get_by_text("aliases (*name) are not allowed in a design")).to_be_visible()
    expect(page.get_by_role("heading", name="mine <script>alert(1)</script>")).to_be_visible()


def test_a_damaged_link_is_said_and_the_example_shown(page: Page, server: str) -> None:
    page.goto(f"{server}/?design=1.{'A' * 50}")
    expect(page.get_by_text("This link cannot be opened")).to_be_visible()
    expect(page.get_by_role("heading", name="inter-1to5-1b")).to_be_visible()


def test_the_paper_page_shows_table_2_and_its_figures(page: Page, server: str) -> None:
    page.goto(f"{server}/paper")
    expect(page.get_by_text("Table 2: five designs at 1B, 60B tokens")).to_be_visible()
    for title in (
        "Quality against speed",
        "Generation speed against total length (Figure 3a)",
        "Cache of one sequence against context (Figure 3b)",
    ):
        expect(page.get_by_text(title)).to_be_visible()
    assert page.get_by_test_id("stException").count() == 0


def test_every_page_fits_800_pixels(page: Page, server: str) -> None:
    page.set_viewport_size({"width": 800, "height": 1000})
    for path in ("", "profile", "retrieval", "paper", "runs"):
        page.goto(f"{server}/{path}")
        expect(page.get_by_role("heading").first).to_be_visible()
        page.wait_for_timeout(1500)
        assert page.get_by_test_id("stException").count() == 0
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0, f"{path or 'compose'} is {overflow} px too wide"
