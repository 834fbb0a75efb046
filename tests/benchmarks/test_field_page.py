"""docs/field.md is what the records say, and says so where seeds are missing."""

import json
import re

import pandas as pd
import pytest
from benchmarks.field.page import DOCS, RESULTS, drawings, page
from benchmarks.field.rows import MEASURES, labelled, spread

from support.claim_records import rows_of
from tombola.claims.curves import DETERMINISTIC, SNR, TRANSPLANT, control


def records(seeds=3):
    """A study of three curves, the third of one seed and of two methods."""
    planted = [rows_of(TRANSPLANT, seeds=1).assign(method=method) for method in ("sghmc", "mc_dropout")]
    curves = [rows_of(SNR, seeds=seeds), rows_of(DETERMINISTIC, seeds=seeds)]
    shuffled = rows_of(control("shuffle_layerwise", DETERMINISTIC), seeds=seeds)
    table = pd.concat([*curves, shuffled, *planted], ignore_index=True).assign(study="field", examples=1000)
    keys = table["key"] + table["method"]
    return table.assign(
        key=keys, ticket=keys, nll=1.0, ece=0.05, ece_null=0.01, aurc_confidence=0.1, aurc_information=0.2, bytes=12345.0,
        auroc_noise_entropy=0.9, auroc_textures_entropy=0.8, auroc_digits_information=0.6,
        accuracy_corrupted=0.4, total_flops=2e12, classes=10,
    )  # fmt: skip


@pytest.fixture
def written(tmp_path):
    records().to_parquet(tmp_path / "records.parquet")
    return tmp_path


def lines(text):
    return {
        tuple(cells[1:3]): cells[3:] for line in text.splitlines() if len(cells := [c.strip() for c in line.split("|")]) > 9
    }


def test_rows_have_means_intervals_and_the_seeds_that_are_there(written):
    text = page(written, written / "figures")
    found = lines(text.split("<details>")[0])
    accuracy = records().query("arm == 'ticket' and level == 10")["accuracy"]
    assert found["vi", "pruned"][0] == spread(accuracy, MEASURES[0])
    assert found["vi", "pruned"][1:10] == ["1.00", "4.0", "10.0", "85.0", "60.0", "40.0", "2.0", "12.3", "3"]
    assert found["sghmc", "pruned, of deterministic"][9] == "1 of 3"
    assert "±" not in "".join(found["sghmc", "pruned, of deterministic"])
    assert found["SG-MCMC, spike and slab, ResNet-20*", "9.65% left"][0] == "91.60 (0.06)"
    assert "**The study is unfinished**" in text
    assert {path.stem for path in (written / "figures").glob("*.png")} == {"masks", "trust", "cost"}
    assert set(re.findall(r"\]\(field/(\w+)\.png\)", text)) == {"masks", "trust", "cost"}


def test_the_interval_is_students():
    assert spread(pd.Series([0.58, 0.60, 0.62]), MEASURES[0]) == "60.0 ± 3.4"  # 2.92 * 2 / sqrt(3)
    assert spread(pd.Series([0.6]), MEASURES[0]) == "60.0"
    assert spread(pd.Series([], dtype=float), MEASURES[0]) == "\N{EN DASH}"


def test_arms_are_named_by_method_and_mask():
    row = rows_of(SNR, seeds=1).iloc[:1].assign(study="field", level=5)
    ways = {"arm": "in_training", "changes": json.dumps({"train.sparse": {"way": "ssvi"}, "train.epochs": 18})}
    once = {"arm": "before_training", "score": "random", "changes": '{"scope": "erk"}', "method": "map"}
    last = {"study": "field_last_layer", "arm": "transplant_shuffle", "method": "laplace_full"}
    named = labelled(pd.concat([row.assign(**each) for each in (ways, once, last)]))["curve"].tolist()
    assert named == ["vi, SSVI, longer", "deterministic, random, ERK", "Laplace, last layer, shuffled, of deterministic"]


def test_without_records_the_page_says_so(tmp_path):
    assert "**It has not been run yet**" in page(tmp_path)


def test_the_committed_page_is_what_the_records_say_in_800_words():
    text = (DOCS / "field.md").read_text()
    assert text == page(RESULTS)
    said = re.sub(r"<!--.*?-->|```.*?```|^\|.*?$|\]\(.*?\)", "", text, flags=re.DOTALL | re.MULTILINE)
    assert len(said.split()) <= 800
    if (RESULTS / "records.parquet").is_file():
        for name, _ in drawings(labelled(pd.read_parquet(RESULTS / "records.parquet"))):
            assert (DOCS / "field" / f"{name}.png").is_file()
