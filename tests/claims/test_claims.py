"""Every claim of the paper gets the verdict that records with a known answer deserve."""

import json
import math
import subprocess
import sys
from functools import cache

import pandas as pd
import pytest

from support.claim_records import SCENARIOS, costs, only, rates, rows_of, study, two_sizes, warm, without_data
from tombola.claims import Claim, columns_of, judge
from tombola.claims.contrasts import Grid, near
from tombola.claims.curves import (
    DETERMINISTIC,
    MU,
    SNR,
    SQUARE,
    SQUARE_CODED,
    TRANSPLANT,
    Missing,
    control,
    rewound,
    tickets,
)
from tombola.claims.nets import nets_of
from tombola.claims.paper import CLAIMS
from tombola.claims.paper.claims import HALF, HIGH, LAST, MEDIUM
from tombola.claims.table import as_json, frame, headline, remark
from tombola.claims.verdict import above
from tombola.errors import TombolaError
from tombola.metrics.records import read
from tombola.settings import PruneSettings, TrainSettings
from tombola.settings.keys import restored
from tombola.study.arms import settings_labels
from tombola.study.spec import Arm, Study, shipped, unfold

IDS = [
    *("1a", "1b", "1c", "1d", "1e", "1f", "1g", "1h", "1i", "1j", "2a", "2b", "3a", "3b", "3c", "3d"),
    *("4a", "4b", "4c", "4d", "4e", "5a", "6a", "6b", "7a", "7b", "8a", "8b", "8c"),
]
WIDE = 8.0  # points


@cache
def where_it_holds(name, swing=0.0):
    """Return records in which the claim holds, made once: tests may not write into them."""
    held, _ = SCENARIOS[name]
    return held(swing)


def verdicts(records, id_):
    return [row.verdict for row in judge(records, {id_: CLAIMS[id_]})]


def test_every_id_of_the_paper_is_a_claim_with_records_that_test_it():
    assert list(CLAIMS) == list(SCENARIOS) == IDS
    for name, claim in CLAIMS.items():
        assert claim.id == name
        assert claim.study in shipped()


@pytest.mark.parametrize("name", IDS)
def test_supported_where_it_holds(name):
    rows = judge(where_it_holds(name), {name: CLAIMS[name]})
    assert [row.case for row in rows] == list(CLAIMS[name].cases)
    for row in rows:
        assert (row.verdict, row.corrected, row.needs) == ("supported", "supported", "")
        assert all(found.n == 5 for found in row.joint.outcomes)


@pytest.mark.parametrize("name", IDS)
def test_contradicted_where_it_does_not(name):
    _, broken = SCENARIOS[name]
    rows = judge(broken(0.0), {name: CLAIMS[name]})
    assert {(row.verdict, row.corrected) for row in rows} == {("contradicted", "contradicted")}


MATCHES = {"1b", "1d", "1h", "1j", "3d", "4a", "4b", "4d", "7b"}
"""Claims that say "matches": with so wide a swing they have no power."""


@pytest.mark.parametrize("name", [name for name in IDS if name not in ("4e", "5a")])
def test_undecided_where_seeds_disagree(name):
    assert set(verdicts(where_it_holds(name, WIDE), name)) == {"not testable here" if name in MATCHES else "inconclusive"}


@pytest.mark.parametrize("name", ["4e", "5a"])
def test_seconds_are_undecided_where_seeds_disagree_and_so_are_flops_which_are_counted(name):
    assert set(verdicts(where_it_holds(name, WIDE), name)) == {"inconclusive"}


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("name", ["1a", "2a", "3a", "7a"])
def test_below_three_seeds_there_is_no_verdict(name, seeds):
    for row in judge(only(where_it_holds(name), seeds), {name: CLAIMS[name]}):
        assert (row.verdict, row.corrected, row.joint.deciding.n) == ("no verdict", "no verdict", seeds)
        assert remark(row).startswith(f"{seeds} seed{'s' if seeds > 1 else ''}: no verdict below 3")


def test_flops_are_counted_and_need_no_seeds():
    seconds, flops = judge(only(where_it_holds("5a"), 1), {"5a": CLAIMS["5a"]})
    assert (seconds.verdict, flops.verdict, flops.corrected) == ("no verdict", "supported", "supported")


@pytest.mark.parametrize("name", ["1i", "2a", "3a", "4e"])
def test_columns_that_claims_do_not_read_change_nothing_and_need_not_be_read(name, tmp_path):
    held = where_it_holds(name).assign(examples=10_000.0, classes=10.0)
    held.to_parquet(tmp_path / "records.parquet")
    needed = read([tmp_path], columns_of(CLAIMS))
    assert set(held.columns) - set(needed.columns) >= {"study", "curve", "variant"}
    judged = (frame(judge(table, CLAIMS)) for table in (held, needed))
    pd.testing.assert_frame_equal(*judged, check_exact=True)


@pytest.mark.parametrize("name", IDS)
def test_no_data_says_which_study_to_run(name):
    rows = judge(without_data(where_it_holds(name)), {name: CLAIMS[name]})
    assert {row.verdict for row in rows} == {"no data"}
    for row in rows:
        assert row.needs.startswith("needs ")
        assert row.needs.endswith(f": tombola run {CLAIMS[name].study}")


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("1h", "needs mu tickets: tombola run paper/scores"),
        (
            "3a",
            "needs re-init, layer-wise shuffles, even shuffles and global shuffles of snr tickets: tombola run paper/",
        ),
        ("4a", "needs transplants: tombola run paper/transplant"),
        ("4d", "needs mace of transplants: tombola run paper/transplant"),
        ("6a", "needs two sizes of a family: tombola run paper/size"),
        ("6b", "needs vgg19 nets: tombola run paper/size"),
        ("7a", "needs snr tickets at two or more learning rates: tombola run paper/rate"),
        ("8a", "needs snr tickets with learning-rate rewinding and deterministic tickets with learning-rate rewinding"),
        ("1d", "needs vgg nets: tombola run paper/scores"),
    ],
)
def test_what_is_missing_is_named(name, needed):
    row, *_ = judge(study({SNR: 0.0, DETERMINISTIC: 0.0}), {name: CLAIMS[name]})
    assert row.needs.startswith(needed)


def test_a_level_that_no_curve_reaches_is_missing_and_not_replaced_by_another():
    shallow = rows_of(SNR, levels=range(4))  # ends at 26% left
    (row,) = judge(shallow, {"1a": CLAIMS["1a"]})
    assert row.needs == "needs a level near 10% left (within a factor of 1.2) of snr tickets: tombola run paper/scores"
    assert verdicts(pd.concat([rows_of(SNR), rows_of(MU)]), "1c") == ["no data"]


@pytest.mark.parametrize("size", ["full", "gpu", "cpu"])
@pytest.mark.parametrize("density", [HALF, MEDIUM, HIGH])
def test_every_size_has_levels_near_or_around_each_density_that_claims_name_but_50_percent_of_cpu(size, density):
    prune = unfold({"name": "it", "size": size, "nets": ["resnet20"]})[0].study.prune
    for rounded in (0.997, 1.003):  # masks keep whole weights
        left = {level: (1 - prune.fraction) ** level * (rounded if level else 1) for level in range(prune.levels + 1)}
        values = {(0, level): 0.5 for level in left}
        reached = Grid("snr", values, dict.fromkeys(values, ""), left)
        assert left[prune.levels] < LAST
        if (size, density) == ("cpu", HALF):
            with pytest.raises(Missing, match="a level near 50% left"):
                near(reached, reached, density=density)
        else:
            assert ("interpolated" in near(reached, reached, density=density).words) == ((size, density) == ("gpu", HALF))


def test_a_finished_part_contradicts_though_another_one_has_a_single_seed_yet():
    records = study({SNR: 0.0, MU: lambda level: 2.0 if level == 3 else 0.0}, model="vgg11")
    records = pd.concat([records, rows_of(SQUARE, model="vgg11")])
    unfinished = records[(records["level"] < 8) | (records["seed"] == 0)]
    (row,) = judge(unfinished, {"1d": CLAIMS["1d"]})
    assert (row.verdict, row.corrected) == ("contradicted", "contradicted")
    assert (row.joint.deciding.n, row.joint.deciding.reason) == (5, "")
    (row,) = judge(unfinished[unfinished["level"] != 3], {"1d": CLAIMS["1d"]})
    assert (row.verdict, row.corrected) == ("no verdict", "no verdict")
    assert row.joint.deciding.reason == "1 seed: no verdict below 3"


def test_a_claim_of_several_parts_shows_the_one_that_decides():
    held = study({SNR: 0.0, MU: 0.0, SQUARE: lambda level: 2.0 if level == 7 else 0.0}, model="vgg11")
    (row,) = judge(held, {"1d": CLAIMS["1d"]})
    assert row.verdict == "contradicted"
    assert row.joint.deciding.part.contrast.words.endswith("at 4.4% left")  # .64^7
    assert len(row.joint.outcomes) == 3 * 10  # pairs of scores, levels
    assert sum(found.verdict == "supported" for found in row.joint.outcomes) == 28


def test_only_seeds_that_both_curves_have_are_paired():
    records = pd.concat([rows_of(SNR, 2.0, model="vit_tiny", seeds=5), rows_of(DETERMINISTIC, model="vit_tiny", seeds=3)])
    (row,) = judge(records, {"1e": CLAIMS["1e"]})
    assert list(row.joint.deciding.part.contrast.values) == [0, 1, 2]
    assert len(row.keys) == 3 * 11 * 2


def test_a_seed_without_a_finite_value_is_left_out():
    records = study({SNR: 2.0, DETERMINISTIC: 0.0}, model="vit_tiny")
    records.loc[(records["seed"] == 2) & (records["level"] == 3), "accuracy"] = float("nan")
    (row,) = judge(records, {"1e": CLAIMS["1e"]})
    assert list(row.joint.deciding.part.contrast.values) == [0, 1, 3, 4]


def test_the_margin_is_half_a_point_on_cifar_and_one_on_digits():
    drop = {SNR: lambda level: -0.75 if level else 0.0}
    assert verdicts(study(drop, data="cifar10-jpeg75"), "1a") == ["contradicted"]
    assert verdicts(study(drop, data="digits"), "1a") == ["supported"]
    for name in ("cifar10", "cifar100-fine", "CIFAR-10", "cifar10 (validation split)"):
        assert [net.margin for net in nets_of(rows_of(SNR, data=name))] == [0.5]


def test_relatives_of_a_size_belong_to_the_nets_of_the_paper():
    for name, model in (("1b", "resnet20/cpu"), ("1d", "vgg11/cpu"), ("1g", "vit_tiny/cpu"), ("6b", "vgg19/cpu")):
        rows = judge(where_it_holds(name).assign(model=model), {name: CLAIMS[name]})
        assert {(row.net, row.verdict) for row in rows} == {(model, "supported")}
    assert verdicts(study({SNR: 0.0}, model="vgg11/cpu"), "6b") == ["no data"]


def test_rows_that_two_studies_share_count_once():
    records = study({SNR: 2.0, DETERMINISTIC: 0.0}, model="vit_tiny")
    once, twice = (judge(found, {"1e": CLAIMS["1e"]})[0] for found in (records, pd.concat([records, records])))
    assert (once.joint.deciding.n, once.keys) == (twice.joint.deciding.n, twice.keys)
    assert once.joint.p_inside == twice.joint.p_inside


def test_tickets_that_are_measured_in_two_ways_cost_once_and_match_twice():
    running = study({TRANSPLANT: 0.0, DETERMINISTIC: 0.0, SNR: 0.0}, model="vgg11")
    batch = running.assign(
        key=running["key"] + "b", settings='{"data.fingerprint": "abc", "evaluate.batch_norm": "batch", "train.lr": 0.001}'
    )
    both = pd.concat([running, batch])
    assert [row.net for row in judge(both, {"4b": CLAIMS["4b"]})] == [
        *("vgg11, batch_norm=default", "vgg11, batch_norm=batch"),
    ]
    for name in ("4e", "5a"):
        assert [row.net for row in judge(both, {name: CLAIMS[name]})] == ["vgg11"] * len(CLAIMS[name].cases)


def test_the_best_epoch_is_beside_and_not_the_result():
    records = study({SNR: 0.0})
    records.loc[records["level"] > 0, "best_accuracy"] -= 0.05
    (row,) = judge(records, {"1a": CLAIMS["1a"]})
    assert (row.verdict, row.beside_metric, row.beside.verdict) == ("supported", "best_accuracy", "contradicted")


def test_flops_are_judged_apart_from_seconds_and_missing_where_not_counted():
    records = costs({SNR: 5.0, DETERMINISTIC: 1.0}).drop(columns="train_flops")
    seconds, flops = judge(records, {"5a": CLAIMS["5a"]})
    assert (seconds.verdict, flops.verdict) == ("supported", "no data")
    assert "train flops" in flops.needs


def test_a_transplanted_ticket_costs_the_levels_before_it_and_its_own_training():
    records = costs({TRANSPLANT: 7.0, DETERMINISTIC: 2.0, SNR: 10.0})
    (row, _) = judge(records, {"4e": CLAIMS["4e"]})
    line = frame([row]).iloc[0]
    assert line["effect"] == pytest.approx((10 * 2 + 7) / (11 * 10), rel=1e-3)  # level 10: levels 0 to 9, then one; 0 to 10


# not worse, at chance, and cost


def test_a_ticket_that_is_better_than_dense_is_not_worse_and_matches_not():
    (row,) = judge(study({SNR: 3.0}), {"1a": CLAIMS["1a"]})
    assert (row.verdict, row.two_sided.verdict) == ("supported", "contradicted")
    assert "two-sided: ✗ contradicted" in remark(row)
    assert all(row.two_sided is None for row in judge(where_it_holds("1h"), {"1h": CLAIMS["1h"]}))


def test_one_worse_level_on_the_way_to_10_percent_contradicts():
    (row,) = judge(study({SNR: lambda level: -2.0 if level == 2 else 0.0}), {"1a": CLAIMS["1a"]})
    assert (row.verdict, len(row.joint.outcomes)) == ("contradicted", 5)
    assert row.joint.deciding.part.contrast.words == "snr tickets minus dense at 41% left"


def at_chance(records, where):
    """Return the records of ten classes and 1,000 examples, with accuracies around 10% there."""
    swing = 0.002 * (records["seed"] % 5)
    return records.assign(classes=10, examples=1000, accuracy=records["accuracy"].where(~where, 0.1 + swing))


def test_two_curves_at_chance_have_no_verdict_and_one_is_named():
    records = study({SNR: 0.0, SQUARE: 0.0, MU: 0.0}, model="vgg11")
    sparse = records["level"] == 10
    (row,) = judge(at_chance(records, sparse), {"1d": CLAIMS["1d"]})
    assert (row.verdict, row.corrected) == ("no verdict", "no verdict")
    assert row.joint.deciding.reason == "at chance: snr tickets and mu tickets"
    records = study({SNR: 0.0, SQUARE: 0.0, SQUARE_CODED: 0.0}, model="vit_tiny")
    square = records["curve"].isin([SQUARE.words, SQUARE_CODED.words]) & (records["level"] > 0)
    for row in judge(at_chance(records, square), {"1g": CLAIMS["1g"]}):
        assert row.verdict == "supported"
        assert "at chance: square" in remark(row)
        assert row.chance_known


def test_one_curve_at_chance_decides_only_claims_about_its_collapse():
    """The scores of a VGG match until square collapses: it is not contradicted; that tickets are not worse than dense is."""
    records = study({SNR: 0.0, SQUARE: 0.0, MU: 0.0}, model="vgg11")
    last = records["level"] == 10
    (row,) = judge(at_chance(records, last & (records["curve"] == SQUARE.words)), {"1d": CLAIMS["1d"]})
    assert (row.verdict, row.corrected) == ("no verdict", "no verdict")
    assert row.joint.deciding.reason == "at chance: square tickets"
    early = (records["level"] == 3) & (records["curve"] == SNR.words)
    (row,) = judge(at_chance(records, early), {"1a": CLAIMS["1a"]})
    assert (row.verdict, row.corrected) == ("contradicted", "contradicted")
    assert (row.two_sided.verdict, row.two_sided.deciding.reason) == ("no verdict", "at chance: snr tickets")


def test_no_calibration_of_a_net_at_chance_is_judged():
    records = study({SNR: -5.0}, metric="mace")
    (row,) = judge(records, {"1i": CLAIMS["1i"]})
    assert row.verdict == "supported"
    (row,) = judge(at_chance(records.assign(accuracy=0.8), records["level"] > 8), {"1i": CLAIMS["1i"]})
    assert (row.verdict, row.joint.deciding.reason) == ("no verdict", "at chance: snr tickets")


def test_a_net_whose_dense_networks_are_at_chance_has_no_verdict_but_on_cost():
    records = study({SNR: 2.0, DETERMINISTIC: 0.0}, model="vit_tiny")
    records = at_chance(records, records["level"] == 0)
    (row,) = judge(records, {"1e": CLAIMS["1e"]})
    assert (row.verdict, row.joint.deciding.reason) == ("no verdict", "the dense networks are at chance")
    assert {row.verdict for row in judge(records, {"5a": CLAIMS["5a"]})} <= {"contradicted", "no verdict"}
    above_it = records.assign(accuracy=records["accuracy"] + 0.03)  # 13%; of 1,000 examples chance reaches 11.9%
    assert judge(above_it, {"1e": CLAIMS["1e"]})[0].verdict == "supported"


def test_records_with_and_without_their_number_of_examples_are_both_judged_for_chance():
    records = study({SNR: 0.0}).assign(classes=10, examples=math.nan, accuracy=lambda own: 0.1 - 0.001 * own["seed"])
    (row,) = judge(records, {"1a": CLAIMS["1a"]})
    assert (row.verdict, row.joint.deciding.reason) == ("no verdict", "the dense networks are at chance")


def test_cost_takes_no_part_in_the_headline_nor_in_the_correction_of_others():
    records = study({SNR: 2.0, DETERMINISTIC: 0.0}, model="vit_tiny")
    alone, *_ = judge(records, {"1e": CLAIMS["1e"]})
    together = judge(records, {name: CLAIMS[name] for name in ("1e", "5a")})
    assert together[0].p_supported == alone.p_supported
    assert headline(together) == (
        "Of 1 rows, after Holm's correction: 1 supported. 2 more are about cost, which the samples a step decide beforehand."
    )


def test_rows_of_one_seed_and_level_that_differ_are_refused_by_name():
    records = study({SNR: 0.0, MU: 0.0})
    other = records.assign(key="other-" + records["key"], accuracy=records["accuracy"] + 0.01)
    (row,) = judge(pd.concat([records, other]), {"1h": CLAIMS["1h"]})
    first = records.loc[records["curve"] == MU.words, "key"].iloc[0]
    assert (row.verdict, row.net) == ("no data", "resnet20")
    assert row.needs == (
        f"rows {first} and other-{first} of mu tickets, seed 0, level 0, differ in accuracy: judge their studies apart"
    )
    again = pd.concat([records, other.assign(accuracy=records["accuracy"])])  # measured twice, with one result
    assert verdicts(again, "1h") == ["supported"]


def test_a_net_whose_rows_differ_is_named_beside_a_relative_that_is_judged():
    good, bad = (study({SNR: 0.0, MU: 0.0}, model=model) for model in ("resnet20", "resnet32"))
    other = bad.assign(key="other-" + bad["key"], accuracy=bad["accuracy"] + 0.01)
    rows = judge(pd.concat([good, bad, other]), {"1h": CLAIMS["1h"]})
    assert [(row.net, row.verdict, row.mixed) for row in rows] == [
        ("resnet20", "supported", False),
        ("resnet32", "no data", True),
    ]


def test_deterministic_tickets_beside_two_methods_are_one_test():
    records = where_it_holds("3a")
    by_swag = records[records["method"] == "vi"].assign(method="swag", key="swag-" + records["key"])
    rows = judge(pd.concat([records, by_swag]), {"3a": CLAIMS["3a"]})
    assert [row.case for row in rows] == ["Bayesian", "Bayesian", "deterministic"]


def test_levels_of_unlike_densities_are_not_compared():
    """A budget of operations may leave 50% of one net and 10% of another at one level."""
    records = study({SNR: 0.0, DETERMINISTIC: -2.0}, model="vit_tiny")
    records.loc[(records["arm"] == "deterministic") & (records["level"] > 1), "density"] *= 1.5
    (row,) = judge(records, {"1e": CLAIMS["1e"]})
    assert row.joint.deciding.part.contrast.words.endswith("100% to 64% left")
    records.loc[(records["arm"] == "deterministic") & (records["level"] > 0), "density"] = 0.9
    assert verdicts(records, "1e") == ["no data"]


# which rows belong together


def test_rows_of_several_studies_in_one_setting_are_one_net():
    tickets, shuffles = rows_of(SNR, study="scores"), rows_of(control("reinit", SNR), -3.0, study="randomise")
    (net,) = nets_of(pd.concat([tickets, shuffles, tickets]))
    assert len(net.grids(SNR, control("reinit", SNR))) == 2
    assert net.label == "resnet20"


def test_rows_in_other_settings_are_other_nets_named_by_what_differs():
    hot, cold = (rows_of(SNR, settings={"train.heat": heat}) for heat in (1.0, 0.01))
    assert [net.label for net in nets_of(pd.concat([hot, cold]))] == ["resnet20, heat=1.0", "resnet20, heat=0.01"]


def test_arms_that_change_a_setting_take_no_part_but_in_claims_about_it():
    plain, slow = rows_of(SNR, lr=0.01), rows_of(SNR, -2.0, lr=0.001, settings={"train.lr": 0.01})
    slow["changes"] = json.dumps({"train.lr": 0.001})
    both = pd.concat([plain, slow])
    (net,) = nets_of(both)
    assert len(net.rows.frame) == len(plain)
    assert verdicts(both, "7a") == ["supported"]
    assert verdicts(pd.concat([plain, slow.assign(changes='{"train.objective": "log_expected"}')]), "7a") == ["no data"]


def test_nets_without_data_are_silent_where_a_relative_has_some():
    records = pd.concat([rows_of(SNR, model="resnet20"), rows_of(DETERMINISTIC, model="resnet110")])
    assert [row.net for row in judge(records, {"1a": CLAIMS["1a"]})] == ["resnet20"]
    records = pd.concat([rows_of(DETERMINISTIC, model="vgg11"), rows_of(DETERMINISTIC, model="vgg19")])
    assert [row.verdict for row in judge(records, {"1a": CLAIMS["1a"]})] == ["no data"]


def test_sizes_are_compared_only_on_the_same_data_at_equal_density():
    assert verdicts(two_sizes(2.0), "6a") == ["supported"]
    records = two_sizes(2.0)
    large = records["model"] == "resnet110"
    other_data = records.assign(settings=[json.dumps({"data.fingerprint": str(other)}) for other in large])
    assert verdicts(other_data, "6a") == ["no data"]
    records.loc[large & (records["level"] > 0), "density"] *= 0.9
    (net,) = (net for net in nets_of(records) if net.model == "resnet110")
    with pytest.raises(Missing, match="levels of equal density"):
        CLAIMS["6a"].function(net)


def test_the_highest_rate_must_beat_every_other():
    records = pd.concat([rates(2.0), rows_of(SNR, 3.0, lr=0.003)])
    assert verdicts(records, "7a") == ["contradicted"]
    assert verdicts(warm(0.0), "7a") == ["no data"]  # one rate, with and without warm-up


def test_rewinding_is_told_apart_by_its_column():
    records = study({DETERMINISTIC: 0.0, rewound(DETERMINISTIC): 2.0}, model="vgg11")
    assert verdicts(records, "8b") == ["supported"]
    assert verdicts(records.assign(rewind="init"), "8b") == ["no data"]


def test_the_settings_of_a_row_say_what_makes_it_comparable():
    def of(prune=None, train=None, arm="ticket", **more):
        given = Study(prune=restored(PruneSettings, prune or {}), train=restored(TrainSettings, train or {}))
        one = Arm(arm=arm, **more)
        return settings_labels(given, one, "f00")

    default = {"data.fingerprint": "f00", "evaluate.batch_norm": "samples"}  # newer than the defaults in keys
    assert json.loads(of()["settings"]) == default
    same = of(prune={"levels": 3, "score": "mu", "rewind": "learning_rate"}, train={"method": "ivon"})
    assert same["settings"] == of()["settings"]  # they have columns, or change no row that both have
    assert json.loads(of(train={"lr": 0.1})["settings"]) == default | {"train.lr": 0.1}
    assert of(score="mu", levels=[1], rewind="init")["changes"] == "{}"
    assert json.loads(of(train={"lr": 0.1})["settings"])["train.lr"] == 0.1
    arm = Arm(train={"lr": 0.1, "epochs": TrainSettings().epochs, "method": "ivon"})
    assert json.loads(settings_labels(Study(), arm, "f")["changes"]) == {"train.lr": 0.1}
    assert [of(arm=a)["chain"] for a in ("ticket", "deterministic", "transplant")] == [
        *("bayesian", "deterministic", "deterministic"),
    ]
    assert of(arm="reinit", of="deterministic")["chain"] == "deterministic"


# what is written


def test_the_frame_and_the_json_have_the_numbers_of_every_row():
    rows = judge(study({SNR: 0.0, DETERMINISTIC: 0.0}), CLAIMS)
    table = frame(rows)
    assert set(table["claim"]) == set(IDS)
    assert ((table["verdict"] != "no data") == (table["n"] > 0)).all()
    assert ((table["needs"] == "") == (table["n"] > 0)).all()
    parsed = json.loads(as_json(rows))
    assert [line["claim"] for line in parsed] == list(table["claim"])
    (first,) = [line for line in parsed if line["claim"] == "1a"]
    assert (first["says_low"], first["says_high"], first["each"][0]["seeds"]) == (-0.5, None, [0, 1, 2, 3, 4])
    assert (first["two_sided"], first["parts"]) == ("supported", 5)
    assert first["power"] > 0.99


def test_records_of_an_earlier_version_are_refused_in_a_sentence():
    with pytest.raises(TombolaError, match=r"no column 'chain'.*tombola report DIR"):
        judge(rows_of(SNR).drop(columns="chain"), CLAIMS)


def test_no_records_give_a_row_without_data_for_every_claim():
    rows = judge(rows_of(SNR).iloc[:0], CLAIMS)
    assert {row.verdict for row in rows} == {"no data"}
    assert {row.claim.id for row in rows} == set(IDS)


def test_a_claim_of_ones_own_is_judged_beside_the_papers():
    def random_is_worse(net):
        return [above(near(*net.grids(SNR, tickets("random")), density=0.1))]

    own = Claim("mine", "random masks are worse", random_is_worse, study="mine")
    (row,) = judge(study({SNR: 0.0, tickets("random"): -3.0}), {"mine": own})
    assert (row.verdict, row.joint.deciding.mean) == ("supported", pytest.approx(3.0, abs=0.05))


# on the command line


def test_the_command_needs_no_torch():
    code = "import sys, tombola.cli.judging; sys.exit('torch' in sys.modules or 'statsmodels' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def folder(tmp_path):
    """A folder with records of which some claims hold and some have no data."""
    there = tmp_path / "scores"
    there.mkdir()
    study({SNR: 0.0, MU: 0.0, DETERMINISTIC: -2.0}, study="scores").to_parquet(there / "records.parquet")
    return there


def test_the_command_prints_verdicts_and_what_is_missing(cli, folder, tmp_path):
    result = cli("claims", folder, "--csv", "claims.csv", "--json", "claims.json")
    assert result.exit_code == 0
    assert "1h  mu alone matches snr (area under the curve)" in result.output
    assert "✓ supported" in result.output
    assert "✗ contradicted" in result.output
    assert "n = 5" in result.output
    assert "rows, after Holm's correction: " in result.output
    assert "nets at chance are judged like others" in " ".join(result.output.split())  # these records lack `classes`
    assert "3a (Bayesian)  resnet20 needs re-init, layer-wise shuffles" in result.output
    table = pd.read_csv(tmp_path / "claims.csv")
    assert list(table["claim"].unique()) == IDS
    assert [line["claim"] for line in json.loads((tmp_path / "claims.json").read_text())] == list(table["claim"])


def test_the_command_puts_studies_together(cli, folder, tmp_path):
    other = tmp_path / "transplant.parquet"
    study({TRANSPLANT: 0.0}, study="transplant").to_parquet(other)
    assert "4a  resnet20 needs transplants" in cli("claims", folder).output
    assert "4a  transplants match Bayesian tickets" in cli("claims", folder, other).output


def test_the_command_refuses_what_has_no_records(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert refused("claims", "empty").startswith("empty has no records (no records.parquet); give the folder")
    assert "nowhere has no records" in refused("claims", "nowhere")
    (tmp_path / "text.parquet").write_text("no table")
    assert "text.parquet is no table of records" in refused("claims", "text.parquet")


def test_a_file_that_cannot_be_written_is_one_sentence(refused, cli, folder):
    result = cli("claims", folder, "--csv", "nowhere/claims.csv")
    assert result.exit_code == 2
    assert "cannot write nowhere/claims.csv" in result.stderr
