"""Trainings of several processes, started as `python -m support.ranks FILE RANKS`, and what they return."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

import tombola
from tombola.data.batches import TensorBatches
from tombola.posterior.state import initial_state, layout_of
from tombola.settings import PosteriorSettings, PruneSettings, TrainSettings
from tombola.training.checkpoint import Checkpoint

TESTS = Path(__file__).parents[1]


def net(norm: bool, dropout: float) -> nn.Module:
    """Return a small convolutional network, with batch norm and dropout or without."""
    torch.manual_seed(0)
    parts = [nn.Conv2d(1, 4, 3, bias=not norm), *([nn.BatchNorm2d(4)] if norm else []), nn.ReLU(), nn.Flatten()]
    parts += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*parts, nn.Linear(4 * 36, 10))


def train(case: dict, fabric=None, checkpoint: Path | None = None) -> dict[str, torch.Tensor]:
    """Return the state after a case's training, by name, with the last loss."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # so that sums in another order show no difference
    try:
        return _trained(case, fabric, checkpoint)
    finally:
        torch.set_default_dtype(torch.float32)


def _trained(case: dict, fabric, checkpoint: Path | None) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(103, 1, 8, 8, generator=generator) + 3, torch.randint(10, (103,), generator=generator)
    module = net(case["norm"], case.get("dropout", 0.0))
    settings = TrainSettings(epochs=2, batch_size=10, lr=0.01, **case.get("train", {}))
    layout = layout_of(module, PosteriorSettings(), PruneSettings())
    state = initial_state(module, layout, PosteriorSettings(), 0)
    mask = torch.rand(layout.numel, generator=generator) < case["density"]
    mask[~layout.prunable] = True
    state = state.masked(mask).as_family("point" if settings.method == "map" else "gaussian")
    kept = Checkpoint(checkpoint, 0.0) if checkpoint else None
    batches, half = TensorBatches(inputs, targets, 10, 0), case.get("half")
    done = tombola.train(
        module,
        state,
        batches if half is None else Half(batches, half),
        settings,
        stream=("test", "rank", 1) if half else ("test",),
        stop=case.get("stop"),
        validation=(inputs[:20], targets[:20]),
        checkpoint=kept,
        fabric=fabric,
        same_sample=case.get("same_sample", True),
    )
    return {**done.state.tensors(), "losses": torch.tensor([row["loss"] for row in done.history], dtype=torch.float64)}


class Half:
    """One half of each batch of a training, which keeps its N."""

    def __init__(self, batches: TensorBatches, half: int):
        self._batches, self._half = batches, half
        self.examples, self.steps = batches.examples, batches.steps

    def epoch(self, epoch: int, skip: int):
        for inputs, targets in self._batches.epoch(epoch, skip):
            rows = slice(0, len(inputs) // 2) if self._half == 0 else slice(len(inputs) // 2, None)
            yield inputs[rows], targets[rows]


def by_processes(cases: list[dict], folder: Path, ranks: int = 2) -> list[dict[str, torch.Tensor]]:
    """Return the first rank's result of each case."""
    file = folder / "cases.json"
    file.write_text(json.dumps(cases))
    path = os.pathsep.join([str(TESTS), *sys.path])
    command = [sys.executable, "-m", "support.ranks", str(file), str(ranks)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "cases.pt")


def _run(fabric, file: Path) -> None:
    found = []
    for case in json.loads(file.read_text()):
        found.append(train(case, fabric, Path(case["checkpoint"]) if "checkpoint" in case else None))
    if fabric.global_rank == 0:
        torch.save(found, file.with_suffix(".pt"))


if __name__ == "__main__":
    from lightning_fabric import Fabric

    # forked: the packages are imported once
    Fabric(accelerator="cpu", devices=int(sys.argv[2]), strategy="ddp_fork").launch(_run, Path(sys.argv[1]))
