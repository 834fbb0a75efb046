"""CUDA graphs, as far as a machine without CUDA can tell: what is refused, and which batches share a capture."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn

from tombola import Layout, PosteriorSettings, TombolaError, TrainSettings, train
from tombola.data.batches import TensorBatches
from tombola.inference.forward import DataTerm
from tombola.inference.graphs import GraphedTerm, copy_into, kind_of, like
from tombola.posterior.binding import Binding, buffers_of
from tombola.posterior.likelihood import Categorical
from tombola.posterior.state import initial_state


@pytest.mark.parametrize("method", ["vi", "map"])
def test_they_are_refused_on_a_cpu(method: str):
    module, settings = nn.Linear(3, 2), TrainSettings(method=method, cuda_graphs=True)
    start = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    batches = TensorBatches(torch.zeros(8, 3), torch.zeros(8, dtype=torch.long), 4, 0)
    with pytest.raises(TombolaError, match=r"train.cuda_graphs needs a CUDA device; this training is on cpu"):
        train(module, start if method == "vi" else start.as_family("point"), batches, settings, stream=("g",))


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


class Nothing:
    """Stands in for a stream and for a graph: on a CPU a capture runs what it would record, so nothing is replayed."""

    def __init__(self, *args):
        pass

    def wait_stream(self, other):
        pass

    def replay(self):
        pass


def test_a_capture_is_the_work_of_one_step_and_lets_other_threads_pin_memory(monkeypatch):
    asked = []

    @contextmanager
    def graph(made, **how):
        asked.append(how)
        yield

    for name, stand_in in {
        "Stream": Nothing,
        "CUDAGraph": Nothing,
        "current_stream": Nothing,
        "stream": nullcontext,
        "get_rng_state": lambda device: None,
        "set_rng_state": lambda state, device: None,
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    batch = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
    found = []
    for kind in (DataTerm, GraphedTerm):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        layout = Layout.of(module)
        state = initial_state(module, layout, PosteriorSettings(), 0)
        theta, out = state.posterior.mean.clone(), torch.zeros(layout.numel)
        with Binding(module, layout, theta) as binding:
            loss = kind(binding, Categorical()).backward(batch, out, 1.0)
            found.append((loss, out, buffers_of(module)))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)  # the warm-up has moved no running statistics
    assert asked == [{"capture_error_mode": "thread_local"}]
