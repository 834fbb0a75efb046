"""Convolution weights that lie channels-last: the same training by name, and no saved state of another order in silence."""

import copy

import pytest
import torch
from torch import nn

import tombola
from tombola.data.batches import TensorBatches
from tombola.errors import TombolaError
from tombola.inference.estimators.noise import NoisePool
from tombola.posterior.layout import Layout, Segment
from tombola.posterior.state import initial_state
from tombola.settings import PosteriorSettings, TrainSettings
from tombola.streams import generator
from tombola.training.checkpoint import Checkpoint
from tombola.training.loop import train


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 1, stride=2),
            nn.Conv2d(8, 8, 3, groups=2),
            nn.Flatten(),
            nn.Linear(32, 3),
        ).double()


def trained(method: str, estimator: str, laid_out: bool) -> dict[str, torch.Tensor]:
    """The posterior's tensors by name after a few steps at density 0.8."""
    module = net()
    layout = Layout.of(module)
    state = initial_state(module, layout, PosteriorSettings(std=0.05, std_jitter=0.1), 0)
    kept = layout.of_row_major(torch.rand(layout.numel, generator=generator("mask")) < 0.8)
    how = {"method": method, "estimator": estimator, "samples": 1 if method == "map" else 2}
    settings = TrainSettings(**how, epochs=2, batch_size=8, channels_last=laid_out)
    stream = generator("data")
    inputs = torch.randn(24, 2, 7, 7, generator=stream, dtype=torch.float64)
    batches = TensorBatches(inputs, torch.randint(3, (24,), generator=stream), 8, 0)
    learns = "point" if method == "map" else "gaussian"
    start = state.masked(kept | ~layout.prunable).as_family(learns)
    q = train(module, start, batches, settings, stream=("t",)).state.posterior
    return {f"{kind} {name}": v for kind, t in q.tensors().items() for name, v in layout.views(t).items()}


@pytest.mark.parametrize("laid_out", [False, True])
@pytest.mark.parametrize(
    ("method", "estimator"), [("map", "weight_sample"), ("vi", "weight_sample"), ("vi", "flipout"), ("ivon", "antithetic")]
)
def test_training_is_the_same_by_name_as_on_row_major_memory(
    method: str, estimator: str, laid_out: bool, monkeypatch: pytest.MonkeyPatch
):
    layout = Layout.of(net())

    # each parameter's noise is drawn in row-major order, on both kinds of memory
    def window(self: NoisePool, tick: int) -> torch.Tensor:
        drawn = torch.randn(self._size, generator=generator(*self.stream, tick), dtype=torch.float64)
        return drawn[layout.rows()[: self._size].argsort()]  # the random parameters are the first

    monkeypatch.setattr(NoisePool, "window", window)
    found = trained(method, estimator, laid_out)
    monkeypatch.setattr(Segment, "channels_last", False)
    for name, value in trained(method, estimator, laid_out).items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-8, msg=name)


def test_a_checkpoint_of_another_order_is_as_none(tmp_path, monkeypatch: pytest.MonkeyPatch):
    checkpoint, cpu = Checkpoint(tmp_path / "checkpoint", seconds=0), torch.device("cpu")
    checkpoint.save({"a": torch.ones(3)}, {"step": 1}, cpu)
    assert checkpoint.load(cpu) is not None
    monkeypatch.setattr("tombola.training.checkpoint.ORDER", "row-major")
    assert checkpoint.load(cpu) is None
    checkpoint.save({"a": torch.ones(3)}, {"step": 1}, cpu)
    monkeypatch.undo()
    assert checkpoint.load(cpu) is None


@pytest.mark.parametrize("order", [None, "row-major"])
def test_a_state_dict_of_another_order_is_refused_where_the_orders_differ(order: str | None):
    for module, differs in ((net(), True), (nn.Linear(3, 2), False)):
        model = tombola.Bayesian(module)
        saved = copy.deepcopy(model.state_dict())
        model.load_state_dict(saved)
        saved["_extra_state"].pop("order")
        if order is not None:
            saved["_extra_state"]["order"] = order
        if differs:
            with pytest.raises(TombolaError, match="weights of convolutions in another order"):
                model.load_state_dict(saved)
        else:
            model.load_state_dict(saved)
