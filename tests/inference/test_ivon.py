"""IVON against ivon-opt and against algorithm 1 as the paper writes it; its state, its settings, a study by it."""

import math
from dataclasses import replace
from unittest import mock

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from tombola import Layout, PosteriorSettings, PruneSettings, TombolaError, TrainSettings, find_tickets, train
from tombola.data.batches import TensorBatches
from tombola.inference import Ivon
from tombola.inference.estimators.noise import NoisePool
from tombola.inference.ivon import Constants
from tombola.posterior.gaussian import Gaussian
from tombola.posterior.likelihood import Categorical
from tombola.posterior.state import State, initial_state
from tombola.streams import generator
from tombola.training.optim import load_optimiser_tensors, optimiser_of, optimiser_tensors, set_lr

N, STEPS, WORDS = 48, 50, ("ivon",)
ALL = PosteriorSettings(random=["*"])


def net(dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def data(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    stream = generator("ivon data")
    return torch.randn(N, 6, generator=stream, dtype=dtype), torch.randint(3, (N,), generator=stream)


def batch_of(step: int) -> tuple[Tensor, Tensor]:
    inputs, targets = data()
    first = step * 16 % N
    return inputs[first : first + 16], targets[first : first + 16]


def settings(**changes) -> TrainSettings:
    return TrainSettings(
        **{"method": "ivon", "ivon_lr": 0.4, "beta2": 0.99, "noise_refresh": 1.0, "heat": 0.5, "hess_init": 0.25, **changes}
    )


def started(module: nn.Module, chosen: TrainSettings, posterior: PosteriorSettings = ALL) -> State:
    layout = Layout.of(module, random=posterior.random)
    begun = Ivon.start(posterior, chosen, N)
    state = initial_state(module, layout, begun, 0)
    exact = torch.full_like(state.posterior.mean, math.log(begun.std))  # initial_state has it in single precision
    return replace(state, posterior=replace(state.posterior, log_std=exact))


def rate(step: int) -> float:
    return 1 / (1 + step / 40)


class Loop:
    """A learner with its optimiser, step by step."""

    def __init__(self, chosen: TrainSettings, state: State | None = None):
        self.module, self.settings = net(), chosen
        self.start = started(self.module, chosen) if state is None else state
        likelihood = Categorical()
        self.learner = Ivon(self.module, self.start, likelihood, chosen, N, WORDS)
        self.optimiser = optimiser_of(self.learner, likelihood, chosen)
        self.layout = self.learner.layout

    def run(self, start: int, stop: int) -> None:
        with self.learner.binding:
            for step in range(start, stop):
                set_lr(self.optimiser, self.settings.lr * rate(step))
                self.learner.gradients(batch_of(step), step)
                self.optimiser.step()

    def noise(self, tick: int) -> Tensor:
        """What the learner draws, [n]."""
        like, n = self.learner.mean, self.layout.random_numel
        if self.settings.estimator == "antithetic":
            eps = NoisePool(n, ("noise", *WORDS), 1.0, like=like).window(tick // 2).clone()
            return -eps if tick % 2 else eps
        return NoisePool(n, ("noise", *WORDS), 1.0, like=like).window(tick).clone()


@pytest.mark.parametrize("samples", [1, 3])
def test_it_is_ivon_opt_step_by_step_with_the_same_noise(samples: int):
    ivon = pytest.importorskip("ivon", reason="ivon-opt is a peer: pip install tombola[peers]")
    ours = Loop(settings(samples=samples))
    module, chosen, layout = net(), ours.settings, ours.layout
    peer = ivon.IVON(
        module.parameters(),
        lr=chosen.ivon_lr,
        ess=N / chosen.heat,
        hess_init=chosen.hess_init,
        beta1=chosen.beta1,
        beta2=chosen.beta2,
        weight_decay=chosen.heat / N,
        mc_samples=samples,
    )
    names = [name for name, _ in module.named_parameters()]

    def in_its_order(flat: Tensor) -> Tensor:
        views = layout.views(flat)
        return torch.cat([views[name].flatten() for name in names])

    with torch.no_grad():  # the prior pulls harder on large weights
        for p in module.parameters():
            p.mul_(3)
    start = layout.flatten(dict(module.named_parameters()))
    ours = Loop(chosen, replace(ours.start, posterior=replace(ours.start.posterior, mean=start)))
    for step in range(STEPS):
        peer.param_groups[0]["lr"] = chosen.ivon_lr * rate(step)
        inputs, targets = batch_of(step)
        for s in range(samples):
            eps = in_its_order(ours.noise(step * samples + s))
            with mock.patch("torch.randn", return_value=eps), peer.sampled_params(train=True):
                peer.zero_grad()
                F.cross_entropy(module(inputs), targets).backward()
        peer.step()
        ours.run(step, step + 1)
        found = ours.learner.state().posterior
        hessian = found.std.pow(-2) / (N / chosen.heat) - chosen.heat / N
        expected = layout.flatten(dict(module.named_parameters()))
        torch.testing.assert_close(found.mean, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(in_its_order(hessian), peer.param_groups[0]["hess"], rtol=1e-9, atol=1e-12)
    assert (found.mean - start).norm() > 0.1 * start.norm()
    assert hessian.std() > 0.1 * hessian.mean().abs()


def written_out(loop: Loop, steps: int) -> tuple[Tensor, Tensor]:
    """Mean and Hessian by algorithm 1 with h itself in memory, and autograd through functional_call."""
    c, q, layout = loop.settings, loop.start.posterior, loop.layout
    heat, ess = c.heat, N / c.heat
    delta = heat / (N * c.prior_std**2)
    keep = q.random_kept
    decayed = torch.cat([torch.full((s.numel,), float(s.decayed)) for s in layout.segments]).double()
    m, h = q.mean.clone(), torch.full_like(q.mean, c.hess_init)
    m0 = torch.zeros_like(m) if q.prior_mean is None else q.prior_mean
    g = torch.zeros_like(m)
    decay = c.weight_decay / (N if c.loss_scale == "sum" else 1)
    for step in range(steps):
        inputs, targets = batch_of(step)
        sigma = 1 / (ess * (h + delta)).sqrt() * keep
        g_hat, h_hat = torch.zeros_like(m), torch.zeros_like(m)
        for s in range(c.samples):
            eps = torch.zeros_like(m)
            eps[: layout.random_numel] = loop.noise(step * c.samples + s)
            theta = (m + sigma * eps).requires_grad_()
            logits = functional_call(net(), layout.views(theta), (inputs,))
            (grad,) = torch.autograd.grad(F.cross_entropy(logits, targets), theta)
            g_hat += grad / c.samples
            h_hat += grad * (theta.detach() - m) * ess * (h + delta) / c.samples
        g = c.beta1 * g + (1 - c.beta1) * g_hat
        h = c.beta2 * h + (1 - c.beta2) * h_hat + (1 - c.beta2) ** 2 / 2 * (h - h_hat) ** 2 / (h + delta)
        debiased = g / (1 - c.beta1 ** (step + 1))
        alpha = c.ivon_lr * rate(step) * (c.hess_init + delta)
        step_size = alpha * (debiased + delta * (m - m0) + decay * decayed * m) / (h + delta)
        m = torch.where(keep, m - step_size, m)
    return m, h


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"samples": 4, "estimator": "antithetic"},
        {"prior_std": 0.2, "weight_decay": 0.1},
        {"loss_scale": "sum", "weight_decay": 4.0, "samples": 2},
        {"beta1": 0.0, "beta2": 0.9, "hess_init": 1.0},
    ],
)
@pytest.mark.parametrize("prior_mean", ["zero", "start"])
def test_it_is_algorithm_1_written_out_on_a_masked_network(changes: dict, prior_mean: str):
    chosen = settings(**changes)
    module = net()
    posterior = PosteriorSettings(random=["*"], prior_mean=prior_mean)
    state = started(module, chosen, posterior)
    mask = torch.rand(state.posterior.mean.shape, generator=generator("ivon mask")) < 0.6
    loop = Loop(chosen, state.masked(mask))
    loop.run(0, STEPS)
    mean, h = written_out(Loop(chosen, state.masked(mask)), STEPS)
    found = loop.learner.state().posterior
    c = Constants(chosen, N)
    torch.testing.assert_close(found.mean, mean, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.std[mask].pow(-2) / c.ess - c.delta, h[mask], rtol=1e-9, atol=1e-12)
    pruned = ~mask
    assert bool((found.mean[pruned] == 0).all())
    assert bool((found.std[pruned] == 0).all())
    for where, _ in loop.layout.decay_groups():  # no momentum of pruned weights, and a log_std that stays finite
        assert bool((loop.learner.log_std[where][pruned[where]] == 0).all())
    momentum = torch.cat([v for k, v in optimiser_tensors(loop.optimiser).items() if k.endswith("momentum")])
    assert bool((momentum[pruned] == 0).all())
    assert bool((momentum[mask] != 0).any())


def test_the_objective_log_expected_gives_the_derivatives_of_itself():
    """h_hat = (d loss / d std) / std, whatever the loss: here by autograd through both samples of log E_q[p]."""
    chosen = settings(samples=2, objective="log_expected")
    loop = Loop(chosen)
    mean, log_std = (t.clone().requires_grad_() for t in (loop.learner.mean, loop.learner.log_std))
    inputs, targets = batch_of(0)
    log_p = [
        -F.cross_entropy(
            functional_call(net(), loop.layout.views(mean + log_std.exp() * loop.noise(s)), (inputs,)),
            targets,
            reduction="none",
        )
        for s in range(2)
    ]
    loss = -(torch.stack(log_p).logsumexp(0) - math.log(2)).mean()
    expected = torch.autograd.grad(loss, (mean, log_std))
    with loop.learner.binding:
        loop.learner.gradients(batch_of(0), 0)
    torch.testing.assert_close(loop.learner.sample.mean_grad, expected[0])
    torch.testing.assert_close(loop.learner.sample.log_std_grad, expected[1])


def test_what_has_no_distribution_goes_by_the_optimiser_of_the_settings():
    chosen = settings(optimiser="sgd", momentum=0.0, lr=0.05, weight_decay=0.3)
    module = net()
    state = started(module, chosen, PosteriorSettings(random=["0.weight"], decayed=["3.*"]))
    loop = Loop(chosen, state)
    loop.run(0, 1)
    n, before, after = loop.layout.random_numel, state.posterior.mean, loop.learner.mean
    decayed = torch.cat([torch.full((s.numel,), s.decayed) for s in loop.layout.segments])
    grad = loop.learner.sample.mean_grad
    expected = before - 0.05 * (grad + 0.3 * decayed * before)
    torch.testing.assert_close(after[n:], expected[n:])
    assert not torch.isclose(after[:n], expected[:n]).any()
    assert torch.equal(loop.learner.log_std[n:], state.posterior.log_std[n:])


@pytest.mark.parametrize("posterior", [ALL, PosteriorSettings()])
def test_an_optimiser_that_is_loaded_goes_on_with_the_same_bits(posterior: PosteriorSettings):
    chosen = settings(samples=2)
    start = started(net(), chosen, posterior)
    whole, first = Loop(chosen, start), Loop(chosen, start)
    whole.run(0, 9)
    first.run(0, 4)
    saved = {name: value.clone() for name, value in optimiser_tensors(first.optimiser).items()}
    assert {name.partition(".")[2] for name in saved} >= {"step", "momentum"}
    second = Loop(chosen, start)
    second.learner.restore(first.learner.state())
    load_optimiser_tensors(second.optimiser, saved)
    second.run(4, 9)
    for name, value in whole.learner.state().tensors().items():
        assert torch.equal(value, second.learner.state().tensors()[name]), name
    for name, value in optimiser_tensors(whole.optimiser).items():
        assert torch.equal(value, optimiser_tensors(second.optimiser)[name]), name


def test_blocks_do_not_change_the_update(monkeypatch: pytest.MonkeyPatch):
    whole = Loop(settings())
    whole.run(0, 5)
    monkeypatch.setattr("tombola.inference.ivon._BLOCK", 7)
    parts = Loop(settings())
    parts.run(0, 5)
    torch.testing.assert_close(parts.learner.mean, whole.learner.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.learner.log_std, whole.learner.log_std, rtol=1e-12, atol=0)


def test_an_exception_in_a_forward_pass_changes_no_value():
    loop = Loop(settings())
    loop.run(0, 3)
    before = {name: value.clone() for name, value in loop.module.state_dict().items()}
    state = {name: value.clone() for name, value in loop.learner.state().tensors().items()}
    momentum = {name: value.clone() for name, value in optimiser_tensors(loop.optimiser).items()}

    def fail(module: nn.Module, inputs: object) -> None:
        raise RuntimeError("in the middle")

    handle = loop.module[3].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        loop.run(3, 4)
    handle.remove()
    for now, then in (
        (loop.module.state_dict(), before),
        (loop.learner.state().tensors(), state),
        (optimiser_tensors(loop.optimiser), momentum),
    ):
        for name, value in then.items():
            assert torch.equal(now[name], value), name
    loop.run(3, 6)  # and it goes on as if nothing had been
    whole = Loop(settings())
    whole.run(0, 6)
    assert torch.equal(loop.learner.mean, whole.learner.mean)


def test_every_std_starts_where_the_hessian_is_hess_init():
    chosen = TrainSettings(method="ivon", heat=0.1, hess_init=0.3, prior_std=0.5)
    module = net(torch.float32)
    (ticket,) = find_tickets(module, data(torch.float32), train=chosen, prune=PruneSettings(levels=0), progress=False)
    q = ticket.rewind.posterior
    assert isinstance(q, Gaussian)
    expected = 1 / math.sqrt(N / 0.1 * (0.3 + 0.1 / (N * 0.25)))
    torch.testing.assert_close(q.std[q.random_kept], torch.full((int(q.random_kept.sum()),), expected))
    assert ticket.info["settings"]["posterior"]["std"] == pytest.approx(expected)


def test_learning_rate_rewinding_keeps_the_hessian_of_the_survivors():
    chosen = TrainSettings(method="ivon", epochs=4, batch_size=16, beta2=0.9)
    prune = PruneSettings(levels=1, fraction=0.5, rewind="learning_rate")
    dense, sparse = find_tickets(net(torch.float32), data(torch.float32), train=chosen, prune=prune, progress=False)
    assert dense.trained is not None
    kept = sparse.rewind.posterior.random_kept
    assert torch.equal(sparse.rewind.posterior.std[kept], dense.trained.posterior.std[kept])
    learner = Ivon(net(torch.float32), sparse.rewind, Categorical(), chosen, N, WORDS)
    assert torch.equal(learner.log_std, sparse.rewind.posterior.log_std)
    assert dense.trained.posterior.std[kept].std() > 0


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"samples": 2}, {"warmup_epochs": 1.0, "schedule": "cosine"}])
def test_it_learns(changes: dict):
    chosen = TrainSettings(method="ivon", epochs=40, batch_size=16, **changes)
    module = net(torch.float32)
    state = started(module, chosen, PosteriorSettings())
    history = train(module, state, TensorBatches(*data(torch.float32), 16, 0), chosen, stream=WORDS).history
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]


REFUSED = [
    ({"estimator": "local"}, "train.estimator is 'local', but method ivon takes its Hessian from weight samples; use"),
    ({"heat": 0.0}, "train.heat is 0, but with method ivon"),
    ({"kl_warmup_epochs": 2.0}, "train.kl_warmup_epochs is 2, but with method ivon"),
    ({"clip_norm": 1.0}, "train.clip_norm is 1.0, but method ivon"),
    ({"lr": 1.0}, "train.lr is 1: method ivon leaves it to adam, for what has no distribution; set train.ivon_lr"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED)
def test_settings_that_it_cannot_have_are_refused_in_a_study_and_in_python(changes: dict, said: str, tiny, plan_of):
    whole = {"method": "ivon"} | changes
    module, inputs = net(torch.float32), data(torch.float32)
    point = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    for refused in (
        lambda: plan_of(tiny | {"train": tiny["train"] | whole}),
        lambda: plan_of(tiny | {"arms": ["deterministic", {"arm": "transplant", "train": whole}]}),
        lambda: find_tickets(module, inputs, train=TrainSettings(**whole), progress=False),
        lambda: train(module, point, TensorBatches(*inputs, 16, 0), TrainSettings(**whole), stream=WORDS),
    ):
        with pytest.raises(TombolaError) as caught:
            refused()
        assert str(caught.value).startswith(said)


def test_a_point_is_refused_by_the_methods_name():
    module = net()
    with pytest.raises(TombolaError, match="method ivon needs a Gaussian state"):
        Ivon(module, started(module, settings()).as_family("point"), Categorical(), settings(), N, WORDS)


def test_a_study_by_ivon_has_all_that_others_have(tmp_path, monkeypatch, study_file, no_figures):
    from tombola.cli.run import run_studies

    monkeypatch.chdir(tmp_path)
    study = {
        "name": "by_ivon",
        "data": {"name": "digits", "args": {"validation": 0, "test": 900}},
        "model": {"name": "mlp", "args": {"hidden": [16]}},
        "train": {"epochs": 3, "batch_size": 64, "lr": 0.003, "schedule": "cosine", "method": "ivon", "beta2": 0.99},
        "posterior": {"std_jitter": 0.05},
        "prune": {"levels": 1, "fraction": 0.5},
        "evaluate": {"samples": 2},
        "arms": ["ticket", "deterministic", "transplant", {"arm": "ticket", "train": {"method": "vi"}}],
    }
    assert run_studies([str(study_file(study))], device="cpu") == 0
    records = pd.read_parquet(next(tmp_path.rglob("records.parquet")))
    assert len(records) == 2 + 2 + 1 + 2
    assert set(records["method"]) == {"ivon", "vi", "map"}
    random = records[records["method"] == "ivon"]
    assert bool((random["accuracy"] > 0.5).all())
    assert bool((random["drift_spread"] > 0).all())
    assert set(random["density"].round(2)) == {1.0, 0.5}
    assert next(tmp_path.rglob("*.html")).stat().st_size > 0
