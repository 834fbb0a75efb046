"""A study as another process sees it: from the store, the progress files and the logs of what failed."""

from pathlib import Path

from tombola.engine.calibrate import Guesses
from tombola.engine.forecast import Forecast
from tombola.engine.local import dataset
from tombola.engine.progress import Seen, seen
from tombola.engine.store import Store
from tombola.study.plan import Plan

from .board import Board, result_of, worth_showing
from .picture import Finished, Picture

_SHOWN = 6


class Follower:
    """Looks again and again; each time it reads only what is new."""

    def __init__(self, plan: Plan, store: Store, timings: Path):
        self._plan, self._store, self._timings = plan, store, timings
        self._board: Board | None = None
        self._where: tuple[str, int] | None = None
        self.runs: list[Seen] = []
        """Processes that are at this study or at one of its stages, stopped ones too; of the last look."""

    def look(self) -> Picture:
        keys = {stage.key for stage in self._plan.stages}
        study = self._plan.name
        self.runs = [s for s in seen(self._store.unfinished) if s.progress.study == study or s.progress.key in keys]
        alive = [s.progress for s in self.runs if s.state != "stopped"]
        board = self._up_to_date((alive[0].device, alive[0].threads) if alive else None)
        at_work = {s.progress.key for s in self.runs if s.state != "stopped"}
        since = min((progress.since for progress in alive), default=None)
        board.failed = {}
        for key, stage in board.stages.items():
            failed_at, said = self._store.failure(key)
            if said and not board.done(key) and key not in at_work:
                if since is not None and failed_at >= since:  # what builds on it will not come in this run
                    board.fell_out(stage, "")
                board.failed[key] = f"{board.names[key]} failed: {said} (details in {self._store.error_path(key)})"
        running = {}  # by stage: one that stopped and is run again is running
        for state in ("stopped", "silent", "running"):
            for one in self.runs:
                if one.state == state and one.progress.key in keys and not board.done(one.progress.key):
                    running[one.progress.key] = board.running(one.progress, state)
        return board.picture(running.values(), since, processes=len(alive))

    @property
    def runs_now(self) -> bool:
        """Whether a process was at work at the last look, as far as can be told."""
        return any(one.state != "stopped" for one in self.runs)

    def _up_to_date(self, where: tuple[str, int] | None) -> Board:
        if self._board is None or (where is not None and where != self._where):
            self._where = where
            forecast = Forecast(self._plan, self._store, dataset, where)
            Guesses.read(self._timings).give(forecast, where)
            self._board = Board(self._plan, self._store, forecast)
            self._board.show_finished(self._last_finished(self._board))
        else:
            for key, stage in self._board.stages.items():
                if not self._board.done(key) and self._store.done(key):
                    self._board.ended(stage)
        return self._board

    def _last_finished(self, board: Board) -> list[Finished]:
        times = {}
        for key in board.stages:
            if board.done(key):
                times[key] = (self._store.root / key / "record.json").stat().st_mtime
        newest = sorted(times, key=lambda key: times[key], reverse=True)[: 3 * _SHOWN]
        records = {key: record for key in newest if worth_showing(record := self._store.record(key))}
        return [Finished(board.names[k], r["run"]["seconds"], result_of(r)) for k, r in records.items()]
