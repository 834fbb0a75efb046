"""Too little memory is one sentence that says what to lower; what does not need the memory goes on."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import tombola
from support.tars import png
from tombola.data import load_data
from tombola.data.batches import TensorBatches
from tombola.data.images import Decoder
from tombola.deploy import compiler
from tombola.engine.budget import Budget
from tombola.engine.local import LocalEngine, dataset
from tombola.engine.store import Store
from tombola.errors import MemoryShortError, is_out_of_memory
from tombola.export import program
from tombola.posterior.layout import Layout
from tombola.posterior.state import initial_state
from tombola.predict.sources import open_source
from tombola.pruning.smaller import smaller
from tombola.settings import EvaluateSettings, PosteriorSettings, TrainSettings
from tombola.study.stages import Evaluate, Train
from tombola.training.memory import MemoryForecast, in_words
from tombola.training.out_of_memory import short_of_memory, what_to_lower

ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"),
    "cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
        "4000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "windows": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:115] DefaultCPUAllocator: not enough memory: you tried to allocate 4000000000 bytes."
    ),
    "python": MemoryError(),
}
ASKED = {"cuda": "2.00 GiB", "cpu": "4 GB", "windows": "4 GB", "python": None}


class Hungry(nn.Module):
    """Raises an error of memory in training, or only in evaluation."""

    def __init__(self, error, in_training=True):
        super().__init__()
        self.body, self.error, self.in_training = nn.Linear(4, 3), error, in_training

    def forward(self, x):
        if self.training == self.in_training:
            raise self.error
        return self.body(x)


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_of_memory_are_known_and_say_how_much_was_asked_for(kind: str):
    assert is_out_of_memory(ERRORS[kind])
    sentence = str(short_of_memory(ERRORS[kind], TrainSettings()))
    assert sentence.startswith("out of memory")
    asked = ASKED[kind]
    assert (f"when {asked} more was asked for" in sentence) if asked else ("asked for" not in sentence)


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("out of memory"), KeyError("memory")])
def test_other_errors_are_none_of_memory(error):
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("kind", ERRORS)
def test_training_in_python_says_what_to_lower(kind: str):
    module = Hungry(ERRORS[kind])
    data = torch.randn(8, 4), torch.zeros(8, dtype=torch.long)
    settings, dense = TrainSettings(epochs=1, batch_size=4), tombola.PruneSettings(levels=0)
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    with pytest.raises(tombola.TombolaError, match=r"out of memory.*smaller train\.batch_size \(now 4\)") as caught:
        tombola.train(module, state, TensorBatches(*data, 4, 0), settings, stream=("t",))
    assert isinstance(caught.value, MemoryShortError)
    with pytest.raises(MemoryShortError, match=r"train\.batch_size"):
        tombola.find_tickets(module, data, train=settings, prune=dense, progress=False)
    module.error = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        tombola.find_tickets(module, data, train=settings, prune=dense, progress=False)


class HungryIf(nn.Module):
    """Raises an error of memory in a forward pass, or when it is copied, or with fewer hidden units than 6."""

    def __init__(self, when):
        super().__init__()
        self.first, self.last, self.when = nn.Linear(4, 6), nn.Linear(6, 3), when

    def forward(self, x):
        if self.when == "forward" or (self.when == "smaller" and self.first.out_features < 6):
            raise ERRORS["cuda"]
        return self.last(self.first(x).relu())

    def __deepcopy__(self, memo):
        if self.when == "copied":
            raise ERRORS["cuda"]
        made = HungryIf(self.when)
        made.load_state_dict(self.state_dict())
        return made


def _of_numpy(*args, **kwargs):
    raise MemoryError("Unable to allocate 9.00 GiB for an array")


WANTS = {
    "compile": ("forward", lambda ticket, net, path: compiler.compile(ticket, net, torch.randn(2, 4), kernels="dense")),
    "export": ("forward", lambda ticket, net, path: program(ticket, net, torch.randn(2, 4))),
    "copy": ("copied", lambda ticket, net, path: program(ticket, net, torch.randn(2, 4))),
    "smaller": ("smaller", lambda ticket, net, path: smaller(ticket, net, torch.randn(2, 4))),
    "predict": ("forward", lambda ticket, net, path: tombola.Predictive(ticket, net)(torch.randn(2, 4))),
    "load": ("", lambda ticket, net, path: (ticket.save(path), tombola.load(path))),
    "array": ("", lambda ticket, net, path: open_source(str(path.with_suffix(".npz")), tombola.Signature((4,), "float32"))),
}


@pytest.mark.parametrize("what", WANTS)
def test_a_want_of_memory_is_no_fault_of_the_module_or_the_file(what, tmp_path, monkeypatch):
    when, ask = WANTS[what]
    net = HungryIf(when)
    layout = Layout.of(net)
    mask = torch.ones(layout.numel, dtype=torch.bool)
    for name, part in layout.views(mask).items():
        part[(slice(None), 0) if name == "last.weight" else 0] = name == "last.bias"
    state = initial_state(net, layout, PosteriorSettings(), 0).masked(mask)
    monkeypatch.setattr("numpy.load", _of_numpy)
    if what == "load":
        monkeypatch.setattr("tombola.pruning.damage._check_posterior", _of_numpy)
    (tmp_path / "x.npz").touch()
    with pytest.raises((RuntimeError, MemoryError, MemoryShortError)) as caught:
        ask(tombola.Ticket(mask, state, state), net, tmp_path / "x")
    assert is_out_of_memory(caught.value)
    if what == "predict":
        assert str(caught.value) == "out of memory; use a smaller batch (now 256) or fewer samples"


@pytest.mark.parametrize("where", ["PIL.ImageOps.exif_transpose", "datasets.load_dataset"])
def test_a_want_of_memory_is_no_fault_of_the_data(where, tmp_path, monkeypatch):
    monkeypatch.setattr(where, _of_numpy)
    (tmp_path / "x.png").write_bytes(png(np.zeros((4, 4, 3), np.uint8)))
    (tmp_path / "x.csv").write_text("a,label\n1,0\n2,1\n")
    read = partial(Decoder("d", "RGB", None), "x", (tmp_path / "x.png").read_bytes())
    with pytest.raises(MemoryError):
        read() if where.startswith("PIL") else load_data("huggingface", {"path": str(tmp_path / "x.csv"), "test": 1})


def test_what_takes_most_is_to_be_lowered_first():
    local = TrainSettings(estimator="local", batch_size=64)
    activations = MemoryForecast(weights=2.0, activations=9.0, data=1.0)
    said = what_to_lower(local, None, activations)
    order = [
        "train.accumulate (now 1)",
        "train.batch_size (now 64)",
        "weight_sample",
        "bf16",
        "optimiser sgd",
        "data.resident",
    ]
    places = [said.index(name) for name in order]
    assert places == sorted(places)
    assert what_to_lower(local, None, replace(activations, data=99.0)).startswith(
        "use, what helps most first: data.resident false"
    )
    spare = what_to_lower(TrainSettings(precision="bf16", optimiser="sgd"))
    assert "bf16" not in spare
    assert "sgd" not in spare
    assert "weight_sample" not in spare
    assert "evaluate.batch_size (now 512)" in what_to_lower(local, EvaluateSettings(batch_size=512))


def test_sizes_are_read_as_people_say_them():
    assert [in_words(size) for size in (0, 1234, 2_345_678, 45_000_000, 1.25e9, 22e9)] == [
        *("0 kB", "1 kB", "2.3 MB", "45 MB", "1.2 GB", "22 GB")
    ]
    forecast = MemoryForecast(weights=2e8, activations=9e8, data=1e8)
    assert str(forecast) == "1.3 GB (activations 900 MB, weights and optimiser 200 MB, data 100 MB)"
    assert forecast.total == pytest.approx(1.32e9)
    assert list(MemoryForecast(1.0, 2.0, evaluation=9.0).parts) == ["evaluation"]


MODULES = """
import torch

class Net(torch.nn.Module):
    def __init__(self, outputs, fails):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, outputs))
        self.fails = fails

    def forward(self, x):
        if len(x) > 8 and (self.training and self.fails == "training" or len(x) > 1024 and self.fails == "evaluation"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.body(x)

def net(input_shape, outputs, fails=""):
    return Net(outputs, fails)
"""


def test_a_stage_short_of_memory_fails_alone(tiny, plan_of, run_plan, user_module, tmp_path):
    """Of three models one cannot be trained and one not be measured; the third is, and each sentence has its forecast."""
    user_module("hungry", MODULES)
    models = [{"name": "hungry:net", "args": {"fails": fails}} for fails in ("training", "evaluation", "")]
    plan = plan_of(tiny | {"model": models, "prune": {"levels": 0}, "evaluate": {"samples": 2, "batch_size": 1500}})
    store, watcher = Store(tmp_path / "stages"), run_plan(plan_of(tiny | {"prune": {"levels": 0}}), "other")[1]
    watcher.sentences.clear()
    engine = LocalEngine(store, torch.device("cpu"), watcher, needs=Budget(plan.stages, torch.device("cpu"), dataset).of)
    engine.run(plan)
    training, evaluation = watcher.sentences
    start = "failed: out of memory when 2.00 GiB more was asked for (forecast: "
    assert training.startswith("train vi")
    assert start in training
    assert "activations" in training
    assert "a smaller train.batch_size (now 64)" in training
    assert evaluation.startswith("evaluate")
    assert start in evaluation
    assert "a smaller evaluate.batch_size (now 1500), then fewer evaluate.samples" in evaluation
    done = [stage for stage in plan.stages if store.done(stage.key)]
    assert sum(isinstance(stage, Train) for stage in done) == 2
    assert sum(isinstance(stage, Evaluate) for stage in done) == 1


def test_a_run_says_what_it_needs_and_warns_where_that_is_more_than_is_free(tiny, study_file, cli, monkeypatch):
    path = study_file(tiny)
    said = cli("run", path, "--dry-run", "--device", "cpu").output
    (line,) = [line for line in said.splitlines() if line.startswith("memory: ")]
    assert " free on cpu (" in line
    assert "may be more memory" not in said
    monkeypatch.setattr("tombola.engine.budget.free_memory", lambda device: 1000)
    said = cli("run", path, "--dry-run", "--device", "cpu").output
    assert "this may be more memory than there is; if it fails, use" in said
    assert Budget([], torch.device("cpu"), dataset).lines([]) == []


SMALL_ROOM = """
import resource, sys
import torch, tombola
torch.set_num_threads(1)
module = torch.nn.Sequential(torch.nn.Linear(8, 20_000), torch.nn.ReLU(), torch.nn.Linear(20_000, 2))
data = torch.randn(60_000, 8), torch.zeros(60_000, dtype=torch.long)
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 1_000_000_000,) * 2)
settings = tombola.TrainSettings(epochs=1, batch_size=60_000)
try:
    tombola.find_tickets(module, data, train=settings, prune=tombola.PruneSettings(levels=0), progress=False)
except tombola.TombolaError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc")
def test_a_real_want_of_memory_is_a_sentence():
    """60,000 examples of 20,000 activations are 4.8 GB, in a process that may have 1 GB more."""
    done = subprocess.run([sys.executable, "-c", SMALL_ROOM], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("out of memory when 4.8 GB more was asked for; use"), done.stderr
    assert "a smaller train.batch_size (now 60000)" in done.stdout
