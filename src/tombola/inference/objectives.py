"""Gradients of the loss over weight samples: the expectation of the log likelihood, or the log of its expectation.

Legend: S samples of a step, B examples.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tombola.posterior.batch import Batch
from tombola.posterior.binding import buffers_of, load_buffers

from .estimators.sample import WeightSample
from .forward import DataTerm


def expected_log(
    data_term: DataTerm,
    sample: WeightSample,
    batch: Batch,
    step: int,
    *,
    samples: int,
    scale: float,
    kl_weight: float,
    prior_std: float,
) -> Tensor:
    """Gradients of scale * E_q[-log p(batch)] + kl_weight * KL, from `samples` backward passes in one sample's memory.

    Returns the mean negative log likelihood (nats per example), averaged over the samples.
    """
    module, total, first_buffers = data_term.binding.module, torch.zeros((), device=sample.theta.device), None
    for s in range(samples):
        sample.draw(step * samples + s, first=s == 0)
        data_term.binding.wrote()
        loss = data_term.backward(batch, sample.grad, scale / samples, within=sample.forward)
        total = total + loss / samples
        if s == 0 and samples > 1:
            first_buffers = buffers_of(module)
        if s < samples - 1:
            sample.accumulate(first=s == 0)
    sample.finish(samples == 1, kl_weight, prior_std)
    if first_buffers is not None:
        load_buffers(module, first_buffers)  # one update of running statistics a step, whatever the number of samples
    return total


def log_expected(
    data_term: DataTerm,
    sample: WeightSample,
    batch: Batch,
    step: int,
    *,
    samples: int,
    scale: float,
    kl_weight: float,
    prior_std: float,
) -> Tensor:
    """Gradients of scale * -log mean_s p(target | input, theta_s), mean over the batch, + kl_weight * KL.

    Each example's gradient is that of its log p_s weighted by p_s / sum_s p_s. So a first pass over the samples finds the
    weights, without a graph; a second one draws the same samples and the same dropout again and goes backward: one sample's
    memory. Returns the value (nats per example). Its expectation is not the ELBO but a bound above it (Burda et al. 2016,
    of a mean over samples), tight only as S grows; with S = 1 it is `expected_log`.
    """
    module, device = data_term.binding.module, sample.theta.device
    before, random = buffers_of(module), _random_state(device)
    found = []
    with torch.no_grad():
        for s in range(samples):
            sample.draw(step * samples + s, first=s == 0)
            data_term.binding.wrote()
            with sample.forward():
                found.append(data_term.log_likelihood(batch))
            if s == 0:
                after = buffers_of(module)
        log_p_SB = torch.stack(found)
        weights_SB = log_p_SB.softmax(0)
    load_buffers(module, before)  # what a forward pass reads of them is the same in both passes
    _set_random_state(random, device)
    for s in range(samples):
        sample.draw(step * samples + s, first=s == 0)
        data_term.binding.wrote()
        data_term.backward(batch, sample.grad, scale, weights_SB[s], within=sample.forward)
        if s < samples - 1:
            sample.accumulate(first=s == 0)
    sample.finish(samples == 1, kl_weight, prior_std)
    load_buffers(module, after)
    return -(log_p_SB.logsumexp(0) - torch.tensor(float(samples)).log().to(log_p_SB)).mean()


Objective = Callable[..., Tensor]

OBJECTIVES: dict[str, Objective] = {"expected_log": expected_log, "log_expected": log_expected}


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
