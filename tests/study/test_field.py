"""The study `field`: as many trainings as it may have, and every arm at the densities that are compared."""

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


@pytest.fixture
def plans(plan_of):
    return [plan_of(read(name, TOY)) for name in ("field", "field_last_layer")]


def test_the_field_has_at_most_fifty_trainings_a_seed(plans):
    stages = {stage.key: stage for plan in plans for stage in plan.stages}
    assert Counter(stage.kind for stage in stages.values())["train"] == 49
    assert read("field", [])["seeds"] == [0, 1, 2]
    assert len({stage.key for stage in stages.values() if stage.kind == "prune" and len(set(stage.parents)) == 2}) == 3 * 5


def test_arms_are_compared_dense_and_at_two_densities(plans):
    (plan, last_layer) = plans
    chains = ("ticket", "deterministic")
    assert {row.labels["level"] for row in plan.rows if row.labels["arm"] not in chains} == {0, 3, 5}
    assert {row.labels["level"] for row in last_layer.rows} == {5}
    (rule,) = {
        stage.settings.share_left(3) for stage in plan.stages if stage.kind == "prune" and len(set(stage.parents)) == 2
    }
    assert rule == pytest.approx(0.096, abs=1e-3)
    for method in ("sghmc", "swag", "mc_dropout", "ensemble"):
        arms = Counter(row.labels["arm"] for row in plan.rows if row.labels["method"] == method)
        assert arms == {"transplant": 2, "transplant_shuffle": 1}
