"""The page of the paper's claims: figures and sentences from records whose answers are known, and the committed page."""

import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import yaml
from benchmarks.paper.comparisons import compared as compared_in
from benchmarks.paper.comparisons import told
from benchmarks.paper.page import FOLDERS, NOTES, page
from benchmarks.paper.picks import Pool

from support.claim_records import rows_of
from tombola.claims import Claim, Row
from tombola.claims.contrasts import POINTS, Contrast
from tombola.claims.curves import DETERMINISTIC, MU, SNR, TRANSPLANT, control
from tombola.claims.judge import adjusted
from tombola.claims.paper import CLAIMS
from tombola.claims.verdict import Joint, above, outcome
from tombola.report.images import SETTINGS
from tombola.report.looks import styles
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
    return found.assign(mace_null=0.04, mace_null_low=0.02, mace_null_high=0.06, examples=1000, study="paper-scores")


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


def compared(*values):
    """Return a row that compares two curves, of these differences by seed."""
    joint = Joint([outcome(above(Contrast("", dict(enumerate(values)), POINTS, ())))])
    return Row(claim=Claim("", "", lambda net: [], study=""), case="", net="", joint=joint)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([3.0, 3.2, 2.8], "above"),
        ([-3.0, -3.2, -2.8], "below"),
        ([1.0, -1.2, 0.4], "not to be told apart"),
        ([1.0, 2.0], "2 seeds: no verdict below 3"),
    ],
)
def test_the_word_follows_from_the_interval(values, words):
    (row,) = adjusted([compared(*values)])
    assert told(row) == words


def test_of_many_comparisons_one_that_is_sure_by_itself_is_not_called_so():
    one, *_ = adjusted([compared(1.0, 1.8, 1.1), *(compared(1.0, -1.2, 0.4) for _ in range(9))])
    assert told(one) == "not to be told apart (alone: above)"


def test_rows_at_home_are_those_of_the_common_settings_and_unchanged_arms():
    base = rows_of(SNR, settings={"train.lr": 0.01})
    batch = rows_of(SNR, settings={"train.lr": 0.01, "evaluate.batch_norm": "batch"}, levels=range(3))
    changed = rows_of(SNR, settings={"train.lr": 0.01}, levels=range(2)).assign(changes='{"sigma": "start"}')
    pool = Pool(pd.concat([base, batch, changed], ignore_index=True))
    assert len(pool.rows("resnet20")) == len(base)
    assert len(pool.rows("resnet20", {"sigma": "start"})) == len(changed)
    assert len(pool.rows("resnet20", settings={"evaluate.batch_norm": "batch"})) == len(batch)


def test_statistics_of_batch_norm_are_compared_only_where_they_were_measured():
    """Of old records the home is the running statistics, of new ones that of weight samples."""
    sampled = rows_of(SNR, settings={"train.lr": 0.01, "evaluate.batch_norm": "samples"}, metric="mace")
    running = rows_of(SNR, 3.0, settings={"train.lr": 0.01}, metric="mace", swing=0.1, levels=range(6))
    running["key"] += "-running"
    rows = compared_in(Pool(pd.concat([sampled, running], ignore_index=True)))["calibration"]
    told_of = {row.joint.deciding.part.contrast.words: told(row) for row in rows if row.claim.metric == "mace"}
    assert told_of["snr tickets, running statistics minus snr tickets, area over log density, 64% to 10.7% left"] == "above"
    assert "calibration" not in compared_in(Pool(running))


def test_which_of_two_is_above_is_also_about_a_collapse():
    fallen = rows_of(control("transplant_shuffle", TRANSPLANT), swing=0.1).assign(
        accuracy=lambda rows: 0.1 + 0.001 * rows["seed"]
    )
    pool = Pool(pd.concat([rows_of(TRANSPLANT), fallen], ignore_index=True).assign(classes=10, examples=1000))
    assert {told(row) for row in compared_in(pool)["transplant"]} == {"above"}


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


@pytest.fixture
def written(tmp_path):
    """A folder of records of the size cpu."""
    folder = tmp_path / "cpu"
    folder.mkdir()
    (folder / "record.json").write_text(json.dumps(record()))
    two_nets().to_parquet(folder / "records.parquet")
    return folder


def test_the_page_has_every_claim_and_its_figures(written, tmp_path):
    text = page({"cpu": written, "gpu": tmp_path / "gpu"}, tmp_path / "figures")
    for name in CLAIMS:
        assert f"**{name}" in text
    assert "| all | 6 | **2.0 min** |  |" in text
    assert "- **gpu**: not run yet." in text
    (line,) = re.findall(r"^\| \*\*1a\*\* .* not worse .*not run yet.*$", text, re.MULTILINE)
    assert [cell.strip() for cell in line.split("|")[2:10]] == [
        *("✓ supported", "not run yet") * 2,
        *("\N{EN DASH}", "not run yet") * 2,
    ]
    assert (
        "| Deterministic tickets minus re-init of deterministic tickets at 1.15% left | accuracy | resnet20 | above |"
        in text
    )
    named = set(re.findall(r"\]\(paper/(.+?)\.png\)", text))
    assert named == {path.stem for path in (tmp_path / "figures").glob("*.png")} == {"cpu-scores"}
    for path in (tmp_path / "figures").glob("*.png"):
        assert path.stat().st_size < 150_000
        assert np.std(matplotlib.image.imread(path)) > 0.05


def test_the_sizes_stand_side_by_side_and_records_may_be_json(written, tmp_path):
    folder = tmp_path / "gpu"
    folder.mkdir()
    worse = two_nets()
    worse.loc[(worse["level"] > 0) & (worse["arm"] == "ticket"), "accuracy"] -= 0.04
    (folder / "records.json").write_text(worse.to_json(orient="records"))
    text = page({"cpu": written, "gpu": folder})
    (line,) = re.findall(r"^\| \*\*1a\*\* .* not worse .*\|$", text, re.MULTILINE)[:1]
    assert [cell.strip() for cell in line.split("|")[2:6]] == ["✓ supported", "✗ contradicted"] * 2
    assert "(paper/gpu-scores.png)" in text
    assert "Size `gpu`: `cifar10`, 1,000 test images, 5 seeds; chance is 10%." in text


def test_what_people_wrote_has_no_measured_numbers():
    for text in yaml.safe_load(NOTES.read_text()).values():
        assert not re.search(r"\d\s*(%|points|percent|nats|min)", text or "")


def test_no_paragraph_of_the_page_is_longer_than_60_words():
    blocks = re.sub(r"<!--.*?-->", "", (DOCS / "paper.md").read_text(), flags=re.DOTALL).split("\n\n")
    paragraphs = [line for block in blocks if not block.startswith("|") for line in re.split(r"\n\s*- ", block)]
    assert [text for text in paragraphs if len(text.split()) > 60] == []


@pytest.mark.slow
@pytest.mark.skipif(not (FOLDERS["cpu"] / "records.parquet").is_file(), reason="results/paper-cpu is not there")
def test_the_committed_page_is_what_the_records_say():
    assert (DOCS / "paper.md").read_text() == page(FOLDERS)
