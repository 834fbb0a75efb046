"""Arms whose masks change within a training: labels, counts, operations and mistakes."""

import pytest
import torch
from benchmarks.quietly import Silent

from tombola.engine.local import LocalEngine
from tombola.engine.records import collect
from tombola.engine.store import Store
from tombola.errors import TombolaError
from tombola.study.plan import names_of


def arm(way, of="ticket", **sparse):
    return {"arm": "in_training", "of": of, "train": {"sparse": {"way": way, "every": 2, **sparse}}}


ARMS = [
    "deterministic",
    arm("gradual"),
    arm("ssvi"),
    arm("set", "deterministic"),
    arm("rigl", "deterministic", start="even"),
]


def test_records_of_masks_that_change_within_a_training(tiny, plan_of, tmp_path):
    tiny["model"] = {"name": "mlp", "args": {"hidden": [16, 8]}}
    plan, store = plan_of(tiny | {"prune": {"fraction": 0.9, "levels": 1}, "arms": ARMS}), Store(tmp_path)
    LocalEngine(store, torch.device("cpu"), Silent(), checkpoint_seconds=60.0).run(plan)
    records = collect(plan, store).set_index("curve")
    pruned = records[records["level"] == 1]
    assert list(pruned.index) == [
        "deterministic (magnitude)",
        "gradual (mu), every=2",
        "ssvi (folded_snr), every=2",
        "set of deterministic (mu), every=2",
        "rigl of deterministic (mu), every=2, start=even",
    ]
    assert pruned["density"].nunique() == 1
    assert "train map · set of deterministic (mu), every=2 · level 1 · seed 0" in names_of(plan).values()
    for key in pruned["ticket"]:
        ticket = store.ticket(key)
        assert not ticket.posterior.mean[~ticket.mask].any()
        assert not ticket.rewind.posterior.mean[~ticket.mask].any()
    dense = records[records["level"] == 0].iloc[0]
    assert dense["train_flops_sparse"] == dense["train_flops"]
    left = pruned["train_flops_sparse"] / pruned["train_flops"]
    assert left["deterministic (magnitude)"] == pytest.approx(pruned["flops_left"]["deterministic (magnitude)"])
    assert pruned["flops_left"].iloc[1] < left.iloc[1] < 1  # gradual: dense in its first steps
    by_layer = 1024, 128, 80  # multiply-adds: the last layer is not pruned
    steps, grown = 10, 3  # after steps 2, 4 and 6 of 10; 0.75 of them are 8
    own = pruned["flops_left"].iloc[-1]
    assert own == pytest.approx((sum(by_layer[:2]) * 0.1 + by_layer[2]) / sum(by_layer), abs=1e-3)
    assert left.iloc[-1] == pytest.approx(own + grown / steps * (1 - own) / 3, rel=1e-6)


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        (["in_training"], r"arm in_training has no train.sparse; add for example train: \{sparse: \{way: rigl\}\}"),
        ([{"arm": "ticket", "train": {"sparse": {"way": "set"}}}], "arm ticket prunes between trainings, and train.sparse"),
        ([arm("set") | {"score": "mu"}], "arm in_training has score 'mu'; weights go by train.sparse.drop"),
        ([arm("ssvi", "deterministic")], "arm in_training drops by 'folded_snr', which needs a std"),
        ([arm("sett")], "way is 'sett'; it must be one of gradual, set, rigl, ssvi"),
    ],
)
def test_arms_that_do_not_fit_are_refused(arms, sentence, tiny, plan_of):
    with pytest.raises(TombolaError, match=sentence):
        plan_of(tiny | {"arms": arms})
