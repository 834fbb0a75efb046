"""Networks that are trained together are those that are trained one by one."""

from collections import Counter

import pandas as pd
import pytest
import torch
from torch import nn

from tombola import Layout, PosteriorSettings, TrainSettings, train
from tombola.data.augment import flip_and_crop
from tombola.data.batches import TensorBatches
from tombola.engine.records import collect
from tombola.engine.store import Store
from tombola.errors import TombolaError
from tombola.metrics.columns import names
from tombola.models import build
from tombola.posterior.state import initial_state
from tombola.streams import generator
from tombola.training.loop import TrainingError
from tombola.training.together import obstacle, split, stacked, train_together

R = 3
NETS = {
    "mlp": ("mlp", {"hidden": [16]}),
    "conv": ("conv", {"widths": [4, 6], "batch_norm": True}),
    "vit": ("vit", {"patch": 4, "depth": 1, "dim": 12, "heads": 2, "head": 6, "hidden": 16}),
}


class Tied(nn.Module):
    """One parameter of two layers, and one layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.encode, self.norm, self.block, self.head = (
            nn.Linear(192, 8),
            nn.BatchNorm1d(8),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
        )
        self.head.weight = self.block.weight
        self.again = self.block

    def forward(self, x):
        return self.head(self.again(self.block(self.norm(self.encode(x.flatten(1))).relu()).relu()))


def make(name):
    if name == "tied":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Tied()
    model, args = NETS[name]
    return build(model, args, (3, 8, 8), 4, ("together",))


def data(n=40):
    stream = generator("together")
    return torch.randn(n, 3, 8, 8, generator=stream), torch.randint(4, (n,), generator=stream)


def starts(module, method):
    """States that differ in everything, under masks of density 1, 0.5, 0.2."""
    layout, found = Layout.of(module), []
    for r, density in zip(range(R), (1.0, 0.5, 0.2), strict=True):
        state = initial_state(module, layout, PosteriorSettings(mean="kaiming_uniform"), r)
        keep = torch.rand(layout.numel, generator=generator("mask", r)) < density
        state = state.masked(keep | ~layout.prunable)
        found.append(state.as_point() if method == "map" else state)
    return found


def batches_of(settings, seed):
    return TensorBatches(*data(), settings.batch_size, seed, flip_and_crop(flip=True, crop=1))


def both(name, settings, **more):
    module = make(name)
    states = starts(module, settings.method)
    words = [("replica", r) for r in range(R)]
    alone = [
        train(module, states[r], batches_of(settings, r), settings, words=words[r], validation=data(20), **more)
        for r in range(R)
    ]
    batches = [batches_of(settings, r) for r in range(R)]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    told = []
    together = train_together(
        module, states, batches, settings, words=words, validation=data(20), on_epoch=told.append, **more
    )
    for e, row in enumerate(told):
        assert row["loss"] == pytest.approx(sum(trained.history[e]["loss"] for trained in together) / R)
    assert len(told) == len(alone[0].history)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    return alone, together


SETTINGS = {
    "vi": {},
    "vi, 2 samples": {"samples": 2},
    "antithetic": {"samples": 2, "estimator": "antithetic"},
    "map": {"method": "map"},
    "ivon": {"method": "ivon", "ivon_lr": 0.1},
    "sgd": {"optimiser": "sgd", "momentum": 0.9, "weight_decay": 1e-3, "loss_scale": "sum", "lr": 1e-4},
    "adamw, warm-up": {"optimiser": "adamw", "weight_decay": 0.01, "kl_warmup_epochs": 1, "heat": 1.0},
}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *[(name, changes) for name in ("mlp", "conv", "vit") for changes in ("vi", "vi, 2 samples", "map")],
        *[("conv", changes) for changes in ("antithetic", "ivon", "sgd", "adamw, warm-up")],
        ("tied", "vi"),
    ],
)
def test_results_are_those_of_one_by_one(name, changes):
    settings = TrainSettings(**{"epochs": 2, "batch_size": 16, "lr": 0.003, "schedule": "cosine", **SETTINGS[changes]})
    alone, together = both(name, settings)
    for one, other in zip(alone, together, strict=True):
        mask = one.state.posterior.mask
        assert torch.equal(mask, other.state.posterior.mask)
        assert (other.state.posterior.mean[~mask] == 0).all()
        assert (other.state.posterior.std[~mask] == 0).all()
        left, right = one.state.tensors(), other.state.tensors()
        assert left.keys() == right.keys()
        for part in left:
            assert left[part].dtype == right[part].dtype
            torch.testing.assert_close(left[part], right[part], rtol=1e-3, atol=2e-5, msg=part)
        assert [row.keys() for row in one.history] == [row.keys() for row in other.history]
        for a, b in zip(one.history, other.history, strict=True):
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
            assert b["nll"] == pytest.approx(a["nll"], rel=1e-3)
            assert (b["epoch"], b["lr"]) == (a["epoch"], a["lr"])
    assert len({other.state.posterior.mean.sum().item() for other in together}) == R


def test_a_part_of_the_schedule_is_that_part_of_one_by_one():
    settings = TrainSettings(epochs=3, batch_size=16, lr=0.003, schedule="cosine")
    alone, together = both("mlp", settings, start=1, stop=5)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one.state.posterior.mean, other.state.posterior.mean, rtol=1e-3, atol=1e-4)


def test_splitting_is_the_inverse_of_stacking():
    module = make("conv")
    states = starts(module, "vi")
    whole = stacked(states)
    assert whole.posterior.layout.numel == R * states[0].posterior.layout.numel
    assert whole.posterior.layout.random_numel == R * states[0].posterior.layout.random_numel
    for state, again in zip(states, split(whole, states[0].posterior.layout, R), strict=True):
        assert torch.equal(state.posterior.mask, again.posterior.mask)
        for name, value in state.tensors().items():
            assert torch.equal(value, again.tensors()[name])


def test_one_that_diverges_stops_all():
    module = make("mlp")
    settings = TrainSettings(epochs=1, batch_size=16, lr=1e20, optimiser="sgd")
    with pytest.raises(TrainingError):
        train_together(
            module,
            starts(module, "vi"),
            [batches_of(settings, r) for r in range(R)],
            settings,
            words=[("replica", r) for r in range(R)],
        )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"accumulate": 2}, "accumulate cuts a batch into parts"),
        ({"clip_norm": 1.0}, "clip_norm is a norm of one network's gradient"),
        ({"cuda_graphs": True}, "cuda_graphs replays kernels alone"),
        ({"estimator": "local"}, "by estimator weight_sample or antithetic, not local"),
        ({"objective": "log_expected", "samples": 2}, "by objective expected_log, not log_expected"),
        ({"likelihood": "gaussian", "learn_noise": True}, "learns one noise"),
    ],
)
def test_settings_that_bind_networks_to_one_another_are_refused(changes, reason):
    module, settings = make("mlp"), TrainSettings(**changes)
    states = starts(module, "vi")
    with pytest.raises(TombolaError, match=f"{reason}.*; train them one by one"):
        train_together(module, states, [batches_of(settings, r) for r in range(R)], settings, words=[("a",)] * R)


def test_dropout_and_other_layouts_are_refused():
    dropped = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(192, 4))
    states = starts(dropped, "vi")
    assert "Sequential has dropout" in obstacle(dropped, states, TrainSettings())
    other = starts(make("mlp"), "vi")
    assert "different layouts" in obstacle(make("mlp"), [*states[:1], *other], TrainSettings())
    assert "of different kinds" in obstacle(make("mlp"), [other[0], other[1].as_point()], TrainSettings())


# in a study


@pytest.fixture
def study(tiny):
    model = {"name": "conv", "args": {"widths": [4], "batch_norm": True}}
    return tiny | {"model": model, "seeds": [0, 1, 2], "arms": ["ticket", "deterministic", "reinit"]}


@pytest.fixture
def run_both(plan_of, run_plan):
    """Runs a study one by one and together; returns for each its store, watcher and engine."""

    def run(raw, together):
        plan = plan_of(raw)
        return plan, *(run_plan(plan, f"stages-{size}", together=size) for size in (1, together))

    return run


def trainings(plan):
    return [stage for stage in plan.stages if stage.kind == "train"]


def test_a_study_has_the_same_stages_and_nearly_the_same_records(study, run_both):
    plan, (alone, _, _), (together, watcher, engine) = run_both(study, 4)
    assert not engine.failures
    assert watcher.times() == dict.fromkeys((stage.key for stage in plan.stages), 1)
    assert sorted(watcher.ended_of) == sorted(watcher.began_of)
    one, other = collect(plan, alone), collect(plan, together)
    for column in ("key", "ticket", "curve", "seed", "level", "samples", "examples"):
        assert list(one[column]) == list(other[column]), column
    for column in ("density", "accuracy", "best_accuracy", "nll", "ece"):
        assert other[column].to_numpy() == pytest.approx(one[column].to_numpy(), abs=5e-3), column
    # seeds of one arm, and arms that begin with one method: 6 Bayesian trainings of level 1, 3 of level 0, 6 deterministic
    sizes = Counter(together.record(stage.key)["run"].get("together", 1) for stage in trainings(plan))
    assert sum(sizes.values()) == 15
    assert sizes[1] == 0
    assert set(sizes) <= {2, 3, 4}
    assert all("together" not in alone.record(stage.key)["run"] for stage in trainings(plan))
    assert not any(path.suffix == ".checkpoint" for path in together.unfinished.iterdir())


def test_what_cannot_be_trained_together_is_trained_one_by_one_and_that_is_said_once(study, run_both):
    raw = study | {"train": study["train"] | {"clip_norm": 1.0}, "arms": ["ticket"]}
    plan, (alone, _, _), (together, watcher, engine) = run_both(raw, 4)
    assert not engine.failures
    (said,) = watcher.sentences
    assert "are trained one by one: train.clip_norm is a norm of one network's gradient" in said
    one, other = (collect(plan, store).drop(columns=names("timing")) for store in (alone, together))
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_one_that_fails_does_not_take_the_others_along(study, run_both, monkeypatch):
    """Of three seeds one runs into an infinite loss: its batches are spoilt."""
    from tombola.study.stages import train

    real = train.training_batches

    def spoilt(data, settings, batch_size, seed, device):
        batches = real(data, settings, batch_size, seed, device)
        if seed == 1:
            batches.prepare = lambda inputs: torch.full(inputs.shape, torch.nan)
        return batches

    monkeypatch.setattr(train, "training_batches", spoilt)
    plan, _, (together, watcher, engine) = run_both(study | {"arms": ["ticket"], "prune": {"levels": 0}}, 3)
    (failed,) = [sentence for sentence in engine.failures.values() if sentence]
    assert "seed 1 failed: TrainingError" in failed
    assert [row.labels["seed"] for row in plan.rows if together.done(row.stage.key)] == [0, 2]
    assert any("and 2 more are trained one by one" in sentence for sentence in watcher.sentences)


def test_a_half_finished_training_goes_on_alone(study, plan_of, run_plan, tmp_path):
    plan = plan_of(study | {"arms": ["ticket"], "prune": {"levels": 0}})
    store = Store(tmp_path / "stages")
    store.prepare()
    begun = trainings(plan)[1]
    store.checkpoint_path(begun.key).write_bytes(b"of another kind of processor")
    run_plan(plan, together=3)
    assert [store.record(stage.key)["run"].get("together", 1) for stage in trainings(plan)] == [2, 1, 2]


def test_together_enters_no_key_and_no_variant(study, plan_of):
    one, other = plan_of(study), plan_of(study | {"together": 8})
    assert [stage.key for stage in one.stages] == [stage.key for stage in other.stages]
    assert [row.labels for row in one.rows] == [row.labels for row in other.rows]
