"""The claims on the report's page: only of the paper's studies, a line each, folded, with verdicts in words."""

import re

import pytest

from support.running import leave_out_figures
from support.synthetic import STUDY, digits
from tombola.report.page import render

PAPER = {**STUDY, "name": "paper-scores"}

SHOWN = "(✓ supported|✗ contradicted|[?] inconclusive|○ not testable here|\N{EN DASH} no verdict)"
"""A verdict as the page shows it."""


def section(html):
    found = re.search(r'<section class="claims".*?</section>', html, re.S)
    return found[0] if found else ""


@pytest.fixture(scope="module")
def shown():
    """The section of a study of a VGG with tickets, deterministic tickets and controls."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_figures(patch)
        html, _ = render(digits(seeds=5, levels=10).assign(model="vgg11"), PAPER)
    return section(html)


def test_a_claim_has_its_verdict_in_words_with_effect_interval_and_seeds(shown):
    row = re.search(r"<details>\s*<summary><b>1h</b>.*?</details>", shown, re.S)[0]
    assert "mu alone matches snr" in row
    assert re.search(
        rf'<td data-head="verdict" class="[\w-]+"><b>{SHOWN}</b></td><td data-head="alone">({SHOWN})?</td>', row
    )
    assert re.search(r"[+\N{MINUS SIGN}]\d\.\d\d \[[+\N{MINUS SIGN}]\d+\.\d\d, [+\N{MINUS SIGN}]\d+\.\d\d\] points", row)
    assert "within ±1" in row
    assert '<td data-head="seeds">5</td>' in row
    assert "area over log density" in row


def test_a_claim_is_one_line_until_it_is_opened(shown):
    lines = re.findall(r"<summary><b>(\w+)[^<]*</b>(.*?)</summary>", shown, re.S)
    assert len(lines) == len({name for name, _ in lines}) > 5
    for _, line in lines:
        assert re.search(rf'<span class="verdict [\w-]+">vgg11 <b>{SHOWN}</b></span>', line)
        assert "\n" not in line


def test_the_best_epoch_is_marked_as_optimistic(shown):
    assert '<th scope="col">beside*</th>' in shown
    assert "*Optimistic" in shown


def test_claims_without_data_are_folded_away_with_what_they_need(shown):
    shown, folded = shown.split("Claims that this study has no data for")
    assert "needs learning-rate" not in shown
    assert "tombola run paper/rate" in folded
    assert "<b>7a</b>" in folded


def test_a_study_without_data_for_any_claim_has_no_such_section(no_figures):
    records = digits(seeds=2, levels=1).assign(model="vgg11")
    html, _ = render(records[records["curve"] == "re-init (snr)"].assign(train_seconds=float("nan")), PAPER)
    assert section(html) == ""
    html, _ = render(digits().iloc[:0], PAPER)
    assert section(html) == ""


def test_claims_are_those_of_the_papers_studies_only(no_figures):
    html, _ = render(digits(seeds=2, levels=1).assign(model="vgg11"), STUDY)
    assert section(html) == ""
    assert "#claims" not in html


def test_figures_come_before_claims_and_claims_before_tables(no_figures):
    html, _ = render(digits(seeds=2, levels=2).assign(model="vgg11"), PAPER)
    places = [
        html.index(each) for each in ("Figure 1.", "<nav", "Figure 2.", '<section class="claims"', '<section id="tables"')
    ]
    assert places == sorted(places)
