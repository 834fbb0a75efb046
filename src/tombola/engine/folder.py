"""Output folder of a study, with its settings, its records, its page, and the path of its stages."""

import json
import os
from collections.abc import Sequence
from contextlib import chdir, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola import plugins
from tombola.errors import TombolaError
from tombola.files import address_of, written_aside
from tombola.study.spec import STAGES, Variant, resolved, unfold

from . import records
from .outline import Outline, origin_of
from .remote import Remote, mirrored
from .store import Store, missing

if TYPE_CHECKING:
    from pandas import DataFrame

    from tombola.report.compare import Side
    from tombola.study.plan import Plan


@dataclass(frozen=True)
class StudyFolder:
    """Folder with study.json, plan.json, forecast.json, records.parquet, views.parquet, report.html and figures/."""

    path: Path
    raw: dict[str, Any]
    store: Store
    imports: Path
    """Folder of the study's file: import paths may name modules beside it."""
    started: Path
    """Working directory of `tombola run`, from which relative paths of data and weights count, also in later commands."""
    remote: Remote | None = None
    """Address of the folder, if it is not on disk: `path` is a copy then."""
    opened: bool = False
    """True for a folder that a run made: its outline is the one that the run wrote."""

    @classmethod
    def of(cls, raw: dict[str, Any], path: Path, store: Path | None, imports: Path) -> "StudyFolder":
        """Return the folder for a study. Raises TombolaError if it belongs to another study or has other files."""
        remote, given = None, path
        if (address := address_of(path)) is not None:
            remote, path = Remote(address), mirrored(address)
        if path.exists() and not path.is_dir():
            raise TombolaError(f"{path} is a file; choose a folder with --out")
        if (path / "study.json").is_file():
            there = _description(path)["study"]["name"]
            if there != raw["name"]:
                raise TombolaError(
                    f"{path} holds the study {there!r}, not {raw['name']!r}; choose another folder with --out"
                )
        elif path.is_dir() and any(path.iterdir()):
            raise TombolaError(f"{path} is not empty and holds no study; choose another folder with --out")
        beside = given.parent if remote else path.resolve().parent
        return cls(path, raw, store_at(store or beside / STAGES), imports.resolve(), Path.cwd(), remote)

    @classmethod
    def open(cls, path: Path) -> "StudyFolder":
        """Return a folder that `tombola run` made. Raises TombolaError for any other folder."""
        given, remote = path, None
        if (address := address_of(path)) is not None:
            remote, path = Remote(address), mirrored(address)
        if not (path / "study.json").is_file():
            raise TombolaError(f"{given} holds no study (no study.json); give the folder that 'tombola run' wrote to")
        description = _description(path)
        started = Path(description.get("started", Path.cwd()))
        store = store_at(description["stages"])
        store.follow()
        return cls(path, description["study"], store, Path(description["imports"]), started, remote, opened=True)

    @property
    def timings(self) -> Path:
        """Return the path of the step times that were measured before the first stage, for forecasts."""
        return self.path / "forecast.json"

    @cached_property
    def variants(self) -> list[Variant]:
        return unfold(self.raw)

    @cached_property
    def plan(self) -> "Plan":
        """Return the plan, of today's code and data."""
        from tombola.study.plan import plan_study

        from .local import dataset

        plugins.look_in(self.imports)
        with chdir(self.started) if self.started.is_dir() else nullcontext():
            return plan_study(self.variants, dataset)

    @cached_property
    def known(self) -> Outline | None:
        """Return the outline of the last run's plan if a plan of today would be the same, as is known without planning."""
        with suppress(TombolaError):  # of a file that is missing, damaged, or of other settings
            found = Outline.read(self._outline_path, self.raw)
            if found.origin and found.origin == origin_of(self.raw):
                return found
        return None

    @cached_property
    def outline(self) -> Outline:
        """Return the outline of the plan: of the last run for an opened folder, otherwise of the run to come.

        Raises TombolaError for a damaged file, and for a study that cannot be planned.
        """
        if self.opened:
            return Outline.read(self._outline_path, self.raw)
        if self.known is not None:
            return self.known
        from .local import dataset
        from .work import outline

        return outline(self.plan, dataset)

    @property
    def _outline_path(self) -> Path:
        return self.path / "plan.json"

    @property
    def settled(self) -> bool:
        """Return whether all stages are done and the page was written afterwards: another run would change nothing."""
        page, wanted = self.path / "report.html", {row.stage.key for row in self.outline.wanted}
        if missing(self.outline, self.store) or not (page.is_file() and (self.path / "records.parquet").is_file()):
            return False
        with suppress(TombolaError):  # of files that are missing, damaged, or of other settings
            known = Outline.read(self._outline_path, self.raw)
            if _description(self.path)["study"] == self.raw and known.same_as(self.outline):
                return page.stat().st_mtime > max((self.store.finished(key) for key in wanted), default=0.0)
        return False

    @property
    def resolved(self) -> dict[str, Any]:
        """Return the settings with every default filled in."""
        return resolved(self.raw)

    def prepare(self) -> None:
        """Make the folder and write study.json and plan.json. Raises TombolaError if it can't be written."""
        places = {"stages": self.store.place, "imports": self.imports, "started": self.started}
        text = json.dumps({"study": self.raw, **{name: str(place) for name, place in places.items()}}, indent=1)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_outline()  # first: wherever there is a study.json, there is a plan.json
            with written_aside(self.path / "study.json") as aside:
                aside.write_text(text)
        except OSError as error:
            raise TombolaError(f"cannot write to {self.path}: {error.strerror}; choose another folder with --out") from None
        self.store.prepare()
        self._publish("*.json")

    @property
    def place(self) -> str:
        """Return the folder's path, or its address."""
        return self.remote.address if self.remote else str(self.path)

    def _publish(self, pattern: str) -> None:
        """Write the folder's files of that pattern to its address, if it has one."""
        for path in sorted(self.path.rglob(pattern)) if self.remote else []:
            if self.remote and path.is_file() and not path.name.endswith(".part"):
                self.remote.put(str(path.relative_to(self.path)), path.read_bytes())

    def renew_outline(self) -> None:
        """Write plan.json anew if its origin is another by now, so that the next command need not plan."""
        if self.known is None and origin_of(self.raw):
            with suppress(OSError):  # of a folder that may only be read
                self._write_outline()

    def _write_outline(self) -> None:
        with written_aside(self._outline_path) as aside:
            aside.write_text(self.outline.to_json(self.raw))

    def write_records(self) -> "DataFrame":
        """Write and return the table of all finished rows; also write the table of analyses, if the study has any."""
        table = records.collect(self.outline, self.store)
        try:
            records.write(table, self.path / "records.parquet")
            if self.outline.analyses:
                records.write(records.collect_analyses(self.outline, self.store), self.path / "views.parquet")
        except OSError as error:
            raise TombolaError(f"cannot write to {self.path}: {error.strerror}; free space or permissions") from None
        self._publish("*.parquet")
        return table

    def write_report(self, out: Path | None = None, failed: Sequence[str] = (), formats: Sequence[str] = ("png",)) -> Path:
        """Write the page (by default report.html) from what is finished; formats: of the figures' files."""
        from tombola.report import write_report

        page = out or self.path / "report.html"
        table, todo = self.write_records(), len(missing(self.outline, self.store))
        try:
            times = records.stage_times(self.outline, self.store)
            analyses = records.collect_analyses(self.outline, self.store)
            written = write_report(
                table,
                self.resolved,
                page,
                stages=times,
                analyses=analyses,
                histories=records.histories(self.outline, self.store),
                failed=failed,
                missing=todo,
                formats=formats,
            )
        except OSError as error:
            raise TombolaError(f"cannot write {page}: {error.strerror}; choose another file with --out") from None
        self._publish("*")
        return written

    def side(self, label: str) -> "Side":
        """Return the study as one of two to compare; write nothing. Raises TombolaError if no row is finished."""
        from tombola.report.compare import Side

        table = records.collect(self.outline, self.store)
        if not len(table):
            raise TombolaError(f"{self.path}: nothing is finished yet; run the study on, then compare it")
        return Side(label=label, records=table, study=self.resolved)


def store_at(place: Path | str) -> Store:
    """Return the store in a folder, or at an address such as s3://bucket/stages."""
    if (address := address_of(place)) is None:
        return Store(Path(place))
    from .remote_store import RemoteStore

    return RemoteStore(address)


def studies_on(paths: Sequence[Path]) -> tuple[Store, list[StudyFolder]]:
    """Return the one store that `paths` use, and its studies: the folders in `paths`, and the ones beside the store.

    paths: study folders, or the store itself. Raises TombolaError for other folders, and for several stores.
    """
    stores: dict[Path, Store] = {}
    found: dict[Path, StudyFolder] = {}
    for path in paths:
        if (path / "unfinished").is_dir() and not (path / "study.json").is_file():
            stores.setdefault(path.resolve(), Store(path))
            continue
        folder = StudyFolder.open(path)
        found[path.resolve()] = folder
        stores.setdefault(folder.store.root.resolve(), folder.store)
    if len(stores) > 1:
        raise TombolaError(f"these folders have {len(stores)} stores ({', '.join(map(str, stores))}); give those of one")
    ((root, store),) = stores.items()
    for file in sorted(root.parent.glob("*/study.json")):
        folder = StudyFolder.open(file.parent)
        if folder.store.root.resolve() == root:
            found.setdefault(file.parent.resolve(), folder)
    return store, list(found.values())


def told_apart(folders: list[StudyFolder]) -> list[str]:
    """Return a name for each folder: its study's; if two are equal, the folders' own; if two of these are, their paths."""
    kinds = [[str(f.raw["name"]) for f in folders], [f.path.resolve().name for f in folders], [str(f.path) for f in folders]]
    return next((names for names in kinds if len(set(names)) == len(folders)), kinds[-1])


def _description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads((path / "study.json").read_text())
        _ = description["study"]["name"].encode()  # raises if missing, and for half of a surrogate pair, as the next line
        for place in ("stages", "imports", "started") if "started" in description else ("stages", "imports"):
            os.fsencode(Path(description[place]))
        return description
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise TombolaError(f"{path / 'study.json'} is damaged ({error}); delete it and run the study again") from None
