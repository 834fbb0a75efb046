"""The training loop: determinism, resuming, stopping."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tombola import Layout, PosteriorSettings, TrainSettings, train
from tombola.data.augment import flip_and_crop
from tombola.data.batches import LoaderBatches, TensorBatches
from tombola.posterior.state import State, initial_state
from tombola.streams import generator
from tombola.training.checkpoint import Checkpoint
from tombola.training.divergence import TrainingError
from tombola.training.loop import Trained

PER_EPOCH = 4


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(64, 3)
        )


def data(n: int = 64) -> tuple[Tensor, Tensor]:
    stream = generator("training")
    return torch.randn(n, 1, 4, 4, generator=stream), torch.randint(3, (n,), generator=stream)


def settings(**changes) -> TrainSettings:
    return TrainSettings(**{"epochs": 3, "batch_size": 16, "lr": 0.01, "schedule": "cosine", **changes})


def run(changes: dict | None = None, **kwargs) -> Trained:
    module, chosen = net(), settings(**(changes or {}))
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    start = state.as_family("point") if chosen.method == "map" else state
    batches = TensorBatches(*data(), chosen.batch_size, 0, flip_and_crop(flip=True, crop=1))
    return train(module, start, batches, chosen, stream=("t",), validation=data(20), **kwargs)


def assert_equal(a: State, b: State) -> None:
    left, right = a.tensors(), b.tensors()
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.thinned(3)
@pytest.mark.parametrize("step", [1, PER_EPOCH, 2 * PER_EPOCH + 3])
@pytest.mark.parametrize(
    "changes",
    [
        {"optimiser": "adam"},
        {"optimiser": "adamw", "samples": 2, "weight_decay": 0.1},
        {"optimiser": "sgd", "clip_norm": 0.5},
        {"method": "map"},
        {"method": "ivon"},
        {"method": "ivon", "estimator": "antithetic", "samples": 2, "optimiser": "sgd", "weight_decay": 0.1},
        {"estimator": "antithetic", "samples": 2},
        {"estimator": "local", "batch_size": 14},  # the epoch's last batch is smaller
        {"estimator": "flipout", "objective": "log_expected", "samples": 2},
    ],
)
def test_a_resumed_training_has_the_same_bits(changes: dict, step: int, tmp_path: Path):
    whole = run(changes)
    checkpoint = Checkpoint(tmp_path / "checkpoint", seconds=0)

    def kill(done: int, total: int) -> None:
        if done == step + 1:  # the checkpoint of `step` is written
            raise KilledError

    with pytest.raises(KilledError):
        run(changes, checkpoint=checkpoint, on_step=kill)
    sat = []
    resumed = run(changes, checkpoint=checkpoint, on_step=lambda done, total: sat.append(done))
    assert sat[0] == step + 1  # it went on, and did not begin again
    assert_equal(whole.state, resumed.state)
    assert whole.history == resumed.history


def test_global_randomness_neither_enters_nor_leaves():
    torch.manual_seed(1)
    a = run()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    b = run()
    assert torch.equal(before, torch.get_rng_state())
    assert_equal(a.state, b.state)


def test_a_shorter_run_is_the_beginning_of_the_longer_one(tmp_path: Path):
    checkpoint = Checkpoint(tmp_path / "checkpoint", seconds=0)

    def kill(done: int, total: int) -> None:
        if done == 6:
            raise KilledError

    with pytest.raises(KilledError):
        run(checkpoint=checkpoint, on_step=kill)
    saved = checkpoint.load(torch.device("cpu"))
    assert saved is not None
    for name, value in run(stop=5).state.tensors().items():
        assert torch.equal(saved[0][f"state.{name}"], value), name


def test_a_damaged_or_foreign_checkpoint_is_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoint = Checkpoint(tmp_path / "checkpoint", seconds=0)
    cpu = torch.device("cpu")
    checkpoint.save({"a": torch.ones(3)}, {"step": 1}, cpu)
    assert checkpoint.load(cpu) is not None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert checkpoint.load(cpu) is None  # of another arithmetic
    monkeypatch.undo()
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:-1])
    assert checkpoint.load(cpu) is None


def test_the_module_is_left_as_it_was():
    module = net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.eval()
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    train(module, state, TensorBatches(*data(), 16, 0), settings(), stream=("t",))
    assert not module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_batch_norm_statistics_are_part_of_the_state():
    moved = run().state.buffers
    assert int(moved["1.num_batches_tracked"]) == 3 * PER_EPOCH
    assert bool((moved["1.running_mean"] != 0).any())


@pytest.mark.parametrize("method", ["vi", "map"])
def test_inputs_that_are_not_finite_stop_it_with_step_and_cause(method: str):
    module = net()
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    inputs, targets = data()
    inputs[5] = math.nan
    start = state if method == "vi" else state.as_family("point")
    with pytest.raises(TrainingError, match=r"step [0-3]: the loss is nan.*inputs of its batch are not finite"):
        train(module, start, TensorBatches(inputs, targets, 16, 0), settings(method=method), stream=("t",))


def test_a_loss_that_runs_away_stops_it_and_names_the_rate():
    with pytest.raises(TrainingError, match=r"stopped at step \d+: the loss is .*lower train\.lr \(1e\+06\)"):
        run({"lr": 1e6, "optimiser": "sgd", "divergence": 1e3})


def test_label_smoothing_is_torchs():
    plain, smooth = (
        run({"method": "map", "label_smoothing": e, "epochs": 1}, stop=1).history[0]["loss"] for e in (0.0, 0.3)
    )
    assert plain != smooth
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    from tombola.posterior.likelihood import Categorical

    expected = nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.3)
    torch.testing.assert_close(-Categorical(0.3)(logits, (None, labels)), expected)


def test_channels_last_and_bf16_change_little():
    loss = {}
    for name, changes in {"plain": {}, "last": {"channels_last": True}, "bf16": {"precision": "bf16"}}.items():
        loss[name] = run({"epochs": 1, **changes}).history[0]["loss"]
    assert loss["last"] == pytest.approx(loss["plain"], rel=1e-4)
    assert loss["bf16"] == pytest.approx(loss["plain"], rel=0.05)


def test_an_epoch_has_each_example_once_and_no_batch_of_one():
    batches = TensorBatches(torch.arange(9.0), torch.arange(9), 4, seed=0)
    sizes = [len(targets) for _, targets in batches.epoch(0)]
    assert sizes == [4, 5]
    assert batches.steps == 2
    assert sorted(int(t) for _, targets in batches.epoch(0) for t in targets) == list(range(9))
    skipped = [targets for _, targets in batches.epoch(3, skip=1)]
    assert torch.equal(skipped[0], list(batches.epoch(3))[1][1])


def test_orders_differ_between_epochs_and_seeds_and_not_between_runs():
    def order(seed: int, epoch: int) -> list[int]:
        return [int(t) for _, ts in TensorBatches(torch.zeros(20), torch.arange(20), 5, seed).epoch(epoch) for t in ts]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


@pytest.mark.parametrize("method", ["vi", "map"])
def test_the_whole_gradient_is_clipped(method: str):
    module = net()
    start = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    start = start if method == "vi" else start.as_family("point")
    changes = {"method": method, "optimiser": "sgd", "momentum": 0.0, "lr": 1.0, "schedule": "constant"}

    def moved(clip_norm: float | None) -> float:  # with a rate of 1 the step is the gradient
        after = run({**changes, "log_std_lr_factor": 1.0, "clip_norm": clip_norm, "loss_scale": "sum"}, stop=1).state
        return math.sqrt(
            sum(
                float((value - start.posterior.tensors()[name]).square().sum())
                for name, value in after.posterior.tensors().items()
            )
        )

    free = moved(None)
    assert free > 1
    assert moved(0.25) == pytest.approx(0.25, rel=1e-3)
    assert moved(2 * free) == pytest.approx(free, rel=1e-3)


def test_a_resumed_training_meets_the_noise_that_it_had_kept(tmp_path: Path):
    # 5,000 weights: part of the noise of a step was drawn in the steps before it
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 256), nn.Linear(256, 3))
    start = initial_state(module, Layout.of(module), PosteriorSettings(std=0.3), 0)

    def run(**kwargs) -> Trained:
        return train(module, start, TensorBatches(*data(), 16, 0), settings(), stream=("t",), **kwargs)

    def kill(done: int, total: int) -> None:
        if done == 7:
            raise KilledError

    checkpoint = Checkpoint(tmp_path / "checkpoint", seconds=0)
    with pytest.raises(KilledError):
        run(checkpoint=checkpoint, on_step=kill)
    assert_equal(run().state, run(checkpoint=checkpoint).state)


def test_a_damaged_checkpoint_means_from_the_beginning(tmp_path: Path):
    checkpoint, sat = Checkpoint(tmp_path / "checkpoint", seconds=0), []
    run(checkpoint=checkpoint)
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:-7])
    again = run(checkpoint=Checkpoint(tmp_path / "checkpoint", seconds=1e9), on_step=lambda done, _: sat.append(done))
    assert sat[0] == 1
    assert_equal(again.state, run().state)


@pytest.mark.parametrize("method", ["vi", "ivon"])
def test_a_learned_noise_is_resumed(method: str, tmp_path: Path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    start = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    inputs, labels = data()

    def run(**kwargs) -> Trained:
        chosen = settings(method=method, likelihood="gaussian", learn_noise=True)
        return train(module, start, TensorBatches(inputs, labels.float(), 16, 0), chosen, stream=("t",), **kwargs)

    def kill(done: int, total: int) -> None:
        if done == 7:
            raise KilledError

    checkpoint = Checkpoint(tmp_path / "checkpoint", seconds=0)
    with pytest.raises(KilledError):
        run(checkpoint=checkpoint, on_step=kill)
    whole = run()
    assert whole.state.likelihood["log_noise"] != 0
    assert_equal(whole.state, run(checkpoint=checkpoint).state)


def test_a_failed_training_leaves_the_module_and_the_global_randomness():
    module = net().eval()
    before, random = {k: v.clone() for k, v in module.state_dict().items()}, torch.get_rng_state()
    inputs, targets = data()
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    with pytest.raises(TrainingError):
        train(module, state, TensorBatches(inputs * math.nan, targets, 16, 0), settings(), stream=("t",))
    assert not module.training
    assert torch.equal(random, torch.get_rng_state())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_loaders_batches_are_its_own_from_the_one_asked_for():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data(20)), batch_size=8)
    batches = LoaderBatches(loader, examples=20)
    assert batches.steps == 3
    for (x, y), (inputs, targets) in zip(batches.epoch(0, skip=1), list(loader)[1:], strict=True):
        assert torch.equal(x, inputs)
        assert torch.equal(y, targets)


def test_a_loader_of_ones_own_trains():
    inputs, targets = data()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, targets), batch_size=16)
    module = net()
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    trained = train(module, state, LoaderBatches(loader, examples=64), settings(epochs=1), stream=("t",))
    assert len(trained.history) == 1
    assert not torch.equal(trained.state.posterior.mean, state.posterior.mean)
