"""Small nets of the kinds that ship, with inputs and the units of each; random tickets of them."""

from functools import lru_cache

import torch
from torch import Tensor, nn

from tombola.models import build
from tombola.posterior.layout import Layout
from tombola.posterior.state import State, initial_state
from tombola.pruning.ticket import Ticket, with_mask
from tombola.pruning.ticket import ticket_of as dense_ticket
from tombola.pruning.units import Units, units_of
from tombola.settings import PosteriorSettings

NETS = {
    "mlp": {"hidden": [9, 7, 5]},
    "conv": {"widths": [5, 6, 4], "batch_norm": True},
    "resnet": {"depth": 8, "width": 4},
    "vgg11": {"width": 2},
    "vit": {"dim": 8, "heads": 3, "depth": 2, "head": 4, "hidden": 6},
    "fast": {"width": 3},
    "text": {"dim": 12, "heads": 3, "depth": 2, "hidden": 7},
}
WITH_HEADS = ("vit", "text")


@lru_cache
def made(name: str) -> tuple[nn.Module, Tensor]:
    """A net with values of its own everywhere, in evaluation mode, and 8 inputs. Do not change it."""
    shape = (12,) if name == "text" else (3, 16, 16)
    module = build(name, NETS[name], shape, 5, ("units",)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in (*module.parameters(), *(b for n, b in module.named_buffers() if n.endswith(("mean", "var")))):
            p.add_(torch.rand(p.shape, generator=generator), alpha=0.1)
    inputs = torch.randint(97, 120, (8, 12)) if name == "text" else torch.randn(8, *shape, generator=generator)
    return module, inputs


@lru_cache
def layout(name: str) -> Layout:
    return Layout.of(made(name)[0])


@lru_cache
def units(name: str, structure: str = "units") -> Units:
    return units_of(made(name)[0], layout(name), made(name)[1], structure)


def random_alive(found: Units, generator: torch.Generator) -> Tensor:
    """Units that live, at random, at least one of each layer."""
    alive = torch.rand(len(found), generator=generator) < torch.rand((), generator=generator)
    for layer in found.layer.unique():
        own = (found.layer == layer).nonzero().flatten()
        alive[own[torch.randint(len(own), (), generator=generator)]] = True
    return alive


def start_of(name: str) -> State:
    return initial_state(made(name)[0], layout(name), PosteriorSettings(std_jitter=0.5), 0)


def trained(name: str, mask: Tensor | None = None) -> Ticket:
    """A ticket whose trained state is the net's values, under a mask."""
    state = start_of(name)
    mask = torch.ones(layout(name).numel, dtype=torch.bool) if mask is None else mask
    ticket = with_mask(dense_ticket(state), mask, state)
    return Ticket(ticket.mask, ticket.rewind, ticket.rewind, {"level": 0})
