"""Crew of Ray tasks: stages run on the nodes of a Ray cluster, which share the store; the driver only hands out keys.

A task is a stage, or several trainings that go side by side on a GPU. It takes the stage's lock and resumes its checkpoint
as every process does, so a task that Ray starts again after its worker or node has died loses at most a checkpoint's
interval.
"""

import math
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tombola.data.placement import choose_device
from tombola.errors import TombolaError
from tombola.study.plan import names_of
from tombola.study.stages import Stage, Train
from tombola.training.checkpoint import TimeUp
from tombola.training.out_of_memory import keep_freed_memory

from .beside import SideBySide, kind_of
from .budget import Budget
from .folder import StudyFolder
from .pull import engine_for
from .sigterm import Terminated
from .store import missing

_RETRIES = 5  # of a task whose worker or node has died
_WAITING = 2  # tasks handed out for each one that can run: Ray then starts the next one without the driver
_LEAST, _POLL = 32, 0.02  # tasks handed out at least, so that a cluster that grows sees demand; seconds of a look


class RayTasks:
    """Context in which a study's missing stages run as Ray tasks; leaving it before the end cancels them."""

    def __init__(
        self,
        folder: StudyFolder,
        device: str,
        threads: int,
        say: Callable[[str], None],
        *,
        address: str | None = None,
        jobs: int | None = None,
        ends: float = math.inf,
        needs: Budget | None = None,
        gpu_share: float = 1.0,
        concurrent: int | None = None,
    ):
        """Prepare the tasks.

        device: auto, cpu or cuda, chosen on the node. threads: of each task, which asks for as many CPUs. say: called with
        each warning of a stage. address: of a running cluster, as for `ray.init`; None starts one on this machine, of `jobs`
        tasks at once. ends: time, by `time.time`, at which tasks stop. needs: memory forecasts, which tasks ask for.
        gpu_share: part of a GPU that a task asks for. concurrent: trainings with CUDA graphs in a task; None: 4.
        """
        self._folder, self._device, self._threads, self._say = folder, device, threads, say
        self._address, self._jobs, self._ends, self._needs = address, jobs, ends, needs
        self._gpu_share, self._beside = gpu_share, SideBySide(concurrent)
        self._waiting: dict[str, Stage] = {}
        self._tasks: dict[Any, list[Stage]] = {}
        self._lost: set[str] = set()
        self._run = uuid.uuid4().hex
        self._children: dict[str, list[Stage]] = {}
        self.time_up = False
        """True as soon as a task has stopped because its time was up."""

    def __enter__(self) -> "RayTasks":
        self._ray = _ray(starts_one=self._address is None)
        self._ours = not self._ray.is_initialized()
        if self._ours:
            with _own_signals():
                self._begin()
        plan, store = self._folder.plan, self._folder.store
        self._waiting = {stage.key: stage for stage in missing(plan, store)}
        for stage in self._waiting.values():
            for parent in stage.parents:
                self._children.setdefault(parent.key, []).append(stage)
        self._ready = [s for s in self._waiting.values() if not any(parent.key in self._waiting for parent in s.parents)]
        self._task = self._ray.remote(run_task)
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._tasks:
            self._ray.cancel(task)
        if self._ours:
            self._ray.shutdown()

    def at_work(self) -> bool:
        """Hand out ready stages and collect ended ones; return whether any is left that can run."""
        self._hand_out()
        if self._tasks:
            ended, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=_POLL)
            more, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
            for task in {*ended, *more}:
                self._collect(task, self._tasks.pop(task))
            self._hand_out()
        return bool(self._tasks)

    def _begin(self) -> None:
        """Connect to the cluster, or start one on this machine."""
        quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if self._address is None:
            cpus = (self._jobs or max(1, (os.cpu_count() or 1) // self._threads)) * self._threads
            self._ray.init(num_cpus=cpus, include_dashboard=False, object_store_memory=80 * 2**20, **quiet)
            return
        try:
            self._ray.init(address=self._address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            why = str(error).splitlines()[0]
            raise TombolaError(
                f"no Ray cluster answers at {self._address!r} ({why}); start one with 'ray start --head', or leave "
                "--address out to start one on this machine"
            ) from None

    def _hand_out(self) -> None:
        cpus = self._ray.cluster_resources().get("CPU", 0.0)
        at_most = self._jobs or max(_LEAST, int(_WAITING * cpus / self._threads))
        while self._ready and len(self._tasks) < at_most and not self.time_up:
            group = self._group(self._ready.pop(0))
            options = self._resources(group)
            keys = [stage.key for stage in group]
            place = self._folder.place if self._folder.remote else str(self._folder.path.resolve())
            task = self._task.options(**options).remote(place, self._run, keys, self._device, self._threads, self._ends)
            self._tasks[task] = group

    def _group(self, first: Stage) -> list[Stage]:
        """Return the stage, with other ready trainings of its pace if such go side by side on a GPU."""
        if not isinstance(first, Train) or not first.settings.cuda_graphs:
            return [first]
        count = self._beside.count(kind_of(first))
        alike = [stage for stage in self._ready if isinstance(stage, Train) and stage.pace == first.pace][: count - 1]
        self._ready = [stage for stage in self._ready if stage not in alike]
        return [first, *alike]

    def _resources(self, group: list[Stage]) -> dict[str, Any]:
        """Return what Ray keeps free for a task: CPUs, a share of a GPU, memory of the forecast."""
        options: dict[str, Any] = {"num_cpus": self._threads, "max_retries": _RETRIES}
        if self._device == "cuda" or (self._device == "auto" and self._ray.cluster_resources().get("GPU", 0)):
            options["num_gpus"] = self._gpu_share
        forecast = self._needs.of(group[0]) if self._needs else None
        if forecast is not None and "num_gpus" not in options:  # on a GPU the forecast is of its own memory
            options["memory"] = int(forecast.total * len(group))
        return options

    def _collect(self, task: Any, group: list[Stage]) -> None:
        """Note how the task's stages ended, and which ones are ready now."""
        store, node, sentences, stopped = self._folder.store, "", [], False
        try:
            node, sentences, stopped = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            for stage in group:
                if not store.done(stage.key):
                    store.fail(stage.key, f"{type(error).__name__}: {' '.join(str(error).split())}")
        for sentence in sentences:
            self._say(sentence)
        self.time_up |= stopped
        for stage in group:
            del self._waiting[stage.key]
            if store.done(stage.key):
                self._free(stage)
            elif not stopped:
                if not store.failure(stage.key)[1]:
                    unseen = f"it ran on {node}, but {store.root} has no outcome of it; all nodes must share that folder"
                    store.fail(stage.key, unseen)
                self._lose(stage)

    def _free(self, done: Stage) -> None:
        for stage in self._children.get(done.key, []):
            to_come = any(parent.key in self._waiting or parent.key in self._lost for parent in stage.parents)
            if stage.key in self._waiting and not to_come:
                self._ready.append(stage)

    def _lose(self, failed: Stage) -> None:
        """Take out the stages that depend on a failed one."""
        self._lost.add(failed.key)
        for stage in self._children.get(failed.key, []):
            if self._waiting.pop(stage.key, None):
                self._lose(stage)


def run_task(folder: str, run: str, keys: list[str], device: str, threads: int, ends: float) -> tuple[str, list[str], bool]:
    """Run stages of a study in a Ray worker; return the node's name, warnings, and whether the time was up.

    folder: its path or address. run: name of the driver's run; a worker that serves a later one reads the study again.
    """
    said: list[str] = []
    torch.set_num_threads(threads)
    opened, names = _opened(folder, run)
    engine = engine_for(opened, choose_device(device), said.append, ends)
    engine.beside = SideBySide(len(keys))
    stages = {stage.key: stage for stage in opened.plan.stages}
    stopped = False
    with chdir(opened.started if opened.started.is_dir() else Path.cwd()), _sigterm_ends_the_worker():
        try:
            engine.run_stages([stages[key] for key in keys], names, opened.plan.name)
        except TimeUp:
            stopped = True
    return os.uname().nodename, said, stopped


@lru_cache(maxsize=2)
def _opened(folder: str, run: str) -> tuple[StudyFolder, dict[str, str]]:
    """Return the study and its stages' names; planned once a worker, which runs many tasks."""
    keep_freed_memory()
    opened = StudyFolder.open(Path(folder))
    return opened, names_of(opened.plan)


@contextmanager
def _sigterm_ends_the_worker() -> Iterator[None]:
    """Let SIGTERM, as of a driver that died, end this worker after a checkpoint, without an outcome of its stage.

    Ray's own handler raises a SystemExit wherever the worker is, which a stage must take for a failure of its plug-in.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set a handler
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    except Terminated:
        raise SystemExit(1) from None  # Ray tries the task again if its driver lives
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Put back the handler of SIGTERM, which Ray replaces by one that prints a stack and ends the process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _ray(starts_one: bool) -> Any:
    """Return Ray's package. starts_one: whether a cluster is started here, with a token and workers of usual priority."""
    defaults = {"RAY_USAGE_STATS_ENABLED": "0"}
    if starts_one:  # Ray's workers would wait for all that others compute on this machine
        defaults |= {"RAY_AUTH_MODE": "token", "RAY_worker_niceness": "0"}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise TombolaError("--engine ray needs Ray; install it with: pip install 'tombola[ray]'") from None
    return ray
