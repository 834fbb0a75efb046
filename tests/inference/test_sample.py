"""Variational inference by weight samples against plain autograd through theta = mean + std * eps.

Legend: P parameters, S weight samples.
"""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.func import functional_call

from tombola import Layout, TombolaError, TrainSettings
from tombola.inference import VI, Map
from tombola.inference.estimators.noise import NoisePool
from tombola.posterior.binding import buffers_of
from tombola.posterior.gaussian import Gaussian
from tombola.posterior.likelihood import Categorical, GaussianNoise
from tombola.posterior.state import State
from tombola.streams import generator

WORDS = (5, "test")
N = 40
WHOLE = {"clip_norm": 1e9}
"""Settings by which `VI` computes for all parameters also under a mask; test_survivors is about survivors alone."""


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def module_of(batch_norm: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(6) if batch_norm else nn.LayerNorm(6)
        return nn.Sequential(nn.Linear(3, 6), norm, nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def state_of(module: nn.Module, layout: Layout, density: float = 1.0, std: float = 0.3) -> State:
    """Means at the module's values, stds that differ, and a mask over everything, deterministic parameters too."""
    stream = generator("state")
    mean = layout.flatten(dict(module.named_parameters()))
    log_std = math.log(std) + 0.3 * torch.randn(layout.numel, generator=stream, dtype=torch.float64).to(mean)
    mask = torch.rand(layout.numel, generator=stream) < density
    return State(Gaussian(layout, mean, log_std, torch.ones_like(mask)).masked(mask), buffers_of(module), {})


def batch_of(examples: int = 16) -> tuple[Tensor, Tensor]:
    x = torch.randn(examples, 3, generator=generator("x"), dtype=torch.float64)
    return x, torch.randn(examples, 2, generator=generator("y"), dtype=torch.float64)


def gradients(learner: VI | Map, kinds: tuple[str, ...] = ("mean", "log_std")) -> dict[str, Tensor]:
    """The gradient of each flat parameter, gathered from the optimiser's groups by where they lie in memory."""
    flats = {"mean": learner.mean} | ({"log_std": learner.log_std} if isinstance(learner, VI) else {})
    result = {name: torch.zeros_like(flats[name]) for name in kinds}
    for group in learner.groups():
        for p in group["params"]:
            name = next(n for n, f in flats.items() if 0 <= p.data_ptr() - f.data_ptr() < f.numel() * f.element_size())
            start = (p.data_ptr() - flats[name].data_ptr()) // p.element_size()
            result[name][start : start + p.numel()] = p.grad
    return result


def reference(
    module: nn.Module, state: State, likelihood: nn.Module, settings: TrainSettings, step: int, kl_factor: float
) -> tuple[Tensor, dict[str, Tensor], list[float]]:
    """The loss without KL, d (loss + KL term) / d (mean, log_std), and the loss of each sample."""
    q, layout, (x, y) = state.posterior, state.posterior.layout, batch_of()
    noise = NoisePool(layout.random_numel, ("noise", *WORDS), settings.noise_refresh, like=q.mean)
    mean, log_std = (value.clone().requires_grad_() for value in (q.mean, q.tensors()["log_std"]))
    keep = q.mask & layout.is_random
    losses = []
    for s in range(settings.samples):
        eps = torch.zeros_like(q.mean)
        eps[: layout.random_numel] = noise.window(step * settings.samples + s)
        theta = mean * q.mask + log_std.exp() * keep * eps
        buffers = {name: value.clone() for name, value in state.buffers.items()}
        output = functional_call(module, (layout.views(theta), buffers), x)
        losses.append(-likelihood(output, (x, y)).mean())
    loss = torch.stack(losses).mean()
    prior = Normal(torch.zeros((), dtype=torch.float64), settings.prior_std)
    kl = kl_divergence(Normal(mean[keep], log_std[keep].exp()), prior).sum()
    scale = N if settings.loss_scale == "sum" else 1
    total = scale * (loss + kl_factor * settings.heat * kl / N)
    grads = dict(zip(("mean", "log_std"), torch.autograd.grad(total, (mean, log_std)), strict=True))
    return loss.detach(), grads, [one.item() for one in losses]


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("density", [1.0, 0.5])
@pytest.mark.parametrize(
    "changes",
    [
        {"heat": 1.0},
        {"heat": 0.3, "prior_std": 2.5},
        {"heat": 0.0},
        {"heat": 0.7, "prior_std": 0.4, "loss_scale": "sum"},
        {"heat": 1.0, "noise_refresh": 1.0},
    ],
    ids=str,
)
def test_gradients_are_autograds_with_the_same_noise(changes: dict, density: float, samples: int):
    module = module_of()
    layout = Layout.of(module)
    state, likelihood = state_of(module, layout, density), GaussianNoise(0.6)
    settings = TrainSettings(samples=samples, likelihood="gaussian", **WHOLE, **changes)
    learner = VI(module, state, likelihood, settings, N, WORDS)
    with learner.binding:
        for step, kl_factor in ((4, 1.0), (5, 0.25), (0, 1.0)):
            loss = learner.gradients(batch_of(), step, kl_factor)
            expected_loss, expected, _ = reference(module_of(), state, likelihood, settings, step, kl_factor)
            torch.testing.assert_close(loss.double(), expected_loss, rtol=1e-6, atol=0)
            for name, grad in gradients(learner).items():
                torch.testing.assert_close(grad, expected[name], rtol=1e-9, atol=1e-12)
                assert bool((grad[~state.posterior.mask] == 0).all())


@pytest.mark.parametrize("density", [1.0, 0.4])
@pytest.mark.parametrize("samples", [1, 3])
def test_gradients_do_not_depend_on_how_many_parameters_a_block_has(density: float, samples: int):
    """A CPU goes block by block, a GPU has one block."""
    found = []
    for block in (None, 7):
        module = module_of()
        state, settings = state_of(module, Layout.of(module), density), TrainSettings(samples=samples, likelihood="gaussian")
        learner = VI(module, state, GaussianNoise(), settings, N, WORDS)
        learner.groups()
        learner.sample._block = block or learner.sample.n
        with learner.binding:
            learner.gradients(batch_of(), 0)
        found.append((learner.sample.mean_grad, learner.sample.log_std_grad, learner.sample.theta))
    for one, several in zip(*found, strict=True):  # vectorised and scalar code differ in the last bit
        torch.testing.assert_close(one, several, rtol=1e-12, atol=1e-15)


def test_gradients_with_everything_random_are_autograds():
    module = module_of()
    layout = Layout.of(module, random=["*"])
    state, likelihood, settings = state_of(module, layout, 0.7), GaussianNoise(), TrainSettings(samples=2, **WHOLE)
    learner = VI(module, state, likelihood, settings, N, WORDS)
    with learner.binding:
        learner.gradients(batch_of(), 0)
    for name, grad in gradients(learner).items():
        torch.testing.assert_close(grad, reference(module_of(), state, likelihood, settings, 0, 1.0)[1][name])


@pytest.mark.parametrize("kind", [VI, Map])
def test_the_sum_scale_is_n_times_the_mean(kind: type):
    module, likelihood = module_of(), GaussianNoise()
    state = state_of(module, Layout.of(module), 0.5)
    state = state if kind is VI else state.as_family("point")
    kinds = ("mean", "log_std") if kind is VI else ("mean",)
    found = []
    for scale in ("mean", "sum"):
        learner = kind(module, state, likelihood, TrainSettings(loss_scale=scale, samples=2, **WHOLE), N, WORDS)
        with learner.binding:
            loss = learner.gradients(batch_of(), 3)
        found.append((loss, gradients(learner, kinds)))
    torch.testing.assert_close(found[1][0], found[0][0])  # what is reported is per example
    for name in kinds:
        torch.testing.assert_close(found[1][1][name], N * found[0][1][name], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("density", [1.0, 0.5])
def test_map_gradients_are_autograds(density: float):
    module, likelihood, (x, y) = module_of(), GaussianNoise(0.6), batch_of()
    layout = Layout.of(module)
    state = state_of(module, layout, density).as_family("point")
    learner = Map(module, state, likelihood, TrainSettings(method="map"), N, WORDS)
    with learner.binding:
        loss = learner.gradients((x, y), 0)
    mean = state.posterior.mean.clone().requires_grad_()
    expected = -likelihood(functional_call(module, layout.views(mean * state.posterior.mask), x), (x, y)).mean()
    torch.testing.assert_close(loss.double(), expected.detach())
    grad = gradients(learner, ("mean",))["mean"]
    torch.testing.assert_close(grad, torch.autograd.grad(expected, mean)[0], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("samples", [1, 3])
def test_the_gradient_of_a_learned_noise_is_the_average_over_samples(samples: int):
    module, likelihood = module_of(), GaussianNoise(0.6, learn_noise=True).double()
    state, settings = state_of(module, Layout.of(module)), TrainSettings(samples=samples)
    learner = VI(module, state, likelihood, settings, N, WORDS)
    with learner.binding:
        learner.gradients(batch_of(), 2)
    # a loss of 2 outputs is 2 log s + log 2 pi + r^2 / (2 s^2), and its derivative by log s is 2 - r^2 / s^2
    loss, log_s = reference(module_of(), state, likelihood, settings, 2, 1.0)[0].item(), likelihood.log_noise.item()
    expected = 2 - 2 * (loss - 2 * log_s - math.log(2 * math.pi))
    assert likelihood.log_noise.grad.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 3), (7, 2, 4)])
def test_the_gaussian_likelihood_is_that_of_torch_distributions(shape: tuple[int, ...]):
    output, target = torch.randn(2, *shape, generator=generator("likelihood"), dtype=torch.float64)
    expected = Normal(output, 0.6).log_prob(target).view(7, -1).sum(1)
    torch.testing.assert_close(GaussianNoise(0.6)(output, (None, target)), expected, rtol=1e-6, atol=1e-6)
    column = target.unsqueeze(-1)  # dimensions of 1 do not count
    torch.testing.assert_close(GaussianNoise(0.6)(output, (None, column)), expected, rtol=1e-6, atol=1e-6)


class Watch:
    """The loss of each forward pass of a module, one by one."""

    def __init__(self, module: nn.Module, likelihood: nn.Module, target: Tensor):
        self.losses: list[float] = []
        self.weights: list[Tensor] = []

        def look(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            self.losses.append(-likelihood(output.detach(), (None, target)).mean().item())
            self.weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))

        self.handle = module.register_forward_hook(look)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_sample_sees_its_own_weights(precision: str):
    # autocast caches the bf16 copies of weights: a second sample would be run on the first one's
    module, target = module_of().float(), torch.tensor([0, 1] * 8)
    x = batch_of()[0].float()
    state, likelihood = state_of(module, Layout.of(module), std=0.5), Categorical()

    def losses(samples: int, step: int) -> list[float]:
        settings = TrainSettings(samples=samples, precision=precision)
        learner = VI(module, state, likelihood, settings, N, WORDS)
        watch = Watch(module, likelihood, target)
        with learner.binding:
            mean_loss = learner.gradients((x, target), step)
        watch.handle.remove()
        assert mean_loss.item() == pytest.approx(sum(watch.losses) / samples, rel=1e-5)
        return watch.losses

    both = losses(2, 3)  # its samples are ticks 6 and 7
    assert both == losses(1, 6) + losses(1, 7)
    assert abs(both[0] - both[1]) > 0.01


def test_each_sample_sees_its_own_weights_within_the_callers_autocast():
    module, (x, y) = module_of().float(), batch_of()
    state, likelihood = state_of(module, Layout.of(module), std=0.5), GaussianNoise()
    learner = VI(module, state, likelihood, TrainSettings(samples=2), N, WORDS)
    alone = VI(module, state, likelihood, TrainSettings(samples=1), N, WORDS)
    watch = Watch(module, likelihood, y.float())
    with torch.autocast("cpu", dtype=torch.bfloat16), learner.binding:
        learner.gradients((x.float(), y.float()), 3)
    for step in (6, 7):
        with torch.autocast("cpu", dtype=torch.bfloat16), alone.binding:
            alone.gradients((x.float(), y.float()), step)
    assert watch.losses[:2] == watch.losses[2:]
    assert not torch.equal(watch.weights[0], watch.weights[1])


def test_bf16_gradients_are_near_those_of_full_precision():
    module, likelihood = module_of().float(), Categorical()
    batch = (batch_of()[0].float(), torch.tensor([0, 1] * 8))
    state = state_of(module, Layout.of(module))
    found = {}
    for precision in ("fp32", "bf16"):
        learner = VI(module, state, likelihood, TrainSettings(samples=4, precision=precision), N, WORDS)
        with learner.binding:
            learner.gradients(batch, 0)
        found[precision] = gradients(learner)["mean"]
        assert found[precision].dtype == torch.float32
    error = (found["bf16"] - found["fp32"]).norm() / found["fp32"].norm()
    assert 0 < error < 0.03  # bf16 has 8 bits


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_running_statistics_move_once_a_step_by_the_first_sample(samples: int):
    module = module_of(batch_norm=True)
    layout = Layout.of(module)
    state, q = state_of(module, layout), None
    q = state.posterior
    learner = VI(module, state, GaussianNoise(), TrainSettings(samples=samples), N, WORDS)
    x, y = batch_of()
    with learner.binding:
        module.train()
        learner.gradients((x, y), 0)
        found = learner.state().buffers
    first = copy.deepcopy(module)  # torch's own batch norm, run once at the weights of the first sample
    eps = NoisePool(layout.random_numel, ("noise", *WORDS), TrainSettings().noise_refresh, like=q.mean).window(0)
    theta = q.mean.clone()
    theta[: layout.random_numel] += q.std[: layout.random_numel] * eps
    buffers = {name: value.clone() for name, value in state.buffers.items()}
    first.train()
    functional_call(first, {**layout.views(theta), **buffers}, x)
    assert found["1.num_batches_tracked"] == 1
    for name in ("1.running_mean", "1.running_var"):
        torch.testing.assert_close(found[name], buffers[name], rtol=1e-12, atol=1e-14)
        assert not torch.equal(found[name], state.buffers[name])


def test_running_statistics_move_at_every_step():
    module = module_of(batch_norm=True)
    learner = VI(module, state_of(module, Layout.of(module)), GaussianNoise(), TrainSettings(samples=3), N, WORDS)
    with learner.binding:
        module.train()
        for step in range(4):
            learner.gradients(batch_of(), step)
        assert learner.state().buffers["1.num_batches_tracked"] == 4


@pytest.mark.thinned(2)
@pytest.mark.parametrize("samples", [1, 2])
def test_the_estimator_is_unbiased(samples: int):
    # a linear model with Gaussian noise s: E_q loss = (|y - X m|^2 + sum_j (X'X)_jj sd_j^2) / (2 N s^2) + const
    x, _ = batch_of(N)
    y = (x @ torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)).unsqueeze(1)
    module = nn.Linear(3, 1, bias=False).double()
    layout, noise_std, steps = Layout.of(module), 0.7, 4000
    state, settings = state_of(module, layout), TrainSettings(noise_refresh=1.0, heat=0.0, samples=samples)
    learner = VI(module, state, GaussianNoise(noise_std), settings, N, WORDS)
    draws: dict[str, list[Tensor]] = {"mean": [], "log_std": []}
    with learner.binding:
        for step in range(steps):
            learner.gradients((x, y), step)
            for name, grad in gradients(learner).items():
                draws[name].append(grad)
    m, sd = state.posterior.mean, state.posterior.std
    exact = {
        "mean": -(x.T @ (y - x @ m.view(-1, 1))).squeeze(1) / (N * noise_std**2),
        "log_std": sd.square() * (x.T @ x).diagonal() / (N * noise_std**2),
    }
    for name, values in exact.items():
        found = torch.stack(draws[name])
        assert ((found.mean(0) - values).abs() < 4 * found.std(0) / math.sqrt(steps)).all()
        assert (found.std(0) / math.sqrt(steps) < 0.2 * values.abs().max()).all()  # the test can tell


def test_showing_the_mean_puts_the_mean_into_the_module():
    module = module_of()
    layout = Layout.of(module)
    state = state_of(module, layout, 0.5)
    learner = VI(module, state, GaussianNoise(), TrainSettings(), N, WORDS)
    with learner.binding:
        learner.gradients(batch_of(), 0)
        learner.show_mean()
        shown = layout.flatten(dict(module.named_parameters()))
    assert torch.equal(shown, state.posterior.mean)


@pytest.mark.parametrize("kind", [VI, Map])
def test_the_learners_state_restores_it(kind: type):
    module, likelihood = module_of(batch_norm=True), GaussianNoise(0.6, learn_noise=True)
    layout = Layout.of(module)
    start = state_of(module, layout, 0.5)
    other = state_of(module, layout, 0.5, std=0.1)
    if kind is Map:
        start, other = start.as_family("point"), other.as_family("point")
    learner = kind(module, start, likelihood, TrainSettings(), N, WORDS)
    with learner.binding:
        module.train()
        learner.gradients(batch_of(), 0)
        saved = learner.state()
        learner.restore(State(other.posterior, buffers_of(module_of(True)), {"log_noise": torch.tensor(2.0)}))
        assert learner.state().likelihood["log_noise"] == 2
        learner.restore(saved)
        again = learner.state()
    assert saved.tensors().keys() == again.tensors().keys()
    assert all(torch.equal(value, again.tensors()[name]) for name, value in saved.tensors().items())


def test_vi_refuses_a_point():
    module = module_of()
    with pytest.raises(TombolaError, match="needs a Gaussian state"):
        VI(module, state_of(module, Layout.of(module)).as_family("point"), GaussianNoise(), TrainSettings(), N, WORDS)


def test_learning_leaves_the_state_it_started_from():
    module = module_of()
    state = state_of(module, Layout.of(module))
    before = {name: value.clone() for name, value in state.tensors().items()}
    learner = VI(module, state, GaussianNoise(), TrainSettings(), N, WORDS)
    with learner.binding:
        learner.gradients(batch_of(), 0)
        learner.mean.add_(1)
        learner.log_std.add_(1)
    assert all(torch.equal(value, state.tensors()[name]) for name, value in before.items())
