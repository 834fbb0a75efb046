"""Arms that prune once before training: masks of exact counts, their records and their mistakes."""

import pytest
import torch
from benchmarks.quietly import Silent

from tombola.engine.local import LocalEngine
from tombola.engine.records import collect
from tombola.engine.store import Store
from tombola.errors import TombolaError
from tombola.study.stages import PruneBefore

SCORES = ["snip", "grasp", "synflow", "random", "magnitude"]


def arms(**more):
    return [{"arm": "before_training", "score": SCORES, "of": "deterministic", **more}]


def run(plan, folder):
    store = Store(folder)
    LocalEngine(store, torch.device("cpu"), Silent(), checkpoint_seconds=60.0).run(plan)
    return collect(plan, store), store


def test_masks_have_the_chains_counts_and_start_at_the_initialisation(tiny, plan_of, tmp_path):
    tiny["model"] = {"name": "mlp", "args": {"hidden": [8, 6]}}
    bayesian = {"arm": "before_training", "score": ["snip", "random"], "scope": "erk"}
    plan = plan_of(tiny | {"prune": {"target": 0.05, "fraction": 0.8}, "arms": ["ticket", *arms(), bayesian]})
    records, store = run(plan, tmp_path)
    assert len(set(records["curve"])) == 1 + 5 + 2
    assert {"before training of deterministic (snip)", "before training (random), scope erk"} <= set(records["curve"])
    density = records.groupby("level")["density"]
    assert (density.max() == density.min()).all()  # in all curves the same count of weights
    (init,) = (stage for stage in plan.stages if stage.kind == "init" and stage.posterior.std == 0.02)
    for row in plan.rows:
        ticket, start = store.ticket(row.trained.key), store.ticket(init.key).rewind.posterior
        assert torch.equal(ticket.rewind.posterior.mean, start.mean * ticket.mask)
        assert not ticket.posterior.mean[~ticket.mask].any()
    assert len({store.ticket(row.trained.key).mask.numpy().tobytes() for row in plan.rows}) == 1 + 2 * 8


def test_patterns_and_operations_are_met_at_once_too(tiny, plan_of, tmp_path):
    tiny["prune"] = {"pattern": "2:4"}
    records, store = run(plan_of(tiny | {"arms": arms()}), tmp_path / "pattern")
    for _, row in records.iterrows():
        kept = store.ticket(row["ticket"]).layout.views(store.ticket(row["ticket"]).mask)["1.weight"]
        assert (kept.view(8, 16, 4).sum(2) == 4 - row["level"]).all()
    tiny["prune"] = {"budget": "flops", "target": 0.1, "fraction": 0.9}
    records, _ = run(plan_of(tiny | {"arms": arms()}), tmp_path / "flops")
    assert records["flops_left"].to_numpy() == pytest.approx((0.1 * 512 + 80) / 592, abs=1 / 592)


def test_equal_pruning_has_one_key_and_the_mask_of_random_depends_on_the_seed(tiny, plan_of):
    def keys(**prune):
        plan = plan_of(tiny | {"prune": prune, "arms": [{"arm": "before_training", "score": "snip", "levels": [1]}]})
        return [stage.key for stage in plan.stages if isinstance(stage, PruneBefore)]

    assert keys(fraction=0.9, levels=1) == keys(fraction=0.9, levels=3)


def test_a_score_of_the_start_in_another_arm_is_refused(tiny, plan_of):
    with pytest.raises(TombolaError, match="arm ticket has score 'snip', which is of untrained networks"):
        plan_of(tiny | {"arms": [{"arm": "ticket", "score": "snip"}]})
    with pytest.raises(TombolaError, match="scope 'erk' decides how many weights each layer keeps"):
        plan_of(tiny | {"prune": {"scope": "erk", "budget": "flops"}})
