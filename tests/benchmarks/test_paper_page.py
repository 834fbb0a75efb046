"""The page of the paper's claims: figures and sentences from records whose answers are known, and the committed page."""

import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import yaml
from benchmarks.paper.comparisons import told
from benchmarks.paper.page import NOTES, RESULTS, page
from benchmarks.paper.picks import Pool

from support.claim_records import rows_of
from tombola.claims.contrasts import POINTS, Contrast
from tombola.claims.curves import DETERMINISTIC, MU, SNR, control
from tombola.claims.paper import CLAIMS
from tombola.report.figures import styles
from tombola.report.images import SETTINGS
from tombola.report.overview import overview
from tombola.report.panels import ordered_curves, panels

DOCS = Path(__file__).parents[2] / "docs"


def two_nets() -> pd.DataFrame:
    """Two nets with snr 3 points above its re-initialisation, and as good as deterministic."""
    curves = {SNR: 0.0, MU: 0.0, DETERMINISTIC: 0.0}
    curves |= {control(arm, of): -3.0 for arm in ("reinit", "shuffle_layerwise") for of in (SNR, DETERMINISTIC)}
    found = pd.concat(
        [
            rows_of(curve, add, model=model, swing=0.1 * i)
            for model in ("resnet20", "vgg11")
            for i, (curve, add) in enumerate(curves.items())
        ],
        ignore_index=True,
    )
    return found.assign(mace_null=0.04, mace_null_low=0.02, mace_null_high=0.06, examples=1000)


def side_by_side(records):
    found = panels(records)
    with matplotlib.rc_context(SETTINGS):
        return overview(found, styles(ordered_curves(records)))


def test_nets_stand_side_by_side_and_controls_below_each_other():
    found = side_by_side(two_nets())
    accuracy, mace, layers = found.plates
    numbers = accuracy.drawings["nets-accuracy"].numbers
    assert list(numbers["panel"].unique()) == [
        *("resnet20, Bayesian tickets", "resnet20, deterministic tickets"),
        *("vgg11, Bayesian tickets", "vgg11, deterministic tickets"),
    ]
    row = numbers[(numbers["curve"] == SNR.words) & (numbers["level"] == 3)].iloc[0]
    records = two_nets()
    seeds = records[(records["model"] == "resnet20") & (records["curve"] == SNR.words) & (records["level"] == 3)]["accuracy"]
    assert row[["mean", "low", "high"]].tolist() == pytest.approx(
        [100 * v for v in (seeds.mean(), seeds.min(), seeds.max())]
    )
    assert "perfect calibration" in set(mace.drawings["nets-mace"].numbers["curve"])
    assert layers.drawings["nets-layers"].numbers["x"].max() == 6
    assert any(sentence.startswith("resnet20 on cifar10, accuracy: At 1.15% left") for sentence in found.findings)


def test_one_net_has_no_figure_beside_another():
    records = two_nets()
    assert side_by_side(records[records["model"] == "vgg11"]) is None


def test_sizes_of_a_family_share_a_plot():
    records = pd.concat([rows_of(SNR, model=model, parameters=n) for model, n in (("resnet20", 1), ("resnet110", 2))])
    (accuracy, *_) = side_by_side(records).plates
    numbers = accuracy.drawings["nets-accuracy"].numbers
    assert set(numbers["panel"]) == {"resnet"}
    assert set(numbers["curve"]) == {f"resnet20, {SNR.words}", f"resnet110, {SNR.words}"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([3.0, 3.2, 2.8], "above: +3.00 [+2.66, +3.34] points (n = 3)"),
        ([-3.0, -3.2, -2.8], "below: \N{MINUS SIGN}3.00 [\N{MINUS SIGN}3.34, \N{MINUS SIGN}2.66] points (n = 3)"),
        ([1.0, -1.2, 0.4], "not to be told apart: +0.07 [\N{MINUS SIGN}1.85, +1.98] points (n = 3)"),
        ([1.0], "+1.00 points (one seed: no interval)"),
    ],
)
def test_the_sentence_follows_from_the_interval(values, words):
    assert told(Contrast("", pd.Series(values), POINTS, ())) == words


def test_rows_at_home_are_those_of_the_common_settings_and_unchanged_arms():
    base = rows_of(SNR, settings={"train.lr": 0.01})
    batch = rows_of(SNR, settings={"train.lr": 0.01, "evaluate.batch_norm": "batch"}, levels=range(3))
    changed = rows_of(SNR, settings={"train.lr": 0.01}, levels=range(2)).assign(changes='{"sigma": "start"}')
    pool = Pool(pd.concat([base, batch, changed], ignore_index=True))
    assert len(pool.rows("resnet20")) == len(base)
    assert len(pool.rows("resnet20", {"sigma": "start"})) == len(changed)
    assert len(pool.rows("resnet20", settings={"evaluate.batch_norm": "batch"})) == len(batch)


def record() -> dict:
    spent = {"wall_seconds": 60.0, "alone_seconds": 90.0, "trainings": 4, "trainings_run": 3}
    return {
        "command": "python -m benchmarks.paper --path FILES",
        "date": "2026-11-23",
        "hardware": {"cpu": "a processor", "cores": 2},
        "versions": {"python": "3", "torch": "2", "tombola": "0"},
        "threads": 1,
        "studies": [{"study": "paper/scores", **spent}, {"study": "paper/size", **spent}],
    }


def test_the_page_has_every_claim_and_its_figures(tmp_path):
    (tmp_path / "record.json").write_text(json.dumps(record()))
    two_nets().to_parquet(tmp_path / "records.parquet")
    text = page(tmp_path, tmp_path / "figures")
    for name in CLAIMS:
        assert f"**{name}" in text
    assert "| all | 6 | **2.0 min** |  |" in text
    assert "**Deterministic tickets, against re-init of deterministic tickets** (accuracy, at 1.15% left)" in text
    assert re.search(r"resnet20 above: \+[23]\.\d+ \[", text)
    named = set(re.findall(r"\]\(paper/(.+?)\.png\)", text))
    assert named == {path.stem for path in (tmp_path / "figures").glob("*.png")} >= {"scores", "randomise", "layers"}
    for path in (tmp_path / "figures").glob("*.png"):
        assert path.stat().st_size < 150_000
        assert np.std(matplotlib.image.imread(path)) > 0.05


def test_what_people_wrote_has_no_measured_numbers():
    for text in yaml.safe_load(NOTES.read_text()).values():
        assert not re.search(r"\d\s*(%|points|percent|nats|min)", text or "")


@pytest.mark.slow
@pytest.mark.skipif(not (RESULTS / "records.parquet").is_file(), reason="results/paper-cpu is not there")
def test_the_committed_page_is_what_the_records_say():
    assert (DOCS / "paper.md").read_text() == page(RESULTS)
