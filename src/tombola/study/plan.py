"""Plan of a study: its graph of stages, with a row for each ticket of each arm, checked before the first stage runs."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from tombola import plugins
from tombola.data import Dataset
from tombola.data.batches import steps_per_epoch
from tombola.errors import TombolaError
from tombola.inference import OBJECTIVES, is_deterministic
from tombola.inference.compiled import check_compile
from tombola.inference.estimators import ESTIMATORS
from tombola.inference.graphs import check_graphs
from tombola.models.weights import load_weights
from tombola.posterior.predictive import check_batch_statistics
from tombola.posterior.state import layout_of
from tombola.pruning.masks import grouped_segments
from tombola.pruning.rewind import parse_rewind, step_of
from tombola.pruning.scores import AT_START, SCORES, WITHOUT_STD, check_prunable, check_random, check_ranked
from tombola.pruning.units import units_of
from tombola.settings import DataSettings
from tombola.training.costs import weight_costs
from tombola.training.further import check_measures
from tombola.training.optim import SCHEDULES
from tombola.training.scored import check_targets

from .analyses import analysis_rows
from .arms import (
    TRANSPLANTS,
    SeedContext,
    arm_prune,
    arm_score,
    arm_sigma,
    by_map,
    chain_is_deterministic,
    curve_label,
    settings_labels,
    trainings,
)
from .graph import AnalysisRow, Row, ancestors, curve_of, several_of
from .messages import in_short
from .spec import Arm, Study, Variant, arm_train
from .stages import Evaluate, Init, Prune, Shuffle, Stage, Train
from .stages.base import COUNTED, Net, Source


@dataclass(frozen=True)
class Plan:
    """The graph of a study."""

    name: str
    rows: list[Row]
    analyses: list[AnalysisRow] = field(default_factory=list)

    @cached_property
    def wanted(self) -> list[Row | AnalysisRow]:
        """Return all rows; analyses come last, because their stages depend on the other rows' stages."""
        return [*self.rows, *self.analyses]

    @cached_property
    def stages(self) -> list[Stage]:
        """Return every stage once, parents first."""
        return ancestors(*(row.stage for row in self.wanted))


def plan_study(variants: list[Variant], data: Callable[[DataSettings], Dataset]) -> Plan:
    """Return the plan. Raises TombolaError for every mistake that can be found before the first stage runs."""
    rows: dict[tuple[Any, ...], Row] = {}
    for variant in variants:
        for row in _variant_rows(variant, data):
            name = (row.labels["curve"], row.labels["variant"], row.labels["seed"], row.labels["level"], row.stage.key)
            rows.setdefault(name, row)  # a fan-out over scores repeats the arms that have none
    _check_names(rows.values())
    names = [name for variant in variants for name in variant.study.views]
    return Plan(variants[0].study.name, list(rows.values()), analysis_rows(names, rows.values()))


def training_of(stage: Stage) -> Train | None:
    """Return the training that a stage is or repeats, whose steps forecasts and progress count: its `training`, if any."""
    return getattr(stage, "training", None)


def _variant_rows(variant: Variant, data: Callable[[DataSettings], Dataset]) -> Iterator[Row]:
    study = variant.study
    dataset = data(study.data)
    source = Source(study.data, dataset.fingerprint)
    net = Net(study.model, dataset.input_shape, dataset.outputs)
    study = _measured_as_can_be(study, net)
    parameters = _check(study, net, dataset)
    arms = [(arm, curve_label(study, arm), settings_labels(study, arm, dataset.fingerprint)) for arm in study.arms]
    for seed in study.seeds:
        for arm, label, shared in arms:
            for level, trained in trainings(SeedContext(study, net, source, seed, dataset.examples), arm):
                labels = {
                    "study": study.name,
                    "arm": arm.arm,
                    "curve": label,
                    "variant": variant.label,
                    "model": variant.model,
                    "data": dataset.name + ("" if study.evaluate.split == "test" else f" ({study.evaluate.split} split)"),
                    "method": trained.settings.method,
                    "score": arm_score(study, arm),
                    "sigma": arm_sigma(study, arm),
                    "rewind": arm.rewind or study.prune.rewind,
                    "seed": seed,
                    "level": level,
                    "parameters": parameters,
                    "lr": trained.settings.lr,
                    "warmup_epochs": trained.settings.warmup_epochs,
                    **shared,
                }
                measure = study.evaluate
                if measure.batch_norm == "samples" and is_deterministic(trained.settings.method):
                    measure = replace(measure, batch_norm="running")  # the same, in one key
                stage = Evaluate(
                    parents=(trained,),
                    net=net,
                    source=source,
                    settings=measure,
                    train=trained.settings,
                    seed=seed,
                )
                yield Row(labels, stage)


def _measured_as_can_be(study: Study, net: Net) -> Study:
    """Return the study with running statistics if the net has no batch norm, so that all settings share one key."""
    if study.evaluate.batch_norm == "running" or net.norm.exists:
        return study
    return replace(study, evaluate=replace(study.evaluate, batch_norm="running"))


def _check_names(rows: Iterable[Row]) -> None:
    """Raise TombolaError if two data sets of a study have one name in its tables."""
    factory_of: dict[str, str] = {}
    for row in rows:
        called, factory = row.labels["data"], row.stage.source.settings.name
        if (first := factory_of.setdefault(called, factory)) != factory:
            raise TombolaError(f"data {first!r} and {factory!r} are both called {called!r}; rename one Dataset")


def _check(study: Study, net: Net, dataset: Dataset) -> int:
    """Return the number of the net's parameters. Raises TombolaError for whatever would fail a stage later."""
    shape, crop = dataset.input_shape, study.data.crop
    dataset.held_out(study.evaluate.split)
    if (study.data.flip or crop) and (len(shape) != 3 or crop >= min(shape[1:])):
        raise TombolaError(
            f"data.{'crop' if crop else 'flip'} is of images [C, H, W] larger than the padding of {crop}; inputs of "
            f"{dataset.name!r} have shape {list(shape)}"
        )
    for arm in study.arms:
        _check_arm(study, arm, dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shown when a stage builds the net; torch's about empty tensors is the error below
        module = net.build("check")
    if study.model.weights:
        load_weights(module, study.model.weights)
        if study.posterior.mean != "module":
            raise TombolaError(
                f"posterior.mean {study.posterior.mean!r} would write over model.weights ({study.model.weights}); "
                "leave one of them out"
            )
    if study.evaluate.batch_norm == "batch":
        check_batch_statistics(module, len(dataset.held_out(study.evaluate.split)[0]), study.evaluate.batch_size)
    if empty := [name for name, p in module.named_parameters() if not p.numel()]:
        raise TombolaError(f"model {study.model.name!r} has no weights in {empty[0]!r}; give sizes above 0 in model.args")
    layout = layout_of(module, study.posterior, study.prune)
    for arm in study.arms:
        if not by_map(arm):
            check_random(layout)
        if study.prune.levels and not chain_is_deterministic(arm):
            check_ranked(layout, arm_score(study, arm))
    if study.prune.levels:
        check_prunable(layout, f"model {study.model.name!r}: ")
    if study.prune.group and study.prune.levels:
        grouped_segments(layout, study.prune.group[1])
    rules = [rule for rule in (arm_prune(study, arm) for arm in study.arms) if rule.levels]
    for rule in rules:
        if rule.budget != "weights":
            weight_costs(rule, layout, module, dataset.prepare(dataset.train[0][:COUNTED]))
    for structure in sorted({rule.structure for rule in rules} - {"none"}):
        units_of(module, layout, dataset.prepare(dataset.train[0][:COUNTED]), structure)
    return layout.numel


def _check_levels(study: Study, arm: Arm) -> None:
    """Raise TombolaError for levels or densities that the arm cannot have."""
    for name in ("levels", "densities"):
        given = getattr(arm, name)
        if given is not None and arm.arm in ("ticket", "deterministic"):
            raise TombolaError(f"arm {arm.arm} has {name}, but a chain has all levels; leave them out, or set prune.levels")
        if given is not None and (not given or len(set(given)) < len(given)):
            raise TombolaError(f"arm {arm.arm} has {name} {in_short(str(given))}; give at least one, and each once")
    if arm.levels and max(arm.levels) > study.prune.levels:
        raise TombolaError(f"arm {arm.arm} is at level {max(arm.levels)}, but prune.levels is {study.prune.levels}")
    if arm.densities is not None and (arm.levels or not study.prune.levels):
        raise TombolaError(
            f"arm {arm.arm} has densities {arm.densities} "
            + (f"and levels {arm.levels}; leave one of them out" if arm.levels else "but prune.levels is 0; raise it")
        )


def _check_arm(study: Study, arm: Arm, dataset: Dataset) -> None:
    """Raise TombolaError for an arm that the study or its data cannot have."""
    score, rewind = arm_score(study, arm), arm.rewind or study.prune.rewind
    if score not in AT_START:
        plugins.resolve(score, SCORES, "score")
    elif arm.arm != "before_training":
        raise TombolaError(
            f"arm {arm.arm} has score {score!r}, which is of untrained networks; name it in an arm before_training"
        )
    if (arm.arm == "deterministic" or arm.arm in TRANSPLANTS) and score in SCORES and score not in WITHOUT_STD:
        raise TombolaError(
            f"arm {arm.arm} has score {score!r}, which needs a std; a deterministic network can be pruned by "
            f"{', '.join(sorted(WITHOUT_STD))}"
        )
    at = parse_rewind(rewind)
    _check_levels(study, arm)
    if arm.arm == "equal_budget" and rewind == "learning_rate":
        raise TombolaError(
            "arm equal_budget depends on learning-rate rewinding, which has trained that long already; "
            "set its rewind to init"
        )
    if "method" in arm.train and by_map(arm):
        raise TombolaError(
            f"arm {arm.arm} has train.method {arm.train['method']!r}, but deterministic networks are trained by map; "
            "leave it out, or name it in an arm 'ticket'"
        )
    settings = arm_train(study, arm, deterministic=False)
    if is_deterministic(settings.method):
        raise TombolaError(
            f"train.method is {settings.method!r}; deterministic curves are the arm 'deterministic', so leave the "
            "method out or name a Bayesian one"
        )
    _check_mask(study, arm)
    plugins.resolve(settings.schedule, SCHEDULES, "schedule")
    estimator = plugins.resolve(settings.estimator, ESTIMATORS, "estimator")
    plugins.resolve(settings.objective, OBJECTIVES, "objective")
    if not by_map(arm):
        if settings.compile:
            check_compile(settings, estimator)
        if settings.cuda_graphs:
            check_graphs(settings, estimator)
    steps = steps_per_epoch(dataset.examples, settings.batch_size)
    if (step_of(at, steps) or 0) >= settings.epochs * steps:
        raise TombolaError(
            f"rewind is {rewind!r}, but training ends at epoch:{settings.epochs} (step:{settings.epochs * steps}); "
            "rewind to an earlier point"
        )
    check_targets(settings.likelihood, dataset)
    check_measures(study.evaluate, dataset, settings.likelihood)


def _check_mask(study: Study, arm: Arm) -> None:
    """Raise TombolaError for a mask that changes in a training, where the arm has none or has another."""
    mask = arm_train(study, arm, deterministic=by_map(arm)).mask
    if arm.arm != "in_training":
        if mask and study.prune.levels:
            raise TombolaError(
                f"arm {arm.arm} prunes between trainings, and train.sparse within them; name it in an arm in_training"
            )
        return
    if mask is None:
        raise TombolaError("arm in_training has no train.sparse; add for example train: {sparse: {way: rigl}}")
    if (structure := arm_prune(study, arm).structure) != "none":
        raise TombolaError(
            f"arm in_training changes single weights, and its structure is {structure!r}; set structure: none in the arm"
        )
    if arm.score:
        raise TombolaError(f"arm in_training has score {arm.score!r}; weights go by train.sparse.drop: set that")
    if by_map(arm) and mask.score in SCORES and mask.score not in WITHOUT_STD:
        raise TombolaError(
            f"arm in_training drops by {mask.score!r}, which needs a std; a deterministic network can be pruned by "
            f"{', '.join(sorted(WITHOUT_STD))}"
        )


def names_of(plan: Plan) -> dict[str, str]:
    """Return key -> name of every stage, as "train vi · ticket (snr) · level 3 · seed 1".

    If several curves share a stage, its name has the curve that is nearest to it, and "+2" for two more.
    """
    several = several_of(plan)
    nearest: dict[str, tuple[int, int]] = {}  # stages between, place of the row
    curves: dict[str, set[str]] = defaultdict(set)
    for place, row in enumerate(plan.wanted):
        nearest.setdefault(row.stage.key, (0, place))
        curves[row.stage.key].add(curve_of(row, several))
    for stage in reversed(plan.stages):  # children first
        distance, place = nearest[stage.key]
        for parent in stage.parents:
            curves[parent.key] |= curves[stage.key]
            nearest[parent.key] = min((distance + 1, place), nearest.get(parent.key, (distance + 1, place)))
    names, levels = {}, dict[str, int]()
    for stage in plan.stages:
        levels[stage.key] = (levels[stage.parents[0].key] if stage.parents else 0) + isinstance(stage, Prune)
        row = plan.wanted[nearest[stage.key][1]]
        if isinstance(row, Row) and stage in row.read:
            levels[stage.key] = row.labels["level"]  # of arms that prune at once or within a training, it is no count
        more = f" +{len(curves[stage.key]) - 1}" if len(curves[stage.key]) > 1 else ""
        between = row.labels.get("between", "") if row.stage is stage else ""
        doing = f"{_action(stage)} between {between}" if between else _action(stage)
        parts = [doing, curve_of(row, several) + more, f"level {levels[stage.key]}", f"seed {row.labels['seed']}"]
        names[stage.key] = " · ".join(parts)
    return names


def _action(stage: Stage) -> str:
    """Return the stage's action in a word or two."""
    if isinstance(stage, Train):
        again = " again" if stage.replica else ""
        return f"train {stage.settings.method}{again}" + (f" to {stage.stop}" if stage.stop else "")
    if isinstance(stage, Shuffle):
        return f"shuffle {stage.how}"
    return f"redraw {stage.kind}" if isinstance(stage, Init) and stage.draw != "first" else stage.kind
