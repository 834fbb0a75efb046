"""The report, on records whose answers are known."""

import json
import math
import re
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from support.synthetic import CURVES, LAYERS, STUDY, digits, regression, times
from tombola.engine.records import stage_times
from tombola.metrics.column import NONE, left, listed
from tombola.report import write_report
from tombola.report.explorer import panel_data
from tombola.report.figures import Drawing
from tombola.report.images import FORMATS, SETTINGS, Picture
from tombola.report.looks import styles
from tombola.report.overview import overview
from tombola.report.page import render, show, split
from tombola.report.panels import differing, ordered_curves, panels, values, written
from tombola.report.plates import plates
from tombola.report.quantities import ACCURACY, duration, shortened
from tombola.report.statistics import Gap, common_level, exceeding, level_gap, paired_gap, shared_level
from tombola.report.tables import gap_table, numbers
from tombola.report.text import INTERVALS, caveat, gap_sentence, remarks

FIGURES = {"1-accuracy", "1-quality", "1-layers", "1-drift"}
KINDS = {f".{kind}" for kind in (*FORMATS, "csv")}


def names(pictures: list[Picture]) -> set[str]:
    return {picture.name for picture in pictures}


def drawn(records: pd.DataFrame, stages: pd.DataFrame | None = None) -> tuple[dict[str, Drawing], str]:
    """The drawings of the only panel by name, and all captions."""
    (panel,) = panels(records)
    with matplotlib.rc_context(SETTINGS):
        found = plates(panel, styles(panel.curves), stages)
    return {name: drawing for plate in found for name, drawing in plate.drawings.items()}, " ".join(p.caption for p in found)


@cache
def drawn_digits() -> tuple[dict[str, Drawing], str]:
    """What is drawn of the finished study, to look at."""
    return drawn(digits())


@pytest.fixture(scope="module")
def written_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the finished study, with its figures beside it."""
    return write_report(digits(), STUDY, tmp_path_factory.mktemp("report") / "report.html", formats=FORMATS)


def test_operations_have_a_figure_of_their_own_where_records_have_them() -> None:
    assert set(drawn_digits()[0]) == FIGURES
    drawings, captions = drawn(digits().assign(flops_left=lambda rows: rows["density"] ** 0.5))
    numbers, by_weights = drawings["1-operations"].numbers, drawings["1-accuracy"].numbers
    assert "torch makes them all" in captions
    tickets, same = (table[table["curve"] == "ticket (snr)"] for table in (numbers, by_weights))
    expected = 10 * np.sqrt(same["weights_left_percent"].unique())  # of percents: 100 sqrt(p / 100)
    assert sorted(tickets["operations_left_percent"]) == pytest.approx(sorted(expected), rel=1e-6)


def test_unlike_shares_at_a_level_are_said() -> None:
    (panel,) = panels(digits())
    assert remarks(panel) == []
    records = digits()
    apart = (records["curve"] == "ticket (snr)") & (records["level"] > 0)
    (panel,) = panels(records.assign(density=records["density"].where(~apart, records["density"] / 2)))
    assert "Curves keep unlike shares of the weights at one level" in remarks(panel)[0]


def three_seeds(a: list[float], b: list[float]) -> pd.DataFrame:
    """Two curves at level 1 with those accuracies."""
    rows = [("a", seed, value) for seed, value in enumerate(a)] + [("b", seed, value) for seed, value in enumerate(b)]
    return pd.DataFrame(rows, columns=["curve", "seed", "accuracy"]).assign(level=1, density=0.64)


def test_paired_gap_is_the_t_interval_of_the_differences() -> None:
    a, b = [0.94, 0.95, 0.97], [0.90, 0.93, 0.91]
    gap = paired_gap(three_seeds(a, b), "a", "b", 1, "accuracy")
    oracle = ttest_1samp(np.subtract(a, b), 0).confidence_interval(0.95)
    assert gap.mean == pytest.approx(0.04)
    assert (gap.low, gap.high) == pytest.approx((oracle.low, oracle.high))
    assert gap.n == 3


def test_paired_gap_by_hand() -> None:
    gap = paired_gap(three_seeds([0.3, 0.5], [0.2, 0.2]), "a", "b", 1, "accuracy")
    # differences .1 and .3: mean .2, sd .1414, standard error .1; t of 97.5% with one degree of freedom is 12.706
    assert (gap.mean, gap.low, gap.high) == pytest.approx((0.2, 0.2 - 1.2706, 0.2 + 1.2706), abs=1e-4)


def test_paired_gap_pairs_only_the_seeds_that_both_have() -> None:
    gap = paired_gap(three_seeds([0.9, 0.8, 0.1], [0.5, 0.6]), "a", "b", 1, "accuracy")
    assert gap.n == 2
    assert gap.mean == pytest.approx(0.3)


def test_one_seed_has_a_gap_but_no_interval() -> None:
    gap = paired_gap(three_seeds([0.9], [0.8]), "a", "b", 1, "accuracy")
    assert gap.mean == pytest.approx(0.1)
    assert gap.n == 1
    assert math.isnan(gap.low)
    assert math.isnan(gap.high)


def test_no_common_seed_is_an_empty_gap() -> None:
    gap = paired_gap(three_seeds([0.9], []), "a", "b", 1, "accuracy")
    assert gap.n == 0
    assert math.isnan(gap.mean)


def test_level_gap_pairs_levels_of_one_curve() -> None:
    records = three_seeds([0.9, 0.8], []).assign(level=0)
    records = pd.concat([records, records.assign(level=1, accuracy=[0.8, 0.6])])
    assert level_gap(records, "a", 1, 0, "accuracy").mean == pytest.approx(-0.15)


def test_common_level_prefers_two_seeds_to_a_sparser_level() -> None:
    records = digits()
    assert common_level(records, "ticket (snr)", "transplant", "accuracy") == 6
    ahead = records[(records["level"] < 4) | (records["seed"] == 0)]
    assert common_level(ahead, "ticket (snr)", "transplant", "accuracy") == 3
    assert common_level(digits(seeds=1), "ticket (snr)", "transplant", "accuracy") == 6
    assert common_level(records, "ticket (snr)", "absent", "accuracy") is None


def test_shared_level_is_one_that_all_have() -> None:
    records = digits()
    late = records[(records["curve"] != "transplant") | (records["level"] <= 2)]
    assert shared_level(late, list(CURVES), "accuracy") == 2
    assert shared_level(late, [], "accuracy") is None


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        (Gap(0.05, 0.01, 0.09, 3), "a is above b in accuracy at 1%: mean gap +5.00 percentage points"),
        (Gap(-0.05, -0.09, -0.01, 3), "a is below b in accuracy at 1%: mean gap \N{MINUS SIGN}5.00 percentage points"),
        (Gap(0.01, -0.02, 0.04, 3), "a cannot be told apart from b with 3 seeds in accuracy at 1%"),
        (Gap(0.01, math.nan, math.nan, 1), "no interval and no verdict"),
        (Gap(0.01, math.nan, math.nan, 3), "n = 3 seeds with equal gaps, so no interval and no verdict"),
        (Gap(0.05, 0.01, 0.09, 2), "95% interval +1.00 to +9.00, n = 2 seeds, so no verdict"),
    ],
)
def test_verdicts(gap: Gap, words: str) -> None:
    sentence = gap_sentence("a", "b", gap, ACCURACY, "at 1%")
    assert words in sentence
    assert f"n = {gap.n} seed" in sentence


def test_verdict_names_its_interval() -> None:
    sentence = gap_sentence("a", "b", Gap(0.01, -0.02, 0.04, 3), ACCURACY, "at 1%")
    assert "95% interval \N{MINUS SIGN}2.00 to +4.00" in sentence


def test_gaps_of_the_finished_study() -> None:
    (panel,) = panels(digits())
    rows = {row[0]: row[1:] for row in gap_table(panel, every_level=False).rows}
    assert panel.reference == "ticket (snr)"
    assert list(rows) == ["its dense network", *panel.curves[1:]]
    gap = paired_gap(panel.records, "ticket (snr)", "global shuffle (snr)", 6, "accuracy")
    signed = ACCURACY.signed
    assert rows["global shuffle (snr)"] == [
        *("6.87%", signed(gap.mean), f"{signed(gap.low)} to {signed(gap.high)}", "3", "above")
    ]
    assert rows["ticket (mu)"][-1] == "not told apart"
    assert rows["its dense network"][-1] == "below"
    assert remarks(panel) == []


def test_gaps_that_are_equal_or_of_two_seeds_have_no_verdict() -> None:
    """As a claim's: of equal gaps Student's t is undefined, though its interval would have a width of 0."""
    records = digits()
    snr, mu = (records["curve"] == f"ticket ({score})" for score in ("snr", "mu"))
    records.loc[mu, "accuracy"] = records.loc[snr, "accuracy"].to_numpy() - 1 / 180
    found = []
    for own in (records, digits(seeds=2)):
        (panel,) = panels(own)
        rows = {row[0]: row[3:] for row in gap_table(panel, every_level=False).rows}
        found.append((rows["ticket (mu)"], {row[-1] for row in rows.values()}))
    assert found[0][0] == [NONE, "3", NONE]
    assert found[1][1] == {NONE}


def test_the_control_in_the_three_numbers_is_one_of_the_reference() -> None:
    """Not the first of any: of a study of several methods, that is another method's."""
    first = digits()
    other = first[first["arm"] == "reinit"].assign(
        arm="transplant_shuffle", curve="other", score="magnitude", method="sghmc"
    )
    (panel,) = panels(pd.concat([first, other]))
    assert next(curve for curve in panel.curves if curve not in panel.uncontrolled()) == "other"
    assert numbers([panel])[-1][1].startswith("against re-init (snr)")


def test_of_many_curves_captions_name_the_first_and_the_legend_is_below() -> None:
    records = digits()
    more = [records.assign(curve=records["curve"] + f", method=long_name_{i}") for i in range(3)]
    (panel,) = panels(pd.concat([records, *more]))
    one = show(plates(panel, styles(panel.curves), times(panel.records)), 1)
    assert max(len(shown.plate.caption) for shown in one) < 900
    assert [one[0].layout, one[-1].layout] == ["many", "beside"]
    (cost,) = one[-1].pictures
    labels = [label.get_text() for label in cost.drawing.figure.axes[0].get_yticklabels()]
    assert max(len(line) for label in labels for line in label.split("\n")) <= 30


def test_three_numbers_are_those_of_the_table() -> None:
    (panel,) = panels(digits())
    rows = {row[0]: row[1:] for row in gap_table(panel, every_level=False).rows}
    (value, what), (dense, of_dense), (control, of_control) = numbers([panel])
    mean = digits().query("curve == 'ticket (snr)' and level == 6")["accuracy"].mean()
    assert (value, what) == (f"{100 * mean:.1f}%", "accuracy of ticket (snr) with 6.87% of the weights")
    assert dense == f"{rows['its dense network'][1]} points"
    assert of_dense == f"against its dense network, 95% interval {rows['its dense network'][2]}"
    assert control == f"{rows['re-init (snr)'][1]} points"
    assert of_control.startswith("against re-init (snr)")


def test_a_seed_that_is_ahead_of_the_others_does_not_decide() -> None:
    records = digits()
    (panel,) = panels(records[(records["level"] < 4) | (records["seed"] == 0)])
    assert gap_table(panel, every_level=False).rows[0][1] == "26.2%"


def test_exceeding_counts_seeds_above_their_own_range() -> None:
    records = digits()
    assert exceeding(records, "ticket (snr)", 0, "ece") == (0, 3)
    assert exceeding(records, "ticket (snr)", 6, "ece") == (3, 3)


def test_a_regression_report_shows_rmse_and_no_calibration(no_figures: None) -> None:
    page, pictures = render(regression(), STUDY)
    assert "RMSE" in page
    assert "gap in RMSE" in page
    assert "lower is better" in page
    assert {"1-rmse", "1-quality", "1-layers"} <= names(pictures)
    (quality,) = (picture.drawing for picture in pictures if picture.name == "1-quality")
    assert set(quality.numbers["quantity"]) == {"test NLL (nats)"}


def test_a_report_of_one_seed_says_so(no_figures: None) -> None:
    html, pictures = render(digits(seeds=1), STUDY, failed=[], missing=0)
    assert "One seed: no spread shown." in html
    (panel,) = panels(digits(seeds=1))
    assert {tuple(row[-3:]) for row in gap_table(panel, every_level=True).rows} == {("\N{EN DASH}", "1", "\N{EN DASH}")}
    assert names(pictures) == FIGURES


def test_a_missing_seed_is_told_at_its_point(no_figures: None) -> None:
    records = digits()
    gone = (records["curve"] == "transplant") & (records["level"] == 6) & (records["seed"] == 1)
    html, _ = render(records[~gone], STUDY, failed=[], missing=1)
    assert "(n=2)" in html
    assert "some points have only 2" in html
    assert "unfinished: 1 stage to go" in html


def test_an_empty_study_says_that_nothing_is_finished(tmp_path: Path) -> None:
    page = write_report(pd.DataFrame(), STUDY, tmp_path / "report.html", failed=["stage x broke"], missing=3).read_text()
    assert "Nothing is finished yet." in page
    assert "unfinished: 3 stages to go" in page
    assert "stage x broke" in page


def test_variants_have_their_own_sections(no_figures: None) -> None:
    fanned = pd.concat([digits(variant="train.lr=0.003"), digits(variant="train.lr=0.01")], ignore_index=True)
    html, pictures = render(fanned, {**STUDY, "train": {"lr": [0.003, 0.01]}}, failed=[], missing=0)
    assert "mlp on digits, lr=0.01</h2>" in html
    assert "nets-accuracy" in names(pictures)
    assert "(here 0.003 and 0.01)" in html
    assert {"1-accuracy", "2-accuracy"} <= names(pictures)
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_diverged_trainings_are_reported() -> None:
    broken = digits()
    late = broken["level"] > 3
    broken.loc[late, ["accuracy", "best_accuracy", "ece", "mace"]] = math.nan
    broken.loc[late, "nll"] = math.inf
    broken["layer_density"] = None
    html, pictures = render(broken, STUDY, failed=[], missing=0)
    assert "with 26.2% of the weights" in html
    assert "63 of 135 tickets have no finite accuracy or NLL" in html
    assert names(pictures) == FIGURES - {"1-layers"}


def test_a_study_with_only_dense_networks_is_reported(no_figures: None) -> None:
    dense = digits()[lambda records: records["level"] == 0]
    html, _ = render(dense, STUDY, failed=[], missing=100)
    assert "accuracy of ticket (snr) dense" in html
    assert "without pruning" in html


@pytest.mark.thinned(3)
@pytest.mark.parametrize("letters", [10, 60, 100])
def test_a_legend_of_long_names_stays_within_its_figure(letters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tombola.report.images._saved", lambda figure, kind: b"")
    records = digits(seeds=1)
    records["curve"] = [
        f"{curve}, {'estimator=my_estimators:LocalLinear, ' * 9}"[:letters] + f" {curve[-5:]}" for curve in records["curve"]
    ]
    (panel,) = panels(records)
    with matplotlib.rc_context(SETTINGS):
        for plate in plates(panel, styles(panel.curves)):
            for name, drawing in plate.drawings.items():
                drawing.figure.draw_without_rendering()
                for legend in drawing.figure.legends:
                    box = legend.get_window_extent()
                    assert box.x0 >= 0, name
                    assert box.x1 <= drawing.figure.bbox.width, name
                    assert box.y1 <= min(axes.get_window_extent().y0 for axes in drawing.figure.axes), name


def test_the_page_is_self_contained(written_page: Path) -> None:
    page = written_page.read_text()
    namespaces = r'xmlns(:\w+)?="http[^"]*"|createElementNS\([^,]*,'
    assert not re.search(r"https?://", re.sub(namespaces, "", page))
    assert re.findall(r"<script[^>]*>", page) == [
        '<script type="text/plain" id="plotly">',
        '<script type="application/json" id="data">',
        "<script>",
    ]
    assert "<?xml" not in page
    assert page.startswith("<!DOCTYPE html>")
    assert page.count('role="img" aria-label="') == 2 + 3 + 3 + 3  # plots
    ids = set(re.findall(r'\bid="([^"]+)"', page))
    referred = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert referred <= ids


def test_the_figures_are_files_and_not_blank(written_page: Path) -> None:
    files = list((written_page.parent / "figures").iterdir())
    assert {(path.stem, path.suffix) for path in files} == {(name, kind) for name in FIGURES for kind in KINDS}
    for path in files:
        if path.suffix == ".png":
            assert matplotlib.image.imread(path).std() > 0.05
        elif path.suffix == ".pdf":
            assert path.read_bytes().startswith(b"%PDF-")
        elif path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_a_csv_holds_what_the_figure_plots(written_page: Path) -> None:
    drawings, _ = drawn_digits()
    for name in FIGURES - {"1-layers"}:
        table = pd.read_csv(written_page.parent / "figures" / f"{name}.csv")
        plots = [axes for axes in drawings[name].figure.axes if not axes.get_title(loc="left").endswith(", a closer look")]
        for axes, (_, shown) in zip(plots, table.groupby("quantity", sort=False), strict=False):
            named = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]  # not that of chance
            lines = {line.get_label(): line.get_xydata() for line in named}
            assert lines.keys() == set(shown["curve"])
            for curve, rows in shown.groupby("curve"):
                found = np.asarray(sorted(lines[curve].tolist(), reverse=True))
                np.testing.assert_allclose(rows[["weights_left_percent", "mean"]].to_numpy(), found, rtol=1e-12)


def test_the_csv_of_accuracy_is_means_and_ranges_in_percent(written_page: Path) -> None:
    table = pd.read_csv(written_page.parent / "figures" / "1-accuracy.csv").set_index(["curve", "level"])
    records = digits()
    seeds = records[(records["curve"] == "ticket (mu)") & (records["level"] == 4)]["accuracy"]
    row = table.loc[("ticket (mu)", 4)]
    assert row[["mean", "low", "high"]].tolist() == pytest.approx(
        [100 * f for f in (seeds.mean(), seeds.min(), seeds.max())]
    )
    assert row["weights_left_percent"] == pytest.approx(100 * 0.64**4)
    assert row["seeds"] == 3


def heat_maps(drawing: Drawing) -> dict[str, np.ma.MaskedArray]:
    """The colours of each heat map, layers by levels."""
    maps = [axes for axes in drawing.figure.axes if axes.get_title(loc="left") in CURVES]
    return {axes.get_title(loc="left"): np.ma.asarray(axes.collections[0].get_array()).reshape(3, 7) for axes in maps}


def test_a_heat_map_shows_the_layers_by_levels(written_page: Path) -> None:
    table = pd.read_csv(written_page.parent / "figures" / "1-layers.csv")
    assert set(table["curve"]) == {"ticket (snr)", "ticket (mu)", "deterministic (magnitude)"}
    grid = table[table["curve"] == "ticket (snr)"].pivot(index="layer", columns="level", values="mean")
    for layer, share in LAYERS.items():
        expected = [100 * min(1.0, share * 0.64**level) for level in range(7)]
        assert grid.loc[layer].tolist() == pytest.approx(expected)
    shades = heat_maps(drawn_digits()[0]["1-layers"])
    assert list(shades) == ["ticket (snr)", "deterministic (magnitude)"]
    np.testing.assert_allclose(shades["ticket (snr)"], grid.loc[list(LAYERS)].to_numpy())


def test_an_empty_layer_is_named_and_left_white() -> None:
    records = digits()
    late = records["level"] == 6
    records.loc[late, "layer_density"] = '{"fc1": 0.01, "fc2": 0.0, "fc3": 0.2}'
    drawings, captions = drawn(records)
    assert "nothing is left (white) of fc2 of ticket (snr) from level 6" in captions
    shades = heat_maps(drawings["1-layers"])["ticket (snr)"]
    assert np.ma.getmaskarray(shades)[1].tolist() == [False] * 6 + [True]


@pytest.mark.thinned(3)
@pytest.mark.parametrize("records", [digits(), digits(seeds=1), regression()], ids=["three seeds", "one", "regression"])
def test_a_caption_has_at_most_two_sentences(records: pd.DataFrame, no_figures: None) -> None:
    several = pd.concat([records.assign(model=model) for model in ("vgg11", "mlp")], ignore_index=True)
    for shown in (records, several):
        html, _ = render(shown, STUDY, stages=times(shown))
        captions = re.findall(r'<span class="caption">(.*?)</span>', html, re.S)
        assert len(captions) > 3
        for caption in captions:
            assert 1 <= len(re.findall(r"[.!?](?= |$)", caption)) <= 2, caption


def test_an_arm_has_the_same_look_on_every_page() -> None:
    every = styles(list(CURVES))
    assert len({(style["color"], style["marker"]) for style in every.values()}) == len(CURVES)
    for curve in CURVES:
        others = [name for name in CURVES if name != curve]
        for page in ([curve], [*others[:2], curve], ["mine", curve, "ticket (snr), lr=0.1"]):
            assert styles(page)[curve] == every[curve]
    of_deterministic = styles(["re-init (snr)", "re-init of deterministic (magnitude)"])
    assert len({style["color"] for style in of_deterministic.values()}) == 1
    assert len({style["linestyle"] for style in of_deterministic.values()}) == 2


def test_seventy_curves_differ_in_colour_or_marker() -> None:
    found = styles([*CURVES, *(f"ticket (snr), lr={i}" for i in range(60))])
    assert len({(style["color"], style["marker"]) for style in found.values()}) == len(found)
    assert all(style["linestyle"] == "-" for style in found.values())


def test_every_colour_of_a_figure_is_a_variable_with_a_value_for_a_dark_page(written_page: Path) -> None:
    page = written_page.read_text()
    light, dark = (set(re.findall(r"--(c[0-9a-f]{6}):", part)) for part in page.split("prefers-color-scheme: dark", 1))
    used = set(re.findall(r"var\(--(c[0-9a-f]{6})\)", page))
    assert used <= light == dark & light
    svg = "".join(re.findall(r'<svg role="img".*?</svg>', page, re.S))
    heat = r"(<g id=\"1-layers-QuadMesh.*?</g>\s*</g>|<image.*?/>)"
    assert not re.findall(r"#[0-9a-f]{6}\b", re.sub(heat, "", svg, flags=re.S)), "a colour that stays light in the dark"


def test_chance_is_a_line_where_the_axis_reaches_and_a_word_elsewhere() -> None:
    def words(records: pd.DataFrame) -> list[list[str]]:
        return [[text.get_text() for text in axes.texts] for axes in drawn(records)[0]["1-accuracy"].figure.axes]

    assert words(digits().assign(classes=10)) == [["chance 10% \N{DOWNWARDS ARROW}"], ["chance 10%"]]
    assert words(digits().drop(columns="classes", errors="ignore")) == [[], []]
    closer, everything = drawn(digits().assign(classes=10))[0]["1-accuracy"].figure.axes
    assert closer.get_ylim()[0] > 50
    assert everything.get_ylim()[0] < 10
    assert [10, 10] in [list(line.get_ydata()) for line in everything.get_lines()]


def test_plots_side_by_side_share_their_axes() -> None:
    fanned = pd.concat([digits(variant=f"train.lr={lr}, train.epochs=3") for lr in (0.1, 0.2, 0.3, 0.4)], ignore_index=True)
    found = panels(fanned)
    with matplotlib.rc_context(SETTINGS):
        seen = overview(found, styles(ordered_curves(fanned)))
    drawing = seen.plates[0].drawings["nets-accuracy"]
    assert drawing.numbers["panel"].str.split(", ").str[0].unique().tolist() == [f"lr={lr}" for lr in (0.1, 0.2, 0.3, 0.4)]
    assert len({axes.get_xlim() for axes in drawing.figure.axes}) == 1
    rows: dict[float, set] = {}
    for axes in drawing.figure.axes:
        rows.setdefault(round(axes.get_position().y0, 6), set()).add(axes.get_ylim())
    assert all(len(limits) == 1 for limits in rows.values())


def test_variants_of_one_net_fill_a_grid() -> None:
    few = digits()[lambda records: records["arm"].isin(["ticket", "deterministic"])]
    fanned = pd.concat([few.assign(variant=f"train.lr={lr}") for lr in range(5)], ignore_index=True)
    with matplotlib.rc_context(SETTINGS):
        drawing = overview(panels(fanned), styles(ordered_curves(fanned))).plates[0].drawings["nets-accuracy"]
    assert len(drawing.boxes) == 5
    assert len({top for _, top, *_ in drawing.boxes}) == 2
    assert drawing.across == 3


def test_times_are_summed_by_curve_and_kind() -> None:
    records = digits()
    drawings, captions = drawn(records, times(records))
    drawing = drawings["1-time"]
    found = drawing.numbers.set_index(["curve", "kind"])["seconds"]
    assert found["ticket (snr)", "train"] == 21 * 2.0  # seven levels, three seeds
    assert found["transplant", "prune"] == 18 * 0.5  # no dense one
    assert found["transplant", "other"] == 0
    bars = [bar.get_width() for bar in drawing.figure.axes[0].patches]
    assert sum(bars) == pytest.approx(len(records) * 2.75)
    assert "6.2 min in all; 73% train, 18% prune and 9% evaluate" in captions


def test_every_finished_stage_is_timed_once(plan_of, run_plan, tiny) -> None:
    plan = plan_of({**tiny, "arms": ["ticket", {"arm": "reinit"}], "seeds": [0, 1]})
    store, watcher, _ = run_plan(plan)
    found = stage_times(plan, store)
    assert sorted(found["kind"]) == sorted(stage.kind for stage in plan.stages)
    assert len(found) == len(watcher.began_of)
    dense = found[(found["kind"] == "prune") & (found["seed"] == 1)]
    assert dense[["curve", "level"]].to_numpy().tolist() == [["ticket (snr)", 1]]  # the first of two curves that need it
    assert (found["seconds"] >= 0).all()
    trained = [store.record(stage.key)["record"]["train_seconds"] for stage in plan.stages if stage.kind == "train"]
    assert found.loc[found["kind"] == "train", "seconds"].sum() >= sum(trained)
    store.discard(plan.stages[-1].key)
    assert len(stage_times(plan, store)) == len(found) - 1


def test_the_browser_gets_every_number_and_columns_of_ones_own() -> None:
    records = digits().assign(margin=lambda r: r["accuracy"] ** 2, note="text")
    records.loc[0, "margin"] = math.inf
    (panel,) = panels(records)
    data = panel_data(panel, styles(panel.curves))
    metrics = [metric["column"] for metric in data["metrics"]]
    assert metrics[0] == "accuracy"
    assert metrics[-1] == "margin"
    assert not {"seed", "level", "density", "ece_null", "note", "samples"} & set(metrics)
    rows = pd.DataFrame(data["rows"])
    names = [curve["name"] for curve in data["curves"]]
    keys = ["curve", "level", "seed"]
    both = rows.assign(curve=[names[i] for i in rows["curve"]]).merge(records, on=keys, suffixes=("", "_recorded"))
    assert len(both) == len(records)
    for metric in metrics:
        known = both[f"{metric}_recorded"].replace(math.inf, math.nan)
        np.testing.assert_allclose(both[metric].astype(float), known, rtol=1e-5)
    json.dumps(data, allow_nan=False)


def test_equal_records_give_equal_bytes(written_page: Path) -> None:
    html, pictures = render(digits(), STUDY, formats=FORMATS)
    assert html == written_page.read_text()
    for name, content in pictures[0].files(FORMATS).items():
        assert content == (written_page.parent / "figures" / name).read_bytes()
    for picture in pictures:
        assert b'id="legend_1"' in (written_page.parent / "figures" / f"{picture.name}.svg").read_bytes()
        assert b'id="legend_1"' not in picture.svg  # the page writes it as text


def test_hostile_names_are_escaped(no_figures: None) -> None:
    records = digits().replace({"curve": {"transplant": '"><script>alert($1)--></script>'}})
    hostile = {**STUDY, "name": "<script>alert(1)</script>"}
    html, _ = render(records, hostile, failed=["<script>"], missing=0)
    assert html.count("<script") == 3  # our own
    assert html.count("</script") == 3
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_the_caveat_names_the_settings() -> None:
    assert "learning rate (here 0.003)" in caveat(STUDY)
    assert "final classifier is pruned (here it is not)" in caveat(STUDY)
    assert "(here it is)" in caveat({"prune": {"classifier": True}})
    assert "(here it is and it is not)" in caveat({"prune": {"classifier": [True, False]}})
    assert "(here not stated)" in caveat({})


def test_the_page_has_its_caveats(written_page: Path) -> None:
    page = written_page.read_text()
    assert caveat(STUDY) in page
    assert INTERVALS in page
    assert "Optimistic: the best epoch is selected by test data" in page


def test_a_failed_write_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")

    def broken(*_: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="disk"):
        write_report(pd.DataFrame(), STUDY, out)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures", "report.html"]


def test_a_description_gives_its_first_sentence() -> None:
    assert split("Does it work? We see.  And 1.5 times more. So.") == ("Does it work?", "We see. And 1.5 times more. So.")
    assert split("") == ("", "")


def test_variants_are_called_by_what_differs() -> None:
    both = ["train.lr=0.1, prune.scope=layer", "train.lr=0.2, prune.scope=layer"]
    assert differing(both) == {both[0]: "lr=0.1", both[1]: "lr=0.2"}
    alike = ["train.lr=0.1, prune.lr=1", "train.lr=0.2, prune.lr=2"]
    assert differing(alike) == {name: name for name in alike}
    assert differing(["train.lr=0.1"]) == {"train.lr=0.1": "lr=0.1"}
    assert differing([""]) == {"": ""}


def test_settings_are_found_through_fan_outs() -> None:
    study = {"model": [{"name": "mlp"}, {"name": "vgg"}], "train": {"lr": [0.1, 0.2]}}
    assert values(study, "model", "name") == ["mlp", "vgg"]
    assert written(values(study, "train", "lr")) == "0.1 and 0.2"
    assert written(values(study, "prune", "fraction")) == "not stated"
    assert written([True]) == "yes"


def test_numbers_are_written_for_people() -> None:
    assert [left(1.0), left(0.64), left(0.0115)] == ["100%", "64%", "1.15%"]
    assert [duration(95), duration(740), duration(11_000)] == ["95 s", "12.3 min", "3.1 h"]
    assert [listed([]), listed(["a"]), listed(["a", "b", "c"])] == ["none", "a", "a, b and c"]
    assert [shortened(list("abcde")), shortened(list("abcdef"))] == ["a, b, c, d and e", "a, b, c, d and 2 more"]
    assert [ACCURACY.show(0.9421), ACCURACY.spread(0.9421, 0.002), ACCURACY.signed(-0.0102)] == [
        "94.2%",
        "94.2 ± 0.2",
        "\N{MINUS SIGN}1.02",
    ]


def test_a_study_without_pruning_says_so_and_shows_no_densities(tmp_path, no_figures):
    page = write_report(digits(levels=0), STUDY, tmp_path / "report.html").read_text()
    assert "tickets, without pruning" in page
    assert "Weights left in each layer" not in page
    assert not list((tmp_path / "figures").glob("*layers*"))
