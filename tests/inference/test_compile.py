"""torch.compile of the network under the binding: the same training, and nothing stays behind."""

import shutil
import warnings

import pytest
import torch
from torch import Tensor, nn

from tombola import Layout, PosteriorSettings, TombolaError, TrainSettings, train
from tombola.data.batches import TensorBatches
from tombola.inference import VI
from tombola.posterior.likelihood import Categorical
from tombola.posterior.state import State, initial_state
from tombola.streams import generator

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def data() -> tuple[Tensor, Tensor]:
    stream = generator("compile")
    return torch.randn(40, 6, generator=stream), torch.randint(3, (40,), generator=stream)


def trained(compile: bool, method: str) -> tuple[nn.Module, State]:
    module = net()
    start = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    start = start.masked(torch.rand(start.posterior.layout.numel, generator=generator("mask")) < 0.8)
    # the last batch has 8 examples; Adam would make a step of the rounding errors of a gradient that is 0
    settings = TrainSettings(method=method, epochs=3, batch_size=16, optimiser="sgd", lr=0.05, compile=compile)
    start = start if method == "vi" else start.as_family("point")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its compiler
        batches = TensorBatches(*data(), 16, 0)
        return module, train(module, start, batches, settings, stream=("c",), validation=data()).state


@needs_compiler
@pytest.mark.parametrize("method", ["vi", pytest.param("map", marks=pytest.mark.slow)])
def test_a_compiled_training_is_the_same_within_rounding_and_leaves_the_module_as_it_was(method: str):
    (module, compiled), (_, plain) = (trained(compile, method) for compile in (True, False))
    found, expected = compiled.tensors(), plain.tensors()
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-4)
    fresh = net()
    assert list(module.state_dict()) == list(fresh.state_dict())
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in module.state_dict().items())
    assert module._compiled_call_impl is None
    assert module.training


@pytest.mark.parametrize("estimator", ["local", "flipout"])
def test_an_estimator_that_intercepts_operations_refuses_to_be_compiled(estimator: str):
    module, settings = net(), TrainSettings(estimator=estimator, compile=True)
    start = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    with pytest.raises(TombolaError, match=rf"compile is on, but estimator '{estimator}'.*set compile: false"):
        VI(module, start, Categorical(), settings, 40, ("c",))


def test_a_backward_pass_that_cannot_be_compiled_is_one_sentence(monkeypatch):
    """It is compiled when it first runs, long after the forward pass."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._dynamo.exc import BackendCompilerFailed

    def forward_alone(graph, inputs):
        return graph.forward

    def refuse(graph, inputs):
        raise BackendCompilerFailed(refuse, ValueError("no such kernel"), None)

    real, backend = torch.compile, aot_autograd(fw_compiler=forward_alone, bw_compiler=refuse)
    monkeypatch.setattr(torch, "compile", lambda module, **more: real(module, backend=backend, **more))
    with pytest.raises(TombolaError, match=r"torch\.compile cannot compile Sequential: .*set compile: false"):
        trained(compile=True, method="vi")
