"""CUDA graphs, as far as a machine without CUDA can tell: what is refused, and which batches share a capture."""

import pytest
import torch
from torch import nn

from tombola import Layout, PosteriorSettings, TombolaError, TrainSettings, train
from tombola.batches import TensorBatches
from tombola.inference.graphs import copy_into, kind_of, like
from tombola.posterior.state import initial_state


@pytest.mark.parametrize("method", ["vi", "map"])
def test_they_are_refused_on_a_cpu(method: str):
    module, settings = nn.Linear(3, 2), TrainSettings(method=method, cuda_graphs=True)
    start = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    batches = TensorBatches(torch.zeros(8, 3), torch.zeros(8, dtype=torch.long), 4, 0)
    with pytest.raises(TombolaError, match=r"train.cuda_graphs needs a CUDA device; this training is on cpu"):
        train(module, start if method == "vi" else start.as_point(), batches, settings, words=("g",))


def test_a_smaller_last_batch_another_dtype_and_another_layout_are_captured_apart():
    images, labels = torch.zeros(8, 3, 4, 4), torch.zeros(8, dtype=torch.long)
    whole = kind_of((images, labels))
    assert kind_of((images + 1, labels + 1)) == whole
    laid_out = images.contiguous(memory_format=torch.channels_last)
    for other in ((images[:5], labels[:5]), (images.double(), labels), (laid_out, labels), {"x": images, "y": labels}):
        assert kind_of(other) != whole
    hash(kind_of({"x": images, "flags": [True, None]}))


@pytest.mark.parametrize("as_mapping", [False, True])
def test_a_batch_is_copied_into_the_captured_one_whose_memory_stays(as_mapping: bool):
    images = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(2)
    batch = {"x": images, "y": labels} if as_mapping else (images, labels)
    static = like(batch)
    own = list(static.values()) if as_mapping else list(static)
    places = [t.data_ptr() for t in own]
    assert kind_of(static) == kind_of(batch)
    copy_into(static, {"x": images + 1, "y": labels + 1} if as_mapping else (images + 1, labels + 1))
    assert torch.equal(own[0], images + 1)
    assert torch.equal(own[1], labels + 1)
    assert [t.data_ptr() for t in own] == places
