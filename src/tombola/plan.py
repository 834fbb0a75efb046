"""From a study to its graph of stages: the chains of iterative pruning, and the arms that hang on their levels."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from . import plugins
from .batches import steps_per_epoch
from .data import Dataset
from .errors import TombolaError
from .inference import OBJECTIVES, method_of
from .ingredients import Net, Source
from .labels import settings_labels
from .models.weights import load_weights
from .optim import SCHEDULES
from .posterior.estimators import ESTIMATORS
from .posterior.predictive import check_batch_statistics
from .posterior.state import layout_of
from .pruning.scores import SCORES, WITHOUT_STD
from .rewind import parse_rewind, step_of
from .settings import DataSettings, TrainSettings, deterministic_part
from .stages import Evaluate, Init, Prune, Redraw, Shuffle, Stage, Train, Transplant
from .study import Arm, Study, Variant, arm_train


@dataclass(frozen=True)
class Row:
    """One row of the records to be: what it is called, and the stage that measures it."""

    labels: dict[str, Any]
    stage: Evaluate


@dataclass(frozen=True)
class Plan:
    """The graph of a study."""

    name: str
    rows: list[Row]

    @property
    def stages(self) -> list[Stage]:
        """Every stage once, parents first."""
        found: dict[str, Stage] = {}

        def visit(stage: Stage) -> None:
            if stage.key not in found:
                for parent in stage.parents:
                    visit(parent)
                found[stage.key] = stage

        for row in self.rows:
            visit(row.stage)
        return list(found.values())


@dataclass(frozen=True)
class _Chain:
    """The levels of one pruning chain: what each is trained from, and trained."""

    tickets: list[Stage]
    trained: list[Train]
    dense: Stage
    """Where survivors restart, unmasked."""
    start: str


def plan_study(variants: list[Variant], data: Callable[[DataSettings], Dataset]) -> Plan:
    """Raises TombolaError for whatever can be known to be wrong before anything runs."""
    rows: dict[tuple[Any, ...], Row] = {}
    for variant in variants:
        for row in _variant_rows(variant, data):
            name = (row.labels["curve"], row.labels["variant"], row.labels["seed"], row.labels["level"], row.stage.key)
            rows.setdefault(name, row)  # a fan-out over scores repeats the arms that have none
    _check_names(rows.values())
    return Plan(variants[0].study.name, list(rows.values()))


def _variant_rows(variant: Variant, data: Callable[[DataSettings], Dataset]) -> Iterator[Row]:
    study = variant.study
    dataset = data(study.data)
    source = Source(study.data, dataset.fingerprint)
    net = Net(study.model, dataset.input_shape, dataset.outputs)
    parameters = _check(study, net, dataset)
    for seed in study.seeds:
        for arm in study.arms:
            for level, trained, label in _arm_stages(study, arm, net, source, seed):
                labels = {
                    "study": study.name,
                    "arm": arm.arm,
                    "curve": label,
                    "variant": variant.label,
                    "model": study.model.name,
                    "data": dataset.name,
                    "method": trained.settings.method,
                    "score": arm_score(study, arm),
                    "rewind": arm.rewind or study.prune.rewind,
                    "seed": seed,
                    "level": level,
                    "parameters": parameters,
                    **settings_labels(study, arm, trained.settings, dataset.fingerprint),
                }
                stage = Evaluate(
                    parents=(trained,),
                    net=net,
                    source=source,
                    settings=study.evaluate,
                    train=trained.settings,
                    seed=seed,
                )
                yield Row(labels, stage)


def _arm_stages(study: Study, arm: Arm, net: Net, source: Source, seed: int) -> Iterator[tuple[int, Train, str]]:
    """(level, the training, the curve's label) of each ticket of an arm."""
    settings = arm_train(study, arm, deterministic=deterministic(arm))
    chain = _chain(study, arm, net, source, seed, settings)
    label = curve_label(study, arm)
    if arm.arm in ("ticket", "deterministic"):
        yield from ((level, trained, label) for level, trained in enumerate(chain.trained))
        return
    first = chain.tickets[0]
    assert isinstance(first, Init)
    for level in arm.levels or range(1, study.prune.levels + 1):
        pruned = chain.tickets[level]
        start, parent = chain.start, pruned
        if arm.arm == "transplant":
            parent, start = Transplant(parents=(pruned, replace(first, posterior=study.posterior))), ""
            settings = arm_train(study, arm, deterministic=False)
        elif arm.arm == "reinit":
            parent, start = Redraw(parents=(pruned, replace(first, draw="redrawn"))), ""
        else:
            parent = Shuffle(parents=(pruned, chain.dense), how=arm.arm.removeprefix("shuffle_"), seed=seed)
        trained = Train(parents=(parent,), net=net, source=source, settings=settings, seed=seed, start=start)
        yield level, trained, label


def _chain(study: Study, arm: Arm, net: Net, source: Source, seed: int, settings: TrainSettings) -> _Chain:
    def training(parent: Stage, start: str = "", stop: str = "") -> Train:
        return Train(parents=(parent,), net=net, source=source, settings=settings, seed=seed, start=start, stop=stop)

    # a deterministic chain is the same whatever sigma starts at, so that studies of sigma share it
    posterior = deterministic_part(study.posterior) if deterministic(arm) else study.posterior
    init = Init(net=net, posterior=posterior, prune=study.prune, seed=seed)
    rewind = arm.rewind or study.prune.rewind
    at = parse_rewind(rewind)
    dense = training(init, stop=at) if at else init
    tickets: list[Stage] = [init]
    trained = [training(init)]
    for _ in range(study.prune.levels):
        restart = trained[-1] if rewind == "learning_rate" else dense
        tickets.append(
            Prune(
                parents=(trained[-1], restart),
                score=arm_score(study, arm),
                fraction=study.prune.fraction,
                scope=study.prune.scope,
                seed=seed,
            )
        )
        trained.append(training(tickets[-1], start=at))
    return _Chain(tickets, trained, dense, at)


def arm_score(study: Study, arm: Arm) -> str:
    """The score of the chain that an arm stands on."""
    if arm.score:
        return arm.score
    return "magnitude" if deterministic(arm) else study.prune.score


def deterministic(arm: Arm) -> bool:
    """Whether the chain that the arm stands on is deterministic."""
    return arm.arm in ("deterministic", "transplant") or arm.of == "deterministic"


_NAMES = {
    "ticket": "ticket",
    "deterministic": "deterministic",
    "transplant": "transplant",
    "reinit": "re-init",
    "shuffle_layerwise": "layer-wise shuffle",
    "shuffle_global": "global shuffle",
    "shuffle_even": "even shuffle",
}


def curve_label(study: Study, arm: Arm) -> str:
    """What people read in legends and tables."""
    of = " of deterministic" if arm.of == "deterministic" and arm.arm not in ("deterministic", "transplant") else ""
    rewind = arm.rewind or study.prune.rewind
    extra = [] if rewind == "init" else ["learning-rate rewinding" if rewind == "learning_rate" else f"rewind {rewind}"]
    by_map = deterministic(arm) and arm.arm != "transplant"
    changes = ({} if study.train.method == "vi" or by_map else {"method": study.train.method}) | arm.train
    extra += [f"{name}={value}" for name, value in changes.items()]
    return ", ".join([f"{_NAMES[arm.arm]}{of} ({arm_score(study, arm)})", *extra])


def _check_names(rows: Iterable[Row]) -> None:
    """Raises TombolaError where two data sets of a study would be one in its tables."""
    factory_of: dict[str, str] = {}
    for row in rows:
        called, factory = row.labels["data"], row.stage.source.settings.name
        if (first := factory_of.setdefault(called, factory)) != factory:
            raise TombolaError(f"data {first!r} and {factory!r} are both called {called!r}; rename one Dataset")


def _check(study: Study, net: Net, dataset: Dataset) -> int:
    """Everything that would fail a stage later, found before the first one runs; the number of the net's parameters."""
    shape, crop = dataset.input_shape, study.data.crop
    if (study.data.flip or crop) and (len(shape) != 3 or crop >= min(shape[1:])):
        raise TombolaError(
            f"data.{'crop' if crop else 'flip'} is of images [C, H, W] larger than the padding of {crop}; inputs of "
            f"{dataset.name!r} have shape {list(shape)}"
        )
    for arm in study.arms:
        score, rewind = arm_score(study, arm), arm.rewind or study.prune.rewind
        plugins.resolve(score, SCORES, "score")
        if arm.arm in ("deterministic", "transplant") and score in SCORES and score not in WITHOUT_STD:
            raise TombolaError(
                f"arm {arm.arm} has score {score!r}, which needs a std; a deterministic network can be pruned by "
                f"{', '.join(sorted(WITHOUT_STD))}"
            )
        at = parse_rewind(rewind)
        if arm.levels and max(arm.levels) > study.prune.levels:
            raise TombolaError(f"arm {arm.arm} is at level {max(arm.levels)}, but prune.levels is {study.prune.levels}")
        if "method" in arm.train and deterministic(arm) and arm.arm != "transplant":
            raise TombolaError(
                f"arm {arm.arm} has train.method {arm.train['method']!r}, but deterministic networks are trained by map; "
                "leave it out, or name it in an arm 'ticket'"
            )
        settings = arm_train(study, arm, deterministic=False)
        if method_of(settings.method).deterministic:
            raise TombolaError(
                f"train.method is {settings.method!r}; deterministic curves are the arm 'deterministic', so leave the "
                "method out or name a Bayesian one"
            )
        plugins.resolve(settings.schedule, SCHEDULES, "schedule")
        plugins.resolve(settings.estimator, ESTIMATORS, "estimator")
        plugins.resolve(settings.objective, OBJECTIVES, "objective")
        steps = steps_per_epoch(len(dataset.train[0]), settings.batch_size)
        if (step_of(at, steps) or 0) >= settings.epochs * steps:
            raise TombolaError(
                f"rewind is {rewind!r}, but training ends at epoch:{settings.epochs} (step:{settings.epochs * steps}); "
                "rewind to an earlier point"
            )
        if (settings.likelihood == "categorical") != dataset.is_classification:
            wanted = "categorical" if dataset.is_classification else "gaussian"
            raise TombolaError(f"train.likelihood is {settings.likelihood!r}; data {dataset.name!r} needs {wanted!r}")
    module = net.build("check")
    if study.model.weights:
        load_weights(module, study.model.weights)
        if study.posterior.mean != "module":
            raise TombolaError(
                f"posterior.mean {study.posterior.mean!r} would write over model.weights ({study.model.weights}); "
                "leave one of them out"
            )
    if study.evaluate.batch_norm == "batch":
        check_batch_statistics(module, len(dataset.test[0]), study.evaluate.batch_size)
    layout = layout_of(module, study.posterior, study.prune)
    if study.prune.levels and not layout.prunable_segments():
        raise TombolaError(f"model {study.model.name!r}: nothing is prunable; set prune.classifier: true or prune.include")
    return layout.numel
