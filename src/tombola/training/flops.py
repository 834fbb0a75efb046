"""Floating-point operations of a training, counted by torch on a real step of a few examples.

The counter knows products of matrices, convolutions and attention, which are nearly all of a step; elementwise operations
on weights (draws, optimiser) and activations are not counted. Masked weights are multiplied like all others.
"""

from dataclasses import replace

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tombola import streams
from tombola.inference import method_of
from tombola.posterior.batch import Batch, examples_of
from tombola.posterior.modes import training_mode
from tombola.posterior.state import State
from tombola.settings import TrainSettings

from .work import likelihood_of


@training_mode
def flops_per_example(module: nn.Module, state: State, settings: TrainSettings, batch: Batch) -> float:
    """Return the operations of one step's gradients for each example of `batch`; a multiplication and an addition are two.

    All weight samples, forward and backward. The module's buffers are changed.
    """
    device, stream = state.posterior.mean.device, ("flops",)
    settings = replace(settings, cuda_graphs=False, compile=False)  # a capture has passes of its own, and hides the others'
    likelihood = likelihood_of(settings, state).to(device)
    learner = method_of(settings.method)(module, state, likelihood, settings, examples_of(batch), stream)
    counter = FlopCounterMode(display=False)
    with streams.global_stream(*stream, device=device), learner.binding:
        module.train()
        with counter, sdpa_kernel(SDPBackend.MATH):  # the counter does not know every fused attention, such as the CPU's
            learner.gradients(batch, 0)
    return counter.get_total_flops() / examples_of(batch)
