"""The comparison of two studies, on records whose answers are known, and from the command line."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from support.synthetic import STUDY, digits
from tombola.engine.folder import StudyFolder, told_apart
from tombola.errors import TombolaError
from tombola.report import write_comparison
from tombola.report.compare import Side, common_levels, common_panel, finding, look_of, render, settings_that_differ

TICKET = "ticket (snr)"


def side(label: str, records: pd.DataFrame, **settings: object) -> Side:
    return Side(label=label, records=records, study={**STUDY, **settings})


def shifted(records: pd.DataFrame, by: list[float]) -> pd.DataFrame:
    """Accuracy moved by an amount for each seed, in tickets of another key."""
    return records.assign(accuracy=records["accuracy"] + np.array(by)[records["seed"]], key="other " + records["key"])


def sentences(one: pd.DataFrame, two: pd.DataFrame) -> list[str]:
    """What is said of the studies a and b."""
    panel, pairs, alone = common_panel(1, "mlp", "digits", side("a", one), side("b", two))
    return [*(finding(panel, pair) for pair in pairs), *alone]


def test_gaps_are_paired_over_the_seeds_and_levels_of_both() -> None:
    records = shifted(digits(), [-0.01, -0.02, -0.03])
    said = sentences(digits(), records[(records["level"] < 6) & (records["seed"] < 2)])
    # differences of .01 and .02: mean 1.5 points, standard error .5; t of 97.5% with one degree of freedom is 12.706
    assert said[0] == (
        f"a: {TICKET} minus b: {TICKET} in accuracy at 10.7% of weights left: mean gap +1.50 percentage points, "
        "95% interval \N{MINUS SIGN}4.85 to +7.85, n = 2 seeds, so no verdict."
    )


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    worse = shifted(digits(), [-0.019, -0.02, -0.03])
    one, two = (r[(r["curve"] == TICKET) & (r["level"] == 6)]["accuracy"] for r in (digits(), worse))
    interval = ttest_rel(one, two).confidence_interval(0.95)
    said = sentences(digits(), worse)[0]
    assert f"95% interval +{100 * interval.low:.2f} to +{100 * interval.high:.2f}, n = 3 seeds" in said
    assert f"a: {TICKET} is above b: {TICKET}" in said


def test_a_curve_of_one_study_is_named() -> None:
    records = digits()
    assert sentences(records, records[records["curve"] != "transplant"])[-1] == "Only in a: transplant."
    assert sentences(records[records["curve"] == TICKET], records)[-1].startswith("Only in b: ticket (mu), determin")


def test_tickets_of_both_studies_are_said_to_be_the_same() -> None:
    said = sentences(digits(), digits())
    assert said[0].startswith(f"{TICKET} at 6.87% of weights left is one and the same in both studies")


def test_settings_that_differ_are_listed() -> None:
    one = side("a", digits(), arms=["ticket", {"arm": "reinit"}], threads=None)
    two = side("b", digits(), train={**STUDY["train"], "lr": 0.01}, arms=["ticket"], description="another")
    table = settings_that_differ(one, two)
    assert table.rows == [
        ["train.lr", "0.003", "0.01"],
        ["arms", "[ticket, {arm: reinit}]", "[ticket]"],
        ["threads", "null", "\N{EN DASH}"],
    ]
    assert settings_that_differ(one, one).note == "No setting differs."


def test_levels_of_equal_density_meet() -> None:
    # the first study prunes a half a level, the second three quarters; its densities are rounded
    rows = [(0, level, 0.5**level) for level in range(5)] + [(1, level, 0.2501**level) for level in range(3)]
    records = pd.DataFrame(rows, columns=["side", "level", "density"]).assign(own=TICKET)
    assert common_levels(records).tolist() == [0, 1, 2, 3, 4, 0, 2, 4]


def test_levels_of_one_curve_are_never_taken_for_one() -> None:
    rows = [(side, level, 0.996**level) for side in (0, 1) for level in range(3)]
    records = pd.DataFrame(rows, columns=["side", "level", "density"]).assign(own=TICKET)
    assert common_levels(records).tolist() == [0, 1, 2, 0, 1, 2]


def test_variants_of_one_study_may_prune_by_other_fractions() -> None:
    # means over both variants of a level would be 0.65 and 0.55, and no level of the two studies the same
    rows = [(0, "half", 1, 0.5), (0, "fifth", 1, 0.8), (1, "half", 1, 0.5), (1, "most", 1, 0.6)]
    records = pd.DataFrame(rows, columns=["side", "own", "level", "density"])
    assert common_levels(records).tolist() == [2, 0, 2, 1]


def test_different_fractions_are_paired_at_equal_densities() -> None:
    records = digits()
    every_second = records[records["level"] % 2 == 0].assign(level=records["level"] // 2)
    said = sentences(records, shifted(every_second, [-0.01, -0.011, -0.012]))[0]
    assert f"a: {TICKET} is above b: {TICKET} in accuracy at 6.87% of weights left: mean gap +1.10 percentage points" in said


def test_variants_keep_their_curves_apart() -> None:
    fanned = pd.concat([digits(variant="train.lr=0.003"), digits(variant="train.lr=0.01")], ignore_index=True)
    panel, pairs, alone = common_panel(1, "mlp", "digits", side("a", fanned), side("b", fanned))
    assert f"b: {TICKET}, train.lr=0.01" in panel.curves
    assert (len(panel.curves), len(pairs), alone) == (2 * 2 * 7, 2 * 7, [])
    assert set(panel.records.groupby(["curve", "level", "seed"]).size()) == {1}


def test_pairs_share_a_colour_and_the_studies_differ_in_dashes() -> None:
    panel, pairs, _ = common_panel(1, "mlp", "digits", side("a", digits()), side("b", digits()))
    look = look_of(panel)
    for pair in pairs:
        one, two = look[pair.first], look[pair.second]
        assert (one["color"], one["marker"]) == (two["color"], two["marker"])
        assert one["linestyle"] != two["linestyle"]
    assert len({style["color"] for style in look.values()}) == 7


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(TombolaError, match="a and b have no model and data in common: a has mlp on digits, b has conv on"):
        render(side("a", digits()), side("b", digits().assign(model="conv")), "figures")


def test_figures_are_written_beside_the_page(tmp_path: Path) -> None:
    few = digits(levels=2)[lambda records: records["curve"].str.contains("ticket")]
    out = write_comparison(side("a", few), side("b", shifted(few, [0.1, 0.1, 0.1])), tmp_path / "both.html")
    assert {path.name for path in tmp_path.iterdir()} == {"both.html", "both-figures"}
    linked = set(re.findall(r'href="both-figures/([^"]+)"', out.read_text()))
    assert linked == {path.name for path in (tmp_path / "both-figures").iterdir()}


def test_names_tell_the_studies_apart(tmp_path: Path) -> None:
    def folder(name: str, *path: str) -> StudyFolder:
        return StudyFolder.of({"name": name}, tmp_path.joinpath(*path), None, tmp_path)

    assert told_apart([folder("x", "a"), folder("y", "b")]) == ["x", "y"]
    assert told_apart([folder("x", "a"), folder("x", "b")]) == ["a", "b"]
    assert told_apart([folder("x", "a", "c"), folder("x", "b", "c")]) == [str(tmp_path / "a/c"), str(tmp_path / "b/c")]


def test_two_runs_are_compared(cli, tiny, study_file) -> None:
    path = study_file(tiny)
    assert cli("run", path, "--out", "one").exit_code == 0
    assert cli("run", path, "--out", "two", "--set", "train.lr=0.02").exit_code == 0
    before = {file: file.stat().st_mtime_ns for file in Path().rglob("*") if file.is_file()}
    result = cli("compare", "one", "two")
    assert result.stdout.strip() == "comparison: comparison.html"
    page = Path("comparison.html").read_text()
    assert "<h1>one and two</h1>" in page
    assert '<th scope="row">train.lr</th><td data-head="one">0.01</td><td data-head="two">0.02</td>' in page
    assert before == {file: file.stat().st_mtime_ns for file in before}  # the studies are only read


def test_what_cannot_be_compared_is_refused(refused, tiny, tmp_path: Path) -> None:
    for name in ("one", "two"):
        StudyFolder.of(tiny, tmp_path / name, tmp_path / "stages", tmp_path).prepare()
    assert "one is given twice" in refused("compare", "one", "one")
    assert "three holds no study" in refused("compare", "one", "three")
    assert "give such a name" in refused("compare", "one", "two", "--out", "page.pdf")
    assert "one: nothing is finished yet" in refused("compare", "one", "two")
