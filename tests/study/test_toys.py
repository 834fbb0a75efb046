"""The size toy: trainings of seconds that learn something, so that its pages and verdicts do."""

from unittest.mock import Mock

import pytest
import torch

from tombola.engine.local import LocalEngine
from tombola.engine.records import collect
from tombola.engine.store import Store
from tombola.study.recipes import cifar10

CHANCE = 0.1


@pytest.mark.slow
@pytest.mark.parametrize("net", cifar10()["sizes"]["toy"]["nets"])
def test_a_toy_learns_thrice_as_much_as_chance(net, plan_of, tmp_path):
    plan = plan_of({"name": "it", "size": "toy", "nets": [net], "seeds": [0], "arms": ["ticket", "deterministic"]})
    store = Store(tmp_path / "stages")
    LocalEngine(store, torch.device("cpu"), Mock()).run(plan)
    records = collect(plan, store)
    dense = records[records["level"] == 0].set_index("arm")["accuracy"]
    assert dense["ticket"] >= 3 * CHANCE
    assert dense["deterministic"] >= 3 * CHANCE
    assert (records.loc[records["level"] == 1, "accuracy"] > 1.5 * CHANCE).all()  # a tenth of the weights
