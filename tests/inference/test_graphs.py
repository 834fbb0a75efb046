"""CUDA graphs: what is refused."""

import pytest
import torch
from torch import nn

from tombola import Layout, PosteriorSettings, TombolaError, TrainSettings, train
from tombola.data.batches import TensorBatches
from tombola.inference.estimators import ESTIMATORS
from tombola.inference.graphs import check_graphs
from tombola.posterior.state import initial_state


@pytest.mark.parametrize("method", ["vi", "map"])
def test_they_are_refused_on_a_cpu(method: str):
    module, settings = nn.Linear(3, 2), TrainSettings(method=method, cuda_graphs=True)
    start = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    batches = TensorBatches(torch.zeros(8, 3), torch.zeros(8, dtype=torch.long), 4, 0)
    with pytest.raises(TombolaError, match=r"train.cuda_graphs needs a CUDA device; this training is on cpu"):
        train(module, start if method == "vi" else start.as_family("point"), batches, settings, stream=("g",))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"estimator": "flipout"}, "changes from step to step"),
        ({"objective": "log_expected"}, "is no single pass"),
        ({"noise_refresh": 0.5}, "reads a pool"),
    ],
)
def test_steps_that_cannot_be_replayed_are_refused(changes: dict, sentence: str):
    settings = TrainSettings(cuda_graphs=True, **changes)
    with pytest.raises(TombolaError, match=sentence):
        check_graphs(settings, ESTIMATORS[settings.estimator])
