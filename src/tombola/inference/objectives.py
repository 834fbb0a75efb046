"""Gradients of the loss over weight samples: the expectation of the log likelihood, or the log of its expectation.

Legend: S samples of a step, B examples.
"""

from collections.abc import Callable, Iterator

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
    kl_weight: float | Tensor,
    prior_std: float,
) -> Tensor:
    """Compute gradients of scale * E_q[-log p(batch)] + kl_weight * KL, by `samples` backward passes in one sample's memory.

    Returns the mean negative log likelihood (nats per example), averaged over the samples.
    """
    total = torch.zeros((), device=sample.theta.device)
    for _ in _backward_passes(data_term, sample, step, samples):
        total = total + data_term.backward(batch, sample.grad, scale / samples, within=sample.forward) / samples
    sample.finish(samples == 1, kl_weight, prior_std)
    return total


def log_expected(
    data_term: DataTerm,
    sample: WeightSample,
    batch: Batch,
    step: int,
    *,
    samples: int,
    scale: float,
    kl_weight: float | Tensor,
    prior_std: float,
) -> Tensor:
    """Compute gradients of scale * -log mean_s p(target | input, theta_s), mean over the batch, + kl_weight * KL.

    Each example's gradient is that of its log p_s weighted by p_s / sum_s p_s. So a first pass over the samples finds the
    weights, without a graph; a second one draws the same samples and the same dropout again and goes backward: one sample's
    memory. Returns the value (nats per example). Its expectation is not the negative ELBO but lower (Burda et al. 2016, of a
    mean over samples), and falls to -log E_q[p] as S grows; with S = 1 it is `expected_log`.
    """
    module, device = data_term.binding.module, sample.theta.device
    before, found = buffers_of(module), []
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        for s in range(samples):
            sample.draw(step * samples + s, first=s == 0)
            data_term.binding.wrote()
            with sample.forward():
                found.append(data_term.log_likelihood(batch))
    load_buffers(module, before)  # what a forward pass reads of them is the same in both passes
    log_p_SB = torch.stack(found)
    weights_SB = log_p_SB.softmax(0)
    for s in _backward_passes(data_term, sample, step, samples):
        data_term.backward(batch, sample.grad, scale, weights_SB[s], within=sample.forward)
    sample.finish(samples == 1, kl_weight, prior_std)
    return -(log_p_SB.logsumexp(0) - torch.tensor(float(samples)).log().to(log_p_SB)).mean()


Objective = Callable[..., Tensor]

OBJECTIVES: dict[str, Objective] = {"expected_log": expected_log, "log_expected": log_expected}


def _backward_passes(data_term: DataTerm, sample: WeightSample, step: int, samples: int) -> Iterator[int]:
    """Yield the number of each sample, in turn in `theta`, for a backward pass into `sample.grad`; sum all but the last.

    Running statistics (batch norm) move once a step, by the first sample, whatever the number of samples.
    """
    module = data_term.binding.module
    for s in range(samples):
        sample.draw(step * samples + s, first=s == 0)
        data_term.binding.wrote()
        yield s
        if samples > 1 and s == 0:
            first_buffers = buffers_of(module)
        if s < samples - 1:
            sample.accumulate(first=s == 0)
    if samples > 1:
        load_buffers(module, first_buffers)
