"""Scores of an untrained network by its gradients, for pruning once before training.

Legend: P parameters of the layout.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tombola.errors import TombolaError
from tombola.posterior.batch import Batch, inputs_of
from tombola.posterior.functional import holding
from tombola.posterior.layout import Layout
from tombola.posterior.likelihood import LogLikelihood
from tombola.posterior.modes import training_mode
from tombola.posterior.narrow import guarded
from tombola.posterior.state import State
from tombola.pruning.masks import prune
from tombola.pruning.structure import prune_units
from tombola.pruning.units import Units
from tombola.settings import PruneSettings

SYNFLOW_ROUNDS = 100


@dataclass(frozen=True)
class Untrained:
    """An untrained network, at the mean of its posterior, and training examples."""

    module: nn.Module
    state: State
    likelihood: LogLikelihood
    batches: Sequence[Batch]
    """Pairs of prepared inputs and targets, each of which goes through the network as a training batch."""
    units: Units | None = None
    """Units of the rule's structure; None without one."""

    @property
    def layout(self) -> Layout:
        return self.state.posterior.layout

    def output(self, flat: Tensor, inputs: Tensor, buffers: Mapping[str, Tensor]) -> Tensor:
        """Return the output at the parameters `flat` [P]. The module and its buffers are not changed."""
        tensors = {name: value.clone() for name, value in buffers.items()}
        tensors |= {name: view.contiguous() for name, view in self.layout.views(flat).items()}
        return holding(self.module, tensors)(inputs)

    def loss(self, flat: Tensor, batch: Batch) -> Tensor:
        """Return the mean negative log likelihood of a batch, in nats."""
        return -self.likelihood(self.output(flat, inputs_of(batch), self.state.buffers), batch).mean()


def snip(net: Untrained, rule: PruneSettings) -> Tensor:
    """Return abs(w * g), the change of the loss by a weight's removal to first order (Lee et al. 2019, SNIP, equation 4)."""
    flat = net.state.posterior.mean.clone().requires_grad_()
    return (flat * _mean_gradient(net, flat)).detach().abs()


def grasp(net: Untrained, rule: PruneSettings) -> Tensor:
    """Return w * (H g): weights whose removal lowers the norm of the gradient survive (Wang et al. 2020, GraSP).

    Their score, -w * (H g), is of what goes first. H: Hessian of the same examples' mean loss, times their gradient g.
    """
    mean = net.state.posterior.mean
    g = _mean_gradient(net, mean.clone().requires_grad_()).detach()
    flat, product = mean.clone().requires_grad_(), torch.zeros_like(mean)
    for batch in net.batches:
        (own,) = torch.autograd.grad(net.loss(flat, batch), flat, create_graph=True)
        product += torch.autograd.grad(own @ g, flat)[0] / len(net.batches)
    return mean * product


def synflow(net: Untrained, rule: PruneSettings) -> Tensor:
    """Return abs(w) * dR / d abs(w), with R the sum of outputs for an input of ones and abs(w) as weights.

    Tanaka et al. 2020 (SynFlow, algorithm 1): the share that `rule` keeps is reached in 100 rounds of equal factors, each
    with scores of its own; those of weights that an earlier round has pruned are -inf. It uses no data.
    """
    ones = torch.ones_like(inputs_of(net.batches[0])[:1])
    if not ones.is_floating_point():
        raise TombolaError("score synflow feeds the network with ones, but its inputs are whole numbers; use snip")
    layout, keep = net.layout, 1 - rule.fraction
    size = net.state.posterior.mean.double().abs()
    mask = torch.ones(layout.numel, dtype=torch.bool)
    buffers = {k: v.double() if v.is_floating_point() else v for k, v in net.state.buffers.items()}
    scores = torch.zeros(0)
    net.module.eval()
    for done in range(SYNFLOW_ROUNDS):  # in float64: products of many layers leave the range of float32
        flat = (size * mask.to(size.device)).requires_grad_()
        (gradient,) = torch.autograd.grad(net.output(flat, ones.double(), buffers).sum(), flat)
        scores = (flat * gradient).detach().cpu().masked_fill(~mask, -math.inf)
        if done < SYNFLOW_ROUNDS - 1:
            mask = _without(net, mask, scores, 1 - keep ** (1 / SYNFLOW_ROUNDS), rule.scope)
    return scores


def _without(net: Untrained, mask: Tensor, scores: Tensor, fraction: float, scope: str) -> Tensor:
    """Return the next mask, of weights or of units."""
    if net.units is None:
        return prune(net.layout, mask, scores, fraction, scope)
    own = mask & net.layout.prunable
    amount = fraction * int(own.sum())
    return prune_units(net.units, mask, net.units.worth(scores, own), amount, own.double(), scope)[0]


AT_START: dict[str, Callable[[Untrained, PruneSettings], Tensor]] = {"snip": snip, "grasp": grasp, "synflow": synflow}
"""Functions of an untrained network and of a rule whose `fraction` is pruned at once: scores [P], higher survives."""


@training_mode
def start_scores(net: Untrained, rule: PruneSettings) -> Tensor:
    """Return the scores of the rule's name, one of `AT_START`, float64 [P] on the CPU. The module is not changed.

    Raises TombolaError where the scores of prunable weights are not finite, or all 0.
    """
    modes = [(part, part.training) for part in net.module.modules()]
    try:
        net.module.train()
        device = net.state.posterior.mean.device
        with guarded(net.module, device), sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
            scores = AT_START[rule.score](net, rule).double().cpu()
    finally:
        for part, mode in modes:
            part.training = mode
    own = scores[net.layout.prunable]
    if not bool((own < math.inf).all()) or not bool(own[own > -math.inf].any()):  # nan is not below inf
        what = "0 for every weight" if bool((own < math.inf).all()) else "not finite"
        raise TombolaError(f"score {rule.score} of the untrained network is {what}, so it cannot rank; use magnitude")
    return scores


def _mean_gradient(net: Untrained, flat: Tensor) -> Tensor:
    total = torch.zeros_like(flat)
    for batch in net.batches:
        total += torch.autograd.grad(net.loss(flat, batch), flat)[0] / len(net.batches)
    return total
