"""All that every method has: resumed bits, rewinding, files, scores, studies, sentences for what it cannot have."""

import copy
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from tombola import Layout, PosteriorSettings, PruneSettings, TombolaError, TrainSettings, find_tickets, load
from tombola.data.batches import TensorBatches
from tombola.inference import METHODS, method_of
from tombola.posterior.samples import Samples
from tombola.posterior.state import State, initial_state
from tombola.training.checkpoint import Checkpoint
from tombola.training.loop import train
from tombola.training.memory import forecast_memory

NEW = [name for name in METHODS if name not in ("vi", "ivon", "map")]
SETTINGS = {
    "sgld": {"lr": 0.3, "keep": 5},
    "sghmc": {"lr": 0.05, "keep": 5, "schedule": "cyclical", "cycles": 2},
    "sghmc_mixture": {"lr": 0.05, "keep": 5},
    "swag": {"optimiser": "sgd", "lr": 0.1, "keep": 5},
    "ensemble": {"lr": 0.02, "keep": 3},
}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def data(n: int = 80) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))
    return inputs, (inputs[:, 0] > inputs[:, 1]).long() + (inputs[:, 2] > 1).long()


def settings(method: str, **changes: object) -> TrainSettings:
    return TrainSettings(
        **({"method": method, "epochs": 4, "batch_size": 20, "lr": 0.02} | SETTINGS.get(method, {}) | changes)
    )


def start(module: nn.Module, chosen: TrainSettings) -> State:
    method = method_of(chosen.method)
    posterior = method.start(PosteriorSettings(std=0.1), chosen, 80)
    state = initial_state(module, Layout.of(module), posterior, 0)
    mask = ~state.posterior.layout.prunable | (torch.arange(state.posterior.layout.numel) % 3 > 0)
    return state.masked(mask).as_family(method.learns)


class KilledError(Exception):
    pass


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", NEW)
def test_a_killed_training_ends_with_the_same_bits(method: str, tmp_path: Path):
    chosen = settings(method, weight_decay=0.01)

    def run(checkpoint: Checkpoint | None = None, kill: int = 0) -> State:
        def on_step(done: int, total: int) -> None:
            if done == kill:
                raise KilledError

        module = net()
        batches = TensorBatches(*data(), 20, 0)
        return train(
            module, start(module, chosen), batches, chosen, stream=("t",), checkpoint=checkpoint, on_step=on_step
        ).state

    whole, path = run(), tmp_path / "checkpoint"
    with pytest.raises(KilledError):
        run(Checkpoint(path, 0), 11)  # between two samples that are kept
    again = run(Checkpoint(path, 0))
    assert whole.tensors().keys() == again.tensors().keys()
    assert all(torch.equal(value, again.tensors()[name]) for name, value in whole.tensors().items())
    other = train(net(), start(net(), chosen), TensorBatches(*data(), 20, 1), chosen, stream=("t",)).state
    assert not torch.equal(other.posterior.mean, whole.posterior.mean)


@pytest.mark.thinned(2)
@pytest.mark.parametrize(
    ("method", "rewind"),
    [*((method, "init") for method in NEW), *product(("sghmc", "ensemble"), ("epoch:1", "learning_rate"))],
)
def test_chains_are_pruned_rewound_saved_and_predict(method: str, rewind: str, tmp_path: Path):
    module, (inputs, targets) = net(), data()
    prune = PruneSettings(score="mu" if method == "mc_dropout" else "snr", fraction=0.5, levels=2, rewind=rewind)
    found = find_tickets(module, (inputs, targets), train=settings(method), prune=prune, progress=False)
    assert [ticket.density for ticket in found] == [1.0, 0.5, 0.25]
    for ticket in found:
        q = ticket.posterior
        assert q.family == METHODS[method].learns
        assert not q.mean[~ticket.mask].any()
        assert not q.std[~ticket.mask].any()
        assert not q.std[~q.layout.is_random].any()
        assert float(q.std.max()) > 0
        probs = ticket.predict(module, inputs, samples=16).probs_SBC
        assert len(probs) == (16 if q.points is None else len(q.points))
        assert float(probs.var(0).max()) > 0
        ticket.save(tmp_path / "ticket")
        back = load(tmp_path / "ticket", module)
        assert torch.equal(back.predict(module, inputs, samples=16).probs_SBC, probs)
        assert not ticket.rewind.posterior.mean[~ticket.mask].any()


def test_kept_samples_are_used_once_each_in_an_order_of_the_seed():
    module, (inputs, targets) = net(), data()
    chosen, dense = settings("sgld", epochs=10, keep=8), PruneSettings(levels=0)
    (ticket,) = find_tickets(module, (inputs, targets), train=chosen, prune=dense, progress=False)
    ticket = ticket.with_statistics(module, inputs, samples=8)
    q = ticket.posterior
    assert isinstance(q, Samples)
    assert len(q.kept.unique(dim=0)) == 8
    all_of = ticket.outputs(module, inputs, samples=100)
    assert len(all_of.unique(dim=0)) == len(all_of) == 8
    assert torch.equal(ticket.outputs(module, inputs, samples=3), all_of[:3])
    running = [ticket.outputs(module, inputs, samples=8, seed=seed, batch_norm="running") for seed in (0, 1)]
    assert not torch.equal(*running)
    assert torch.equal(running[0].sort(0)[0], running[1].sort(0)[0])
    torch.testing.assert_close(q.mean, q.kept.mean(0))
    torch.testing.assert_close(q.std, q.kept.std(0, correction=0) * q.layout.is_random)
    shown = copy.deepcopy(module).eval()
    shown.load_state_dict(ticket.state_dict(module, seed=0))
    torch.testing.assert_close(shown(inputs), all_of[0])


def test_a_sampler_begins_without_the_samples_of_the_level_before():
    chosen = settings("sgld")
    first = train(net(), start(net(), chosen), TensorBatches(*data(), 20, 0), chosen, stream=("a",)).state
    half = train(net(), first, TensorBatches(*data(), 20, 0), chosen, stream=("b",), stop=4).state
    assert len(first.posterior.kept) == 5
    assert len(half.posterior.kept) == 0
    assert half.posterior.std is None  # a point until it has samples


def test_members_of_an_ensemble_are_rewound_to_their_own_starts():
    module, prune = net(), PruneSettings(score="mu", fraction=0.5, levels=1)
    dense, sparse = find_tickets(module, data(), train=settings("ensemble"), prune=prune, progress=False)
    begun, rewound = dense.rewind.posterior.kept, sparse.rewind.posterior.kept
    assert len(begun.unique(dim=0)) == 3
    assert torch.equal(rewound, begun * sparse.mask)
    own = dense.layout.flatten(dict(module.named_parameters()))
    assert torch.equal(begun[0], own)


REFUSED = [
    ("sgld", {"clip_norm": 1.0}, "train.clip_norm is 1.0, which method sgld"),
    ("sghmc", {"loss_scale": "sum"}, "train.loss_scale is 'sum', which method sghmc"),
    ("sgld", {"epochs": 1, "batch_size": 80}, "train.keep is 10, but only 0 of 1 steps"),
    ("sgld", {"cuda_graphs": True}, "train.cuda_graphs is True, which method sgld"),
    ("swag", {"keep": 1}, "train.keep is 1, but a variance needs two points"),
    ("ensemble", {"keep": 1}, "train.keep is 1, but an ensemble needs two networks"),
    ("laplace", {"heat": 0.0}, "train.heat is 0, but with method laplace"),
    ("mc_dropout", {"cuda_graphs": True}, "train.cuda_graphs is True, which method mc_dropout"),
]


@pytest.mark.parametrize(("method", "changes", "said"), REFUSED)
def test_what_a_method_cannot_have_is_refused_before_it_runs(method: str, changes: dict, said: str):
    chosen = TrainSettings(method=method, **changes)
    with pytest.raises(TombolaError) as caught:
        find_tickets(net(), data(), train=chosen, progress=False)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("method", ["sgld", "swag", "laplace_full", "mc_dropout", "ensemble"])
def test_a_prior_about_the_start_is_refused_where_the_family_does_not_keep_it(method: str):
    with pytest.raises(TombolaError, match="prior_mean"):
        find_tickets(net(), data(), train=settings(method), posterior=PosteriorSettings(prior_mean="start"), progress=False)


def test_an_ensemble_without_members_and_a_likelihood_without_curvature_are_refused():
    module, chosen = net(), settings("ensemble")
    plain = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    with pytest.raises(TombolaError, match=r"the state has 0 networks to start from; draw them by PosteriorSettings"):
        train(module, plain, TensorBatches(*data(), 20, 0), chosen, stream=("t",))

    def own(output: Tensor, batch: tuple) -> Tensor:
        return -(output[:, 0] - batch[1]).square()

    with pytest.raises(TombolaError, match="knows the curvature of the likelihoods categorical and gaussian"):
        find_tickets(module, data(), likelihood=own, train=settings("laplace"), progress=False)


class Fails(nn.Linear):
    """Fails under vmap, where Laplace takes each example's gradient, and nowhere else."""

    def __init__(self, said: str):
        super().__init__(4, 3)
        self.said = said

    def forward(self, x: Tensor) -> Tensor:
        if torch._C._functorch.is_functorch_wrapped_tensor(x):
            raise RuntimeError(self.said)
        return super().forward(x)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.", "out of memory"),
        ("CUDA out of memory. Tried to allocate 9.00 GiB.", "out of memory when 9.00 GiB more was asked for"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "out of memory"),
        ("in-place operation", "method laplace needs gradients of each example"),
    ],
)
def test_laplace_tells_a_want_of_memory_from_a_module_without_gradients_of_examples(said: str, found: str):
    with pytest.raises(TombolaError, match=found):
        find_tickets(nn.Sequential(nn.Linear(4, 4), Fails(said)), data(), train=settings("laplace"), progress=False)


def test_a_score_that_is_equal_for_all_weights_is_refused():
    """Dropout gives each weight the same ratio of mean and std."""
    with pytest.raises(TombolaError, match="score 'snr' is equal for all"):
        find_tickets(net(), data(), train=settings("mc_dropout"), prune=PruneSettings(levels=1), progress=False)


@pytest.mark.parametrize("method", ["sgld", "ensemble", "laplace"])
def test_memory_is_forecast(method: str):
    assert forecast_memory(net(), data(), train=settings(method)).total > 0


def test_a_study_has_them_as_arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study_file, quick_pages):
    from tombola.cli.run import run_studies

    monkeypatch.chdir(tmp_path)
    names = ("sghmc", "swag", "laplace_full", "mc_dropout", "ensemble", "vi_layers")
    changes = {name: {"method": name} | SETTINGS.get(name, {}) for name in names}
    arms = [{"arm": "ticket", "train": own, "score": "mu"} for own in changes.values()]
    study = {
        "name": "methods",
        "data": {"name": "digits", "args": {"validation": 0, "test": 900}},
        "model": {"name": "mlp", "args": {"hidden": [12]}},
        "train": {"epochs": 2, "batch_size": 64, "lr": 0.01},
        "prune": {"levels": 1, "fraction": 0.5},
        "evaluate": {"samples": 4},
        "arms": [*arms, "deterministic", {"arm": "transplant", "train": changes["sghmc"]}],
    }
    assert run_studies([str(study_file(study))], device="cpu") == 0
    records = pd.read_parquet(next(tmp_path.rglob("records.parquet")))
    assert set(records["method"]) == {*changes, "map"}
    assert len(records) == 2 * len(changes) + 2 + 1
    assert set(records.loc[records["method"] == "ensemble", "samples"]) == {3}
    assert bool((records["accuracy"] > 0.15).all())
