"""Predictions of a posterior: one forward pass for each weight sample.

Legend: S weight samples, B examples, C classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tombola import streams
from tombola.errors import TombolaError

from .arrays import as_tensors
from .attributes import attributes_kept
from .batch import channels_last as laid_out
from .batch import length_of, logits_of, moved, parts, run
from .batch_norm import KEPT, Choice, Statistics, fingerprint, has_batch_norm, has_own, measure, measuring_layers
from .binding import Binding, load_buffers
from .families import draws_of, weight_sample
from .modes import outside_inference_mode
from .point import Point
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
    device: torch.device | None = None,
    batch: int = 1024,
    batch_norm: Choice = "samples",
    statistics: Mapping[str, Tensor] | None = None,
    precision: str = "fp32",
    channels_last: bool = False,
    select: Callable[[Any], Tensor] = logits_of,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the module's outputs for `inputs` at `samples` weight samples: [S, B, ...], on the device.

    The module is in evaluation mode. A posterior of K points gives at most K samples, each point once; a point gives one.
    A module that draws itself in evaluation (dropout that stays on) gives `samples` all the same: points come round again.

    inputs: a tensor or a numpy array, a tuple or a mapping of them, as in `batch.run`.
    stream: names the noise, one stream a sample. Samples are drawn on the state's device, and another draws others.
    device: of the forward passes; by default the state's.
    batch: examples of a forward pass.
    batch_norm: by `statistics` of each of the `samples`, by the `running` ones (as a point without `statistics` is in any
        case), or by those of each `batch`. The last depend on the size of a batch and on the examples in it.
    statistics: buffer name -> [S, C], as `sample_statistics` of the same stream returns it.
    precision: `fp32`, the module's own, or `bf16` by autocast (the result is float32 all the same).
    channels_last: whether images are laid out channels-last in memory.
    select: returns the tensor of an output [B, ...]; by default its logits.
    prepare: applied to the inputs of each pass, on the device, as `Dataset.prepare`.

    Raises TombolaError for batch statistics of one example, and for lack of `statistics`.
    """
    _check_passes(samples, batch, batch_norm, precision)
    inputs = as_tensors(inputs)
    q, length, drawn = state.posterior, length_of(inputs), []
    of_weights = draws_of(q, samples)

    def one_pass(part: Any) -> Tensor:
        part = laid_out(part) if channels_last else part
        with _arithmetic(precision, binding.theta.device):
            found = select(run(module, part))
        return found if precision == "fp32" else found.float()

    with _bound(module, state, stream, device) as binding:
        module.eval()
        if batch_norm == "batch":
            _use_batch_statistics(module, length, batch)
        own = {k: v.to(binding.theta.device) for k, v in (statistics or {}).items()} if batch_norm == "samples" else {}
        if batch_norm == "samples" and q.std is not None:
            _check_statistics(module, own, of_weights)
        for s in _draws(binding, state, samples, stream):
            load_buffers(module, {name: values[s % of_weights] for name, values in own.items()})
            # pass by pass to the device: a memory map need not fit there
            passes = (moved(part, binding.theta.device) for part in parts(inputs, length, batch))
            drawn.append(torch.cat([one_pass(prepare(part) if prepare else part) for part in passes]))
    return torch.stack(drawn)


@outside_inference_mode
def sample_statistics(
    module: nn.Module,
    state: State,
    training: Sequence[Any],
    *,
    samples: int,
    stream: streams.Name,
    device: torch.device | None = None,
    precision: str = "fp32",
    channels_last: bool = False,
) -> dict[str, Tensor]:
    """Return the batch-norm statistics of each weight sample that `outputs` draws from `stream`: buffer name -> [S, C].

    A point has one sample, itself. Empty for a module whose layers keep no running statistics. Neither module nor state
    changes.

    training: batches of inputs of training examples, on any device; `EXAMPLES` of them are enough.
    device, precision, channels_last: as of `outputs`.
    """
    samples = draws_of(state.posterior, samples)
    layers, found = measuring_layers(module), []
    if not layers:
        return {}
    with _bound(module, state, stream, device) as binding:
        module.eval()
        there = binding.theta.device
        batches = [moved(laid_out(part) if channels_last else part, there) for part in training]
        for _ in _draws(binding, state, samples, stream):
            with _arithmetic(precision, there):
                found.append(measure(module, layers, batches))
    return {name: torch.stack([each[name] for each in found]) for name in found[0]}


def statistics_of(
    module: nn.Module, state: State, training: Sequence[Any], *, samples: int = KEPT, seed: int = 0
) -> Statistics | None:
    """Return what a ticket keeps: the statistics of the mean and of the weight samples of `seed`, on the CPU.

    The samples are drawn on the CPU, so that they are the same on every device. None for a point, which has its running
    statistics, and for a module whose layers keep none. training: as above.
    """
    if not has_own(module, state.posterior):
        return None
    device, state = state.posterior.mean.device, state.to("cpu")
    of_mean = sample_statistics(module, state.as_family(Point.family), training, samples=1, stream=(seed,), device=device)
    drawn = sample_statistics(module, state, training, samples=samples, stream=(seed,), device=device)
    mean = {name: values[0].cpu() for name, values in of_mean.items()}
    return Statistics(seed, fingerprint(state.posterior), mean, {name: values.cpu() for name, values in drawn.items()})


@contextmanager
def _bound(module: nn.Module, state: State, stream: streams.Name, device: torch.device | None) -> Iterator[Binding]:
    """Bind the module to a copy of the state's mean, without gradients and with randomness of its own."""
    theta = state.posterior.mean.to(device, copy=True)
    buffers = {name: value.to(theta.device) for name, value in state.buffers.items()}
    own_randomness = streams.global_stream("predict", *stream, "module", device=theta.device)
    bound = Binding(module, state.posterior.layout, theta, buffers)
    with torch.no_grad(), own_randomness, attributes_kept(module), bound as binding:
        yield binding


def _draws(binding: Binding, state: State, samples: int, stream: streams.Name) -> Iterator[int]:
    """Write one weight sample after the other into the bound module; yield its number.

    There are fewer samples if the posterior has fewer points, unless the module draws itself in its passes between them.
    """
    q, device, draws_itself = state.posterior, binding.theta.device, False
    of_weights = draws_of(q, samples)
    for s in range(samples):
        binding.theta.copy_(weight_sample(q, stream, s % of_weights))
        binding.wrote()
        # of a module that is random in evaluation too (dropout that stays on)
        streams.reseed_global("predict", *stream, s, "module", device=device)
        before = _global_state(device) if s < of_weights < samples else None
        yield s
        draws_itself |= before is not None and not before.equal(_global_state(device))
        if s + 1 == of_weights and not draws_itself:
            return


def _global_state(device: torch.device) -> Tensor:
    """Return the state of torch's global randomness on a device."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _arithmetic(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=torch.bfloat16)


def _check_passes(samples: int, batch: int, batch_norm: str, precision: str) -> None:
    if samples < 1:
        raise TombolaError(f"samples is {samples}; it must be at least 1")
    if batch < 1:
        raise TombolaError(f"batch is {batch}; it must be at least 1")
    if batch_norm not in get_args(Choice):
        raise TombolaError(f"batch_norm is {batch_norm!r}; it must be samples, running or batch")
    if precision not in ("fp32", "bf16"):
        raise TombolaError(f"precision is {precision!r}; it must be fp32 or bf16")


def _check_statistics(module: nn.Module, own: Mapping[str, Tensor], samples: int) -> None:
    """Raise TombolaError unless each weight sample has batch-norm statistics, of a module that needs them."""
    if not own and measuring_layers(module):
        raise TombolaError(
            "the weight samples have no batch-norm statistics; measure them on training examples, or set batch_norm to "
            "running or batch"
        )
    if kept := {len(values) for values in own.values() if len(values) < samples}:
        raise TombolaError(f"there are {samples} weight samples, but batch-norm statistics of {min(kept)}; measure as many")


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
