"""Random masks beside pruned ones under Hamiltonian Monte Carlo: a study of its own, on a net of 226 weights for digits.

Marsh (OpenReview Ilnbgf1eeS) found a ticket's mask better, on LeNet-300-100. Named before it was run: the accuracy under a
mask shuffled within layers is not worse, by a margin of one point, than under the pruned one.
"""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from support.hmc import hmc
from tombola import PruneSettings, TrainSettings, find_tickets, streams
from tombola.claims.contrasts import POINTS, Contrast
from tombola.claims.table import effect, verdict_text
from tombola.claims.verdict import not_worse, outcome
from tombola.posterior.layout import Layout
from tombola.pruning.masks import SHUFFLES

HIDDEN, TRAINED, CHAINS, SEEDS, MARGIN = 8, 300, 4, 5, 1.0


def digits(seed: int) -> tuple[Tensor, Tensor]:
    """All digits at 4x4 pixels, in the seed's order: the first ones are trained on."""
    raw = load_digits()
    order = torch.randperm(len(raw.target), generator=torch.Generator().manual_seed(seed))
    images = nn.functional.avg_pool2d(torch.tensor(raw.images / 8 - 1, dtype=torch.float32)[:, None], 2).flatten(1)
    return images[order], torch.tensor(raw.target)[order]


def logits(w: Tensor, layout: Layout, inputs: Tensor) -> Tensor:
    """Return the outputs [K, B, C] of nets with parameters w [K, P]."""
    part = {s.name: w[:, s.slice].unflatten(1, s.shape) for s in layout.segments}
    hidden = torch.tanh(inputs @ part["0.weight"].mT + part["0.bias"][:, None])
    return hidden @ part["2.weight"].mT + part["2.bias"][:, None]


def accuracy(mask: Tensor, layout: Layout, seed: int) -> float:
    """Return the test accuracy of the posterior's predictive under that mask, with prior N(0, 1)."""
    inputs, labels = digits(seed)
    seen, there = inputs[:TRAINED].double(), mask.double()

    def log_density(w: Tensor) -> Tensor:
        fits = logits(w * there, layout, seen).log_softmax(-1)[:, torch.arange(TRAINED), labels[:TRAINED]].sum(1)
        return fits - 0.5 * w.square().sum(1)

    start = torch.randn(CHAINS, layout.numel, generator=torch.Generator().manual_seed(seed)) * 0.5
    samples, accepted = hmc(log_density, start, step=0.05, leapfrogs=15, samples=40, burn_in=40)
    assert 0.5 < accepted < 0.99, accepted
    probs = logits(samples * there, layout, inputs[TRAINED:].double()).softmax(-1).mean(0)
    return (probs.argmax(1) == labels[TRAINED:]).double().mean().item()


@pytest.mark.slow
def test_masks_shuffled_and_pruned_under_hmc():
    gaps = {}
    for seed in range(SEEDS):
        inputs, labels = digits(seed)
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(16, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 10))
        prune = PruneSettings(score="mu", fraction=0.33, levels=4, classifier=True)
        train = TrainSettings(method="map", epochs=60, batch_size=50, lr=0.01)
        data = inputs[:TRAINED], labels[:TRAINED]
        ticket = find_tickets(net, data, train=train, prune=prune, seed=seed, progress=False)[-1]
        shuffled = SHUFFLES["layerwise"](ticket.layout, ticket.mask, streams.generator("shuffle", seed))
        assert int(shuffled.sum()) == int(ticket.mask.sum())
        pruned, random = (accuracy(mask, ticket.layout, seed) for mask in (ticket.mask, shuffled))
        print(f"seed {seed}: {ticket.density:.1%} left, pruned {pruned:.3f}, shuffled {random:.3f}")
        gaps[seed] = 100 * (random - pruned)
    found = outcome(not_worse(Contrast("shuffled minus pruned masks under HMC", gaps, POINTS, ()), MARGIN))
    print(
        f"{found.part.contrast.words}, says above {-MARGIN:g}: {effect(found)}, n {found.n}: {verdict_text(found.verdict)}"
    )
    assert found.n == SEEDS
