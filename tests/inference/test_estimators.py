"""Training by every estimator: zeros, precision, the Python entry, the noise of outputs, every kind of model."""

import math
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from support.estimator_parts import Rig, normal, seeded
from support.kinds import HUGGING_FACE, KINDS
from tombola import Bayesian, Layout, PosteriorSettings, TombolaError, TrainSettings, train
from tombola.data.batches import TensorBatches
from tombola.inference import VI
from tombola.inference.estimators import ESTIMATORS
from tombola.inference.estimators.noise import OutputNoise
from tombola.posterior.likelihood import Categorical, GaussianNoise
from tombola.posterior.state import initial_state
from tombola.streams import generator

every_estimator = pytest.mark.parametrize("name", ESTIMATORS)
output_estimators = pytest.mark.parametrize("name", ["local", "flipout"])


# --- training ---


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def data(examples: int = 32) -> tuple[Tensor, Tensor]:
    stream = generator("estimators")
    return torch.randn(examples, 1, 4, 4, generator=stream), torch.randint(3, (examples,), generator=stream)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@every_estimator
def test_masked_weights_stay_exactly_zero_over_200_steps(name: str, optimiser: str):
    module, seen = net(), []
    layout = Layout.of(module)
    mask = torch.rand(layout.numel, generator=generator("mask")) < 0.5
    mask[layout.segments[0].slice][:9] = False  # a whole kernel
    state = initial_state(module, layout, PosteriorSettings(std=0.1), 0).masked(mask)

    def look(module: nn.Module, inputs: object) -> None:
        with torch._C.DisableTorchFunction():  # the parameters themselves, not a weight sample in their place
            seen.append(layout.flatten(dict(module.named_parameters()))[~mask])

    module.register_forward_pre_hook(look)
    settings = TrainSettings(
        estimator=name, samples=2, optimiser=optimiser, lr=0.01, weight_decay=0.1, batch_size=32, epochs=200
    )
    q = train(module, state, TensorBatches(*data(), 32, 0), settings, stream=("zeros",)).state.posterior
    assert len(seen) == 1 + 400  # the trial before the first step, and two samples a step
    assert all(bool((shown == 0).all()) for shown in seen)
    assert bool((q.mean[~mask] == 0).all())
    assert bool((q.std[~mask] == 0).all())
    assert (q.mean != state.posterior.mean)[mask].double().mean() > 0.8
    moved = (q.std / state.posterior.std)[mask & layout.is_random] - 1
    assert bool(moved.isfinite().all())
    assert moved.abs().mean() > 0.001


@output_estimators
def test_pruned_weights_leave_no_noise_in_any_output(name: str):
    rig = Rig(name, seeded(lambda: nn.Linear(4, 3)))
    rig.mask[4:8] = False  # the second row: its output is its bias, if that is pruned too it is 0
    rig.mask[rig.layout.segments[-1].start + 1] = False
    rig.est = type(rig.est)(rig.layout, rig.mean.mul_(rig.mask), rig.log_std, rig.mask, rig.noise, False)
    for tick in range(5):
        assert bool((rig.output(normal(6, 4), tick=tick)[:, 1] == 0).all())


@pytest.mark.parametrize("channels_last", [True, False])
@output_estimators
def test_bf16_and_channels_last_are_near_full_precision(name: str, channels_last: bool):
    found = {}
    for precision in ("fp32", "bf16"):
        module = seeded(net).float()
        state = initial_state(module, Layout.of(module), PosteriorSettings(std=0.1), 0)
        learner = VI(module, state, Categorical(), TrainSettings(estimator=name, precision=precision), 32, ("bf16",))
        x, y = data()
        x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        with learner.binding:
            module.train()
            learner.gradients((x, y), 0)
        found[precision] = learner.sample.mean_grad.clone(), learner.sample.log_std_grad.clone()
    for full, low in zip(*found.values(), strict=True):
        assert low.dtype == torch.float32
        assert 0 < (low - full).norm() / full.norm() < 0.05


def test_channels_last_changes_no_formula():
    make = lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 3, groups=1))  # noqa: E731
    rig, x = Rig("local", seeded(make)), normal(2, 2, 5, 4).contiguous(memory_format=torch.channels_last)
    outputs = []

    def loss() -> Tensor:
        outputs.append(rig.module(x))
        return outputs[0].square().sum()

    _, by_mean, by_log_std = rig.run(loss)
    mean, log_std, p, s = rig.leaves()
    eps, h = iter(rig.eps), x
    for i, pad in (("0", 1), ("2", 0)):
        h = h.tanh() if i == "2" else h
        out = F.conv2d(h, p[f"{i}.weight"], p[f"{i}.bias"], padding=pad)
        variance = F.conv2d(h**2, s[f"{i}.weight"] ** 2, s[f"{i}.bias"] ** 2, padding=pad)
        n, c, height, width = out.shape
        in_memory = (n, height, width, c) if outputs[0].is_contiguous(memory_format=torch.channels_last) else None
        noise = next(eps)
        h = out + variance.sqrt() * (noise.view(in_memory).permute(0, 3, 1, 2) if in_memory else noise.view_as(out))
    torch.testing.assert_close(outputs[0], h)
    h.square().sum().backward()
    torch.testing.assert_close(by_mean, mean.grad)
    torch.testing.assert_close(by_log_std, log_std.grad)


@every_estimator
def test_the_python_entry_takes_every_estimator(name: str):
    inputs, targets = data()
    module = seeded(net).float()
    bnn = Bayesian(module, estimator=name, posterior=PosteriorSettings(std=0.05))
    optimiser = torch.optim.Adam(bnn.parameters(), lr=0.01)

    def loss() -> Tensor:
        return bnn.negative_elbo((inputs, targets), examples=32, heat=0.01, samples=2)

    before = loss().item()
    for _ in range(30):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    assert loss().item() < before - 0.2


def test_an_unknown_estimator_is_refused():
    with pytest.raises(TombolaError, match="unknown estimator 'locall': did you mean 'local'"):
        Bayesian(nn.Linear(3, 2), estimator="locall")


# --- noise of outputs ---


@pytest.mark.parametrize("refresh", [1.0, 0.0625])
def test_output_noise_depends_on_the_tick_and_the_order_alone(refresh: float):
    def drawn(noise: OutputNoise, tick: int) -> list[Tensor]:
        noise.begin(tick)
        parts = [torch.cat([eps.clone() for _, eps in noise.blocks(count)]) for count in (100, 200_000, 70_000)]
        return [*parts, noise.signs((3, 1, 4))]

    def fresh() -> OutputNoise:
        return OutputNoise(("outputs",), refresh, torch.empty(0))

    one, many = fresh(), fresh()
    expected = [drawn(many, tick) for tick in range(4)]
    for tick in (2, 0, 3, 3):
        for again in (drawn(one, tick), drawn(fresh(), tick)):
            assert all(torch.equal(a, b) for a, b in zip(again, expected[tick], strict=True))
    assert not torch.equal(expected[0][1][:1000], expected[1][1][:1000])
    large = expected[0][1]
    assert abs(large.mean()) < 5 / math.sqrt(len(large))
    assert abs(large.var() - 1) < 5 * math.sqrt(2 / len(large))
    assert abs(torch.corrcoef(torch.stack([large[:65_536], large[65_536:131_072]]))[0, 1]) < 5 / 256
    assert set(expected[0][3].flatten().tolist()) == {-1.0, 1.0}


# --- every kind of model ---


@pytest.mark.thinned(4)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["local", "flipout", "antithetic"])
def test_every_kind_of_model_learns_by_it(name: str, kind: str):
    if kind in HUGGING_FACE:
        pytest.importorskip("transformers")
    given = KINDS[kind]
    bnn = Bayesian(given.module(), estimator=name, likelihood=given.likelihood, posterior=PosteriorSettings(std=0.03))
    optimiser, losses = torch.optim.Adam(bnn.parameters(), lr=0.01), []
    with warnings.catch_warnings():
        if name == "flipout":  # has no rule for embeddings; nothing else here lacks one
            warnings.filterwarnings("ignore", "Flipout has no rule for embedding")
        for _ in range(5):
            for batch in given.batches():
                optimiser.zero_grad()
                loss = bnn.negative_elbo(batch, examples=24, heat=0.01, samples=2)
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
    assert sum(losses[-3:]) < sum(losses[:3])
    q, n = bnn.posterior, bnn.layout.random_numel
    assert bool(q.mean.isfinite().all())
    moved = (q.std[:n] - 0.03).abs() > 1e-4
    for segment in bnn.layout.segments:  # every random parameter's std learned from the data
        assert not segment.random or bool(moved[segment.slice].any())


@output_estimators
def test_parameters_of_another_dtype_are_weight_samples(name: str):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 2), nn.Linear(3, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x) + self.first(x.float()).double()

    found = {}
    for estimator in (name, "weight_sample"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = Mixed()
        bnn = Bayesian(module, estimator=estimator, likelihood=GaussianNoise())
        layout = bnn.layout
        x = normal(5, 3)
        bnn.negative_elbo((x, torch.zeros(5, 2, dtype=torch.float64)), examples=5, heat=0.0, samples=2).backward()
        assert bool((bnn.log_std.grad != 0).all())
        found[estimator] = layout.views(bnn._weight_sample().theta)["first.weight"].clone()
    assert torch.equal(found[name], found["weight_sample"])
