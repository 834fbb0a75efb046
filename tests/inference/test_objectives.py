"""E_q[log p] and log E_q[p]: gradients against autograd with every sample's graph in memory, and the memory they take."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tombola import Bayesian, Layout, TombolaError, TrainSettings
from tombola.inference import VI
from tombola.posterior.binding import buffers_of
from tombola.posterior.gaussian import Gaussian
from tombola.posterior.likelihood import Categorical, GaussianNoise
from tombola.posterior.state import State
from tombola.streams import generator

N, WORDS = 40, ("objective",)


def data(examples: int = 12) -> tuple[Tensor, Tensor]:
    stream = generator("objectives")
    return torch.randn(examples, 3, generator=stream, dtype=torch.float64), torch.randint(3, (examples,), generator=stream)


def net(*, dropout: bool = False, norm: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        extra = [nn.Dropout(0.4)] if dropout else [nn.BatchNorm1d(6)] if norm else []
        return nn.Sequential(nn.Linear(3, 6), *extra, nn.Tanh(), nn.Linear(6, 3)).double()


def learner_of(module: nn.Module, likelihood: nn.Module, **changes) -> VI:
    layout = Layout.of(module)
    mean = layout.flatten(dict(module.named_parameters()))
    mask = torch.rand(layout.numel, generator=generator("mask")) < 0.8
    q = Gaussian(layout, mean, torch.full_like(mean, -1.0), torch.ones_like(mask)).masked(mask)
    settings = TrainSettings(**{"objective": "log_expected", "heat": 0.3, "prior_std": 0.7, **changes})
    return VI(module, State(q, buffers_of(module), {}), likelihood, settings, N, WORDS)


def reference(learner: VI, module: nn.Module, likelihood: nn.Module, step: int) -> tuple[Tensor, list[Tensor]]:
    """The value and the gradients by mean, log_std and what the likelihood learns, from one graph of all samples."""
    settings, layout = learner.settings, learner.layout
    mean, log_std = learner.mean.clone().requires_grad_(), learner.log_std.clone().requires_grad_()
    keep, (x, y) = learner.mask & layout.is_random, data()
    found = []
    for s in range(settings.samples):
        eps = torch.zeros_like(mean)
        eps[: layout.random_numel] = learner.sample.noise.window(step * settings.samples + s)
        theta = mean * learner.mask + log_std.exp() * keep * eps
        found.append(likelihood(functional_call(module, layout.views(theta), x), (x, y)))
    log_p = torch.stack(found).logsumexp(0) - torch.tensor(settings.samples).double().log()
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0.0, settings.prior_std)
    )[keep].sum()
    scale = N if settings.loss_scale == "sum" else 1
    learned = [p for p in likelihood.parameters() if p.requires_grad]
    total = scale * (-log_p.mean() + settings.heat * kl / N)
    return -log_p.mean().detach(), list(torch.autograd.grad(total, (mean, log_std, *learned)))


@pytest.mark.parametrize("loss_scale", ["mean", "sum"])
@pytest.mark.parametrize("samples", [1, 2, 5])
def test_log_expected_is_autograds_of_all_samples_at_once(samples: int, loss_scale: str):
    module, likelihood = net(), Categorical()
    learner = learner_of(module, likelihood, samples=samples, loss_scale=loss_scale)
    with learner.binding:
        for step in (3, 4, 1):
            value = learner.gradients(data(), step)
            expected, (by_mean, by_log_std) = reference(learner, net(), likelihood, step)
            torch.testing.assert_close(value, expected)
            torch.testing.assert_close(learner.sample.mean_grad, by_mean)
            torch.testing.assert_close(learner.sample.log_std_grad, by_log_std)


def test_a_learned_noise_gets_its_gradient_too():
    class Noise(GaussianNoise):
        def forward(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
            return super().forward(output[:, 0], (batch[0], batch[1].double()))

    likelihood = Noise(0.8, learn_noise=True).double()
    learner = learner_of(net(), likelihood, samples=3)
    with learner.binding:
        learner.gradients(data(), 0)
    by_noise = likelihood.log_noise.grad.clone()
    torch.testing.assert_close(by_noise, reference(learner, net(), likelihood, 0)[1][2])


def test_the_two_objectives_are_one_for_a_single_sample_and_differ_for_several():
    found = {}
    for objective in ("expected_log", "log_expected"):
        for samples in (1, 4):
            learner = learner_of(net(), Categorical(), samples=samples, objective=objective)
            with learner.binding:
                value = learner.gradients(data(), 2)
            found[objective, samples] = value, learner.sample.mean_grad, learner.sample.log_std_grad
    for a, b in zip(found["expected_log", 1], found["log_expected", 1], strict=True):
        torch.testing.assert_close(a, b)
    assert found["log_expected", 4][0] < found["expected_log", 4][0] - 1e-3  # Jensen


@pytest.mark.parametrize("estimator", ["weight_sample", "antithetic", "local", "flipout", "mean"])
def test_both_passes_see_the_same_noise_and_the_same_dropout(estimator: str):
    module, seen = net(dropout=True), []
    module.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().clone()))
    learner = learner_of(module, Categorical(), samples=4, estimator=estimator)
    with torch.random.fork_rng(), learner.binding:
        torch.manual_seed(0)
        module.train()
        learner.gradients(data(), 0)
        after = torch.get_rng_state()
    assert len(seen) == 8
    for first, second in zip(seen[:4], seen[4:], strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(seen[0], seen[1])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(4):
            nn.functional.dropout(torch.ones(12, 6, dtype=torch.float64), 0.4)
        assert torch.equal(after, torch.get_rng_state())  # as one pass leaves it


@pytest.mark.parametrize("objective", ["expected_log", "log_expected"])
def test_running_statistics_move_once_by_the_first_sample(objective: str):
    found = {}
    for samples in (1, 3):
        module = net(norm=True)
        learner = learner_of(module, Categorical(), samples=samples, objective=objective)
        with learner.binding:
            module.train()
            learner.gradients(data(), 0)
            found[samples] = learner.state().buffers
    assert found[1]["1.num_batches_tracked"] == found[3]["1.num_batches_tracked"] == 1
    for name in ("1.running_mean", "1.running_var"):
        assert torch.equal(found[1][name], found[3][name])  # tick 0 is the first sample of both


@pytest.mark.parametrize("objective", ["expected_log", "log_expected"])
def test_eight_samples_need_the_activations_of_one(objective: str):
    def peak(samples: int) -> int:
        """The most bytes that graphs hold at one time."""
        held = most = 0

        class Kept:
            def __init__(self, tensor: Tensor):
                nonlocal held, most
                self.tensor = tensor
                held += tensor.nbytes
                most = max(most, held)

            def __del__(self):
                nonlocal held
                held -= self.tensor.nbytes

        learner = learner_of(net(), Categorical(), samples=samples, objective=objective)
        with learner.binding, torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            learner.gradients(data(), 0)
        return most

    assert 0 < peak(8) <= peak(1) + 12 * 8  # beside it each example's weight


def test_the_python_entry_takes_the_objective():
    x, y = data()
    values = {
        objective: Bayesian(net(), objective=objective).negative_elbo((x, y), examples=N, samples=4).item()
        for objective in ("expected_log", "log_expected")
    }
    assert values["log_expected"] < values["expected_log"]
    with pytest.raises(TombolaError, match="unknown objective 'log'"):
        Bayesian(net(), objective="log")
