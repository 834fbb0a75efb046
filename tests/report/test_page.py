"""The page in a browser: it opens without an error, answers, and is legible on a telephone and on paper."""

import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.synthetic import STUDY, digits, times
from tombola.report.page import render
from tombola.study.spec import read

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; .ci/run installs it")

RECORDS = digits(seeds=15, levels=19)  # 2040 rows
READY_SECONDS = 3.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two thousand records."""
    html, _ = render(RECORDS, STUDY, stages=times(RECORDS))
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html)
    return path


class Opened:
    """A page in the browser, with what it complained about and what it asked the network for."""

    def __init__(self, browser: Any, path: Path, **context: Any):
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def ready(self) -> "Opened":
        self.page.wait_for_selector("html[data-ready]", state="attached")
        return self

    def explored(self) -> "Opened":
        """The page with its interactive charts in view."""
        self.ready().page.locator("#explore").scroll_into_view_if_needed()
        self.page.wait_for_selector("html[data-drawn]", state="attached")
        return self

    def chart(self, what: str = "curves") -> Any:
        return self.page.locator(f"#{what} .chart")

    def drawn(self, expression: str, what: str = "curves") -> Any:
        """An expression of `chart`, plotly's element."""
        return self.chart(what).evaluate(f"chart => {expression}")

    def choose(self, label: str, value: str, what: str = "curves") -> None:
        self.page.locator(f"#{what}").get_by_label(label, exact=True).select_option(value)

    def lines(self) -> list[str]:
        """The curves that are shown."""
        return self.drawn("chart.data.filter(trace => trace.name).map(trace => trace.name)")

    def hover(self, curve: str, point: int) -> str:
        """The text that appears over a point of a curve."""
        self.chart().scroll_into_view_if_needed()
        place = self.drawn(
            f"""(i => {{
                const trace = chart.data.find(trace => trace.name === {curve!r});
                const {{xaxis, yaxis, _size}} = chart._fullLayout;
                const box = chart.getBoundingClientRect();
                return [box.x + _size.l + xaxis.d2p(trace.x[i]), box.y + _size.t + yaxis.d2p(trace.y[i])];
            }})({point})"""
        )
        self.page.mouse.move(*place)
        self.page.wait_for_selector(".hoverlayer .hovertext")
        return self.page.locator(".hoverlayer .hovertext").first.evaluate(
            "label => [...label.querySelectorAll('tspan.line')].map(line => line.textContent).join('\\n')"
        )


@pytest.fixture(scope="module")
def opened(browser: Any, file: Path) -> Iterator[Opened]:
    """The page on a desktop, as it is at first."""
    found = Opened(browser, file, viewport={"width": 1280, "height": 900}).explored()
    yield found
    found.context.close()


def test_the_page_of_2000_records_is_small(file: Path) -> None:
    assert len(RECORDS) >= 2000
    assert file.stat().st_size < 8e6


def test_nothing_is_complained_about_and_nothing_asked_of_the_network(browser: Any, file: Path) -> None:
    found = Opened(browser, file).explored()
    found.page.wait_for_selector("#layers .heatmaplayer image, #layers .heatmaplayer path", state="attached")
    assert found.complaints == []
    assert [url for url in found.requests if not url.startswith(("data:", "blob:"))] == [file.as_uri()]
    found.context.close()


@pytest.mark.slow  # by the clock, so a busy machine would fail it
def test_the_page_of_2000_records_is_interactive_in_three_seconds(browser: Any, file: Path) -> None:
    seconds = []
    for _ in range(3):
        found = Opened(browser, file).explored()
        seconds.append(found.page.evaluate("() => performance.now()") / 1000)
        assert found.lines()
        found.context.close()
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)  # other programs take their share of the time
    assert min(seconds) < READY_SECONDS * max(1.0, busy), seconds


def test_in_the_dark_a_mark_without_a_colour_of_its_own_is_seen(browser: Any, file: Path) -> None:
    """matplotlib writes no colour for black, which is the default of SVG."""
    found = Opened(browser, file, color_scheme="dark").ready()
    assert found.page.locator(".plots svg").first.evaluate("plot => getComputedStyle(plot).fill") == "rgb(242, 242, 242)"
    found.context.close()


def test_curves_are_toggled(opened: Opened) -> None:
    everything = opened.lines()
    assert set(everything) == set(RECORDS["curve"])
    box = opened.page.get_by_label("transplant", exact=True)
    box.uncheck()
    assert set(opened.lines()) == set(everything) - {"transplant"}
    box.focus()
    opened.page.keyboard.press("Space")
    assert opened.lines() == everything
    opened.page.get_by_role("button", name="without controls").click()
    assert set(opened.lines()) == {"ticket (snr)", "ticket (mu)", "deterministic (magnitude)", "transplant"}
    assert not opened.page.get_by_label("re-init (snr)", exact=True).is_checked()
    opened.page.get_by_role("button", name="all", exact=True).click()
    assert opened.lines() == everything


def test_any_metric_can_be_chosen(opened: Opened) -> None:
    options = opened.page.locator("#curves select").first.locator("option").all_text_contents()
    assert options[:3] == ["accuracy", "NLL", "Brier score"]
    assert {"Brier score", "top-label MACE", "mean drift of log sigma", "training time"} <= set(options)
    opened.choose("quantity", "nll")
    assert opened.page.locator("#curves .ytitle").text_content() == "test NLL (nats)"
    shown = opened.drawn("chart.data.find(trace => trace.name === 'ticket (mu)').y")
    assert shown == pytest.approx(
        RECORDS[RECORDS["curve"] == "ticket (mu)"].groupby("level")["nll"].mean().tolist(), rel=1e-4
    )
    opened.choose("quantity", "accuracy")
    assert opened.page.locator("#curves .ytitle").text_content() == "test accuracy (%)"


def test_every_metric_is_drawn_on_both_scales_without_a_complaint(opened: Opened) -> None:
    assert RECORDS["brier"].nunique() == 1  # some are the same everywhere, but for the rounding of means
    metrics = opened.page.locator("#curves select").first.locator("option").evaluate_all("all => all.map(one => one.value)")
    for scale in ("log", "linear"):
        opened.choose("values", scale)
        for metric in metrics:
            opened.choose("quantity", metric)
    opened.choose("quantity", "accuracy")
    assert opened.complaints == []


def test_calibration_has_its_null_in_grey(opened: Opened) -> None:
    opened.choose("quantity", "ece")
    grey = opened.drawn("chart.data.filter(trace => trace.fillcolor === '#d9d9d9').map(trace => trace.y)")
    high = RECORDS.groupby("level")["ece_null_high"].mean().tolist()
    assert grey[0][: len(high)] == pytest.approx(high, rel=1e-4)
    opened.choose("quantity", "accuracy")
    assert opened.drawn("chart.data.filter(trace => trace.fillcolor === '#d9d9d9').length") == 0


def test_axes_are_log_or_linear(opened: Opened) -> None:
    types = "[chart._fullLayout.xaxis.type, chart._fullLayout.yaxis.type]"
    assert opened.drawn(types) == ["log", "linear"]
    opened.choose("weights left", "linear")
    opened.choose("values", "log")
    assert opened.drawn(types) == ["linear", "log"]
    most, least = opened.drawn("chart._fullLayout.xaxis.range")
    assert most > 100 > 0 > least  # dense on the left
    opened.choose("weights left", "log")
    opened.choose("values", "linear")


def test_hovering_shows_every_seed(opened: Opened) -> None:
    text = opened.hover("ticket (snr)", 3)
    rows = RECORDS[(RECORDS["curve"] == "ticket (snr)") & (RECORDS["level"] == 3)].set_index("seed")["accuracy"]
    assert "ticket (snr)" in text
    assert "26.2% left, level 3" in text
    assert f"accuracy {100 * rows.mean():.1f}%, mean of 15 seeds" in text
    for seed in range(12):
        assert f"seed {seed}: {100 * rows[seed]:.1f}%" in text
    assert "and 3 more" in text


def test_each_seed_can_be_drawn(opened: Opened) -> None:
    opened.choose("over seeds", "seeds")
    points = opened.drawn("chart.data.filter(trace => !trace.name).map(trace => trace.y.length)")
    assert sum(points) == len(RECORDS)
    opened.choose("over seeds", "range")


def test_a_heat_map_shows_the_curve_that_is_chosen(opened: Opened) -> None:
    opened.page.locator("#layers").scroll_into_view_if_needed()
    opened.page.wait_for_selector("#layers .plotly", state="attached")
    opened.choose("curve", "3", "layers")
    name = opened.page.locator("#layers option:checked").text_content()
    assert name in opened.drawn("chart.data[0].text[0][0]", "layers")
    assert opened.drawn("chart.data[0].z", "layers")[0][0] == pytest.approx(math.log10(70 * 0.64), abs=1e-4)


def test_a_figure_can_be_explored(opened: Opened) -> None:
    opened.page.locator("a.explore[data-metric=mace]").click()
    assert opened.page.locator("#curves .ytitle").text_content() == "top-label MACE (fraction)"
    opened.choose("quantity", "accuracy")


def test_no_other_script_runs(browser: Any, file: Path) -> None:
    found = Opened(browser, file).explored()
    foreign = "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.foreign = 1'}))"
    found.page.evaluate(f"() => {{ {foreign}; }}")
    assert found.page.evaluate("() => window.foreign === undefined")
    assert "Content Security Policy" in found.complaints[0]
    found.context.close()


TELEPHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def test_a_telephone_shows_all_of_it(browser: Any, file: Path) -> None:
    found = Opened(browser, file, **TELEPHONE).explored()
    assert found.page.evaluate("() => document.documentElement.scrollWidth") <= 390
    for box in (found.chart().bounding_box(), found.page.get_by_label("quantity").bounding_box()):
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    found.page.evaluate("() => document.querySelectorAll('details').forEach(each => { each.open = true; })")
    cells = found.page.locator("td").evaluate_all("all => all.map(cell => cell.getBoundingClientRect())")
    assert len(cells) > 300
    assert all(cell["width"] > 0 and cell["x"] >= 0 and cell["x"] + cell["width"] <= 390 for cell in cells)
    assert found.page.evaluate("() => document.documentElement.scrollWidth") <= 390
    assert found.complaints == []
    found.context.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study like the demo: six curves, eleven levels, three seeds, with the times of its stages."""
    records = digits(levels=10)[lambda rows: rows["arm"] != "shuffle_global"].assign(classes=10)
    study = {**STUDY, **shipped_demo()}
    html, _ = render(records, study, stages=times(records))
    path = tmp_path_factory.mktemp("demo") / "report.html"
    path.write_text(html)
    return path


def shipped_demo() -> dict[str, Any]:
    """The words of the demo."""
    return {key: value for key, value in read("demo", []).items() if key in ("name", "description")}


@pytest.mark.parametrize(("width", "first", "height"), [(390, 1200, math.inf), (1280, 700, 6000), (1920, 700, 6000)])
def test_the_first_figure_is_near_the_top_and_the_page_is_short(
    browser: Any, demo: Path, width: int, first: int, height: int
) -> None:
    found = Opened(browser, demo, viewport={"width": width, "height": 900}).explored()
    found.page.wait_for_selector("#layers .plotly", state="attached")
    assert found.page.evaluate("() => document.querySelector('figure').getBoundingClientRect().top + scrollY") <= first
    assert found.page.evaluate("() => document.documentElement.scrollHeight") <= height
    assert found.page.evaluate("() => document.documentElement.scrollWidth") <= width
    found.context.close()


def test_a_wide_window_is_used(browser: Any, demo: Path) -> None:
    found = Opened(browser, demo, viewport={"width": 1600, "height": 900}).ready()
    figure = found.page.locator("figure").nth(1)
    assert figure.bounding_box()["width"] > 0.9 * 1600
    plots = figure.locator(".plots > svg").evaluate_all("all => all.map(plot => plot.getBoundingClientRect())")
    assert len({plot["y"] for plot in plots}) == 1
    assert len({round(plot["height"]) for plot in plots}) == 1
    found.context.close()


LUMINANCE = """colour => {
  const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
  return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
}"""


def test_a_dark_page_is_dark_and_its_curves_are_light(browser: Any, demo: Path) -> None:
    def shade(found: Opened, where: str, what: str) -> float:
        element = found.page.locator(where).first
        return found.page.evaluate(LUMINANCE, element.evaluate(f"each => getComputedStyle(each).{what}"))

    for scheme, page, rest in (("light", (0.9, 1), (0, 0.75)), ("dark", (0, 0.15), (0.3, 1))):
        found = Opened(browser, demo, color_scheme=scheme, viewport={"width": 1280, "height": 900}).explored()
        assert page[0] <= shade(found, "body", "backgroundColor") <= page[1]
        for where, what in (("figure .plots text", "fill"), ("figure .swatch path", "stroke"), ("figcaption", "color")):
            assert rest[0] <= shade(found, where, what) <= rest[1], (scheme, where)
        paper = found.page.evaluate(
            LUMINANCE,
            found.page.locator("#curves .bg, #curves .main-svg").first.evaluate(
                "each => each.style.background || getComputedStyle(each).fill"
            ),
        )
        assert page[0] <= paper <= page[1]
        assert found.complaints == []
        found.context.close()


def test_paper_shows_figures_and_no_charts(browser: Any, file: Path) -> None:
    found = Opened(browser, file).explored()
    plot, control = found.page.locator("figure .plots > svg").first, found.page.locator("#curves .controls")
    assert plot.is_visible()
    assert control.is_visible()
    found.page.emulate_media(media="print")
    assert plot.is_visible()
    assert not control.is_visible()
    pdf = found.page.pdf(format="A4")
    assert pdf.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 3
    found.context.close()


def test_without_scripts_the_figures_are_there(browser: Any, file: Path) -> None:
    found = Opened(browser, file, java_script_enabled=False)
    assert found.page.locator(".plots > svg:visible").count() == found.page.locator(".plots > svg").count() > 5
    assert found.page.locator("#explore:visible, .explore:visible").count() == 0
    found.context.close()


def test_names_are_never_read_as_html(browser: Any, tmp_path: Path, no_figures: None) -> None:
    evil = '<img src=x onerror="alert(1)"> </script><script>alert(2)</script> &amp;'
    records = digits(seeds=2, levels=2).replace({"curve": {"global shuffle (snr)": evil}})
    html, _ = render(records, {**STUDY, "name": evil})
    path = tmp_path / "report.html"
    path.write_text(html)
    found = Opened(browser, path).explored()
    assert found.page.locator("h1").text_content() == evil
    assert found.page.get_by_label(evil, exact=True).is_checked()
    name = found.drawn("chart.data.map(trace => trace.name).find(name => name && name.includes('onerror'))")
    assert evil in found.hover(name, 1)
    assert found.page.locator("img").count() == 0
    assert found.complaints == []
    found.context.close()


def test_an_empty_study_has_a_page_without_scripts(browser: Any, tmp_path: Path) -> None:
    html, _ = render(RECORDS[:0], STUDY, missing=3)
    path = tmp_path / "report.html"
    path.write_text(html)
    found = Opened(browser, path)
    assert found.page.get_by_text("Nothing is finished yet.", exact=True).is_visible()
    assert found.page.locator("script").count() == 0
    assert found.complaints == []
    found.context.close()
