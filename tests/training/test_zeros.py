"""A pruned weight is exactly zero with zero variance, whatever the optimiser does, forever."""

import copy
from itertools import product

import pytest
import torch
from torch import nn

from tombola import Bayesian, Layout, PosteriorSettings, TrainSettings, train
from tombola.data.batches import TensorBatches
from tombola.inference import METHODS
from tombola.posterior.state import initial_state
from tombola.streams import generator

EACH = [*((method, 1) for method in METHODS), ("vi", 2)]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    stream = generator("zeros")
    return torch.randn(64, 6, generator=stream), torch.randint(3, (64,), generator=stream)


def half_masked(layout: Layout) -> torch.Tensor:
    """Half of all parameters: biases, the classifier and the deterministic norm layer too."""
    return torch.rand(layout.numel, generator=generator("mask")) < 0.5


@pytest.mark.thinned(4)
@pytest.mark.parametrize(
    ("steps", "method", "samples", "optimiser", "precision"),
    [(100, *each, *how) for each in EACH for how in product(["adam", "adamw", "sgd"], ["fp32", "bf16"])]
    + [(1000, "vi", 2, "adamw", "bf16")]
    + [(1000, method, 1, "adamw", "bf16") for method in ("sghmc", "swag", "laplace", "mc_dropout", "ensemble")],
)
def test_masked_weights_are_exactly_zero_after_many_steps(
    steps: int, method: str, samples: int, optimiser: str, precision: str
):
    module = net()
    layout = Layout.of(module)
    mask = half_masked(layout)
    seen = []

    def watch(module: nn.Module, inputs: object) -> None:
        if not module.training:  # laplace looks at its curvature
            return
        flat = layout.flatten(dict(module.named_parameters()))
        seen.append(float(flat[~mask].abs().max()))

    module.register_forward_pre_hook(watch)
    settings = TrainSettings(
        keep=4,
        method=method,
        samples=samples,
        optimiser=optimiser,
        precision=precision,
        lr=0.01,
        weight_decay=0.1,
        batch_size=64,
        epochs=steps,
    )
    posterior = METHODS[method].start(PosteriorSettings(), settings, 64)
    state = initial_state(module, layout, posterior, 0).masked(mask)
    start = state.as_family(METHODS[method].learns)
    q = train(module, start, TensorBatches(*data(), 64, 0), settings, stream=("zeros",)).state.posterior

    assert len(seen) == steps * samples * posterior.members
    assert max(seen) == 0.0  # in every sample that the network saw
    assert bool((q.mean[~mask] == 0).all())
    assert q.std is None or bool((q.std[~mask] == 0).all())
    moved = (q.mean != state.posterior.mean)[mask].double().mean()
    assert moved > 0.8  # while the others were trained; the mask cuts some off


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    ],
)
def test_a_mask_set_in_the_middle_holds_against_an_optimiser_with_momentum(make):
    inputs, targets = data()
    bnn = Bayesian(net())
    optimiser = make(bnn.parameters())  # kept over the pruning, with momentum for weights that are pruned

    def step() -> None:
        optimiser.zero_grad()
        bnn.negative_elbo((inputs, targets), examples=64, heat=0.1).backward()
        optimiser.step()

    for _ in range(30):
        step()
    ticket = bnn.prune("mu", 0.6)
    pruned = ~ticket.mask
    assert int(pruned.sum()) > 0
    for _ in range(200):
        step()
        for q in (bnn.posterior, bnn.state().posterior):
            assert bool((q.mean[pruned] == 0).all())
            assert bool((q.std[pruned] == 0).all())
        shown = bnn._weight_sample().theta
        assert bool((shown[pruned] == 0).all())


def test_a_mask_that_is_written_or_loaded_into_a_running_loop_holds():
    inputs, targets = data()
    bnn = Bayesian(net())
    pruned = ~half_masked(bnn.layout)
    optimiser = torch.optim.SGD(bnn.parameters(), lr=0.05, momentum=0.9)
    shown = []
    bnn._module[0].register_forward_pre_hook(
        lambda module, _: shown.append(bnn.layout.flatten(dict(module.named_parameters())))
    )

    def steps() -> None:
        shown.clear()
        for _ in range(20):
            optimiser.zero_grad()
            bnn.negative_elbo((inputs, targets), examples=64).backward()
            optimiser.step()

    steps()
    bnn.mask.copy_(~pruned)
    steps()
    assert all(bool((flat[pruned] == 0).all()) for flat in shown)
    saved = copy.deepcopy(bnn.state_dict())
    bnn.mask.fill_(True)
    steps()
    assert bool((shown[-1][pruned] != 0).all())
    bnn.load_state_dict(saved)
    steps()
    assert all(bool((flat[pruned] == 0).all()) for flat in shown)
