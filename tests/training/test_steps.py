"""Captured steps, as far as a machine without CUDA can tell: the same function, uncaptured, takes today's steps."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tombola import Layout, PosteriorSettings, TombolaError, TrainSettings
from tombola.data.augment import flip_and_crop
from tombola.data.batches import LoaderBatches, TensorBatches
from tombola.data.normalise import Normalise
from tombola.inference import graphs, method_of
from tombola.posterior.state import State, initial_state
from tombola.training.divergence import TrainingError
from tombola.training.loop import train_side_by_side
from tombola.training.work import Training

KINDS = {
    "vi": {},
    "vi, sgd": {"optimiser": "sgd", "lr": 0.05, "weight_decay": 1e-3},
    "vi, ten samples": {"samples": 10},
    "vi, antithetic": {"estimator": "antithetic", "samples": 4},
    "vi, KL warm-up": {"kl_warmup_epochs": 1.0, "clip_norm": 0.5},
    "ivon": {"method": "ivon"},
    "map": {"method": "map", "optimiser": "sgd", "momentum": 0.0},
}


def net(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(128, 4)
        )


def start(module: nn.Module, settings: TrainSettings, density: float = 1.0) -> State:
    layout = Layout.of(module)
    posterior = method_of(settings.method).start(PosteriorSettings(std=0.05), settings, 50)
    state = initial_state(module, layout, posterior, 0).as_family(method_of(settings.method).learns)
    mask = torch.rand(layout.numel, generator=torch.Generator().manual_seed(1)) < density
    return replace(state, posterior=state.posterior.masked(mask))


def batches(size: int = 16, seed: int = 3) -> TensorBatches:
    pixels = torch.randint(0, 256, (50, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    labels = torch.randint(0, 4, (50,), generator=torch.Generator().manual_seed(seed))
    normalise = Normalise((0.5,) * 3, (0.2,) * 3, 255)
    return TensorBatches(pixels, labels, size, 7, flip_and_crop(flip=True, crop=1), normalise)


def training(settings: TrainSettings, seed: int = 0, density: float = 1.0, data: TensorBatches | None = None) -> Training:
    module = net(seed)
    return Training(
        module=module,
        state=start(module, settings, density),
        batches=data or batches(),
        settings=settings,
        stream=("t", seed),
    )


def settings_of(kind: str) -> TrainSettings:
    return TrainSettings(**({"epochs": 3, "lr": 0.01, "schedule": "one_cycle"} | KINDS[kind]))


@pytest.fixture
def on_a_cpu(monkeypatch):
    monkeypatch.setattr(graphs, "check_device", lambda device: None)


def assert_equal(found: State, expected: State, **tolerance: float) -> None:
    other = expected.tensors()
    for name, value in found.tensors().items():
        torch.testing.assert_close(value, other[name], **tolerance)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("density", [1.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_captured_function_takes_the_steps_of_the_loop(kind: str, density: float, on_a_cpu):
    settings = settings_of(kind)
    (eager,) = train_side_by_side([training(settings, density=density)])
    (whole,) = train_side_by_side([training(replace(settings, cuda_graphs=True), density=density)])
    assert_equal(whole.state, eager.state, rtol=1e-5, atol=1e-6)
    assert [row["loss"] for row in whole.history] == pytest.approx([row["loss"] for row in eager.history], rel=1e-5)
    pruned = ~eager.state.posterior.mask
    assert not whole.state.posterior.mean[pruned].any()


@pytest.mark.parametrize("graphs_on", [False, True])
def test_networks_side_by_side_end_as_each_alone(graphs_on: bool, on_a_cpu):
    kinds = [replace(settings_of(kind), cuda_graphs=graphs_on) for kind in ("vi", "vi, sgd", "map", "ivon")]
    alone = [train_side_by_side([training(s, seed)])[0] for seed, s in enumerate(kinds)]
    together = train_side_by_side([training(s, seed) for seed, s in enumerate(kinds)])
    for one, other in zip(together, alone, strict=True):
        assert_equal(one.state, other.state, rtol=0, atol=0)
        assert one.history == other.history


def test_a_part_of_the_schedule_begins_in_the_middle_of_an_epoch(on_a_cpu):
    settings = settings_of("vi")
    (eager,) = train_side_by_side([training(settings)], start=2, stop=6)
    (whole,) = train_side_by_side([training(replace(settings, cuda_graphs=True))], start=2, stop=6)
    assert_equal(whole.state, eager.state, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        (lambda s: training(replace(s, epochs=5)), "as many steps each"),
        (lambda s: replace(training(s), batches=LoaderBatches([(torch.zeros(1), torch.zeros(1))] * 4, 50)), "TensorBatches"),
    ],
)
def test_trainings_that_cannot_go_side_by_side_are_refused(others, sentence: str):
    settings = settings_of("vi")
    with pytest.raises(TombolaError, match=sentence):
        train_side_by_side([training(settings), others(settings)])


def test_a_last_update_that_is_not_finite_is_an_error_and_no_ticket():
    settings = TrainSettings(epochs=1, optimiser="sgd", lr=1e38, momentum=0.0, log_std_lr_factor=1e3)
    with pytest.raises(TrainingError, match=r"training stopped after its last step: .* is not finite any more"):
        train_side_by_side([training(settings, data=batches(50))])  # of one step


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_takes_the_steps_of_the_loop_on_a_gpu(kind: str):
    def on_gpu(settings: TrainSettings, seed: int) -> Training:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
        state, cpu = start(module, settings, 0.5), batches()
        data = TensorBatches(cpu.inputs.cuda(), cpu.targets.cuda(), 16, 7, cpu.augment, cpu.prepare)
        module = module.cuda()
        return Training(module=module, state=state.to("cuda"), batches=data, settings=settings, stream=("t", seed))

    settings = settings_of(kind)
    eager = [train_side_by_side([on_gpu(settings, seed)])[0] for seed in range(3)]
    graphed = replace(settings, cuda_graphs=True)
    together = train_side_by_side([on_gpu(graphed, seed) for seed in range(3)])
    for found in (together, [train_side_by_side([on_gpu(graphed, seed)])[0] for seed in range(3)]):
        for one, other in zip(found, eager, strict=True):
            assert_equal(one.state, other.state, rtol=1e-2, atol=1e-3)
            assert one.history[-1]["loss"] == pytest.approx(other.history[-1]["loss"], rel=1e-3)
