"""The report, on records whose answers are known."""

import json
import math
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from tombola.report import write_report
from tombola.report.page import render
from tombola.report.panels import panels
from tombola.report.quantities import ACCURACY, duration, left, listed
from tombola.report.settings import values, written
from tombola.report.statistics import Gap, common_level, exceeding, level_gap, paired_gap, shared_level
from tombola.report.words import INTERVALS, caveat, findings, gap_sentence

LEVELS, FRACTION = 6, 0.36
LAYERS = {"fc1": 0.7, "fc2": 1.0, "fc3": 2.2}  # density over that of the whole
CURVES = {  # arm, curve, score, points of accuracy lost per level
    "ticket (snr)": ("ticket", "snr", 0.004),
    "ticket (mu)": ("ticket", "mu", 0.0042),
    "deterministic (magnitude)": ("deterministic", "magnitude", 0.006),
    "transplant": ("transplant", "magnitude", 0.007),
    "re-init (snr)": ("reinit", "snr", 0.02),
    "layer-wise shuffle (snr)": ("shuffle_layerwise", "snr", 0.06),
    "global shuffle (snr)": ("shuffle_global", "snr", 0.13),
}
FIGURES = {
    *("1-accuracy", "1-accuracy-without-controls", "1-nll", "1-nll-without-controls"),
    *("1-ece", "1-mace", "1-layers"),
}
STUDY = {
    "name": "digits",
    "description": "IMP on digits.",
    "seeds": [0, 1, 2],
    "data": {"name": "digits"},
    "model": {"name": "mlp"},
    "train": {"epochs": 10, "lr": 0.003, "optimiser": "adam", "heat": 0.1, "batch_size": 64, "log_std_lr_factor": 5.0},
    "prune": {"fraction": 0.36, "levels": 6, "scope": "global", "classifier": False, "exclude": ["fc3"]},
    "evaluate": {"samples": 8, "repeats": 5, "bins": 15},
}


def _layers(level: int) -> str:
    return json.dumps({name: min(1.0, share * (1 - FRACTION) ** level) for name, share in LAYERS.items()})


def digits(seeds: int = 3, levels: int = LEVELS, variant: str = "") -> pd.DataFrame:
    """A finished study: controls from level 1 on; the same seed shifts every curve of it alike."""
    rng = np.random.default_rng(7)
    rows = [
        _row(curve, level, seed, variant, rng)
        for curve, (arm, _, _) in CURVES.items()
        for level in range(levels + 1)
        for seed in range(seeds)
        if level > 0 or arm in ("ticket", "deterministic")
    ]
    return pd.DataFrame(rows)


def _row(curve: str, level: int, seed: int, variant: str, rng: np.random.Generator) -> dict[str, object]:
    arm, score, loss = CURVES[curve]
    accuracy = 0.1 + (0.875 + 0.002 * seed) * math.exp(-loss * level) + rng.normal(0, 0.002)
    ece = 0.01 + 0.004 * level * (1 + 10 * loss) + abs(rng.normal(0, 0.001))
    null = 0.015 - 0.0005 * level
    sigma = arm not in ("deterministic",)
    return {
        "study": "digits",
        "stage": f"{curve} {level}",
        "key": f"{curve} {level} {seed}",
        "arm": arm,
        "curve": curve,
        "variant": variant,
        "model": "mlp",
        "data": "digits",
        "method": "vi",
        "score": score,
        "rewind": "weights",
        "seed": seed,
        "level": level,
        "density": (1 - FRACTION) ** level,
        "density_all": (1 - FRACTION) ** level,
        "accuracy": accuracy,
        "best_accuracy": accuracy + 0.006,
        "nll": 0.08 + 1.2 * loss * level + rng.normal(0, 0.004),
        "brier": 0.05,
        "rmse": math.nan,
        "ece": ece,
        "ece_null": null,
        "ece_null_low": null - 0.006,
        "ece_null_high": null + 0.007,
        "ece_excess": 0,
        "mace": 2 * ece,
        "mace_null": 3 * null,
        "mace_null_low": 2 * null,
        "mace_null_high": 4 * null,
        "drift_mean": -0.4 if sigma else math.nan,
        "drift_spread": 0.2 if sigma else math.nan,
        "drift_rank": 0.97 if sigma else math.nan,
        "layer_density": _layers(level),
        "samples": 8,
        "repeats": 5,
        "examples": 360,
        "train_seconds": 1.5,
        "device": "cpu",
        "torch": "2.13.0",
    }


def regression() -> pd.DataFrame:
    """The same study with a target on the real line: RMSE rises as accuracy fell."""
    records = digits()
    records["rmse"] = 1.2 - records["accuracy"]
    classification = [name for name in records if re.match(r"(best_)?accuracy|ece|mace|brier", name)]
    return records.assign(data="energy", **dict.fromkeys(classification, math.nan))


@pytest.fixture(scope="module")
def written_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the finished study, with its figures beside it."""
    return write_report(digits(), STUDY, tmp_path_factory.mktemp("report") / "report.html")


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
    ],
)
def test_verdicts(gap: Gap, words: str) -> None:
    sentence = gap_sentence("a", "b", gap, ACCURACY, "at 1%")
    assert words in sentence
    assert f"n = {gap.n} seed" in sentence


def test_verdict_names_its_interval() -> None:
    sentence = gap_sentence("a", "b", Gap(0.01, -0.02, 0.04, 3), ACCURACY, "at 1%")
    assert "95% interval \N{MINUS SIGN}2.00 to +4.00" in sentence


def test_findings_of_the_finished_study() -> None:
    (panel,) = panels(digits())
    text = "\n".join(findings(panel))
    assert panel.reference == "ticket (snr)"
    assert "ticket (snr) is above global shuffle (snr)" in text
    assert "ticket (snr) cannot be told apart from ticket (mu) with 3 seeds" in text
    assert "Level 6 is below the dense network" in text
    assert "at 6.87% of weights left (level 6)" in text
    assert "above the range of a perfectly calibrated model" in text
    assert "above its own range in 3 of 3 seeds" in text
    assert "rank correlation 0.970: sigma still ranks as it was initialised" in text


def test_a_seed_that_is_ahead_of_the_others_does_not_decide() -> None:
    records = digits()
    (panel,) = panels(records[(records["level"] < 4) | (records["seed"] == 0)])
    assert "Level 3 is below the dense network" in findings(panel)[0]


def test_exceeding_counts_seeds_above_their_own_range() -> None:
    records = digits()
    assert exceeding(records, "ticket (snr)", 0, "ece") == (0, 3)
    assert exceeding(records, "ticket (snr)", 6, "ece") == (3, 3)


def test_a_regression_report_shows_rmse_and_no_calibration(tmp_path: Path) -> None:
    out = write_report(regression(), STUDY, tmp_path / "report.html")
    page = out.read_text()
    assert "RMSE" in page
    assert "is below re-init (snr) in RMSE (lower is better)" in page
    drawn = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert {"1-rmse", "1-nll", "1-layers"} <= drawn
    assert not {"1-accuracy", "1-ece", "1-mace"} & drawn


def test_a_report_of_one_seed_says_so() -> None:
    html, pictures = render(digits(seeds=1), STUDY, failed=[], missing=0)
    assert "One seed: no spread shown." in html
    assert "no interval and no verdict" in html
    assert set(pictures) == FIGURES


def test_a_missing_seed_is_told_at_its_point() -> None:
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


def test_variants_have_their_own_sections() -> None:
    fanned = pd.concat([digits(variant="train.lr=0.003"), digits(variant="train.lr=0.01")], ignore_index=True)
    html, pictures = render(fanned, {**STUDY, "train": {"lr": [0.003, 0.01]}}, failed=[], missing=0)
    assert "mlp on digits, train.lr=0.01</h2>" in html
    assert "(here 0.003 and 0.01)" in html
    assert {"1-accuracy", "2-accuracy"} <= set(pictures)
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_diverged_trainings_are_reported() -> None:
    broken = digits()
    late = broken["level"] > 3
    broken.loc[late, ["accuracy", "best_accuracy", "ece", "mace"]] = math.nan
    broken.loc[late, "nll"] = math.inf
    broken["layer_density"] = None
    html, pictures = render(broken, STUDY, failed=[], missing=0)
    assert "at 26.2% of weights left (level 3)" in html
    assert "63 of 135 tickets have no finite accuracy or NLL" in html
    assert set(pictures) == FIGURES - {"1-layers"}


def test_a_study_with_only_dense_networks_is_reported() -> None:
    dense = digits()[lambda records: records["level"] == 0]
    html, _ = render(dense, STUDY, failed=[], missing=100)
    assert "only the dense network is finished" in html


def test_the_page_is_self_contained(written_page: Path) -> None:
    page = written_page.read_text()
    namespaces = r'xmlns(:\w+)?="http[^"]*"'
    assert not re.search(r"https?://", re.sub(namespaces, "", page))
    assert "<script" not in page
    assert "<?xml" not in page
    assert page.startswith("<!DOCTYPE html>")
    assert page.count('role="img" aria-label="') == len(FIGURES)
    ids = set(re.findall(r'\bid="([^"]+)"', page))
    referred = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert referred <= ids


def test_the_figures_are_files_and_not_blank(written_page: Path) -> None:
    drawn = {path.stem: path for path in (written_page.parent / "figures").iterdir()}
    assert set(drawn) == FIGURES
    for path in drawn.values():
        assert matplotlib.image.imread(path).std() > 0.05


def test_equal_records_give_equal_bytes(written_page: Path) -> None:
    html, figures = render(digits(), STUDY, failed=[], missing=0)
    assert html == written_page.read_text()
    for name, png in figures.items():
        assert png == (written_page.parent / "figures" / f"{name}.png").read_bytes()


def test_hostile_names_are_escaped() -> None:
    records = digits().replace({"curve": {"transplant": '"><script>alert($1)--></script>'}})
    hostile = {**STUDY, "name": "<script>alert(1)</script>"}
    html, _ = render(records, hostile, failed=["<script>"], missing=0)
    assert "<script" not in html
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
    assert [ACCURACY.show(0.9421), ACCURACY.spread(0.9421, 0.002), ACCURACY.signed(-0.0102)] == [
        "94.2%",
        "94.2 ± 0.2",
        "\N{MINUS SIGN}1.02",
    ]
