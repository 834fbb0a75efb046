"""Likelihoods p(targets | output of the network): modules, so that the noise scale that one learns is part of the state.

Every likelihood is called as `likelihood(output, batch)` and returns the log likelihood of each example, [B], in nats.

Legend: B examples, T positions, C classes.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tombola.errors import TombolaError

from .batch import IGNORED, Batch, logits_of, targets_of

LogLikelihood = Callable[[Any, Batch], Tensor]
"""(output of the module, batch) -> log likelihood of each example [B], in nats. A module's parameters are learned."""


_BERNOULLI = "the likelihood 'bernoulli', in a loop of your own tombola.posterior.likelihood.Bernoulli()"


class Categorical(nn.Module):
    """Classes from logits."""

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing
        self._looked = False

    def forward(self, output: Any, batch: Batch) -> Tensor:
        """Return the log likelihood of each example, [B], in nats.

        Logits [B, C] and class indices [B]; with positions [B, T, C] and [B, T], summed over those whose label is not -100.
        Labels may be class probabilities in the logits' shape. With label smoothing e (in training mode) the target is
        (1 - e) one-hot + e / C. Raises TombolaError for other shapes, for T = C (it could be [B, C, T]), for a single logit,
        for indices outside 0 to C - 1, and for rows that are no probabilities.
        """
        logits, labels = self.compared(output, batch)
        soft = labels.is_floating_point()
        if labels.shape != (logits.shape if soft else logits.shape[:-1]):
            raise TombolaError(
                f"labels {labels.dtype} of shape {tuple(labels.shape)} do not fit logits of shape {tuple(logits.shape)}, "
                "whose last dimension is the classes'"
            )
        if labels.device.type == "cpu" or not self._looked:  # a look at values waits for a GPU: there one at the first batch
            check_classes(labels, logits.shape[-1])
            self._looked = True
        logits = logits if logits.dtype == torch.float64 else logits.float()  # bf16 would round the loss
        classes, smoothing = logits.shape[-1], self.label_smoothing if self.training else 0.0
        labels = labels.reshape(-1, classes) if soft else labels.reshape(-1).long()  # int32, bool
        loss = F.cross_entropy(
            logits.reshape(-1, classes), labels, reduction="none", label_smoothing=smoothing, ignore_index=IGNORED
        )
        return -loss.view(len(logits), -1).sum(1)

    def compared(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the logits, and the labels that they are compared with."""
        logits = logits_of(output)
        if logits.ndim > 2 and logits.shape[1] == logits.shape[-1]:
            raise TombolaError(
                f"logits of shape {tuple(logits.shape)} do not tell which dimension is the classes', the last one or, as "
                "for torch's cross_entropy, the second; flatten the positions into one, or give a likelihood of your own"
            )
        return logits, targets_of(batch)


def check_classes(labels: Tensor, classes: int) -> None:
    """Raise TombolaError for labels that are neither indices of the `classes` nor probabilities of them."""
    if classes < 2:
        raise TombolaError(
            "the categorical likelihood needs one output for each class, the network has one in all; give it two outputs, "
            f"or use {_BERNOULLI}"
        )
    if labels.is_floating_point():
        sums = labels.float().sum(-1)
        wrong = ~((sums - 1).abs() < 1e-2) | ~(labels >= 0).all(-1)  # NaN is wrong, too; bf16 rounds the sums
        if bool(wrong.any()):
            raise TombolaError(
                f"a row of floating-point labels sums to {sums[wrong][0].item():.4g}, but class probabilities are at least "
                f"0 and sum to 1; for several classes an example (multi-label) use {_BERNOULLI}"
            )
    else:
        numbers = labels.long()
        least, most = map(int, numbers.aminmax()) if numbers.numel() else (0, 0)
        if least >= 0 and most < classes:  # nearly always; the masks below would cost small networks time
            return
        wrong = ((numbers < 0) | (numbers >= classes)) & (numbers != IGNORED)
        if bool(wrong.any()):
            raise TombolaError(
                f"there is a label {numbers[wrong][0].item()}, but the network has {classes} outputs: labels are 0 to "
                f"{classes - 1}, or {IGNORED} where an example does not count"
            )


class NextToken(Categorical):
    """Classes of the *next* position: logits [B, T, C] at t are compared with labels [B, T] at t + 1.

    For causal language models with `labels` equal to `input_ids` (-100 where padded), as Hugging Face's collators give them.
    """

    def compared(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits [B, T - 1, C] and labels [B, T - 1]: the likelihood is of each sequence given its first token."""
        return logits_of(output)[:, :-1], targets_of(batch)[:, 1:]


class GaussianNoise(nn.Module):
    """Real targets with Gaussian noise of one standard deviation, known or learned."""

    def __init__(self, noise_std: float = 1.0, learn_noise: bool = False):
        super().__init__()
        if noise_std <= 0:
            raise TombolaError(f"noise_std is {noise_std}; it must be above 0")
        self.log_noise = nn.Parameter(torch.tensor(math.log(noise_std)), requires_grad=learn_noise)

    @property
    def noise_std(self) -> float:
        return math.exp(self.log_noise.item())

    def forward(self, output: Any, batch: Batch) -> Tensor:
        """Return the log density of each example, [B], in nats, summed over the target's dimensions.

        Raises TombolaError for targets of another shape; dimensions of 1 do not count.
        """
        mean, target = _alike(output, batch)
        if target.device.type == "cpu" and not bool(target.isfinite().all()):  # on a GPU a look would wait for it
            raise TombolaError("a target is not finite; leave the example out, or fill the target")
        residual = (target - mean) * torch.exp(-self.log_noise)
        log_density = -0.5 * residual.square() - self.log_noise - 0.5 * math.log(2 * math.pi)
        return log_density.reshape(len(log_density), -1).sum(1)  # outputs [B] too


class Bernoulli(nn.Module):
    """Targets of 0 and 1 from logits, each output by itself given the weights."""

    def forward(self, output: Any, batch: Batch) -> Tensor:
        """Return the log mass of each example, [B], in nats, summed over the target's dimensions.

        Logits of 1, and targets of their shape; dimensions of 1 do not count. Raises TombolaError for other shapes, and for
        targets that are neither 0 nor 1.
        """
        logits, target = _in_float(output, batch)
        if target.device.type == "cpu" and not bool(((target == 0) | (target == 1)).all()):
            raise TombolaError("a target of the bernoulli likelihood is neither 0 nor 1; give these")
        return -F.binary_cross_entropy_with_logits(logits, target, reduction="none").reshape(len(logits), -1).sum(1)


class Poisson(nn.Module):
    """Counts from the logs of their rates, each output by itself given the weights."""

    def forward(self, output: Any, batch: Batch) -> Tensor:
        """Return the log mass of each example, [B], in nats, summed over the target's dimensions.

        Logs of rates, and targets of their shape; dimensions of 1 do not count. Raises TombolaError for other shapes, and
        for targets that are no counts.
        """
        log_rate, target = _in_float(output, batch)
        if target.device.type == "cpu" and not bool(((target >= 0) & (target == target.floor())).all()):
            raise TombolaError("a target of the poisson likelihood is no count; give whole numbers of at least 0")
        log_mass = target * log_rate - log_rate.exp() - torch.lgamma(target + 1)
        return log_mass.reshape(len(log_mass), -1).sum(1)


def _alike(output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the outputs, and the targets in their shape. Raises TombolaError for other shapes; 1s do not count."""
    found, target = logits_of(output), targets_of(batch)
    if [n for n in found.shape if n != 1] != [n for n in target.shape if n != 1]:
        raise TombolaError(
            f"targets of shape {tuple(target.shape)} do not fit outputs of shape {tuple(found.shape)}; give one target "
            "for each output, in the same order"
        )
    return found, target.reshape_as(found)


def _in_float(output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the same in float32 or float64: bf16 would round the loss."""
    found, target = _alike(output, batch)
    dtype = torch.float64 if found.dtype == torch.float64 else torch.float32
    return found.to(dtype), target.to(dtype)


class Custom(nn.Module):
    """A user's function as a likelihood; it learns nothing."""

    def __init__(self, function: LogLikelihood):
        super().__init__()
        self.function = function

    def forward(self, output: Any, batch: Batch) -> Tensor:
        """Return the function's value."""
        return self.function(output, batch)


def check_foreign(likelihood: nn.Module, module: nn.Module) -> None:
    """Raise TombolaError for a likelihood that has parameters of the module: a copy of them would be trained beside it."""
    own = {id(p) for p in module.parameters()}
    for name, p in likelihood.named_parameters():
        if id(p) in own:
            raise TombolaError(
                f"the likelihood {type(likelihood).__name__} learns {name!r}, a parameter of the module; "
                "keep the module in a list, [module], or give a function that uses it"
            )


def load_learned(likelihood: nn.Module, learned: Mapping[str, Tensor]) -> None:
    """Load the tensors that a state has `learned` of its likelihood. Raises TombolaError for those of another one."""
    own = {name: value.shape for name, value in likelihood.state_dict().items()}
    if own != {name: value.shape for name, value in learned.items()}:
        raise TombolaError(
            f"the state was trained with a likelihood that learns {', '.join(learned) or 'nothing'}, "
            f"{type(likelihood).__name__} learns {', '.join(own) or 'nothing'}; give the likelihood that it was trained with"
        )
    likelihood.load_state_dict(learned)


def as_likelihood(given: nn.Module | LogLikelihood) -> nn.Module:
    """Return a module as it is, a function in a module."""
    return given if isinstance(given, nn.Module) else Custom(given)
