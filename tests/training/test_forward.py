"""A `Bayesian` that is called: in trainers that make the loss themselves."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tombola import Bayesian, PosteriorSettings, TombolaError
from tombola.streams import generator


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(4 * 4 * 4, 3)
    )


def data() -> tuple[torch.Tensor, torch.Tensor]:
    stream = generator("forward")
    return torch.randn(16, 2, 6, 6, generator=stream), torch.randint(3, (16,), generator=stream)


def bayesian(module: nn.Module, **settings) -> Bayesian:
    mask = {"0.weight": torch.arange(72).view(4, 2, 3, 3) % 2, "5.weight": torch.arange(192).view(3, 64) % 3}
    return Bayesian(module, posterior=PosteriorSettings(std=0.1, prior_mean="start"), mask=mask, seed=3, **settings)


@pytest.mark.parametrize("frozen", [False, True])
def test_loss_and_gradients_are_those_of_negative_elbo(frozen: bool):
    module, (inputs, targets) = net(), data()
    module[1].weight.requires_grad_(not frozen)
    own, called = bayesian(module), bayesian(module)
    for _ in range(2):  # two samples, two updates of batch-norm statistics
        expected = own.negative_elbo((inputs, targets), examples=100)
        expected.backward()
        found = F.cross_entropy(called(inputs), targets) + called.kl() / 100
        found.backward()
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(called.mean.grad, own.mean.grad)
        torch.testing.assert_close(called.log_std.grad, own.log_std.grad)
    assert own.step == called.step == 2
    for name, value in own.state().buffers.items():
        torch.testing.assert_close(called.state().buffers[name], value)


def test_in_evaluation_it_is_the_mean_and_changes_nothing():
    module, (inputs, _) = net(), data()
    before = copy.deepcopy(module.state_dict())
    model = bayesian(module)
    model(inputs)
    state, step = model.state(), model.step
    model.eval()
    plain = net().eval()
    plain.load_state_dict({**plain.state_dict(), **state.posterior.layout.views(state.posterior.mean), **state.buffers})
    torch.testing.assert_close(model(inputs), plain(inputs))
    with torch.inference_mode():
        torch.testing.assert_close(model(inputs), plain(inputs))
    assert model.step == step
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(m.training for m in module.modules())


def test_tied_weights_replaced_buffers_and_keyword_arguments():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(7, 5), nn.Linear(5, 7, bias=False)
            self.out.weight = self.embed.weight
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, tokens: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
            self.seen = self.seen + 1
            return scale * self.out(self.embed(tokens))

    torch.manual_seed(0)
    model, tokens = Bayesian(Tied(), posterior=PosteriorSettings(random=["*"])), torch.arange(6)
    loss = F.cross_entropy(model(tokens=tokens, scale=2.0), tokens) + model.kl() / 10
    loss.backward()
    assert model.mean.grad.abs().sum() > 0
    assert model.state().buffers["seen"] == 1
    model.eval()(tokens)
    assert model.state().buffers["seen"] == 1


def test_one_example_is_normalised_by_running_statistics():
    model, (inputs, _) = Bayesian(nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))), data()
    model(inputs[:, :, 0, 0])
    before = model.state().buffers["1.running_mean"]
    assert model(inputs[:1, :, 0, 0]).isfinite().all()
    assert torch.equal(model.state().buffers["1.running_mean"], before)


def test_recomputed_activations_are_refused():
    module = net()
    module[0].gradient_checkpointing = True  # as parts of Hugging Face's models have it
    with pytest.raises(TombolaError, match="Sequential recomputes activations in the backward pass"):
        bayesian(module)(data()[0])
