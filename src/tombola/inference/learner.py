"""The protocol of a method."""

from collections.abc import Callable, Iterable
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from tombola.posterior.batch import Batch
from tombola.posterior.binding import Binding, buffers_of, load_buffers
from tombola.posterior.layout import Layout
from tombola.posterior.state import State
from tombola.settings import PosteriorSettings, TrainSettings
from tombola.streams import Name

from .forward import DataTerm


class Learner(Protocol):
    """A method at work on one module: all that the training loop asks of it. A subclass inherits what has a default."""

    learns: ClassVar[str]
    """The family of the posterior that it learns, by its name in `FAMILIES`."""
    binding: Binding
    """The training loop enters it; the module's parameters are then views of the method's weights."""
    layout: Layout
    mask: Tensor
    """Bool [P]. A masked weight keeps mean 0, std 0 and gradient 0."""

    def __init__(
        self, module: nn.Module, state: State, likelihood: nn.Module, settings: TrainSettings, examples: int, stream: Name
    ):
        """Begin from `state`, whose posterior is of the family `learns`.

        likelihood: trained in place. examples: N of the training set. stream: names all that the method draws.
        """

    @classmethod
    def start(cls, posterior: PosteriorSettings, settings: TrainSettings, examples: int) -> PosteriorSettings:
        """Return the settings of a dense start that is to be trained on `examples`; the given ones, by default.

        Raises TombolaError for training settings that the method cannot have.
        """
        return posterior

    def begin(self, steps: int) -> None:
        """Learn the number of steps of the whole schedule, before the first gradients or `restore`."""
        return

    def end(self, batches: Iterable[Batch]) -> None:
        """Do what follows the schedule's last step, by a pass over the training set in `batches`; nothing by default.

        The binding is entered. A training that stops before the schedule's end leaves it out.
        """
        return

    def groups(self) -> list[dict]:
        """Return optimiser groups: `params` (flat tensors with `.grad` set), `factor` (of the learning rate), `decayed`."""
        ...

    def optimiser(self, settings: TrainSettings) -> torch.optim.Optimizer | None:
        """Return an optimiser of the method's own; None, the default, where the settings' one steps all of `groups`."""
        return None

    def gradients(self, batch: Batch, step: int, kl_factor: float | Tensor = 1.0) -> Tensor:
        """Set the gradients for `batch`; return its mean negative log likelihood (nats per example, averaged over samples).

        step: names the noise. kl_factor: scales the KL term (warm-up); a tensor [1] in a captured step.
        """
        ...

    def hold_generators(self) -> list[torch.Generator]:
        """Return the generators that every later step draws from, so that `gradients` can be captured in a CUDA graph.

        Only `seed` sets them then. Empty, the default, for a method that draws nothing.
        """
        return []

    def seed(self, step: int) -> None:
        """Set the held generators to the streams of that step."""
        return

    def show_mean(self) -> None:
        """Set the module's weights to the posterior's mean, until the next `gradients`."""

    def state(self) -> State:
        """Return a copy of all that was learned. Call it while the binding is entered: it has the module's buffers."""
        ...

    def restore(self, state: State) -> None:
        """Continue from `state`, in place."""


def slice_with_grad(values: Tensor, grads: Tensor, where: slice) -> Tensor:
    """Return a view of `values` whose gradient is a view of `grads`: an optimiser's flat parameter."""
    part = values[where]
    part.grad = grads[where]
    return part


def gradient_at(data_term: DataTerm, show: Callable[[], None], batch: Batch) -> Tensor:
    """Return the gradient of the data term [P] at the weights that `show` writes; running statistics do not move."""
    binding = data_term.binding
    show()
    before, found = buffers_of(binding.module), torch.empty_like(binding.theta)
    data_term.backward(batch, found, 1.0)
    load_buffers(binding.module, before)
    return found


def learned_of(likelihood: nn.Module) -> dict[str, Tensor]:
    """Return copies of what the likelihood learns, by name."""
    return {name: value.detach().clone() for name, value in likelihood.state_dict().items()}
