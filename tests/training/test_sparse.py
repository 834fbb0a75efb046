"""Masks that change within a training: counts, zeros, schedules, optimiser states, the same bits when resumed."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tombola.data.batches import TensorBatches
from tombola.errors import TombolaError
from tombola.inference import VI
from tombola.models import mlp
from tombola.posterior.layout import Layout
from tombola.posterior.state import initial_state
from tombola.pruning.masks import erk_counts
from tombola.settings import PosteriorSettings, PruneSettings, SparseSettings, TrainSettings
from tombola.streams import generator
from tombola.training.checkpoint import Checkpoint
from tombola.training.find import find_tickets
from tombola.training.loop import train
from tombola.training.work import Training, Work

STEPS = 8 * 5
WAYS = [
    {"way": "gradual"},
    {"way": "gradual", "drop": "random", "scope": "layerwise", "begin": 0.2},
    {"way": "set"},
    {"way": "rigl", "start": "even"},
    {"way": "ssvi"},
    {"way": "ssvi", "drop": "folded_mean", "scope": "layerwise"},
]


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), mlp((64,), 3, [12]))


def training(method="vi", **changes) -> Training:
    draw = generator("sparse test")
    batches = TensorBatches(torch.randn(64, 1, 4, 4, generator=draw), torch.randint(3, (64,), generator=draw), 8, 0)
    module, sparse = net(), {"density": 0.25, "every": 4, **changes.pop("sparse", {})}
    state = initial_state(module, Layout.of(module), PosteriorSettings(std_jitter=0.1), 0)
    settings = TrainSettings(method=method, epochs=5, batch_size=8, sparse=sparse, **{"lr": 0.01} | changes)
    return Training(
        module=module,
        state=state.as_family("point") if method == "map" else state,
        batches=batches,
        settings=settings,
        stream=("t",),
    )


def run(given: Training, **how):
    return train(given.module, given.state, given.batches, given.settings, stream=given.stream, **how)


def drive(given: Training):
    """Yield the work after each step, as the loop makes them."""
    work = Work.of(given)
    with work.learner.binding:
        given.module.train()
        step = 0
        for epoch in range(given.settings.epochs):
            for batch in given.batches.epoch(epoch, 0):
                work.step(batch, step)
                step += 1
                yield step, work


def count(mask, layout):
    return int(mask[layout.prunable].sum())


@pytest.mark.thinned(3)
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize(("method", "way"), [("vi", w) for w in WAYS] + [("map", w) for w in WAYS[:4]])
def test_the_count_follows_the_schedule_and_what_is_pruned_is_zero_after_every_step(method, way, optimiser):
    given = training(method, sparse=way, optimiser=optimiser, lr=0.001)
    layout, masks = given.state.posterior.layout, []
    total, prunable, own = given.total, int(given.state.posterior.layout.prunable.sum()), given.settings.mask
    for step, work in drive(given):
        state = work.learner.state().posterior
        masks.append(state.mask.clone())
        assert not state.mean[~state.mask].any()
        assert state.std is None or not state.std[~state.mask].any()
        assert bool(state.mask[~layout.prunable].all())
        expected = 0.25
        if way["way"] == "gradual":
            first, last = own.begin * total, own.until * total
            last_change = min(last, first + (step - first) // own.every * own.every) if step < last else last
            part = max(0.0, (last_change - first) / (last - first))
            expected = 0.25 + 0.75 * (1 - part) ** 3
        assert count(state.mask, layout) == pytest.approx(expected * prunable, abs=0.51)
    changes = [step for step in range(1, total) if not torch.equal(masks[step], masks[step - 1])]
    assert all((step + 1) % 4 == 0 and step + 1 <= 0.75 * total for step in changes)
    assert len(changes) >= 4
    if way.get("scope", "layerwise") == "layerwise" and way["way"] in ("set", "rigl"):
        assert all(count_by_layer(m, layout) == count_by_layer(masks[0], layout) for m in masks)


def count_by_layer(mask, layout):
    return [int(mask[s.slice].sum()) for s in layout.prunable_segments()]


def test_the_first_mask_has_erdos_renyi_counts_or_equal_densities():
    for start in ("erk", "even"):
        given = training("map", sparse={"way": "set", "start": start})
        segments = given.state.posterior.layout.prunable_segments()
        sizes = [s.numel for s in segments]
        kept = sum(sizes) - round(0.75 * sum(sizes))
        found = count_by_layer(Work.of(given).learner.mask, given.state.posterior.layout)
        if start == "erk":
            assert found == erk_counts([s.shape for s in segments], sizes, kept)
        else:
            assert all(abs(f - s * kept / sum(sizes)) <= 1 for f, s in zip(found, sizes, strict=True))


def test_rigl_drops_the_smallest_and_grows_where_the_dense_gradient_is_largest():
    given = training("map", sparse={"way": "rigl"}, optimiser="sgd", momentum=0.0)
    batch = next(iter(given.batches.epoch(0, 3)))
    steps = drive(given)
    learner, moved = next((work.learner, work.changing._moved(4, 3, batch)) for step, work in steps if step == 3)
    mean, before, layout = learner.mean.clone(), learner.mask.clone(), learner.layout
    steps.close()
    module = net()  # the oracle: an ordinary module of the masked weights
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(layout.views(mean * before)[name])
    torch.nn.functional.cross_entropy(module(batch[0]), batch[1]).backward()
    gradient = layout.flatten({name: p.grad for name, p in module.named_parameters()}).abs()
    share = 0.3 / 2 * (1 + math.cos(math.pi * 4 / (0.75 * given.total)))
    for segment in layout.prunable_segments():
        where = segment.rows()
        alive = where[before[where]]
        count = round(len(alive) * share)
        kept = set(alive[mean[alive].abs().argsort(stable=True)][count:].tolist())
        free = torch.tensor([i for i in where.tolist() if i not in kept])
        grown = free[gradient[free].argsort(descending=True, stable=True)][:count]
        assert set(where[moved[where]].tolist()) == kept | set(grown.tolist())


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_a_grown_weight_starts_at_zero_with_its_layers_std_and_without_momentum(optimiser):
    given = training(sparse={"way": "ssvi"}, optimiser=optimiser)
    start, before = given.state.posterior, None
    for step, work in drive(given):
        learner = work.learner
        assert isinstance(learner, VI)
        if step == 4:
            grown = learner.mask & ~before
            assert bool(grown.any())
            assert not learner.mean[grown].any()
            for segment in learner.layout.prunable_segments():
                own = learner.log_std[segment.slice][grown[segment.slice]]
                torch.testing.assert_close(own, start.log_std[segment.slice].mean().expand_as(own))
            found = [
                (value, p.storage_offset())
                for p, entries in work.optimiser.state.items()
                for value in entries.values()
                if value.shape == p.shape
            ]
            assert len(found) >= 3 * (2 if optimiser == "adam" else 1)
            assert not any(value[grown[at : at + len(value)]].any() for value, at in found)
            assert any(value.any() for value, _ in found)
            break
        before = learner.mask.clone()


@pytest.mark.thinned(3)
@pytest.mark.parametrize("step", [2, 4, 19])
@pytest.mark.parametrize(("method", "way"), [("vi", WAYS[0]), ("vi", WAYS[4]), ("map", WAYS[2]), ("map", WAYS[3])])
def test_a_resumed_training_has_the_same_bits(method, way, step, tmp_path):
    class KilledError(Exception):
        pass

    def kill(done, total):
        if done == step + 1:
            raise KilledError

    whole, checkpoint = run(training(method, sparse=way)), Checkpoint(tmp_path / "checkpoint", seconds=0)
    with pytest.raises(KilledError):
        run(training(method, sparse=way), checkpoint=checkpoint, on_step=kill)
    resumed = run(training(method, sparse=way), checkpoint=checkpoint)
    assert torch.equal(whole.state.posterior.mask, resumed.state.posterior.mask)
    for name, value in whole.state.tensors().items():
        assert torch.equal(value, resumed.state.tensors()[name]), name
    assert whole.history == resumed.history
    assert whole.kept == resumed.kept


def test_what_was_kept_is_averaged_over_the_steps():
    given = training("map", sparse={"way": "gradual"})
    layout, kept = given.state.posterior.layout, []
    before = torch.tensor([float(s.numel) for s in layout.prunable_segments()])
    for _, work in drive(given):
        kept.append(before)
        before = torch.tensor(count_by_layer(work.learner.mask, layout)).float()
    expected = torch.stack(kept).mean(0)
    torch.testing.assert_close(torch.tensor(list(work.changing.summary.counts.values())), expected)
    assert run(training("map", sparse={"way": "rigl"})).kept.grown == 7  # after steps 4 to 28 of 40


def test_a_sparse_start_keeps_its_mask_until_the_first_change():
    given = training("map", sparse={"way": "rigl"})
    mask = torch.rand(given.state.posterior.layout.numel, generator=generator("m")) < 0.4
    mask |= ~given.state.posterior.layout.prunable
    given = replace(given, state=given.state.masked(mask))
    assert torch.equal(Work.of(given).learner.mask, mask)
    done = run(given).state.posterior
    assert count(done.mask, done.layout) == count(mask, done.layout)
    assert not torch.equal(done.mask, mask)


def test_find_tickets_gives_the_mask_of_the_training():
    draw = generator("find")
    data = torch.randn(64, 6, generator=draw), torch.randint(3, (64,), generator=draw)
    settings = TrainSettings(epochs=4, batch_size=16, sparse={"way": "gradual", "density": 0.2, "every": 2})
    (ticket,) = find_tickets(mlp((6,), 3, [10]), data, train=settings, prune=PruneSettings(levels=0))
    assert ticket.density == pytest.approx(0.2, abs=0.01)
    assert not ticket.rewind.posterior.mean[~ticket.mask].any()
    with pytest.raises(TombolaError, match=r"train\.sparse changes the mask within a training, and prune.levels 2"):
        find_tickets(mlp((6,), 3, [10]), data, train=settings, prune=PruneSettings(levels=2))


@pytest.mark.parametrize(
    ("train_settings", "sentence"),
    [
        ({"method": "sgld"}, "method sgld has one mask; use vi or map"),
        ({"cuda_graphs": True}, "set cuda_graphs: false"),
        ({"estimator": "flipout"}, "estimator flipout has one mask; use weight_sample"),
        ({"sparse": {"way": "rigll"}}, "way is 'rigll'; it must be one of gradual, set, rigl, ssvi"),
        ({"sparse": {"denstiy": 0.1}}, "SparseSettings has no setting 'denstiy'"),
        ({"sparse": {"begin": 0.8}}, "sparse.begin is 0.8, but changes end at sparse.until 0.75"),
        ({"sparse": {"way": "set", "scope": "erk"}}, "sparse.scope is 'erk', but set keeps counts"),
    ],
)
def test_what_does_not_fit_is_refused(train_settings, sentence):
    with pytest.raises(TombolaError, match=sentence):
        TrainSettings(**{"sparse": {"way": "rigl"}, **train_settings})


def test_equal_settings_are_one():
    assert TrainSettings(sparse={"way": "rigl"}) == TrainSettings(sparse={"density": 0.1})
    assert TrainSettings(sparse={"way": "ssvi"}).mask == SparseSettings(way="ssvi")
