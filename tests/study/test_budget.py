"""Studies that prune by cost: their stages, labels and records."""

import math

import pytest
import torch
from benchmarks.quietly import Silent

from tombola.engine.local import LocalEngine, dataset
from tombola.engine.records import collect
from tombola.engine.store import Store
from tombola.errors import TombolaError
from tombola.study.plan import plan_study
from tombola.study.spec import resolved, unfold
from tombola.study.stages import Prune
from tombola.training.costs import kept_counts, operations_of

RAW = {
    "name": "budget",
    "threads": 1,
    "model": {"name": "lenet"},
    "data": {"name": "digits", "args": {"validation": 1700, "test": 33}},
    "train": {"epochs": 1, "batch_size": 32},
    "evaluate": {"samples": 2},
    "prune": {"fraction": 0.5, "levels": 2},
}


def counted(ticket):
    return ticket.layout, kept_counts(ticket.layout, ticket.mask)


def plan_of(arms, **prune):
    return plan_study(unfold(RAW | {"prune": RAW["prune"] | prune, "arms": arms}), dataset)


def test_records_have_the_share_of_operations_and_arms_their_budgets(tmp_path):
    by_flops = {"arm": "ticket", "budget": "flops", "cost_exponent": [0.0, 0.5]}
    plan, store = plan_of(["ticket", by_flops, "deterministic", "shuffle_layerwise"]), Store(tmp_path)
    LocalEngine(store, torch.device("cpu"), Silent(), checkpoint_seconds=60.0).run(plan)
    records = collect(plan, store).set_index(["curve", "level"])
    assert set(records.index.get_level_values("curve")) >= {
        "ticket (snr)",
        "ticket (snr), flops budget, exponent 0",
        "ticket (snr), flops budget, exponent 0.5",
    }
    assert (records.xs(0, level="level")["flops_left"] == 1).all()
    row = plan.rows[0]
    data = dataset(row.stage.source.settings)
    operations = operations_of(row.stage.net.build("skeleton"), data.prepare(data.train[0][:2]))
    for row, left in zip(plan.rows, collect(plan, store)["flops_left"], strict=True):
        assert left == pytest.approx(operations.left(*counted(store.ticket(row.trained.key))), rel=1e-12)
    layout = store.ticket(plan.rows[0].trained.key).layout
    prunable = sum(s.numel * operations.uses[s.name] for s in layout.prunable_segments()) / operations.total
    by_cost = records.xs("ticket (snr), flops budget, exponent 0.5")["flops_left"]
    for level in (1, 2):
        assert by_cost[level] == pytest.approx(1 - prunable * (1 - 0.5**level), abs=2e-3)


def test_what_a_budget_does_not_change_has_its_old_keys():
    plain, by_cost = (plan_of(["ticket"], **prune).stages for prune in ({}, {"cost_exponent": 0.5}))
    assert [stage.key for stage in plain] == [stage.key for stage in by_cost]
    by_flops = plan_of(["ticket"], budget="flops").stages
    assert by_flops[0].key == plain[0].key
    assert {s.key for s in by_flops if isinstance(s, Prune)}.isdisjoint(s.key for s in plain)


def test_a_target_gives_the_levels_and_controls_find_theirs_by_what_is_left():
    raw = RAW | {"prune": {"target": 0.1, "fraction": 0.5}, "arms": ["ticket", {"arm": "reinit", "densities": [0.3]}]}
    plan = plan_study(unfold(raw), dataset)
    assert [row.labels["level"] for row in plan.rows] == [0, 1, 2, 3, 4, 2]
    assert resolved(raw)["prune"]["levels"] is None
    assert math.isclose(unfold(raw)[0].study.prune.share_left(2), 0.1**0.5)


@pytest.mark.parametrize(
    ("arm", "prune", "sentence"),
    [
        ({}, {"target": 0.1}, "levels is 2, but target 0.1 decides that there are 4"),
        ({"cost_exponent": 0.5}, {}, "arm ticket has cost_exponent 0.5, but its budget is weights"),
        ({"budget": "milliseconds"}, {}, "budget is 'milliseconds', but there are no costs"),
        ({}, {"budget": "milliseconds", "costs": {"conv1": 1.0}}, "there is a cost for 'conv1', which is not prunable"),
        ({}, {"pattern": "2:4", "fraction": 0.2, "include": ["*bias"], "exclude": ["*weight"]}, "groups of 4 fits no"),
    ],
)
def test_mistakes_are_found_before_the_first_stage(arm, prune, sentence):
    with pytest.raises(TombolaError) as error:
        plan_of([{"arm": "ticket"} | arm], **prune)
    assert sentence in str(error.value)
