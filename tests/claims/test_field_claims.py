"""The claims about the study `field` get the verdict that records with a known answer deserve."""

import json

import pandas as pd
import pytest

from support.claim_records import rows_of
from tombola.claims import columns_of, judge
from tombola.claims.curves import DETERMINISTIC, SNR, TRANSPLANT, Rows, control
from tombola.claims.field import CLAIMS, RANDOM, SSVI, claims_of
from tombola.claims.paper import CLAIMS as PAPERS
from tombola.claims.table import frame
from tombola.study.spec import read, shipped, unfold


def study(**curves):
    """Records of curves by their names in `KNOWN`, each with points on top of .8, and AURCs that mirror accuracies."""
    records = pd.concat([rows_of(KNOWN[name], points, study="field", data="cifar10") for name, points in curves.items()])
    return records.assign(
        aurc_confidence=1 - records["accuracy"],
        aurc_information=1 - records["accuracy"] - 0.05,
        total_flops=1e12 * (1.0 + records["level"]),
    )


KNOWN = {
    "snr": SNR,
    "deterministic": DETERMINISTIC,
    "snr_again": control("reinit", SNR),
    "deterministic_again": control("reinit", DETERMINISTIC),
    "pruned": TRANSPLANT,
    "random": RANDOM,
    "ssvi": SSVI,
}


def by_sgld(**curves):
    records = study(**curves)
    return records.assign(method=records["method"].replace("vi", "sgld"), changes='{"train.lr": 0.1}')


def by_ssvi(points, epochs=18):
    records = study(snr=0.0, ssvi=points)
    changes = json.dumps({"train.epochs": epochs, "train.sparse": {"way": "ssvi"}})
    return records.assign(changes=records["changes"].mask(records["arm"] == "in_training", changes))


SCENARIOS = {
    "f1": (study(snr=2.0, deterministic=0.0), study(snr=-2.0, deterministic=0.0)),
    "f2": (study(snr=0.0), study(snr=0.0).assign(aurc_information=0.3)),
    "f3": (by_sgld(pruned=0.0, random=0.0), by_sgld(pruned=0.0, random=-2.0)),
    "f4": (
        study(snr=0.0, deterministic=0.0, snr_again=-2.0, deterministic_again=-2.0),
        study(snr=0.0, deterministic=0.0, snr_again=2.0, deterministic_again=2.0),
    ),
    "f5": (by_ssvi(2.0), by_ssvi(-2.0)),
}


def shaken(records):
    """The records with AURCs by information that seeds vary."""
    return records.assign(aurc_information=records["aurc_information"] + 1e-4 * records["seed"])


@pytest.mark.parametrize("name", CLAIMS)
def test_supported_where_it_holds_and_contradicted_where_it_does_not(name):
    assert CLAIMS[name].study in shipped()
    for records, verdict in zip(SCENARIOS[name], ("supported", "contradicted"), strict=True):
        rows = judge(shaken(records), {name: CLAIMS[name]})
        assert [row.case for row in rows] == list(CLAIMS[name].cases)
        assert {(row.verdict, row.corrected, row.needs) for row in rows} == {(verdict, verdict, "")}


def test_ssvi_is_compared_at_equal_cost_only():
    records = by_ssvi(2.0)
    dear = records["total_flops"].mask(records["arm"] == "in_training", 2 * records["total_flops"])
    (row,) = judge(records.assign(total_flops=dear), {"f5": CLAIMS["f5"]})
    assert (row.verdict, row.needs.split(":")[0]) == ("no data", "needs equal FLOPs")


def test_ways_and_longer_trainings_are_curves_of_their_own():
    short = by_ssvi(0.0).assign(seed=lambda rows: rows["seed"] + 10)
    short["changes"] = short["changes"].str.replace('"train.epochs": 18, ', "")
    rows = Rows(pd.concat([by_ssvi(0.0), short]))
    assert {rows.column("seed")[place] for place in rows.places(SSVI)} == set(range(5))
    other = pd.concat([by_ssvi(0.0)]).assign(changes='{"train.epochs": 18, "train.sparse": {"way": "set"}}')
    assert not list(Rows(other).places(SSVI))


def test_columns_that_claims_do_not_read_change_nothing_and_need_not_be_read():
    records = study(snr=0.0)
    needed = records[[name for name in records if name in columns_of(CLAIMS)]]
    assert len(needed.columns) < len(records.columns)
    pd.testing.assert_frame_equal(frame(judge(records, CLAIMS)), frame(judge(needed, CLAIMS)), check_exact=True)


def test_records_of_the_study_are_judged_by_its_claims_and_others_by_the_papers():
    assert claims_of(study(snr=0.0)) is CLAIMS
    assert claims_of(rows_of(SNR)) is PAPERS
    assert claims_of(pd.concat([study(snr=0.0), rows_of(SNR)])) is PAPERS


def test_the_studies_share_all_but_their_random_parameters_and_ssvi_costs_what_the_chain_does():
    (one,), (other,) = (unfold(read(name, [])) for name in ("field", "field_last_layer"))
    for section in ("data", "model", "train", "prune", "evaluate", "seeds", "threads"):
        assert getattr(one.study, section) == getattr(other.study, section)
    (longer,) = (arm for arm in one.study.arms if "epochs" in arm.train)
    assert longer.train["epochs"] == (1 + one.study.prune.levels) * one.study.train.epochs
