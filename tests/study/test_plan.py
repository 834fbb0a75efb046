"""The graph of a study, stage by stage, and what its arms share."""

from collections import Counter

import pytest
import torch

from tombola.data.batches import TensorBatches
from tombola.errors import TombolaError
from tombola.study.arms import HANGING
from tombola.study.graph import ancestors
from tombola.study.spec import Arm, Study


def kinds(plan):
    return Counter(stage.kind for stage in plan.stages)


def of_curve(plan, curve, seed=0):
    """Level -> training of a curve."""
    found = {}
    for row in plan.rows:
        if row.labels["curve"] == curve and row.labels["seed"] == seed:
            (found[row.labels["level"]],) = row.stage.parents
    return found


@pytest.fixture
def raw(tiny):
    return tiny | {
        "prune": {"fraction": 0.5, "levels": 2},
        "arms": [
            {"arm": "ticket", "score": ["snr", "mu"]},
            "deterministic",
            "transplant",
            {"arm": ["reinit", "shuffle_layerwise"]},
        ],
    }


@pytest.fixture
def plan(raw, plan_of):
    return plan_of(raw)


def test_the_exact_graph_of_a_small_study(plan):
    """Dense: one Bayesian and one deterministic. Two levels each of snr, mu, deterministic, transplant and two controls."""
    trainings = 2 + 2 * 6
    assert kinds(plan) == {
        "init": 2,  # the first drawing and the re-drawn one
        "train": trainings,
        "prune": 2 * 3,  # transplants and controls use chains that are there
        "transplant": 2,
        "redraw": 2,
        "shuffle": 2,
        "evaluate": trainings,
    }
    assert len(plan.rows) == trainings + 1  # the dense Bayesian network is on the curves of snr and of mu
    assert len({stage.key for stage in plan.stages}) == len(plan.stages)


def test_ancestors_are_each_there_once_parents_first_without_what_is_known(plan):
    last = plan.rows[-1].stage
    found = ancestors(last)
    keys = [stage.key for stage in found]
    assert len(set(keys)) == len(keys)
    assert found[0].parents == ()
    assert found[-1] is last
    for stage in found:
        assert all(keys.index(parent.key) < keys.index(stage.key) for parent in stage.parents)
    (trained,) = last.parents
    assert ancestors(last, known=lambda key: key == trained.key) == [last]


def test_parents_come_first(plan):
    seen = set()
    for stage in plan.stages:
        assert {parent.key for parent in stage.parents} <= seen
        seen.add(stage.key)


def test_a_second_seed_doubles_everything(raw, plan, plan_of):
    both = plan_of(raw | {"seeds": [0, 1]})
    assert kinds(both) == {kind: 2 * count for kind, count in kinds(plan).items()}
    assert {stage.key for stage in plan.stages} < {stage.key for stage in both.stages}


def test_chains_of_two_scores_share_the_dense_training(plan):
    snr, mu, det = (of_curve(plan, name) for name in ("ticket (snr)", "ticket (mu)", "deterministic (magnitude)"))
    assert snr[0].key == mu[0].key
    assert snr[1].key != mu[1].key
    assert snr[0].parents[0].key == det[0].parents[0].key  # one dense start for Bayesian and deterministic
    assert snr[0].key != det[0].key
    assert [det[level].settings.method for level in range(3)] == ["map"] * 3


def test_a_level_is_pruned_from_the_training_before_and_restarts_at_the_dense_start(plan):
    snr = of_curve(plan, "ticket (snr)")
    init = snr[0].parents[0]
    for level in (1, 2):
        (prune,) = snr[level].parents
        assert prune.kind == "prune"
        assert [parent.key for parent in prune.parents] == [snr[level - 1].key, init.key]
        assert (snr[level].start, snr[level].stop) == ("", "")


def test_transplants_train_the_deterministic_tickets_as_bayesian_ones(plan):
    det, planted = of_curve(plan, "deterministic (magnitude)"), of_curve(plan, "transplant (magnitude)")
    assert planted.keys() == {1, 2}
    for level, trained in planted.items():
        (transplant,) = trained.parents
        pruned, bayesian = transplant.parents
        assert pruned.key == det[level].parents[0].key
        assert bayesian.kind == "init"
        assert trained.settings.method == "vi"


def test_a_transplant_alone_brings_its_deterministic_chain(tiny, plan_of):
    found = kinds(plan_of(tiny | {"arms": ["transplant"]}))
    assert found == {"init": 1, "train": 2, "prune": 1, "transplant": 1, "evaluate": 1}


def test_controls_of_a_transplant_change_the_deterministic_ticket_and_then_transplant_it(tiny, plan_of):
    plan = plan_of(tiny | {"arms": ["deterministic", {"arm": ["transplant_shuffle", "transplant_reinit"]}]})
    (ticket,) = of_curve(plan, "deterministic (magnitude)")[1].parents
    for curve, kind in (("shuffled mask", "shuffle"), ("re-drawn weights", "redraw")):
        trained = of_curve(plan, f"transplant, {curve} (magnitude)")[1]
        (transplant,) = trained.parents
        changed, bayesian = transplant.parents
        assert (transplant.kind, changed.kind, bayesian.kind) == ("transplant", kind, "init")
        assert changed.parents[0].key == ticket.key
        assert trained.settings.method == "vi"


def test_equal_budget_trains_the_ticket_of_level_k_as_long_as_k_plus_one_levels(tiny, plan_of):
    arms = ["ticket", "deterministic", {"arm": "equal_budget", "of": ["ticket", "deterministic"]}]
    more = {"train": tiny["train"] | {"warmup_epochs": 0.5}, "prune": {"levels": 2}, "arms": arms}
    plan = plan_of(tiny | more)
    for chain, curve in (("ticket (snr)", ""), ("deterministic (magnitude)", " of deterministic")):
        tickets = of_curve(plan, chain)
        long = of_curve(plan, f"equal budget{curve} ({'magnitude' if curve else 'snr'})")
        for level in (1, 2):
            assert long[level].parents[0].key == tickets[level].parents[0].key
            assert long[level].settings.epochs == (level + 1) * tickets[level].settings.epochs
            assert long[level].settings.warmup_epochs == (level + 1) * 0.5


def test_the_chains_of_another_sigma_differ_in_what_is_pruned_alone(tiny, plan_of):
    plan = plan_of(tiny | {"arms": [{"sigma": ["trained", "start", "shuffled"]}, "deterministic"]})
    curves = ["ticket (snr)", "ticket (snr), sigma as at the start", "ticket (snr), sigma shuffled"]
    found = [of_curve(plan, curve) for curve in curves]
    assert len({levels[0].key for levels in found}) == 1
    assert [levels[1].parents[0].settings.sigma for levels in found] == ["trained", "start", "shuffled"]
    whole = plan_of(tiny | {"prune": tiny["prune"] | {"sigma": "start"}, "arms": ["ticket", "deterministic"]})
    assert of_curve(whole, curves[1])[1].key == found[1][1].key
    labels = {row.labels["curve"]: row.labels["sigma"] for row in whole.rows}
    assert labels == {curves[1]: "start", "deterministic (magnitude)": "trained"}


def test_controls_hang_on_the_tickets_of_their_level(plan):
    snr = of_curve(plan, "ticket (snr)")
    for level, trained in of_curve(plan, "re-init (snr)").items():
        pruned, start = trained.parents[0].parents
        assert pruned.key == snr[level].parents[0].key
        assert (start.kind, start.draw) == ("init", "redrawn")
    for level, trained in of_curve(plan, "layer-wise shuffle (snr)").items():
        pruned, start = trained.parents[0].parents
        assert pruned.key == snr[level].parents[0].key
        assert start.key == snr[0].parents[0].key


def test_controls_of_the_deterministic_chain(tiny, plan_of):
    plan = plan_of(tiny | {"arms": ["deterministic", {"arm": "reinit", "of": "deterministic"}]})
    trained = of_curve(plan, "re-init of deterministic (magnitude)")[1]
    assert trained.settings.method == "map"
    assert trained.parents[0].parents[0].key == of_curve(plan, "deterministic (magnitude)")[1].parents[0].key


@pytest.mark.parametrize("at", ["epoch:1", "step:3"])
def test_rewinding_to_a_later_point(at, raw, plan_of):
    plan = plan_of(raw | {"prune": raw["prune"] | {"rewind": at}})
    snr = of_curve(plan, f"ticket (snr), rewind {at}")
    (prune,) = snr[1].parents
    trained, restart = prune.parents
    assert trained.key == snr[0].key
    assert (restart.kind, restart.start, restart.stop) == ("train", "", at)
    assert restart.parents[0].key == snr[0].parents[0].key
    assert [snr[level].start for level in range(3)] == ["", at, at]
    assert of_curve(plan, f"layer-wise shuffle (snr), rewind {at}")[1].parents[0].parents[1].key == restart.key
    assert of_curve(plan, f"layer-wise shuffle (snr), rewind {at}")[1].start == at
    assert of_curve(plan, f"re-init (snr), rewind {at}")[1].start == ""  # redrawn weights train from the beginning
    assert of_curve(plan, f"transplant (magnitude), rewind {at}")[1].start == ""


def test_learning_rate_rewinding_keeps_what_was_learned(tiny, plan_of):
    plan = plan_of(tiny | {"prune": {"levels": 2, "rewind": "learning_rate"}})
    snr = of_curve(plan, "ticket (snr), learning-rate rewinding")
    for level in (1, 2):
        assert [parent.key for parent in snr[level].parents[0].parents] == [snr[level - 1].key] * 2
        assert snr[level].start == ""


@pytest.mark.parametrize(
    ("arm", "label"),
    [
        ({}, "ticket (snr)"),
        ({"score": "mu"}, "ticket (mu)"),
        ({"arm": "deterministic"}, "deterministic (magnitude)"),
        ({"arm": "deterministic", "score": "random"}, "deterministic (random)"),
        ({"arm": "transplant"}, "transplant (magnitude)"),
        ({"arm": "reinit"}, "re-init (snr)"),
        ({"arm": "reinit", "of": "deterministic"}, "re-init of deterministic (magnitude)"),
        ({"arm": "shuffle_layerwise"}, "layer-wise shuffle (snr)"),
        ({"arm": "shuffle_global"}, "global shuffle (snr)"),
        ({"arm": "shuffle_even", "score": "mu"}, "even shuffle (mu)"),
        ({"arm": "transplant_shuffle"}, "transplant, shuffled mask (magnitude)"),
        ({"arm": "transplant_reinit"}, "transplant, re-drawn weights (magnitude)"),
        ({"arm": "equal_budget"}, "equal budget (snr)"),
        ({"arm": "equal_budget", "of": "deterministic"}, "equal budget of deterministic (magnitude)"),
        ({"sigma": "start"}, "ticket (snr), sigma as at the start"),
        ({"sigma": "shuffled", "rewind": "learning_rate"}, "ticket (snr), sigma shuffled, learning-rate rewinding"),
        ({"rewind": "learning_rate"}, "ticket (snr), learning-rate rewinding"),
        ({"rewind": "epoch:1", "train": {"lr": 0.1}}, "ticket (snr), rewind epoch:1, lr=0.1"),
    ],
)
def test_curves_are_called(arm, label, tiny, plan_of):
    plan = plan_of(tiny | {"arms": [arm]})
    assert {row.labels["curve"] for row in plan.rows} == {label}
    assert {row.labels["arm"] for row in plan.rows} == {arm.get("arm", "ticket")}


def test_every_control_is_an_arm(tiny, plan_of):
    for control in HANGING:
        way = {"train": {"sparse": {"way": "rigl"}}} if control == "in_training" else {}
        assert {row.labels["level"] for row in plan_of(tiny | {"arms": [{"arm": control} | way]}).rows} == {1}
    assert Arm().arm == "ticket"
    assert Study().arms == []


def test_an_arm_trains_as_it_says(tiny, plan_of):
    plan = plan_of(tiny | {"arms": ["ticket", {"arm": "ticket", "train": {"heat": 0.0}}]})
    cold = of_curve(plan, "ticket (snr), heat=0.0")
    assert [trained.settings.heat for trained in cold.values()] == [0.0, 0.0]
    assert of_curve(plan, "ticket (snr)")[0].settings.heat == 0.1
    assert cold[0].parents[0].key == of_curve(plan, "ticket (snr)")[0].parents[0].key


def test_levels_of_a_control(tiny, plan_of):
    plan = plan_of(tiny | {"prune": {"levels": 3}, "arms": [{"arm": "reinit", "levels": [1, 3]}]})
    assert [row.labels["level"] for row in plan.rows] == [1, 3]


def test_densities_name_the_nearest_levels(tiny, plan_of):
    """Halving: 50, 25, 12.5, 6.25%; nearest as a ratio, each once."""
    arm = {"arm": "reinit", "densities": [0.9, 0.13, 0.11, 0.001]}
    plan = plan_of(tiny | {"prune": {"fraction": 0.5, "levels": 4}, "arms": [arm]})
    assert [row.labels["level"] for row in plan.rows] == [1, 3, 4]


def test_a_fan_out_over_scores_repeats_no_arm_that_has_none(tiny, plan_of):
    plan = plan_of(tiny | {"prune": {"levels": 1, "score": ["snr", "mu"]}, "arms": ["ticket", "deterministic"]})
    assert Counter(row.labels["curve"] for row in plan.rows) == {
        "ticket (snr)": 2,
        "ticket (mu)": 2,
        "deterministic (magnitude)": 2,
    }


def test_rows_of_variants_are_told_apart(tiny, plan_of):
    hidden = [{"args": {"hidden": [4]}}, {"args": {"hidden": [5]}}]
    plan = plan_of(tiny | {"model": hidden, "train": tiny["train"] | {"lr": [0.1, 0.2]}})
    named = Counter((row.labels["variant"], row.labels["level"]) for row in plan.rows)
    assert set(named.values()) == {1}
    assert len(named) == 2 * 2 * 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arms": [{"arm": "reinit", "levels": [2]}]}, "arm reinit is at level 2, but prune.levels is 1"),
        ({"arms": [{"arm": "deterministic", "score": "snr"}]}, "arm deterministic has score 'snr', which needs a std"),
        ({"arms": [{"arm": "transplant", "score": "std_small"}]}, "arm transplant has score 'std_small', which needs a std"),
        ({"arms": [{"score": "srn"}]}, "unknown score 'srn': did you mean 'snr'?"),
        ({"arms": [{"rewind": "epoch1"}]}, "rewind is 'epoch1'; it must be init, learning_rate, epoch:K or step:K"),
        (
            {"arms": [{"arm": "equal_budget", "rewind": "learning_rate"}]},
            "arm equal_budget depends on learning-rate rewinding",
        ),
        ({"arms": [{"arm": "reinit", "levels": [1], "densities": [0.5]}]}, "arm reinit has densities [0.5] and levels [1];"),
        ({"arms": [{"arm": "reinit", "densities": [0.5]}], "prune": {"levels": 0}}, "arm reinit has densities [0.5] but"),
        ({"arms": [{"arm": "transplant_reinit", "score": "snr"}]}, "arm transplant_reinit has score 'snr', which needs a"),
        ({"prune": {"rewind": "epoch:2"}}, "rewind is 'epoch:2', but training ends at epoch:2 (step:10)"),
        ({"arms": [{"rewind": "step:10"}]}, "rewind is 'step:10', but training ends at epoch:2 (step:10)"),
        ({"train": {"method": "map"}}, "train.method is 'map'; deterministic curves are the arm 'deterministic'"),
        ({"arms": [{"arm": "deterministic", "train": {"method": "vi"}}]}, "arm deterministic has train.method 'vi', but"),
        (
            {"arms": [{"arm": "reinit", "of": "deterministic", "train": {"method": "vi"}}]},
            "arm reinit has train.method 'vi'",
        ),
        ({"train": {"likelihood": "gaussian"}}, "train.likelihood is 'gaussian'; data 'digits' needs 'categorical'"),
        ({"prune": {"levels": 1, "exclude": ["*"]}}, "model 'mlp': nothing is prunable; set prune.classifier: true"),
        ({"prune": {"exclude": ["fc*"]}}, "pattern 'fc*' matches no parameter; the module has 1.weight"),
        ({"posterior": {"random": ["fc*"]}}, "pattern 'fc*' matches no parameter; the module has 1.weight"),
        ({"model": {"name": "mlq"}}, "unknown model 'mlq': did you mean 'mlp'?"),
        ({"data": {"name": "digit"}}, "unknown data set 'digit': did you mean 'digits'?"),
    ],
)
def test_what_would_fail_later_is_refused_before_anything_runs(change, said, tiny, plan_of):
    with pytest.raises(TombolaError) as caught:
        plan_of(tiny | change)
    assert str(caught.value).startswith(said)


def test_without_levels_nothing_needs_to_be_prunable(tiny, plan_of):
    assert kinds(plan_of(tiny | {"prune": {"levels": 0, "exclude": ["*"]}})) == {"init": 1, "train": 1, "evaluate": 1}


def test_arms_of_a_seed_start_at_the_same_bits_and_see_the_same_batches(raw, plan_of, run_plan, monkeypatch):
    seen = []
    epoch = TensorBatches.epoch

    def recorded(self, number, skip=0):
        for i, batch in enumerate(epoch(self, number, skip)):
            seen.append((number, i, batch[0].double().sum().item()))
            yield batch

    monkeypatch.setattr(TensorBatches, "epoch", recorded)
    plan = plan_of(raw | {"prune": {"fraction": 0.5, "levels": 1}})
    store, _, engine = run_plan(plan)
    assert not engine.failures
    by_place = {}
    for number, i, total in seen:
        by_place.setdefault((number, i), set()).add(total)
    assert len(by_place) == 2 * 5  # two epochs of five batches
    assert all(len(totals) == 1 for totals in by_place.values())
    dense = store.ticket(of_curve(plan, "ticket (snr)")[0].key).rewind.posterior.mean
    for curve in ("ticket (snr)", "ticket (mu)", "deterministic (magnitude)", "transplant (magnitude)"):
        for trained in of_curve(plan, curve).values():
            ticket = store.ticket(trained.key)
            assert torch.equal(ticket.rewind.posterior.mean, dense * ticket.mask)
    redrawn = store.ticket(of_curve(plan, "re-init (snr)")[1].key)
    assert not torch.equal(redrawn.rewind.posterior.mean, dense * redrawn.mask)
    assert torch.equal(redrawn.mask, store.ticket(of_curve(plan, "ticket (snr)")[1].key).mask)


def test_the_point_rewound_to_lies_on_the_dense_training(tiny, plan_of, run_plan):
    """The shortened training has the losses of the whole one, and its end is where survivors restart."""
    plan = plan_of(tiny | {"prune": {"levels": 1, "rewind": "epoch:1"}})
    store, _, _ = run_plan(plan)
    snr = of_curve(plan, "ticket (snr), rewind epoch:1")
    (prune,) = snr[1].parents
    short, whole, sparse = (store.ticket(key) for key in (prune.parents[1].key, snr[0].key, snr[1].key))
    assert short.info["history"] == whole.info["history"][:1]
    assert [row["epoch"] for row in sparse.info["history"]] == [2]
    assert torch.equal(sparse.rewind.posterior.mean, short.trained.posterior.mean * sparse.mask)


def test_learning_rate_rewinding_goes_on_from_the_learned_values(tiny, plan_of, run_plan):
    plan = plan_of(tiny | {"prune": {"levels": 1, "rewind": "learning_rate"}})
    store, _, _ = run_plan(plan)
    snr = of_curve(plan, "ticket (snr), learning-rate rewinding")
    dense, sparse = store.ticket(snr[0].key), store.ticket(snr[1].key)
    assert torch.equal(sparse.rewind.posterior.mean, dense.trained.posterior.mean * sparse.mask)
    assert [row["epoch"] for row in sparse.info["history"]] == [1, 2]


def test_deterministic_chains_are_shared_over_whatever_they_do_not_read(tiny, plan_of):
    fan = {"posterior": {"std": [0.01, 0.1], "std_jitter": 0.1}, "train": tiny["train"] | {"heat": [0.1, 1.0]}}
    plan = plan_of(tiny | fan | {"prune": {"levels": 1}, "arms": ["deterministic", "transplant", "ticket"]})
    keys = {}
    for row in plan.rows:
        (trained,) = row.stage.parents
        keys.setdefault((row.labels["arm"], row.labels["level"]), set()).add(trained.key)
    assert {name: len(found) for name, found in keys.items()} == {
        ("deterministic", 0): 1,
        ("deterministic", 1): 1,
        ("transplant", 1): 4,
        ("ticket", 0): 4,
        ("ticket", 1): 4,
    }


def test_a_deterministic_chain_starts_at_the_means_of_the_bayesian_one(tiny, plan_of, run_plan):
    changed = {"posterior": {"std": 0.1, "std_jitter": 0.2, "mean": "kaiming_uniform"}, "prune": {"levels": 0}}
    plan = plan_of(tiny | changed | {"arms": ["deterministic", "ticket"]})
    store, _, _ = run_plan(plan)
    point, gaussian = (store.ticket(row.stage.parents[0].key).rewind.posterior for row in plan.rows)
    assert torch.equal(point.mean, gaussian.mean)
