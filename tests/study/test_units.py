"""Studies with whole units: arms that prune and shuffle them, keys, and what is refused."""

import pytest
import torch
from benchmarks.quietly import Silent

from tombola.engine.local import LocalEngine
from tombola.engine.records import collect
from tombola.engine.store import Store
from tombola.errors import TombolaError
from tombola.study.stages import Evaluate, Init, Prune, Shuffle, Train

CHANNELS = {"fraction": 0.5, "levels": 1, "structure": "channels"}


def run(plan, folder):
    store = Store(folder)
    LocalEngine(store, torch.device("cpu"), Silent(), checkpoint_seconds=60.0).run(plan)
    return collect(plan, store), store


def test_arms_prune_and_shuffle_neurons_as_near_as_they_can(tiny, plan_of, tmp_path):
    before = {"arm": "before_training", "score": ["snip", "synflow", "random"]}
    shuffles = [{"arm": f"shuffle_{how}"} for how in ("layerwise", "global", "even")]
    arms = ["ticket", before, *shuffles, {"arm": "ticket", "structure": "none"}, "reinit", "transplant"]
    records, store = run(plan_of(tiny | {"prune": CHANNELS, "arms": arms}), tmp_path)
    pruned = records[records["level"] == 1]
    assert {"ticket (snr)", "ticket (snr), structure none"} <= set(pruned["curve"])
    assert (pruned["density"] == 0.5).all()  # four of eight neurons
    for _, row in pruned.iterrows():
        ticket = store.ticket(row["ticket"])
        views = ticket.layout.views(ticket.mask)
        if "none" not in row["curve"]:
            rows = views["1.weight"].any(1)
            assert int(rows.sum()) == 4
            assert torch.equal(rows, views["1.weight"].all(1))
            assert torch.equal(rows, views["1.bias"])
            assert torch.equal(rows, views["3.weight"].all(0))
        assert not bool(ticket.posterior.mean[~ticket.mask].any())


def test_structure_enters_the_keys_of_what_it_changes_alone(tiny, plan_of):
    def keys(structure):
        prune = {"fraction": 0.5, "levels": 1} | structure
        stages = plan_of(tiny | {"prune": prune, "arms": ["ticket", "shuffle_layerwise"]}).stages
        return {stage.key: type(stage) for stage in stages}

    plain, units = keys({}), keys({"structure": "channels"})
    assert plain.keys() == keys({"structure": "none"}).keys()
    differ = {plain.get(key, units.get(key)) for key in plain.keys() ^ units.keys()}
    assert {Prune, Shuffle} <= differ
    assert {plain[key] for key in plain.keys() & units.keys()} == {Init, Train, Evaluate}  # of the dense network


def test_what_has_no_units_is_refused_before_anything_is_trained(tiny, plan_of):
    with pytest.raises(TombolaError, match="structure is 'heads', but Sequential has no heads that can be pruned"):
        plan_of(tiny | {"prune": CHANNELS | {"structure": "heads"}, "arms": ["ticket"]})
    within = {"arm": "in_training", "train": {"sparse": {"way": "set"}}}
    with pytest.raises(TombolaError, match="arm in_training changes single weights, and its structure is 'channels'"):
        plan_of(tiny | {"prune": CHANNELS, "arms": [within]})
