"""Tickets of whole units: the physically smaller network computes the same, and weights stay zero under every method."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tombola
from support.unit_nets import NETS, WITH_HEADS, layout, made, random_alive, trained, units
from tombola import PruneSettings, TrainSettings, find_tickets
from tombola.errors import TombolaError
from tombola.inference import METHODS
from tombola.posterior.layout import Layout
from tombola.posterior.state import initial_state
from tombola.pruning.smaller import smaller
from tombola.pruning.ticket import Ticket, ticket_of, with_mask
from tombola.pruning.units import units_of
from tombola.settings import PosteriorSettings

pytestmark = pytest.mark.filterwarnings("ignore:the ticket has no batch-norm statistics")


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", NETS)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=3)
def test_a_net_without_units_equals_the_physically_smaller_one(name, seed):
    """In evaluation, with norms, biases and statistics that are all not at their defaults."""
    module, inputs = made(name)
    alive = random_alive(units(name), torch.Generator().manual_seed(seed))
    ticket = trained(name, units(name).masked(torch.ones(layout(name).numel, dtype=torch.bool), alive))
    small, own = smaller(ticket, module, inputs)
    masked = ticket.write_mean(copy.deepcopy(module))
    assert sum(p.numel() for p in small.parameters()) == int(ticket.mask.sum()) == own.mask.numel()
    precise = inputs.double() if inputs.is_floating_point() else inputs
    with torch.no_grad():
        torch.testing.assert_close(copy.deepcopy(small).double()(precise), masked.double()(precise))
    assert bool(own.mask.all())
    assert all(torch.equal(own.state_dict(small)[key], value) for key, value in small.state_dict().items())
    std = ticket.posterior.std
    assert own.posterior.std.sort().values.tolist() == std[ticket.mask].sort().values.tolist()
    own.layout.check(small)
    widths = units(name).layer[alive].bincount()
    if name in WITH_HEADS:
        assert [part.heads for part in small.modules() if hasattr(part, "heads")] == widths[::2].tolist()


@pytest.mark.slow  # kernels are compiled
def test_the_compiled_ticket_computes_without_the_pruned_channels():
    module, inputs = made("resnet")
    alive = torch.ones(len(units("resnet")), dtype=torch.bool)
    alive[2:4] = False  # two channels that shortcuts add
    ticket = trained("resnet", units("resnet").masked(torch.ones(layout("resnet").numel, dtype=torch.bool), alive))
    small, own = smaller(ticket, module, inputs)
    with torch.no_grad():
        expected = small(inputs)
        for compiled in (
            tombola.compile(ticket, module, inputs, kernels="sparse"),
            tombola.compile(own, small, inputs, kernels="dense"),
        ):
            torch.testing.assert_close(compiled(inputs), expected, rtol=1e-4, atol=1e-5)


def test_masks_of_single_weights_stay_masks_and_trained_ones_stay_samples(tmp_path):
    module, inputs = made("mlp")
    mask = torch.rand(layout("mlp").numel, generator=torch.Generator().manual_seed(0)) < 0.5
    ticket = trained("mlp", mask | ~layout("mlp").prunable)
    small, own = smaller(ticket, module, inputs)
    assert torch.equal(own.mask, ticket.mask)
    own.save(tmp_path / "small.safetensors")
    assert tombola.load(tmp_path / "small.safetensors", small).predict(small, inputs).probs.shape == (8, 5)


class Convolutions(nn.Module):
    """Depthwise and transposed convolutions, whose sizes are written in other ways."""

    def __init__(self):
        super().__init__()
        self.one, self.depthwise, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 6, 1)
        self.larger, self.last = nn.ConvTranspose2d(6, 4, 2, stride=2), nn.Linear(4, 3)

    def forward(self, x):
        x = self.two(self.depthwise(self.one(x).relu()).relu()).relu()
        return self.last(self.larger(x).mean((2, 3)))


def test_sizes_of_convolutions_are_those_of_their_weights():
    module, inputs = Convolutions(), torch.randn(3, 3, 5, 5)
    own = Layout.of(module)
    found = units_of(module, own, inputs, "units")
    alive = torch.ones(len(found), dtype=torch.bool)
    alive[[1, 4]] = False
    mask = found.masked(torch.ones(own.numel, dtype=torch.bool), alive)
    state = initial_state(module, own, PosteriorSettings(), 0).masked(mask)
    small, _ = smaller(Ticket(mask, state, state), module, inputs)
    for name, kind in (("one", nn.Conv2d), ("depthwise", nn.Conv2d), ("two", nn.Conv2d), ("larger", nn.ConvTranspose2d)):
        layer = getattr(small, name)
        anew = kind(layer.in_channels, layer.out_channels, layer.kernel_size, groups=layer.groups)
        assert anew.weight.shape == layer.weight.shape, name
    sizes = [(layer.in_channels, layer.out_channels, layer.groups) for layer in list(small.children())[:4]]
    assert sizes == [(3, 6, 1), (6, 6, 6), (6, 6, 1), (6, 4, 1)]


class Fixed(nn.Module):
    """A net with the size of its hidden layer written in it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.first(x).view(-1, 6))


def test_a_net_with_sizes_of_its_own_is_refused():
    module, inputs = Fixed(), torch.randn(3, 4)
    own = Layout.of(module)
    state = initial_state(module, own, PosteriorSettings(), 0)
    mask = torch.ones(own.numel, dtype=torch.bool)
    own.views(mask)["first.weight"][0] = own.views(mask)["first.bias"][0] = False
    own.views(mask)["last.weight"][:, 0] = False
    ticket = with_mask(ticket_of(state), mask, state)
    with pytest.raises(TombolaError, match="Fixed without its pruned units is another network"):
        smaller(Ticket(ticket.mask, ticket.rewind, ticket.rewind), module, inputs)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("method", METHODS)
def test_pruned_channels_with_their_norms_stay_zero_under_every_method(method):
    """Biases and the parameters of norms too, which are deterministic or have no scores."""
    torch.manual_seed(0)
    norm = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
    module = nn.Sequential(*norm, nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3))
    data = torch.randn(40, 1, 6, 6), torch.randint(0, 3, (40,))
    few = {"keep": 2} if method in ("sgld", "sghmc", "sghmc_mixture", "swag", "ensemble") else {}
    train = TrainSettings(method=method, epochs=2, batch_size=10, lr=0.01, **few)
    prune = PruneSettings(structure="channels", scope="layerwise", fraction=0.5, levels=1, score="mu")
    ticket = find_tickets(module, data, train=train, prune=prune, progress=False)[-1]
    gone = {name: int((~view).sum()) for name, view in ticket.layout.views(ticket.mask).items()}
    assert gone["1.weight"] == gone["1.bias"] == gone["0.weight"] / 9 > 0
    assert gone["3.bias"] > 0
    assert not bool(ticket.posterior.mean[~ticket.mask].any())
    assert not bool(ticket.posterior.sample(torch.Generator().manual_seed(0))[~ticket.mask].any())
    if method != "laplace_full":
        small, _ = smaller(ticket, module, data[0])
        assert small[0].out_channels == 6 - gone["1.weight"]
