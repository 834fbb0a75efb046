"""Passes on other tensors than a module's own, which leave it as it was: parts under two names, tied parameters."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tombola import Bayesian, PruneSettings, TrainSettings, find_tickets
from tombola.posterior.cancelled import cancelled_biases
from tombola.posterior.functional import holding
from tombola.posterior.layout import Layout
from tombola.posterior.likelihood import Categorical
from tombola.posterior.state import initial_state
from tombola.pruning.units import units_of
from tombola.settings import PosteriorSettings
from tombola.training.at_start import Untrained, start_scores

X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3


class Twice(nn.Module):
    """A layer and a norm under two names each, and a weight of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.c, self.head = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.again, self.same = self.a, self.norm
        self.c.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(self.same(self.again(self.norm(self.a(x)).relu())).relu()))


class Named(nn.Module):
    """A hidden layer that has two names and is used once."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.again = self.a

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(x).relu())


def net(kind: type[nn.Module] = Twice) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def scores(module: nn.Module, score: str) -> None:
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0).as_family("point")
    start_scores(Untrained(module, state, Categorical(), [(X, Y)]), PruneSettings(score=score))


def by_laplace(module: nn.Module) -> None:
    train, prune = TrainSettings(method="laplace", epochs=1, batch_size=6), PruneSettings(levels=0)
    find_tickets(module, (X, Y), train=train, prune=prune, progress=False)


USES: dict[str, Callable[[nn.Module], object]] = {
    "biases that batch norm takes out": lambda module: cancelled_biases(module, X),
    "forward in training": lambda module: Bayesian(module)(X),
    "forward in evaluation": lambda module: Bayesian(module).eval()(X),
    "snip": lambda module: scores(module, "snip"),
    "grasp": lambda module: scores(module, "grasp"),
    "synflow": lambda module: scores(module, "synflow"),
    "units": lambda module: units_of(module, Layout.of(module, classifier=True), X, "channels"),
    "laplace": by_laplace,
}


def test_the_output_is_that_of_a_module_with_these_tensors():
    module, other = Twice(), Twice()
    other.load_state_dict(module.state_dict())
    module.eval(), other.eval()
    with torch.no_grad():
        other.a.weight.mul_(2)
        other.norm.running_mean.fill_(0.5)
    tensors = {"c.weight": 2 * module.a.weight, "same.running_mean": torch.full((4,), 0.5)}
    assert torch.equal(holding(module, tensors)(X), other(X))


@pytest.mark.filterwarnings("ignore:the ticket has no batch-norm")
@pytest.mark.parametrize("use", USES)
def test_a_module_with_parts_under_two_names_is_left_as_it_was(use: str):
    kind = Named if use == "units" else Twice  # tied channels are no units
    module, fresh = net(kind), net(kind).state_dict()
    own = {name: (id(p), p.requires_grad) for name, p in module.named_parameters(remove_duplicate=False)}
    USES[use](module)
    assert {name: (id(p), p.requires_grad) for name, p in module.named_parameters(remove_duplicate=False)} == own
    state = module.state_dict()
    assert state.keys() == fresh.keys()
    assert all(torch.equal(state[name], value) for name, value in fresh.items())
