"""Clients of experiment trackers; each is imported when the first stage is sent to it."""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

_LONGEST = 500  # characters of a setting; MLflow takes no more from some stores
_AT_ONCE = 1000  # metrics of a request, of which MLflow takes no more


@dataclass(frozen=True)
class TrackedRun:
    """A finished stage, as trackers show it."""

    study: str
    name: str
    key: str
    settings: Mapping[str, Any]
    """The stage's own settings and its kind, by dotted name."""
    history: list[dict[str, float]]
    """Rows of the epochs, with `epoch` from 1; empty for a stage that does not train."""
    final: Mapping[str, float]
    """The finite numbers of its record."""

    def points(self) -> Iterator[tuple[str, float, int]]:
        """Yield (metric, value, epoch) of the learning curves and, as final/NAME at the last epoch, of the record."""
        last = 0
        for row in self.history:
            last = int(row["epoch"])
            yield from ((name, value, last) for name, value in row.items() if name != "epoch")
        yield from ((f"final/{name}", value, last) for name, value in self.final.items())


class Tracker(Protocol):
    """Client of a tracker, made in the folder of a study; any exception means that it is down."""

    def __init__(self, folder: Path): ...

    def send(self, run: TrackedRun) -> None:
        """Log the run, whole."""
        ...


class MLflow:
    """Runs of an experiment named as the study, at MLFLOW_TRACKING_URI or else in DIR/mlruns."""

    def __init__(self, folder: Path):
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny has no other local store
            uri = (folder.resolve() / "mlruns").as_uri()
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)

    def send(self, run: TrackedRun) -> None:
        from mlflow.entities import Metric, Param

        client = self._client
        there = client.get_experiment_by_name(run.study)
        experiment = there.experiment_id if there else client.create_experiment(run.study)
        id_ = client.create_run(experiment, run_name=run.name, tags={"tombola.key": run.key}).info.run_id
        now = int(1000 * time.time())
        for some in _in_lots(run.settings.items(), 100):
            client.log_batch(id_, params=[Param(name, str(value)[:_LONGEST]) for name, value in some])
        for points in _in_lots(run.points(), _AT_ONCE):
            client.log_batch(id_, metrics=[Metric(name, value, now, epoch) for name, value, epoch in points])
        client.set_terminated(id_)


def _in_lots(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


class TensorBoard:
    """Event files in DIR/tensorboard/STAGE."""

    def __init__(self, folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._writer = folder / "tensorboard", SummaryWriter

    def send(self, run: TrackedRun) -> None:
        with self._writer(str(self._folder / re.sub(r"[^\w.,=-]+", "_", run.name))) as writer:
            lines = "\n".join(f"    {name}: {value}" for name, value in run.settings.items())
            writer.add_text("settings", lines)
            for name, value, epoch in run.points():
                writer.add_scalar(name, value, epoch)


class WandB:
    """Runs of the project `tombola` (or WANDB_PROJECT), grouped by study; offline in DIR/wandb unless WANDB_MODE is set."""

    def __init__(self, folder: Path):
        import wandb

        self._folder, self._wandb = folder, wandb

    def send(self, run: TrackedRun) -> None:
        given = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "tombola"),
            group=run.study,
            name=run.name,
            id=run.key,  # so that a run that is sent again is the same one
            dir=str(self._folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=dict(run.settings),
            reinit="create_new",
            settings=self._wandb.Settings(silent=True, console="off"),
        )
        by_epoch: dict[int, dict[str, float]] = {}
        for name, value, epoch in run.points():
            by_epoch.setdefault(epoch, {})[name] = value
        for epoch, values in by_epoch.items():
            given.log(values, step=epoch)
        given.finish()


TRACKERS: dict[str, Callable[[Path], Tracker]] = {"mlflow": MLflow, "tensorboard": TensorBoard, "wandb": WandB}
"""Name on the command line -> client."""
