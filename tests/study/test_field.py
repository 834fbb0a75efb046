"""The study `field`: as many trainings as it may have, and every way at the densities that are compared."""

from collections import Counter

import pytest

from tombola.study.spec import read

TOY = [
    "data={name: digits, args: {validation: 0, test: 1297}}",
    "model.args.widths=[4, 8, 8]",
    "train.epochs=2",
    "train.batch_size=25",
    "train.keep=4",
    "evaluate.samples=2",
    "seeds=[0]",
]


def test_the_field_has_fifty_trainings_a_seed_at_three_densities(plan_of):
    plan = plan_of(read("field", TOY))
    assert len(read("field", [])["seeds"]) * Counter(stage.kind for stage in plan.stages)["train"] == 150
    chains = ("ticket", "deterministic")
    assert {row.labels["level"] for row in plan.rows if row.labels["arm"] not in chains} == {3, 5}
    (rule,) = {
        stage.settings.share_left(3) for stage in plan.stages if stage.kind == "prune" and len(set(stage.parents)) == 2
    }
    assert rule == pytest.approx(0.096, abs=1e-3)
    assert len({row.labels["curve"] for row in plan.rows}) == 21
