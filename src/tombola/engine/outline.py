"""Outline of a plan: its stages and rows without their settings, for commands that only read, without torch and data.

`tombola run` writes it beside the study's settings, before its first stage.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tombola.errors import TombolaError
from tombola.settings import DataSettings
from tombola.study.messages import in_short
from tombola.study.spec import resolved

Kind = tuple[str, ...]
"""Kind of a stage, whose stages take equally long for a unit of work."""

TRAIN, PRUNE, EVALUATE = "train", "prune", "evaluate"
"""Kinds of stages that readers of a plan tell apart."""

_PACKAGES = ("torch", "scikit-learn", "numpy")  # on which a plan of the built-in digits depends
_FORMAT = 1  # of the file; another one is refused
_ROW = ("study", "curve", "variant", "model", "data", "seed", "level")  # labels that readers need
_COMPARED = ("curve", "seed", "level")  # labels of the tickets that an analysis compares


@dataclass(frozen=True)
class Work:
    """Work of a stage, counted in training steps."""

    units: float = 1.0
    """All of it; 1 for a stage that neither trains nor measures."""
    kinds: tuple[Kind, ...] = ()
    """Kinds from which its pace is taken, the most alike first."""
    steps: int = 1
    """Training steps; 1 for a stage that does not train."""
    epoch_steps: int = 0
    """Steps of an epoch; 0 for a stage that does not train."""
    first: int = 0
    """Steps of the schedule before it."""
    epochs: int = 0
    passes: float = 0.0
    """Cost of the measurement at an epoch's end."""


@dataclass(frozen=True, eq=False)
class OutlineStage:
    """A stage without its settings."""

    key: str
    kind: str
    name: str
    work: Work
    parents: tuple["OutlineStage", ...]


@dataclass(frozen=True)
class OutlineRow:
    """A row of the records."""

    labels: Mapping[str, Any]
    stage: OutlineStage

    @property
    def trained(self) -> OutlineStage:
        """Return the stage that trained the ticket."""
        return self.stage.parents[0]

    @property
    def read(self) -> tuple[OutlineStage, ...]:
        """Return the stages whose records give the row's numbers."""
        return self.trained, self.stage


@dataclass(frozen=True)
class Compared:
    """A ticket that an analysis compares."""

    labels: Mapping[str, Any]


@dataclass(frozen=True)
class OutlineAnalysis:
    """The rows of the table of analyses that one stage gives."""

    labels: Mapping[str, Any]
    stage: OutlineStage
    of: tuple[Compared, ...]

    @property
    def read(self) -> tuple[OutlineStage, ...]:
        """Return the stages whose records give the rows' numbers."""
        return (self.stage,)


@dataclass(frozen=True)
class Outline:
    """A plan without its settings."""

    name: str
    stages: list[OutlineStage]
    """Every stage once, parents first."""
    rows: list[OutlineRow]
    analyses: list[OutlineAnalysis] = field(default_factory=list)
    origin: str = ""
    """Result of `origin_of` when it was written; empty for one that was not read from a file."""

    @cached_property
    def wanted(self) -> list[OutlineRow | OutlineAnalysis]:
        """Return all rows; analyses come last."""
        return [*self.rows, *self.analyses]

    def to_json(self, study: Mapping[str, Any]) -> str:
        """Return it as text. study: the raw settings that it is of."""
        return json.dumps({"study": _digest(study), "origin": origin_of(study), **self._content()})

    def same_as(self, other: "Outline") -> bool:
        """Return whether the two are of one plan."""
        return json.dumps(self._content()) == json.dumps(other._content())

    def _content(self) -> dict[str, Any]:
        """Return its stages, rows and analyses as JSON, in which stages and equal works are numbered."""
        at = {stage.key: place for place, stage in enumerate(self.stages)}
        works = {work: place for place, work in enumerate(dict.fromkeys(stage.work for stage in self.stages))}
        return {
            "format": _FORMAT,
            "name": self.name,
            "works": [asdict(work) for work in works],
            "stages": [[s.key, s.kind, s.name, works[s.work], [at[p.key] for p in s.parents]] for s in self.stages],
            "rows": [[at[row.stage.key], row.labels] for row in self.rows],
            "analyses": [
                [at[row.stage.key], row.labels, [[one.labels[name] for name in _COMPARED] for one in row.of]]
                for row in self.analyses
            ],
        }

    @classmethod
    def read(cls, path: Path, study: Mapping[str, Any]) -> "Outline":
        """Return the outline of a file. Raises TombolaError for a missing or damaged one, and for one of another study."""
        mend = "start the same 'tombola run' again, which writes it anew and runs no finished stage twice"
        try:
            content = json.loads(path.read_text())
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']!r}, not {_FORMAT}")
            found, same = _restored(content), content["study"] == _digest(study)
        except OSError as error:
            raise TombolaError(f"cannot read {path}: {error.strerror}; {mend}") from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise TombolaError(f"{path} is damaged ({in_short(str(error), 100)}); {mend}") from None
        if not same:
            raise TombolaError(f"{path} is of other settings than study.json beside it; {mend}")
        return found


def _digest(value: Mapping[str, Any]) -> str:
    """Return a hash of JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def origin_of(study: Mapping[str, Any]) -> str:
    """Return a hash of the origin of a checked study's plan; empty where it is not known.

    A study of built-in names and the built-in digits depends on the code of tombola and of the packages that it uses alone.
    Other data, weights and modules of the user may have changed since.
    """
    whole = resolved(dict(study))
    del whole["description"]
    outside = any(":" in word and not word.startswith(("epoch:", "step:")) for word in _words(whole))
    if outside or set(_values(whole["data"], "name", DataSettings().name)) != {"digits"}:
        return ""
    if any(_values(whole["model"], "weights", "")):
        return ""
    root = Path(__file__).parents[1]
    files = [(path, path.stat()) for path in sorted(root.rglob("*.py"))]
    code = [[str(path.relative_to(root)), stat.st_size, stat.st_mtime_ns] for path, stat in files]
    return _digest({"tombola": code} | {package: version(package) for package in _PACKAGES})


def _words(value: Any) -> Iterator[str]:
    """Yield all texts of a JSON value but keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _words(item)


def _values(section: Any, name: str, default: str) -> list[Any]:
    """Return all values of a field in a section of a study, whose lists fan out."""
    given = [one.get(name, default) for one in (section if isinstance(section, list) else [section])]
    return [value for each in given for value in (each if isinstance(each, list) else [each])]


def _restored(content: Any) -> Outline:
    """Return the outline that a file describes, which others may have written. Raises ValueError and its like."""
    works = [_work(**work) for work in content["works"]]
    stages: list[OutlineStage] = []
    for key, kind, name, work, parents in content["stages"]:
        if not all(0 <= parent < len(stages) for parent in parents):
            raise ValueError(f"stage {key!r} stands before its parents")
        if not re.fullmatch(r"[0-9a-f]{24}", key):  # it names files
            raise ValueError(f"{key!r} is no key")
        stages.append(OutlineStage(key, str(kind), str(name), works[work], tuple(stages[parent] for parent in parents)))
    rows = [OutlineRow(_labels(labels, _ROW), stages[stage]) for stage, labels in content["rows"]]
    if not all(row.stage.parents for row in rows):
        raise ValueError("a row has no training")
    analyses = [
        OutlineAnalysis(
            _labels(labels, (*_ROW, "view", "between")),
            stages[stage],
            tuple(Compared(dict(zip(_COMPARED, one, strict=True))) for one in of),
        )
        for stage, labels, of in content["analyses"]
    ]
    return Outline(str(content["name"]), stages, rows, analyses, str(content["origin"]))


def _work(kinds: Any, **numbers: Any) -> Work:
    if not all(isinstance(number, int | float) and number >= 0 for number in numbers.values()):
        raise ValueError("work is no number")
    if not kinds:
        raise ValueError("work has no kind")
    return Work(kinds=tuple(tuple(map(str, kind)) for kind in kinds), **numbers)


def _labels(labels: Any, needed: Iterable[str]) -> dict[str, Any]:
    for name in needed:
        if not isinstance(labels[name], int if name in ("seed", "level") else str):
            raise ValueError(f"{name} is {labels[name]!r}")
    return dict(labels)
