"""What a kill loses, and what checkpoints cost, by a clock on which a step takes seven seconds."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tombola import PosteriorSettings, PruneSettings, TrainSettings, train
from tombola.data.batches import TensorBatches
from tombola.posterior.state import initial_state, layout_of
from tombola.training.checkpoint import Checkpoint

STEP = 7.0


@pytest.mark.parametrize(("writing", "interval"), [(0.0, 30.0), (1.2, 30.0), (6.0, 150.0)])
def test_a_killed_training_loses_at_most_the_interval(writing, interval, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whichever step it is killed in; that step is lost as well."""
    clock = [0.0]
    monkeypatch.setattr("tombola.training.checkpoint.time", SimpleNamespace(monotonic=lambda: clock[0], time=time.time))

    class Slow(Checkpoint):
        def write(self, *args):
            super().write(*args)
            clock[0] += writing

    checkpoint, saved, lost = Slow(tmp_path / "checkpoint", seconds=30.0), [], []

    def step(done: int, total: int) -> None:
        clock[0] += STEP
        found = checkpoint.load(torch.device("cpu"))
        saved.append(found[1]["step"] if found else 0)
        lost.append(STEP * (done - saved[-1]))

    module = nn.Linear(4, 3)
    state = initial_state(module, layout_of(module, PosteriorSettings(), PruneSettings()), PosteriorSettings(), 0)
    batches = TensorBatches(torch.randn(80, 4), torch.arange(80) % 3, 1, 0)
    train(module, state, batches, TrainSettings(epochs=1), stream=("x",), checkpoint=checkpoint, on_step=step)
    assert max(lost) <= interval + STEP
    assert max(lost[len(lost) // 2 :]) > interval - STEP  # it is not saved more often than that, either
    later = len(set(saved)) - 2  # how long one takes is known from the first on
    assert later * writing <= 0.04 * clock[0]  # 2% at twice that interval, the default
