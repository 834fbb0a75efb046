"""What tickets cost, of records whose costs can be added up by hand."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from tombola.engine.records import collect
from tombola.report.panels import panels
from tombola.report.quantities import NONE
from tombola.report.tables import cost_table

ARMS = {"ticket (snr)": "ticket", "deterministic (magnitude)": "deterministic", "transplant (magnitude)": "transplant"}


def records(levels=4, **changes):
    """A Bayesian training takes 8 seconds, a deterministic one 2; a FLOP a second."""
    rows = []
    for curve, arm in ARMS.items():
        for level in range(arm == "transplant", levels):
            own = 2.0 if arm == "deterministic" else 8.0
            total = {"ticket": 8.0 * (level + 1), "deterministic": 2.0 * (level + 1), "transplant": 2.0 * level + 8.0}[arm]
            rows += [
                {"model": "net", "data": "digits", "variant": "", "curve": curve, "arm": arm, "score": "snr", "seed": seed}
                | {"level": level, "density": 0.5**level, "accuracy": 0.5, "train_seconds": own, "train_flops": own}
                | {"total_seconds": total, "total_flops": total}
                for seed in (0, 1)
            ]
    return pd.DataFrame(rows).assign(**changes)


def shown(table):
    return {row[0]: row[1:] for row in table.rows}


def test_one_ticket_and_a_ticket_at_every_level_by_hand():
    (panel,) = panels(records())
    table = cost_table(panel)
    assert table.title == "What tickets cost, down to 12.5% left"
    assert shown(table) == {
        "ticket (snr)": ["32 s (1.00)", "32 s (1.00)", "32 (1.00)", "32 (1.00)"],
        "deterministic (magnitude)": ["8 s (0.25)", "8 s (0.25)", "8 (0.25)", "8 (0.25)"],
        # levels 0 to 2 of the deterministic chain, then one Bayesian training, or one at each of levels 1 to 3
        "transplant (magnitude)": ["14 s (0.44)", "30 s (0.94)", "14 (0.44)", "30 (0.94)"],
    }


def test_operations_that_were_not_counted_are_a_dash():
    (panel,) = panels(records(train_flops=math.nan, total_flops=math.nan))
    assert shown(cost_table(panel))["transplant (magnitude)"] == ["14 s (0.44)", "30 s (0.94)", NONE, NONE]


def test_operations_are_written_with_the_prefix_of_a_unit():
    (panel,) = panels(records(train_flops=5e11, total_flops=36.34e9))
    assert shown(cost_table(panel))["ticket (snr)"][2] == "36.3 G (1.00)"


@pytest.mark.parametrize(
    "of", [records(levels=1), records().query("arm == 'ticket'"), records().drop(columns="total_flops")]
)
def test_there_is_no_table_where_there_is_nothing_to_compare(of):
    (panel,) = panels(of)
    assert cost_table(panel).rows == []


def test_a_total_counts_what_another_study_has_trained_and_is_unknown_where_it_is_lost(tiny, plan_of, run_plan):
    raw = tiny | {"prune": {"fraction": 0.5, "levels": 2}, "arms": ["ticket"]}
    store, _, _ = run_plan(plan_of(raw | {"prune": {"fraction": 0.5, "levels": 1}}))
    plan = plan_of(raw)
    before = {row.labels["level"]: row.stage.parents[0].key for row in plan.rows}
    assert store.done(before[1])
    run_plan(plan)
    found = collect(plan, store).set_index("level")
    assert found["total_seconds"][2] == pytest.approx(found["train_seconds"].sum())
    assert found["total_flops"][2] == 3 * found["train_flops"][0]
    store.discard(before[0])
    last = replace(plan, rows=[row for row in plan.rows if row.labels["level"] == 2])
    (found,) = collect(last, store).to_dict("records")
    assert math.isnan(found["total_seconds"])
    assert math.isnan(found["total_flops"])
    assert found["train_flops"] > 0
