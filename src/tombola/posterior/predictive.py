"""Predictions of a posterior: one forward pass for each weight sample.

Legend: S weight samples, B examples, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tombola import streams
from tombola.errors import TombolaError

from .batch import channels_last as laid_out
from .batch import length_of, logits_of, moved, parts, run
from .batch_norm import has_batch_norm
from .binding import Binding
from .modes import outside_inference_mode
from .state import State


@dataclass(frozen=True)
class Prediction:
    """The predictive distribution of a classifier, on the CPU in float64."""

    probs_SBC: Tensor
    """Class probabilities of each weight sample."""

    @property
    def probs(self) -> Tensor:
        """Class probabilities averaged over the samples, [B, C]."""
        return self.probs_SBC.mean(0)

    @property
    def entropy(self) -> Tensor:
        """Total uncertainty in nats, [B]."""
        return _entropy(self.probs)

    @property
    def mutual_information(self) -> Tensor:
        """Uncertainty due to the weights in nats, [B]: total less expected entropy (Houlsby et al. 2011)."""
        return (self.entropy - _entropy(self.probs_SBC).mean(0)).clamp(min=0)


@outside_inference_mode
def outputs(
    module: nn.Module,
    state: State,
    inputs: Any,
    *,
    samples: int,
    stream: streams.Name,
    batch: int = 1024,
    batch_norm: str = "running",
    precision: str = "fp32",
    channels_last: bool = False,
    select: Callable[[Any], Tensor] = logits_of,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the module's outputs for `inputs` at `samples` weight samples: [S, B, ...], on the state's device.

    The module is in evaluation mode. A point gives one sample.

    inputs: a tensor, a tuple or a mapping, as in `batch.run`.
    stream: names the noise, one stream a sample.
    batch: examples of a forward pass.
    batch_norm: `running` statistics, or those of each `batch`. The result then depends on the size of a batch and on the
        examples in it. Neither changes the running ones.
    precision: `fp32`, the module's own, or `bf16` by autocast (the result is float32 all the same).
    channels_last: whether images are laid out channels-last in memory.
    select: returns the tensor of an output [B, ...]; by default its logits.
    prepare: applied to the inputs of each pass, on the device, as `Dataset.prepare`.

    Raises TombolaError for batch statistics of one example.
    """
    _check_passes(samples, batch, batch_norm, precision)
    q = state.posterior
    samples = 1 if q.std is None else samples
    theta = q.mean.clone()
    length, drawn = length_of(inputs), []
    own_randomness = streams.global_stream("predict", *stream, "module", device=theta.device)

    def one_pass(part: Any) -> Tensor:
        part = laid_out(part) if channels_last else part
        if precision == "fp32":
            return select(run(module, part))
        with torch.autocast(theta.device.type, dtype=torch.bfloat16):
            return select(run(module, part)).float()

    with torch.no_grad(), own_randomness, Binding(module, q.layout, theta, state.buffers) as binding:
        module.eval()
        if batch_norm == "batch":
            _use_batch_statistics(module, length, batch)
        for s in range(samples):
            theta.copy_(q.sample(streams.generator("predict", *stream, s, device=theta.device)))
            binding.wrote()
            # of a module that is random in evaluation too (dropout that stays on)
            streams.reseed_global("predict", *stream, s, "module", device=theta.device)
            # pass by pass to the device: a memory map need not fit there
            passes = (moved(part, theta.device) for part in parts(inputs, length, batch))
            drawn.append(torch.cat([one_pass(prepare(part) if prepare else part) for part in passes]))
    return torch.stack(drawn)


def _check_passes(samples: int, batch: int, batch_norm: str, precision: str) -> None:
    if samples < 1:
        raise TombolaError(f"samples is {samples}; it must be at least 1")
    if batch < 1:
        raise TombolaError(f"batch is {batch}; it must be at least 1")
    if batch_norm not in ("running", "batch"):
        raise TombolaError(f"batch_norm is {batch_norm!r}; it must be running or batch")
    if precision not in ("fp32", "bf16"):
        raise TombolaError(f"precision is {precision!r}; it must be fp32 or bf16")


def classes_of(logits_SBC: Tensor) -> Prediction:
    """Return the softmax of logits. Raises TombolaError for a single output, which has no classes."""
    if logits_SBC.shape[-1] == 1:
        raise TombolaError("the module has one output, which has no class probabilities; use ticket.outputs")
    return Prediction(logits_SBC.cpu().double().softmax(-1))


def check_batch_statistics(module: nn.Module, examples: int, batch: int) -> None:
    """Raise TombolaError where one example would be normalised by itself."""
    if (batch == 1 or examples % batch == 1) and has_batch_norm(module):
        raise TombolaError(
            f"{examples} examples in batches of {batch} leave one alone, which has no batch-norm statistics; "
            "choose another batch size, or batch_norm running"
        )


def _use_batch_statistics(module: nn.Module, examples: int, batch: int) -> None:
    """Put the batch-norm layers, and nothing else (no dropout), in training mode; the binding puts them back."""
    check_batch_statistics(module, examples, batch)
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.training = True


def _entropy(probs: Tensor) -> Tensor:
    return -torch.special.xlogy(probs, probs).sum(-1)
