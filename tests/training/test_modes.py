"""Calls within inference mode and with gradients disabled give what they give outside, and so does the training after."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn

from tombola import Bayesian, PruneSettings, TombolaError, TrainSettings, find_tickets, forecast_memory
from tombola.streams import generator, global_stream

Mode = Callable[[], AbstractContextManager]
MODES = [torch.inference_mode, torch.no_grad, lambda: torch.set_grad_enabled(False)]


def net() -> nn.Sequential:
    with global_stream("modes"):
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.1), nn.Linear(6, 2))


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(12, 4, generator=generator("x")), torch.arange(12) % 2


def stepped(model: Bayesian) -> Tensor:
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        model.negative_elbo(data(), examples=12).backward()
        optimiser.step()
    return model.posterior.mean.detach()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("whole", [False, True])
def test_a_bayesian_module_is_validated_in_it_and_trained_after(mode: Mode, whole: bool):
    expected = Bayesian(net(), training_inputs=data()[0])
    loss, probs = expected.eval().negative_elbo(data(), examples=12), expected.predict(data()[0], samples=2).probs
    module = net()
    with mode() if whole else nullcontext():
        model = Bayesian(module, training_inputs=data()[0])
    with mode():
        batch = data()  # its tensors are of that mode
        found = model.eval().negative_elbo(batch, examples=12)
        assert not found.requires_grad
        assert torch.equal(found, loss)
        assert torch.equal(model.predict(batch[0], samples=2).probs, probs)
        model.rewind(model.prune(fraction=0.5))
    expected.prune(fraction=0.5)
    assert torch.equal(stepped(model.train()), stepped(expected.train()))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loader", [False, True])
def test_tickets_are_found_in_it(mode: Mode, loader: bool):
    def found(module: nn.Module) -> Tensor:
        given = [data()] * 2 if loader else data()
        settings, prune = TrainSettings(epochs=2, batch_size=5), PruneSettings(fraction=0.5, levels=1)
        ticket = find_tickets(module, given, examples=24, train=settings, prune=prune, progress=False)[-1]
        forecast_memory(module, given, train=settings, prune=prune)
        return torch.cat([ticket.posterior.mean, ticket.outputs(module, data()[0], samples=2).flatten()])

    module, expected = net(), found(net())
    with mode():
        assert torch.equal(found(module), expected)


def test_a_module_that_was_made_in_inference_mode_is_refused():
    with torch.inference_mode():
        module = net()
    with pytest.raises(TombolaError, match=r"'0\.weight' of Linear was made in inference mode"):
        Bayesian(module)
