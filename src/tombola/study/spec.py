"""Studies: YAML files that are checked field by field and whose lists fan out into variants."""

import dataclasses
import itertools
import json
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from tombola.errors import TombolaError
from tombola.files import read_plain
from tombola.settings import DataSettings, EvaluateSettings, ModelSettings, PosteriorSettings, PruneSettings, TrainSettings
from tombola.settings.fields import COLUMN, WHOLE, Checked, marked, setting
from tombola.settings.keys import deterministic_part

from .messages import in_short, sentence
from .recipes import common_view, expand


@dataclass(frozen=True, kw_only=True)
class Arm(Checked):
    """One curve of a study."""

    arm: Literal[
        "ticket",
        "deterministic",
        "transplant",
        "transplant_shuffle",
        "transplant_reinit",
        "reinit",
        "shuffle_layerwise",
        "shuffle_global",
        "shuffle_even",
        "equal_budget",
        "before_training",
        "in_training",
    ] = setting(
        "ticket",
        "ticket: iterative pruning of a Bayesian network. deterministic: of a deterministic one. transplant: the "
        "deterministic tickets trained as Bayesian networks; transplant_shuffle: with a random mask of equal layer "
        "densities; transplant_reinit: with re-drawn weights. reinit, shuffle_*: controls from each level's ticket. "
        "equal_budget: the ticket of level k trained for k + 1 times the epochs, as learning-rate rewinding has been. "
        "before_training: the start, pruned at once to each level's share and trained. "
        "in_training: the start trained once for each level, by train.sparse with the level's share as its density.",
    )
    score: str | None = setting(
        None,
        "Score of the chain; by default prune.score, for deterministic chains and transplants magnitude. Of before_training "
        "also snip, grasp or synflow.",
    )
    scope: Literal["global", "layerwise", "erk"] | None = setting(None, "Scope of the pruning; by default prune.scope.")
    of: Literal["ticket", "deterministic"] = setting("ticket", "For controls: the chain whose masks are used.")
    sigma: Literal["trained", "start", "shuffled"] | None = setting(
        None, "The std that the score sees; by default prune.sigma."
    )
    rewind: str | None = setting(None, "Where survivors restart; by default prune.rewind.")
    budget: Literal["weights", "flops", "milliseconds"] | None = setting(
        None, "What each level cuts; by default prune.budget."
    )
    cost_exponent: float | None = setting(
        None, "Power of the costs that scores are divided by; by default prune.cost_exponent.", least=0, most=1
    )
    structure: Literal["none", "channels", "heads", "units"] | None = setting(None, "By default prune.structure.")
    levels: list[int] | None = setting(
        None, "For controls and transplants: levels to train at; 0 is dense; by default all from 1.", least=0
    )
    densities: list[float] | None = setting(
        None, "The same by how much is left of the budget: the levels that are nearest to these shares.", above=0, below=1
    )
    train: dict[str, Any] = setting({}, "Fields of `train` that differ in this arm.")


@dataclass(frozen=True, kw_only=True)
class Study(Checked):
    """A study without lists to fan out: one variant."""

    name: str = setting("", "Name of the study; its output folder is named so.", WHOLE)
    description: str = setting("", "What the study asks, in a sentence or two.", WHOLE)
    size: str | None = setting(
        None,
        "With `nets`: full, gpu, cpu or toy: which settings of CIFAR-10 and which relatives of the nets. See recipes.md.",
        WHOLE,
    )
    nets: list[str] = setting([], "With `size`: nets by their names in the recipe, each with its settings; they fan out.")
    seeds: list[int] = setting([0], "Seeds: each trains every arm from its own initialisation and data order.", least=0)
    data: DataSettings = dataclasses.field(default_factory=DataSettings)
    model: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    posterior: PosteriorSettings = dataclasses.field(default_factory=PosteriorSettings)
    train: TrainSettings = dataclasses.field(default_factory=TrainSettings)
    prune: PruneSettings = dataclasses.field(default_factory=PruneSettings)
    evaluate: EvaluateSettings = dataclasses.field(default_factory=EvaluateSettings)
    arms: list[Arm] = setting([], "The curves.")
    views: list[str] = setting(
        [], "What else is computed of the tickets: overlap, ranks, connectivity, early_bird, or package.module:function."
    )
    threads: int | None = setting(
        None, "Threads of torch on a CPU; by default torch's choice. The last bits depend on it.", WHOLE, least=1, most=1024
    )
    checkpoint_seconds: float = setting(60.0, "Seconds between checkpoints within a training.", WHOLE, above=0)


@dataclass(frozen=True)
class Variant:
    """One point of a study's fan-out."""

    study: Study
    axes: dict[str, Any]
    """Path -> value of the settings that fanned out, without the ones that have a column in the records."""

    @property
    def label(self) -> str:
        """Return the axes in a line."""
        return ", ".join(f"{path}={value}" for path, value in self.axes.items())

    @property
    def model(self) -> str:
        """Return the net's name in tables: the model's; in a recipe the net's, with the size of a smaller relative."""
        if not self.study.nets:
            return self.study.model.name
        (net,) = self.study.nets
        return net if self.study.model == ModelSettings(name=net) else f"{net}/{self.study.size}"


SECTIONS = [f.name for f in dataclasses.fields(Study) if dataclasses.is_dataclass(f.default_factory)]
"""The fields of a study that are settings of their own."""


STAGES = "tombola-stages"
"""Name of the store beside the output folder; studies in one parent folder share it."""
_LONGEST_NAME = 100
_MOST_LEVELS = 1000  # of pruning; a chain has twice as many stages
_MOST_VARIANTS = 10_000
_PAPER = ("scores", "layers", "randomise", "transplant", "rewind", "size", "rate", "calibration")
_FIRST = ("demo", "cifar10", *(f"paper/{name}" for name in _PAPER))  # first the studies whose stages others share


def shipped() -> dict[str, Path]:
    """Return name -> path of the studies that come with tombola, in the order in which they are best run."""
    root = Path(str(resources.files("tombola") / "studies"))
    found = {str(path.relative_to(root).with_suffix("")): path for path in root.rglob("*.yaml")}
    return {name: found[name] for name in dict.fromkeys([*_FIRST, *sorted(found)])}


def read(study: str, changes: list[str]) -> dict[str, Any]:
    """Return the raw settings of a shipped study or a file, with PATH=VALUE changes. Raises TombolaError."""
    known = shipped()
    path = known.get(study, Path(study))
    try:
        text = read_plain(path)
    except (OSError, ValueError):  # no UTF-8, or a path with a NUL
        near = get_close_matches(study, known, 1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise TombolaError(f"there is no study {study!r}: {meant}give a YAML file or one of {', '.join(known)}") from None
    from .parse import parse  # here, because plans of settings from Python need no PyYAML

    raw = parse(text, str(path))
    if not isinstance(raw, dict):
        raise TombolaError(f"{path} is no study: it must be a YAML mapping that starts with name:")
    raw.setdefault("name", path.stem)
    for change in changes:
        _apply(raw, change)
    return raw


def unfold(raw: dict[str, Any]) -> list[Variant]:
    """Return all variants of a raw study, each checked. Raises TombolaError naming the path of a wrong setting."""
    for name in sorted(marked(Study, WHOLE)):
        if isinstance(raw.get(name), list):
            given = in_short(str(raw[name]))
            raise TombolaError(f"{name} is the list {given}; it is of the whole study and does not fan out")
    columns = {f"{section}.{name}" for section in SECTIONS for name in marked(getattr(Study(), section), COLUMN)}
    variants = []
    for settings, axes in (variant for one in expand(raw) for variant in _fan(one, Study, "")):
        settings["arms"] = [arm for one in _arms(settings) for arm, _ in _fan(one, Arm, "arms.")]
        study = _checked(settings)
        for arm in study.arms:
            _check_train(study, arm)
        variants.append(Variant(study, {path: value for path, value in axes.items() if path not in columns}))
    return variants


def resolved(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a raw study with its recipe's settings and every default, lists kept as they fan out."""
    defaults = dataclasses.asdict(Study())
    studies = [{name: _merged(value, one.get(name, value)) for name, value in defaults.items()} for one in expand(raw)]
    for study in studies:
        prune = study["prune"]
        if isinstance(prune, dict) and (prune["target"] or prune["pattern"]):
            prune["levels"] = None  # they follow
    return common_view(studies, raw.get("nets", []))


def _merged(default: Any, given: Any) -> Any:
    return default | given if isinstance(default, dict) and isinstance(given, dict) else given


def arm_train(study: Study, arm: Arm, *, deterministic: bool) -> TrainSettings:
    """Return the arm's training: the study's with the arm's changes, and with method map if `deterministic`."""
    changes: dict[str, Any] = arm.train | ({"method": "map"} if deterministic else {})
    train = dataclasses.replace(study.train, **changes)
    return deterministic_part(train) if deterministic else train


def _check_train(study: Study, arm: Arm) -> None:
    """Raise TombolaError for changes of `train` that a study could not have."""
    try:
        _checked({"name": study.name, "train": dataclasses.asdict(study.train) | arm.train})
    except TombolaError as error:
        raise TombolaError(f"arm {arm.arm}: {error}") from None


def _arms(raw: dict[str, Any]) -> list[dict[str, Any]]:
    arms = raw.get("arms", [])
    if not isinstance(arms, list):
        raise TombolaError(
            f"arms: {in_short(repr(arms))} is no list; write one arm a line, as '- ticket' or '- {{arm: ticket, score: mu}}'"
        )
    return [{"arm": arm} if isinstance(arm, str) else arm for arm in arms or ["ticket"]]


def _fan(raw: Any, kind: type, path: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield each combination of the lists in `raw` for fields of `kind` that take no list, with path -> chosen value."""
    if not isinstance(raw, dict):
        yield raw, {}
        return
    hints = typing.get_type_hints(kind)
    axes: list[list[tuple[str, Any, dict[str, Any]]]] = []
    for name, value in raw.items():
        hint, here = hints.get(name), f"{path}{name}"
        if kind is Study and name == "arms":
            axes.append([(name, value, {})])
        elif kind is Arm and name == "train" and isinstance(value, dict):
            axes.append([(name, v, {}) for v, _ in _fan(value, TrainSettings, f"{here}.")])
        elif isinstance(value, list) and not _holds_list(hint, value):
            if not value:
                raise TombolaError(f"{here} is an empty list; give at least one value")
            axes.append([(name, v, _named(here, item) | chosen) for item in value for v, chosen in _inner(item, hint, here)])
        else:
            axes.append([(name, v, chosen) for v, chosen in _inner(value, hint, here)])
    if math.prod(map(len, axes)) > _MOST_VARIANTS:
        where = path.removesuffix(".") or "the study"
        raise TombolaError(f"the lists of {where} fan out into more than {_MOST_VARIANTS:,} variants; shorten them")
    for combination in itertools.product(*axes):
        yield {name: v for name, v, _ in combination}, {k: c for _, _, chosen in combination for k, c in chosen.items()}


def _named(here: str, item: Any) -> dict[str, Any]:
    """Return path -> value of a fan-out; of a mapping each field's, so that two models of one name have two labels."""
    return {f"{here}.{name}": v for name, v in item.items()} if isinstance(item, dict) else {here: item}


def _inner(value: Any, hint: Any, here: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield from _fan(value, hint, f"{here}.")
    else:
        yield value, {}


def _holds_list(hint: Any, value: list[Any]) -> bool:
    """Return whether the list is the field's own value rather than a choice of values."""
    takes_list = any(typing.get_origin(h) is list for h in (hint, *typing.get_args(hint)))
    return takes_list and not (value and all(isinstance(item, list) for item in value))


@lru_cache(maxsize=1)
def _adapter() -> Any:
    """Return pydantic's checker of `Study`, made once: making it takes longer than all checks of a run."""
    from pydantic import TypeAdapter

    return TypeAdapter(Study)


def _checked(raw: dict[str, Any]) -> Study:
    from pydantic import ValidationError

    try:
        # through JSON: strict about numbers and texts, yet mappings become dataclasses
        study = _adapter().validate_json(json.dumps(raw))
    except ValidationError as error:
        raise TombolaError(sentence(error, Study)) from None
    except (ValueError, TypeError) as error:  # of settings from Python, which `parse` has not seen
        raise TombolaError(f"the study can't be written as JSON: {error}; a YAML alias may contain itself") from None
    taken = study.name.strip() in ("", ".", "..", STAGES)
    if taken or len(study.name) > _LONGEST_NAME or not study.name.isprintable() or "/" in study.name:
        raise TombolaError(
            f"name is {in_short(repr(study.name))}; the output folder is named so: give at most {_LONGEST_NAME} printable "
            f"characters without '/', and not '.', '..' or {STAGES!r}"
        )
    if len(set(study.seeds)) < len(study.seeds) or not study.seeds:
        raise TombolaError(f"seeds are {in_short(str(study.seeds))}; give at least one, and each once")
    if study.prune.levels > _MOST_LEVELS:
        raise TombolaError(f"prune.levels is {study.prune.levels}; give at most {_MOST_LEVELS}")
    return study


def _apply(raw: dict[str, Any], change: str) -> None:
    path, equals, value = change.partition("=")
    shown = in_short(repr(change))
    if not equals or not path:
        raise TombolaError(f"--set {shown} is no PATH=VALUE; write for example --set train.epochs=20")
    *parents, last = path.split(".")
    at = raw
    for name in parents:
        at = at.setdefault(name, {})
        if not isinstance(at, dict):
            raise TombolaError(
                f"--set {shown}: {in_short(name)!r} holds {in_short(repr(at))} and has no fields; check the path"
            )
    from .parse import parse

    at[last] = parse(value, f"--set {shown}")
