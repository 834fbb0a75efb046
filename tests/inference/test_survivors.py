"""Survivors alone: the same training as that of all parameters with the same draws."""

import sys

import pytest
import torch
from torch import Tensor, nn

from tombola import Layout, PosteriorSettings, TombolaError, TrainSettings, train
from tombola.data.batches import TensorBatches
from tombola.inference import VI, vi
from tombola.inference.estimators.noise import NoisePool
from tombola.inference.estimators.sample import WeightSample
from tombola.inference.objectives import expected_log
from tombola.inference.survivors import DENSEST
from tombola.posterior.likelihood import GaussianNoise
from tombola.posterior.state import State, initial_state
from tombola.streams import generator
from tombola.training.checkpoint import Checkpoint
from tombola.training.optim import load_optimiser_tensors, optimiser_of, optimiser_tensors, set_lr

STEPS = 7


def net(kind: type[nn.Module] = nn.Linear) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(30, 50), nn.LayerNorm(50), nn.Tanh(), nn.Linear(50, 30), nn.Tanh(), nn.Linear(30, 2))


def data() -> tuple[Tensor, Tensor]:
    stream = generator("fused")
    x, y = (torch.randn(64, n, generator=stream, dtype=torch.float64) for n in (30, 2))
    return x, y


def start(module: nn.Module, density: float, prior_mean: str = "zero") -> State:
    layout = Layout.of(module)
    state = initial_state(module, layout, PosteriorSettings(prior_mean=prior_mean, std_jitter=0.3), 0)
    return state.masked(torch.rand(layout.numel, generator=generator("mask")) < density)


def trained(settings: TrainSettings, density: float, prior_mean: str = "zero", steps: int = STEPS):
    """(learner, its optimiser) after some steps."""
    module = net().double()
    likelihood = GaussianNoise(0.6, learn_noise=True).double()
    learner = VI(module, start(module, density, prior_mean), likelihood, settings, 64, ("x",))
    optimiser = optimiser_of(learner, likelihood, settings)
    if learner._survivors is None and density <= DENSEST:
        _noise_of_survivors(learner, settings)
    with learner.binding:
        for step in range(steps):
            set_lr(optimiser, settings.lr * (1 + step))
            for p in likelihood.parameters():
                p.grad = None
            learner.gradients(data(), step)
            optimiser.step()
    return learner, optimiser


def _noise_of_survivors(learner: VI, settings: TrainSettings) -> None:
    """Gives a dense computation the draws that the one of survivors has."""
    where = learner.mask[: learner.layout.random_numel]
    few = NoisePool(int(where.sum()), learner.sample.noise.stream, settings.noise_refresh, like=learner.mean)

    def window(tick: int) -> Tensor:
        eps = torch.full_like(where, 100.0, dtype=learner.mean.dtype)  # a pruned weight would show it
        eps[where] = few.window(tick)
        return eps

    learner.sample.noise.window = window


def _surviving(tensors: dict[str, Tensor], learner: VI) -> dict[str, Tensor]:
    """The entries of the survivors in an optimiser's state."""
    runs = [where for where, _ in learner.layout.decay_groups()] + [slice(0, learner.layout.random_numel)]
    masks = {len(learner.mask[where]): learner.mask[where] for where in runs}
    return {name: t[masks[len(t)]] if t.ndim and len(t) in masks else t for name, t in tensors.items()}


@pytest.mark.parametrize("optimiser", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize(
    ("changes", "density", "prior_mean"),
    [
        ({"heat": 1.0, "weight_decay": 0.1}, 0.5, "start"),
        ({"samples": 3, "weight_decay": 0.1}, 0.5, "zero"),
        ({"samples": 2, "estimator": "antithetic", "noise_refresh": 0.0625}, 0.5, "start"),
        ({"samples": 2, "objective": "log_expected"}, 0.5, "zero"),
        ({"momentum": 0.0}, 0.1, "zero"),
    ],
    ids=str,
)
def test_it_is_the_training_of_all_parameters_with_the_same_draws(optimiser, changes, density, prior_mean, monkeypatch):
    settings = TrainSettings(optimiser=optimiser, lr=0.01, **changes)
    ours, own = trained(settings, density, prior_mean)
    monkeypatch.setattr(vi, "works_on_survivors", lambda learner: False)
    plain, theirs = trained(settings, density, prior_mean)
    assert ours._survivors
    assert plain._survivors is None
    for name in ("mean", "log_std"):
        torch.testing.assert_close(
            getattr(ours.state().posterior, name), getattr(plain.state().posterior, name), rtol=1e-11, atol=1e-13
        )
    assert not torch.equal(ours.mean, start(net().double(), density).posterior.mean)
    torch.testing.assert_close(ours.likelihood.log_noise, plain.likelihood.log_noise, rtol=1e-11, atol=0)
    found, expected = optimiser_tensors(own), _surviving(optimiser_tensors(theirs), ours)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("refresh", [0.0625, 1.0])
@pytest.mark.parametrize("density", [1.0, 0.8, 0.5])
@pytest.mark.parametrize("samples", [1, 2])
def test_a_resumed_training_has_the_same_bits_after_any_step(tmp_path, density: float, refresh: float, samples: int):
    x, y = (t.float() for t in data())
    settings = TrainSettings(
        epochs=4, batch_size=16, likelihood="gaussian", learn_noise=True, noise_refresh=refresh, samples=samples
    )
    x, y = x[:, :30], y

    class KilledError(Exception):
        pass

    def run(at: int | None, checkpoint: Checkpoint | None) -> State:
        def on_step(done: int, total: int) -> None:
            if done == at:
                raise KilledError

        module = net()
        batches = TensorBatches(x, y, 16, 0)
        return train(
            module,
            start(module, density),
            batches,
            settings,
            stream=("r",),
            checkpoint=checkpoint,
            on_step=on_step,
            validation=(x, y),
        ).state

    whole = run(None, None).tensors()
    for at in (1, 4, 5, 11):
        path = tmp_path / f"{at}.checkpoint"
        with pytest.raises(KilledError):
            run(at + 1, Checkpoint(path, 0.0))
        resumed = run(None, Checkpoint(path, 1e9)).tensors()
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_weights_shown_for_validation_are_the_mean_and_pruned_ones_stay_zero():
    learner, _ = trained(TrainSettings(), 0.5)
    theta = learner.sample.theta
    with learner.binding:
        learner.show_mean()
        assert torch.equal(theta, learner.state().posterior.mean)
        learner.gradients(data(), STEPS)
        assert not theta[~learner.mask].any()
        assert theta[learner.mask].all()


@pytest.mark.parametrize(
    "changes", [{"clip_norm": 1.0}, {"estimator": "local"}, {"estimator": "flipout"}, {"estimator": "mean"}]
)
def test_gradients_of_all_parameters_are_made_where_they_are_needed(changes: dict):
    module, settings = net(), TrainSettings(**changes)
    learner = VI(module, start(module, 0.5), GaussianNoise(), settings, 64, ("x",))
    assert learner._survivors is None


def test_state_of_another_mask_or_optimiser_is_refused_by_name_and_shape():
    settings = TrainSettings(lr=0.01)
    whole, survivors = (trained(settings, density, steps=1)[1] for density in (1.0, 0.5))
    with pytest.raises(TombolaError, match=r"parameter 0 is exp_avg \[3060\].*, but exp_avg \[\d+\].* expected.*mask"):
        load_optimiser_tensors(survivors, optimiser_tensors(whole))
    sgd = trained(TrainSettings(lr=0.01, optimiser="sgd"), 1.0, steps=1)[1]
    with pytest.raises(TombolaError, match=r"is momentum_buffer \[3060\], but exp_avg \[3060\], .*delete"):
        load_optimiser_tensors(whole, optimiser_tensors(sgd))
    with pytest.raises(TombolaError, match=r"parameter 99 .* but nothing is expected"):
        load_optimiser_tensors(whole, {"99.exp_avg": torch.zeros(3)})


@pytest.mark.parametrize("optimiser", ["adam", "adamw", "sgd"])
def test_torchs_optimisers_refuse_the_state_of_another_one_too(optimiser: str):
    other = "adam" if optimiser == "sgd" else "sgd"
    own, theirs = (trained(TrainSettings(lr=0.01, optimiser=o), 1.0, steps=1)[1] for o in (optimiser, other))
    load_optimiser_tensors(own, optimiser_tensors(own))
    with pytest.raises(TombolaError, match="of another optimiser or mask"):
        load_optimiser_tensors(own, optimiser_tensors(theirs))


def test_a_checkpoint_of_another_optimiser_is_named(tmp_path):
    x, y = (t.float() for t in data())
    path = tmp_path / "x.checkpoint"

    def run(optimiser: str, seconds: float) -> None:
        module = net()
        settings = TrainSettings(epochs=1, batch_size=16, likelihood="gaussian", optimiser=optimiser, lr=0.01)
        train(
            module,
            start(module, 0.5),
            TensorBatches(x, y, 16, 0),
            settings,
            stream=("r",),
            checkpoint=Checkpoint(path, seconds),
        )

    run("sgd", 0.0)
    with pytest.raises(TombolaError, match=r"cannot resume from .*x\.checkpoint: .*momentum_buffer"):
        run("adam", 1e9)


class FrozenSigma(VI):
    def groups(self) -> list[dict]:
        return [group for group in super().groups() if group["params"][0].data_ptr() != self.log_std.data_ptr()]


class Pushed(VI):
    def gradients(self, batch, step: int, kl_factor: float = 1.0) -> Tensor:
        loss = super().gradients(batch, step, kl_factor)
        self.sample.mean_grad.add_(1.0)
        return loss


class Named(WeightSample):
    def __init__(self, layout, *rest):
        super().__init__(layout, *rest)
        self.names = [s.name for s in layout.segments]


def wider(data_term, sample, batch, step, **rest) -> Tensor:
    """Pulls every log std up."""
    loss = expected_log(data_term, sample, batch, step, **rest)
    sample.log_std_grad.sub_(1.0)
    return loss


def taught(density: float = 0.4, **changes) -> tuple[State, State]:
    """(start, end) of a training by a user's method, estimator or objective."""
    module = net()
    first = start(module, density)
    x, y = (t.float() for t in data())
    settings = TrainSettings(epochs=2, batch_size=16, lr=0.01, likelihood="gaussian", **changes)
    return first, train(module, first, TensorBatches(x, y, 16, 0), settings, stream=("u",)).state


HERE = "user_parts"


@pytest.fixture
def parts(monkeypatch):
    """This file as a module of a user."""
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])


def same(a: State, b: State) -> bool:
    b_tensors = b.tensors()
    return all(torch.allclose(value, b_tensors[name], rtol=1e-5, atol=1e-6) for name, value in a.tensors().items())


@pytest.mark.parametrize("density", [1.0, 0.4])
@pytest.mark.parametrize(
    "changes",
    [
        {"method": f"{HERE}:FrozenSigma"},
        {"method": f"{HERE}:Pushed"},
        {"objective": f"{HERE}:wider"},
        {"estimator": f"{HERE}:Named"},
    ],
    ids=str,
)
def test_what_a_user_changes_is_trained_with_gradients_of_all_parameters(parts, changes, density: float):
    _, found = taught(density, **changes)
    _, plain = taught(density, **changes, clip_norm=1e9)  # the norm is never reached, but gradients of all are made
    assert same(found, plain)


def test_a_method_may_leave_sigma_as_it_is_at_any_density(parts):
    for density in (1.0, 0.4):
        first, last = taught(density, method=f"{HERE}:FrozenSigma")
        kept = first.posterior.random_kept
        assert torch.equal(first.posterior.log_std[kept], last.posterior.log_std[kept])
        assert not torch.equal(first.posterior.mean[kept], last.posterior.mean[kept])


def test_gradients_that_a_user_adds_to_are_the_ones_that_are_stepped(parts):
    _, plain = taught(clip_norm=1e9)
    for pushed in (taught(method=f"{HERE}:Pushed")[1], taught(objective=f"{HERE}:wider")[1]):
        assert not same(pushed, plain)
