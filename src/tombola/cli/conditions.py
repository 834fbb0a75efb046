"""Conditions of a command's runs: device, processes, threads, time, engine."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from tombola.engine import Crew, Engine
from tombola.engine.beside import SideBySide
from tombola.engine.budget import Budget
from tombola.engine.folder import StudyFolder
from tombola.engine.local import LocalEngine
from tombola.engine.on_ray import RayTasks
from tombola.engine.on_slurm import SlurmJobs
from tombola.engine.progress import Watcher
from tombola.engine.together import Together
from tombola.engine.tracking import Tracking
from tombola.engine.workers import Workers

from .elsewhere import Elsewhere
from .terminal import Screen

_WORTH_SHARING = 15.0  # seconds of a run that several processes shorten: each takes a few to start


def local_engine(folder: StudyFolder, under: "Conditions", watcher: Watcher, budget: Budget) -> Engine:
    """Return the engine that runs a study's stages in this process."""
    seconds = folder.variants[0].study.checkpoint_seconds
    beside = SideBySide(under.concurrent)
    engine = LocalEngine(folder.store, under.device, watcher, seconds, needs=budget.of, ends=under.ends, beside=beside)
    if under.devices > 1:
        engine.together = Together(folder.place, under.device, under.devices, under.say)
    return engine


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The conditions of a command's runs, the same for all of its studies."""

    console: Console
    device: torch.device
    jobs: int | None = 1
    """Processes; None: as many as `jobs_for` gives."""
    threads: int = 1
    """Threads of torch where the study names none; the processes share them."""
    ends: float = math.inf
    """Time, as `time.time` has it, after which the run stops as soon as nothing is lost."""
    devices: int = 1
    """Processes that make the steps of each training together."""
    concurrent: int | None = None
    """Trainings with CUDA graphs that go side by side on a GPU; None: found by timing the first ones."""
    elsewhere: Elsewhere | None = None
    """Cluster; None: this machine."""
    trackers: Sequence[str] = ()
    """Trackers that finished stages are sent to."""
    engine: Callable[[StudyFolder, "Conditions", Watcher, Budget], Engine] = local_engine
    """Factory of the engine of a run in one process."""

    def say(self, sentence: str, style: str = "", failure: bool = False) -> None:
        """Print a sentence; in a quiet run a failure alone, on stderr."""
        console = Screen(stderr=True) if failure and self.console.quiet else self.console
        console.print(Text(sentence, style=style), soft_wrap=True)

    def tracking(self, folder: StudyFolder) -> Tracking:
        """Return the sender of a study's finished stages."""
        return Tracking(self.trackers, folder.outline, folder.store, folder.path, self.say)

    def jobs_for(self, folder: StudyFolder, seconds: float | None) -> int:
        """Return the number of processes of a study that one would run in `seconds`.

        By default as many as the threads allow that the study pins, so that its records do not depend on it, and as it has
        chains; one for a short run, on a GPU, and for another engine than the local one.
        """
        pinned = folder.variants[0].study.threads
        if self.jobs is not None:
            return self.jobs
        if not pinned or (seconds or 0) < _WORTH_SHARING or self.device.type != "cpu" or self.engine is not local_engine:
            return 1
        chains = {tuple(row.labels[name] for name in ("curve", "variant", "seed")) for row in folder.outline.rows}
        return max(1, min(self.threads // (pinned * self.devices), len(chains)))

    def crew(self, folder: StudyFolder, jobs: int, budget: Budget) -> Crew:
        """Return the processes that run a study's stages, once `set_threads` was called; each has the study's threads."""
        threads, there = torch.get_num_threads(), self.elsewhere
        if there is None:
            return Workers(folder.path, self.device, jobs, threads, self.say, self.ends, self.devices)
        threads = folder.variants[0].study.threads or 1  # as many on each node, so that equal CPUs give equal bits
        if there.engine == "slurm":
            how: dict[str, Any] = {
                "jobs": self.jobs,
                "minutes": there.minutes,
                "devices": self.devices,
                "options": there.options,
            }
            return SlurmJobs(folder, there.device, threads, self.say, **how)
        return RayTasks(
            folder,
            there.device,
            threads,
            self.say,
            address=there.address,
            jobs=self.jobs,
            ends=self.ends,
            needs=budget,
            gpu_share=there.gpu_share,
            concurrent=self.concurrent,
        )

    def set_threads(self, folder: StudyFolder) -> None:
        """Set the threads of the study; for each study, since several run in one process."""
        wanted = folder.variants[0].study.threads or max(1, self.threads // ((self.jobs or 1) * self.devices))
        if wanted != torch.get_num_threads():
            torch.set_num_threads(wanted)
