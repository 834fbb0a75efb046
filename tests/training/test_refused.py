"""Slips that gave a wrong result in silence: one sentence, before any training."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tombola import Bayesian, PosteriorSettings, PruneSettings, TombolaError, TrainSettings, find_tickets
from tombola.posterior.batch import run
from tombola.posterior.state import State
from tombola.streams import generator, global_stream


def net(*layers: nn.Module) -> nn.Sequential:
    with global_stream("refused"):
        return nn.Sequential(nn.Linear(4, 6), *layers, nn.ReLU(), nn.Linear(6, 2))


def data(examples: int = 9) -> tuple[Tensor, Tensor]:
    return torch.randn(examples, 4, generator=generator("x")), torch.arange(examples) % 2


def find(module: nn.Module, given: object = None, **changed: object) -> State:
    settings = {"train": TrainSettings(epochs=2, batch_size=4), "prune": PruneSettings(levels=1), "progress": False}
    tickets = find_tickets(module, data() if given is None else given, **(settings | changed))
    assert tickets[-1].trained is not None
    return tickets[-1].trained


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, data()[0]), frozen])
def test_a_module_of_which_nothing_is_random_is_refused_by_bayesian_methods(make: Callable[[nn.Module], nn.Module]):
    for method in (Bayesian, find):
        with pytest.raises(TombolaError, match="no parameter is random, so the network would be deterministic: choose"):
            method(make(net()))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_scripted_module_is_trained_by_map_and_by_patterns():
    point, none = TrainSettings(method="map", epochs=1), PruneSettings(score="mu", levels=0)
    assert find(torch.jit.script(net()), train=point, prune=none).posterior.std is None
    q = find(torch.jit.script(net()), posterior=PosteriorSettings(random=["*"]), prune=none).posterior
    assert bool((q.std > 0).all())


@pytest.mark.parametrize("score", ["snr", "std_small", "square_coded"])
def test_deterministic_weights_are_not_ranked_by_a_std_that_they_lack(score: str):
    posterior, prune = PosteriorSettings(random=["2.*"]), PruneSettings(score=score, levels=1)
    sentence = f"score '{score}' needs a std, but '0.weight' is prunable and deterministic"
    with pytest.raises(TombolaError, match=sentence):
        find(net(), posterior=posterior, prune=prune)
    with pytest.raises(TombolaError, match=sentence):
        Bayesian(net(), posterior=posterior).prune(score)
    find(net(), posterior=posterior, prune=PruneSettings(score="magnitude", levels=1))


class Images(nn.Module):
    """Batch norm of one image's positions, and of one vector."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x[:, None])).flatten(1))


def loader(size: int, examples: int = 9) -> DataLoader:
    return DataLoader(TensorDataset(*data(examples)), size)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(6), nn.BatchNorm1d(6, momentum=None), nn.BatchNorm1d(6, affine=False)])
@pytest.mark.parametrize("method", ["vi", "map"])
def test_a_last_batch_of_one_is_trained_on_and_leaves_the_statistics(norm: nn.Module, method: str):
    train, none = TrainSettings(method=method, epochs=1), PruneSettings(score="mu", levels=0)
    with_it, without = (
        find(net(norm), [*loader(4, 8), *last], examples=9, train=train, prune=none)
        for last in ([(data()[0][8:], data()[1][8:])], [])
    )
    assert with_it.buffers.keys() == without.buffers.keys()
    assert all(torch.equal(value, without.buffers[name]) for name, value in with_it.buffers.items())
    assert not torch.equal(with_it.posterior.mean, without.posterior.mean)
    assert norm.training


def test_one_image_of_many_positions_is_normalised_by_itself_as_ever():
    found = find(Images(), loader(4), prune=PruneSettings(levels=0))
    assert int(found.buffers["norm.num_batches_tracked"]) == 6  # three batches an epoch, the last of one image


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(6), nn.BatchNorm1d(6, track_running_stats=False)])
def test_one_example_without_statistics_is_refused(norm: nn.Module):
    with pytest.raises(TombolaError, match="a batch of one example has no batch-norm statistics"):
        find(net(norm), loader(1))
    with pytest.raises(TombolaError, match="drop_last=True"):
        Bayesian(net(norm)).negative_elbo(data(1), examples=1)


LAYERS = [
    (nn.Linear(4, 2), (3, 4)),
    (nn.Conv2d(1, 2, 3), (3, 1, 5, 5)),
    (nn.LSTM(4, 2), (3, 4)),
    (nn.MultiheadAttention(4, 2), (3, 4)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_float64_inputs_of_a_float32_module_are_said(layer: nn.Module, shape: tuple[int, ...]):
    x = torch.ones(shape, dtype=torch.float64)
    with pytest.raises(TombolaError, match=r"the inputs are float64, as NumPy's are, .* give inputs.float\(\)"):
        run(layer, (x, x, x) if isinstance(layer, nn.MultiheadAttention) else x)


def test_float64_inputs_are_said_in_a_training_and_taken_where_the_module_takes_them():
    x, y = data()
    with pytest.raises(TombolaError, match="the inputs are float64"):
        find(net(), (x.double(), y))
    find(net().double(), (x.double(), y))
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):  # another error stays as it is
        run(net(), x[:, :3])
