"""A batch in parts: the gradients and the loss of the whole batch, in the memory of a part."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tombola import Layout, PosteriorSettings, TrainSettings
from tombola.errors import TombolaError
from tombola.inference import method_of
from tombola.posterior.batch import shares
from tombola.posterior.likelihood import Categorical
from tombola.posterior.state import initial_state
from tombola.settings.keys import canonical, restored
from tombola.streams import generator, global_stream
from tombola.training.memory import Allocations

CASES = [
    {},
    {"samples": 3},
    {"samples": 3, "objective": "log_expected"},
    {"estimator": "antithetic", "samples": 2},
    {"estimator": "mean"},
    {"loss_scale": "sum"},
    {"method": "map"},
]


class Squares(nn.Module):
    """A Gaussian's log likelihood but for a constant."""

    def forward(self, output, batch):
        return -((output - batch[1]) ** 2) / 2


def gradients(changes: dict, accumulate: int, batch: int = 11) -> tuple[torch.Tensor, list[torch.Tensor]]:
    settings = TrainSettings(accumulate=accumulate, **changes)
    with global_stream("accumulate"):
        module = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    stream = generator("accumulate data")
    data = torch.randn(batch, 6, generator=stream).double(), torch.randint(3, (batch,), generator=stream)
    state = initial_state(module, Layout.of(module), PosteriorSettings(std=0.3), 0)
    method = method_of(settings.method)
    start = state.as_family(method.learns)
    learner = method(module, start, Categorical(), settings, 100, ("t",))
    with learner.binding:
        loss = learner.gradients(data, 5)
    return loss, [group["params"][0].grad.clone() for group in learner.groups()]


@pytest.mark.parametrize("accumulate", [2, 3, 5, 99])
@pytest.mark.parametrize("changes", CASES, ids=str)
def test_parts_give_the_gradients_and_the_loss_of_the_whole_batch(changes: dict, accumulate: int):
    """11 examples: parts of unequal size are weighted by it."""
    whole, parted = gradients(changes, 1), gradients(changes, accumulate)
    torch.testing.assert_close(parted[0], whole[0])
    for a, b in zip(parted[1], whole[1], strict=True):
        torch.testing.assert_close(a, b)
    assert any(g.abs().max() > 1e-6 for g in whole[1])


@given(length=st.integers(1, 60), count=st.integers(1, 70))
def test_parts_are_the_batch_and_none_has_one_example_alone(length: int, count: int):
    batch = torch.arange(length), torch.arange(length)
    found = list(shares(batch, length, count))
    assert torch.equal(torch.cat([targets for (_, targets), _ in found]), batch[1])
    assert all(torch.equal(batch[0][rows], inputs) for (inputs, _), rows in found)
    sizes = [rows.stop - rows.start for _, rows in found]
    assert len(sizes) <= count
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= min(2, length)
    assert len(sizes) == count or 2 * count > length


def test_parts_take_the_memory_of_one():
    def peak(accumulate: int) -> int:
        module = nn.Sequential(nn.Linear(4, 2000), nn.Tanh(), nn.Linear(2000, 2))
        data = torch.randn(400, 4), torch.zeros(400, dtype=torch.long)
        settings = TrainSettings(accumulate=accumulate, samples=2)
        state = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
        learner = method_of("vi")(module, state, Categorical(), settings, 400, ("t",))
        with Allocations() as allocations, learner.binding:
            learner.gradients(data, 0)
        return max(allocations.peaks)

    assert peak(8) < 0.3 * peak(1)


def test_only_a_batch_in_parts_enters_keys():
    assert canonical(restored(TrainSettings, {"accumulate": 1})) == {}
    assert canonical(restored(TrainSettings, {"accumulate": 4})) == {"accumulate": 4}


def test_a_batch_whose_targets_are_of_another_length_is_not_cut():
    """Sequences flattened into one column of targets: as a whole they go, and in parts the reason is named."""
    batch = torch.randn(4, 5), torch.randn(20)

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Linear(5, 5)

        def forward(self, x):
            return self.scale(x).flatten()

    module = Flat()
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    for accumulate in (1, 2):
        settings = TrainSettings(accumulate=accumulate)
        learner = method_of("vi")(module, state, Squares(), settings, 100, ("t",))
        with learner.binding:
            if accumulate == 1:
                assert learner.gradients(batch, 0) > 0
            else:
                with pytest.raises(TombolaError, match=r"accumulate is 2, but the batch has 4 inputs and 20 targets"):
                    learner.gradients(batch, 0)
