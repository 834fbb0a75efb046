"""Every kind of model and batch: trained, pruned to 80%, rewound, trained, saved, loaded, asked; its zeros stay zeros."""

import copy

import pytest
import torch
from torch import Tensor, nn

from support.kinds import HUGGING_FACE, KINDS, Kind
from tombola import Bayesian, Layout, PosteriorSettings, PruneSettings, Ticket, TrainSettings, find_tickets, load
from tombola.inference.estimators import ESTIMATORS
from tombola.posterior.batch import inputs_of, run
from tombola.posterior.batch_norm import has_batch_norm

SPARSITY = 0.8


@pytest.fixture(params=KINDS)
def kind(request) -> Kind:
    if request.param in HUGGING_FACE:
        pytest.importorskip("transformers")
    return KINDS[request.param]


def copied(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def layout_of(module: nn.Module, kind: Kind) -> Layout:
    return Layout.of(module, random=kind.random, include=kind.include)


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def shown_to(module: nn.Module, layout: Layout) -> list[Tensor]:
    """The weights [P] of each forward pass in training mode from now on."""
    seen: list[Tensor] = []

    def see(m: nn.Module, _: tuple) -> None:
        if m.training:
            seen.append(layout.flatten(dict(m.named_parameters())))

    module.register_forward_pre_hook(see)
    return seen


def assert_sparse(ticket: Ticket) -> None:
    prunable = int(ticket.layout.prunable.sum())
    assert int(ticket.mask[ticket.layout.prunable].sum()) == prunable - round(SPARSITY * prunable)
    assert bool(ticket.mask[~ticket.layout.prunable].all())


def assert_saved_and_asked(ticket: Ticket, kind: Kind, path) -> None:
    """The ticket comes back from a file, predicts, and leaves as a plain state_dict of a sparse network."""
    module, inputs, pruned = kind.module(), inputs_of(kind.batches()[0]), ~ticket.mask
    before = copied(module)
    ticket = ticket.with_statistics(module, inputs, samples=3, seed=5)  # of batch norms, where there are any
    ticket.save(path)
    back = load(path, module)
    out = back.outputs(module, inputs, samples=3, seed=5, select=kind.select)
    assert out.shape == (1 if ticket.posterior.std is None else 3, *kind.shape)
    assert bool(out.isfinite().all())
    assert torch.equal(out, ticket.outputs(module, inputs, samples=3, seed=5, select=kind.select))
    if len(kind.shape) > 1:  # of classes
        probs = back.predict(module, inputs, samples=2, seed=5).probs
        torch.testing.assert_close(probs.sum(-1), torch.ones(kind.shape[:-1], dtype=torch.float64))
    assert_equal(copied(module), before)

    for seed in (None, 5):
        plain = kind.module().eval()
        plain.load_state_dict(back.state_dict(module, seed=seed))  # strictly: every name and shape
        flat = back.layout.flatten(dict(plain.named_parameters()))
        assert bool((flat[pruned] == 0).all())
        with torch.no_grad():
            alone = kind.select(run(plain, inputs))
        if seed is not None:
            torch.testing.assert_close(alone, out[0])
    assert [p.dtype for p in plain.parameters()] == [p.dtype for p in module.parameters()]


@pytest.mark.thinned(2)
@pytest.mark.filterwarnings("ignore:pruning by snr has emptied")
def test_in_a_loop_of_ones_own(kind: Kind, tmp_path):
    module, batches = kind.module(), kind.batches()
    before = copied(module)
    posterior, prune = PosteriorSettings(std=0.01, random=kind.random), PruneSettings(include=[*kind.include])
    model = Bayesian(module, likelihood=kind.likelihood, posterior=posterior, prune=prune, seed=3)
    shown = shown_to(module, model.layout)
    start = model.mean.detach().clone()

    def train(epochs: int) -> list[float]:
        optimiser = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        losses = []
        for _ in range(epochs):
            for batch in batches:
                optimiser.zero_grad()
                loss = model.negative_elbo(batch, examples=24, heat=0.01, samples=1 + len(losses) % 2)
                loss.backward()
                pruned = ~model.mask
                assert bool((model.mean.grad[pruned] == 0).all())
                assert bool((model.log_std.grad[pruned] == 0).all())
                optimiser.step()
                assert bool((model.mean[pruned] == 0).all())
                assert bool((model.posterior.std[pruned] == 0).all())
                losses.append(loss.item())
        return losses

    losses = train(8)
    assert sum(losses[-3:]) < sum(losses[:3])
    found = model.prune("snr", SPARSITY)
    assert_sparse(found)
    assert torch.equal(model.mean, start * found.mask)  # the survivors are where they began
    shown.clear()
    losses = train(8)
    assert sum(losses[-3:]) < sum(losses[:3])
    assert len(shown) == 36
    assert all(bool((flat[~found.mask] == 0).all()) for flat in shown)
    assert_equal(copied(module), before)
    assert_saved_and_asked(model.ticket(), kind, tmp_path / "ticket")


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", ["vi", "map"])
def test_by_find_tickets(kind: Kind, method: str, tmp_path):
    module, batches = kind.module(), kind.batches()
    before = copied(module)
    shown = shown_to(module, layout := layout_of(module, kind))
    tickets = find_tickets(
        module,
        batches,
        examples=24,
        likelihood=kind.likelihood,
        train=TrainSettings(epochs=4, lr=0.01, method=method, weight_decay=0.1),
        prune=PruneSettings(score="mu", fraction=SPARSITY, levels=1, include=[*kind.include]),
        posterior=PosteriorSettings(std=0.01, random=kind.random),
        progress=False,
    )
    if method == "vi" and has_batch_norm(module):
        del shown[0]  # to find biases that it takes out
    assert len(shown) == 24
    dense, sparse = tickets
    assert bool(dense.mask.all())
    assert_sparse(sparse)
    assert all(bool((flat[~sparse.mask] == 0).all()) for flat in shown[12:])
    if method == "map":  # it starts, and starts again, from the module's own values
        own = layout.flatten(dict(module.named_parameters()))
        assert torch.equal(shown[0], own)
        assert torch.equal(shown[12], own * sparse.mask)
    assert bool((sparse.posterior.mean[~sparse.mask] == 0).all())
    assert sparse.info["history"][-1]["loss"] < dense.info["history"][0]["loss"]
    assert_equal(copied(module), before)
    assert_saved_and_asked(sparse, kind, tmp_path / "ticket")


@pytest.mark.thinned(4)
@pytest.mark.filterwarnings("ignore:.* has no rule for")
@pytest.mark.parametrize("estimator", sorted(ESTIMATORS.keys() - {"weight_sample"}))
def test_by_every_estimator(kind: Kind, estimator: str):
    module, batches = kind.module(), kind.batches()
    before = copied(module)
    dense, sparse = find_tickets(
        module,
        batches,
        examples=24,
        likelihood=kind.likelihood,
        train=TrainSettings(epochs=2, lr=0.01, samples=2, estimator=estimator),
        prune=PruneSettings(score="mu", fraction=SPARSITY, levels=1, include=[*kind.include]),
        posterior=PosteriorSettings(std=0.01, random=kind.random, prior_mean="start"),
        progress=False,
    )
    assert_sparse(sparse)
    q = sparse.posterior
    assert bool((q.mean[~q.mask] == 0).all())
    assert all(bool(value.isfinite().all()) for value in q.tensors().values())
    first, last = (dense.info["history"][i]["loss"] for i in (0, -1))
    assert last < first
    assert_equal(copied(module), before)
