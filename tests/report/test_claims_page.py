"""The claims on the report's page: verdicts in words, colours that are not needed to read them, gaps folded away."""

import re

import pytest

from support.running import leave_out_figures
from support.synthetic import STUDY, digits
from tombola.report.page import render


def section(html):
    found = re.search(r'<section class="claims">.*?</section>', html, re.S)
    return found[0] if found else ""


@pytest.fixture(scope="module")
def shown():
    """The section of a study of a VGG with tickets, deterministic tickets and controls."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_figures(patch)
        html, _ = render(digits(seeds=5, levels=10).assign(model="vgg11"), STUDY)
    return section(html)


def test_a_claim_has_its_verdict_in_words_with_effect_interval_and_seeds(shown):
    row = re.search(r"<b>1h</b>.*?</tr>", shown, re.S)[0]
    assert "mu alone matches snr" in row
    assert re.search(r'<td class="(\w+)"><b>[✓✗?] \1</b> <small>Holm: [✓✗?] \w+</small>', row)
    assert re.search(r"[+\N{MINUS SIGN}]\d\.\d\d \[[+\N{MINUS SIGN}]\d+\.\d\d, [+\N{MINUS SIGN}]\d+\.\d\d\] points", row)
    assert "within ±1" in row
    assert "<td>5</td>" in row
    assert "area over log density" in row


def test_the_best_epoch_is_marked_as_optimistic(shown):
    assert '<th scope="col">beside*</th>' in shown
    assert "*Optimistic" in shown


def test_claims_without_data_are_folded_away_with_what_they_need(shown):
    folded = shown.split("<details>")[1]
    assert "needs learning-rate" not in shown.split("<details>")[0]
    assert "tombola run paper/rate" in folded
    assert "<b>7a</b>" in folded


def test_a_study_without_data_for_any_claim_has_no_such_section(no_figures):
    records = digits(seeds=2, levels=1).assign(model="vgg11")
    html, _ = render(records[records["curve"] == "re-init (snr)"].assign(train_seconds=float("nan")), STUDY)
    assert section(html) == ""
    html, _ = render(digits().iloc[:0], STUDY)
    assert section(html) == ""


def test_claims_are_about_the_nets_of_the_paper():
    html, _ = render(digits(seeds=2, levels=1), STUDY)  # a multi-layer perceptron
    assert section(html) == ""


def test_figures_come_before_claims():
    html, _ = render(digits(seeds=2, levels=2).assign(model="vgg11"), STUDY)
    assert html.index("Figure 1.") < html.index('<section class="claims">') < html.index("Main settings")
