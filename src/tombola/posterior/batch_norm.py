"""Batch-norm statistics: of a posterior's mean and of each weight sample, measured on training examples.

A weight sample shifts whole channels. Statistics of a batch take the shift out; running ones, an average over the samples of
many steps, do not.

Legend: S weight samples, C channels of a layer.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tombola.errors import TombolaError

from .batch import run
from .families import Posterior
from .modes import in_training

EXAMPLES = 256
"""Training examples that statistics are measured on: as good as a thousand, 64 are not."""
KEPT = 16
"""Weight samples of which a ticket keeps statistics."""

Choice = Literal["samples", "running", "batch"]
"""Statistics of a prediction: of each weight sample, the running ones of training, or those of each test batch."""


@dataclass(frozen=True)
class Statistics:
    """Means and variances of the norm layers at a posterior's mean and at its first S weight samples of a seed."""

    seed: int
    posterior: int
    """`fingerprint` of the posterior that they are of."""
    mean: dict[str, Tensor]
    """Buffer name -> [C], under the mean weights."""
    samples: dict[str, Tensor]
    """Buffer name -> [S, C]."""

    @property
    def kept(self) -> int:
        """Number S of weight samples."""
        return len(next(iter(self.samples.values())))

    def tensors(self) -> dict[str, Tensor]:
        """Return name -> tensor, to be saved; `of_tensors` is the inverse."""
        found = {f"{part}.{name}": v for part in ("mean", "samples") for name, v in getattr(self, part).items()}
        return {"seed": torch.tensor(self.seed), "posterior": torch.tensor(self.posterior), **found}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> "Statistics":
        parts: dict[str, dict[str, Tensor]] = {"mean": {}, "samples": {}}
        for name, value in tensors.items():
            if name not in ("seed", "posterior"):
                part, _, rest = name.partition(".")
                parts.setdefault(part, {})[rest] = value
        return cls(int(tensors["seed"]), int(tensors["posterior"]), **parts)


def fingerprint(posterior: Posterior) -> int:
    """Return a number that tells posteriors apart: the sum of their tensors' bits, in any order, below 2^62."""
    bits = (value.cpu().contiguous().reshape(-1).view(torch.uint8) for value in posterior.tensors().values())
    padded = (nn.functional.pad(b.flatten(), (0, -b.numel() % 4)).view(torch.int32) for b in bits)
    return sum(i * int(part.sum()) for i, part in enumerate(padded, 1)) % 2**62


def has_own(module: nn.Module, posterior: Posterior) -> bool:
    """Return whether mean and weight samples have statistics of their own; a point has the running ones."""
    return posterior.std is not None and bool(measuring_layers(module))


def kept_of(
    own: Statistics | None, module: nn.Module, posterior: Posterior, *, samples: int, seed: int | None
) -> dict[str, Tensor] | None:
    """Return the statistics that a ticket keeps as `own`: buffer name -> [S, C]; without a seed those of the mean, [1, C].

    None, for running ones: of a point, of a module that needs no others, and with a warning of a ticket that keeps none.
    Raises TombolaError for samples of which none are kept, and for statistics of another posterior.
    """
    if not has_own(module, posterior):
        return None
    if own is None:
        warnings.warn(
            "the ticket has no batch-norm statistics of its weight samples, and running ones can be far off: give "
            "training_inputs to Bayesian or to ticket.with_statistics, or set batch_norm to running or batch",
            stacklevel=3,
        )
        return None
    if own.posterior != fingerprint(posterior):
        raise TombolaError(
            "the ticket's batch-norm statistics are of another posterior than its trained one; measure them anew by "
            "ticket.with_statistics(module, training_inputs)"
        )
    if seed is None:
        return {name: value[None] for name, value in own.mean.items()}
    if seed != own.seed or samples > own.kept:
        raise TombolaError(
            f"the ticket keeps batch-norm statistics of {own.kept} weight samples of seed {own.seed}, not of {samples} of "
            f"seed {seed}; measure those by ticket.with_statistics(module, training_inputs, samples={samples}, "
            f"seed={seed}), or set batch_norm to running or batch"
        )
    return own.samples


def has_batch_norm(module: nn.Module) -> bool:
    """Return whether any layer is a batch norm, with or without running statistics."""
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())


def measuring_layers(module: nn.Module) -> dict[str, _BatchNorm]:
    """Return by name the batch norms that measure their batches in training and keep the measure for later.

    Not those without running statistics, nor those that a module's own `train` leaves in evaluation mode.
    """
    with in_training(module):
        return {
            name: layer
            for name, layer in module.named_modules()
            if isinstance(layer, _BatchNorm) and layer.training and _tracks(layer)
        }


def measure(module: nn.Module, layers: Mapping[str, _BatchNorm], batches: Sequence[Any]) -> dict[str, Tensor]:
    """Measure `layers` at the module's present weights; return their running statistics by buffer name, [C].

    They are means and unbiased variances of each of the `batches` (inputs as of `batch.run`), averaged, and stay in the
    layers. The module must be in evaluation mode, and all but `layers` stay in it (no dropout).
    Raises TombolaError where there is nothing to measure.
    """
    if not batches:
        raise TombolaError("no training examples are given, of which batch-norm statistics could be measured; give some")
    uses, momenta = Counter[nn.Module](), [layer.momentum for layer in layers.values()]

    def average(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        uses[layer] += 1
        layer.momentum = 1 / uses[layer]  # not None, with which torch averages too, and waits for a GPU

    hooks = [layer.register_forward_pre_hook(average) for layer in layers.values()]
    try:
        for layer in layers.values():
            layer.reset_running_stats()
            layer.training = True
        with torch.no_grad():
            for inputs in batches:
                run(module, inputs)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TombolaError("one training example has no batch-norm statistics; give at least two, better 256") from error
    finally:
        for layer, momentum, hook in zip(layers.values(), momenta, hooks, strict=True):
            hook.remove()
            layer.training, layer.momentum = False, momentum
    return {name: value.clone() for name, value in _running(layers).items()}


@contextmanager
def measured(module: nn.Module, batches: Sequence[Any]) -> Iterator[None]:
    """Let the module normalise by `measure` of the `batches` within; then its running statistics come back, in place.

    The module must be in evaluation mode. Without batches, or layers to measure, nothing changes.
    """
    layers = measuring_layers(module) if batches else {}
    buffers = [b for layer in layers.values() for b in layer.buffers(recurse=False)]
    before = [b.clone() for b in buffers]
    try:
        if layers:
            measure(module, layers, batches)
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


@contextmanager
def normalising_one(module: nn.Module, examples: int) -> Iterator[None]:
    """Let a batch of one example be trained on, as the last one of a loader: by running statistics, which do not change.

    Only in layers that see a single value per channel, of which there is no variance. Does nothing for other batches. Raises
    TombolaError (in the forward pass) where a layer has no statistics, since no larger batch came before.
    """
    if examples != 1:
        yield
        return
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.training]
    known = {layer for layer in layers if _tracks(layer) and layer.num_batches_tracked}

    def choose(layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        (inputs,) = (*args, *kwargs.values())
        layer.training = inputs.numel() > inputs.shape[1]
        if not layer.training and layer not in known:
            raise TombolaError(
                "a batch of one example has no batch-norm statistics, and there are no running ones yet; use a larger "
                "batch, or drop_last=True of the DataLoader"
            )

    hooks = [layer.register_forward_pre_hook(choose, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for layer, hook in zip(layers, hooks, strict=True):
            hook.remove()
            layer.training = True


def _running(layers: Mapping[str, _BatchNorm]) -> dict[str, Tensor]:
    """Return the layers' running means and variances by buffer name."""
    return {
        f"{name}.{leaf}" if name else leaf: getattr(layer, leaf)
        for name, layer in layers.items()
        for leaf in ("running_mean", "running_var")
    }


def _tracks(layer: _BatchNorm) -> bool:
    return layer.track_running_stats and layer.running_mean is not None
