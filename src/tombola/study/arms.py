"""Arms of a study: the trainings of each, at every level of a chain of iterative pruning.

An arm is one curve of a study. Two arms prune (`ticket`, `deterministic`); the others hang on such a chain and train a
changed ticket at each of its levels: another mask, other weights, another network.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from tombola.errors import TombolaError
from tombola.inference import method_of
from tombola.pruning.chain import Level, walk_chain
from tombola.settings import PosteriorSettings, PruneSettings, SparseSettings, TrainSettings
from tombola.settings.fields import UNLABELLED, marked
from tombola.settings.keys import canonical, deterministic_part

from .spec import SECTIONS, Arm, Study, arm_train
from .stages import Init, Prune, PruneBefore, Redraw, Shuffle, Stage, Train, Transplant
from .stages.base import Net, Source


@dataclass(frozen=True)
class SeedContext:
    """Settings that all arms of one seed share."""

    study: Study
    net: Net
    source: Source
    seed: int
    examples: int
    """Number of training examples."""

    def init(self, posterior: PosteriorSettings, settings: TrainSettings) -> Init:
        """Return the dense start of networks that are trained by `settings`."""
        begun = method_of(settings.method).start(posterior, settings, self.examples)
        source = self.source if self.net.fits_first_layer else None
        return Init(net=self.net, posterior=begun, prune=self.study.prune, seed=self.seed, source=source)

    def train(self, parent: Stage, settings: TrainSettings, start: str = "", stop: str = "") -> Train:
        """Return a training of `parent`."""
        return Train(
            parents=(parent,),
            net=self.net,
            source=self.source,
            settings=settings,
            seed=self.seed,
            start=start,
            stop=stop,
            split=self.study.evaluate.split,
        )


@dataclass(frozen=True)
class Chain:
    """Levels of one pruning chain, as stages."""

    context: SeedContext
    settings: TrainSettings
    levels: list[Level[Stage, Train]]
    structure: str
    """Structure of its masks, as of `PruneSettings`."""

    @property
    def start(self) -> str:
        """Return the point of the schedule at which survivors restart."""
        return self.levels[0].start

    def ticket(self, level: int) -> Stage:
        """Return the stage that gives the level's untrained ticket."""
        return self.levels[level].ticket

    def redrawn(self, level: int) -> Redraw:
        """Return the level's ticket with its weights drawn anew."""
        init = self.ticket(0)
        assert isinstance(init, Init)
        return Redraw(parents=(self.ticket(level), replace(init, draw="redrawn")))

    def shuffled(self, level: int, how: str) -> Shuffle:
        """Return the level's ticket with its mask shuffled."""
        context, parents = self.context, (self.ticket(level), self.levels[0].dense)
        seed, net, source = context.seed, context.net, context.source
        return Shuffle(parents=parents, how=how, structure=self.structure, seed=seed, net=net, source=source)


def trainings(context: SeedContext, arm: Arm) -> Iterator[tuple[int, Train]]:
    """Yield (level, the training) of each ticket of an arm."""
    chain = _chain(context, arm)
    if arm.arm in ("ticket", "deterministic"):
        yield from ((level.level, level.trained) for level in chain.levels)
        return
    for level in _levels(context.study, arm):
        yield level, HANGING[arm.arm](chain, arm, level)


def _levels(study: Study, arm: Arm) -> list[int]:
    """Return the levels at which an arm that hangs on a chain is trained."""
    every = range(1, study.prune.levels + 1)
    if arm.densities is None:
        return arm.levels or list(every)
    left = {k: math.log(study.prune.share_left(k)) for k in every}
    return sorted({min(every, key=lambda k: abs(left[k] - math.log(density))) for density in arm.densities})


def _chain(context: SeedContext, arm: Arm) -> Chain:
    study, point = context.study, chain_is_deterministic(arm)
    settings = arm_train(study, arm, deterministic=point)
    # a deterministic chain does not depend on the initial sigma: without it studies of sigma share the chain's keys
    posterior = deterministic_part(study.posterior) if point else study.posterior
    rule = arm_prune(study, arm)

    def train(ticket: Stage, level: int, start: str, stop: str) -> Train:
        return context.train(ticket, settings, start=start, stop=stop)

    def prune(trained: Stage, restart: Stage, level: int) -> Stage:
        return Prune(parents=(trained, restart), settings=rule, seed=context.seed, net=context.net, source=context.source)

    init: Stage = context.init(posterior, settings)
    return Chain(context, settings, list(walk_chain(init, rule, train, prune)), rule.structure)


def _reinit(chain: Chain, arm: Arm, level: int) -> Train:
    return chain.context.train(chain.redrawn(level), chain.settings)


def _shuffle(chain: Chain, arm: Arm, level: int) -> Train:
    parent = chain.shuffled(level, arm.arm.removeprefix("shuffle_"))
    return chain.context.train(parent, chain.settings, start=chain.start)


def _equal_budget(chain: Chain, arm: Arm, level: int) -> Train:
    """Train level k's ticket for k + 1 times the epochs, as many as learning-rate rewinding has trained it by then."""
    longer = {name: (level + 1) * getattr(chain.settings, name) for name in ("epochs", "warmup_epochs", "kl_warmup_epochs")}
    return chain.context.train(chain.ticket(level), replace(chain.settings, **longer), start=chain.start)


def _before(chain: Chain, arm: Arm, level: int) -> Train:
    """Train the start as pruned at once to the level's share."""
    start, context = chain.ticket(0), chain.context
    pruned = PruneBefore(
        parents=(start, start),
        settings=arm_prune(context.study, arm),
        seed=context.seed,
        net=context.net,
        source=context.source,
        level=level,
        train=chain.settings,
    )
    return context.train(pruned, chain.settings)


def _within(chain: Chain, arm: Arm, level: int) -> Train:
    """Train the start with a mask that changes and has the level's share."""
    density = chain.context.study.prune.share_left(level)
    settings = replace(chain.settings, sparse=chain.settings.sparse | {"density": density})
    return chain.context.train(chain.ticket(0), settings)


def _planted(chain: Chain, arm: Arm, pruned: Stage) -> Train:
    """Train a deterministic ticket as a Bayesian network: its values as means, std as at the Bayesian start."""
    study = chain.context.study
    settings = arm_train(study, arm, deterministic=False)
    parent = Transplant(parents=(pruned, chain.context.init(study.posterior, settings)))
    return chain.context.train(parent, settings)


HANGING: dict[str, Callable[[Chain, Arm, int], Train]] = {
    "transplant": lambda chain, arm, level: _planted(chain, arm, chain.ticket(level)),
    "transplant_shuffle": lambda chain, arm, level: _planted(chain, arm, chain.shuffled(level, "layerwise")),
    "transplant_reinit": lambda chain, arm, level: _planted(chain, arm, chain.redrawn(level)),
    "reinit": _reinit,
    "shuffle_layerwise": _shuffle,
    "shuffle_global": _shuffle,
    "shuffle_even": _shuffle,
    "equal_budget": _equal_budget,
    "before_training": _before,
    "in_training": _within,
}
"""Training at a level of a chain, of each arm that hangs on one."""

TRANSPLANTS = ("transplant", "transplant_shuffle", "transplant_reinit")
"""Arms that train Bayesian networks on a deterministic chain."""


def chain_is_deterministic(arm: Arm) -> bool:
    """Return whether the arm's pruning chain is deterministic."""
    return arm.arm == "deterministic" or arm.arm in TRANSPLANTS or arm.of == "deterministic"


def by_map(arm: Arm) -> bool:
    """Return whether the arm's own trainings are deterministic."""
    return chain_is_deterministic(arm) and arm.arm not in TRANSPLANTS


def arm_mask(study: Study, arm: Arm) -> SparseSettings | None:
    """Return the settings of the mask that changes in the arm's trainings; None of another arm."""
    return arm_train(study, arm, deterministic=by_map(arm)).mask if arm.arm == "in_training" else None


def arm_score(study: Study, arm: Arm) -> str:
    """Return the score of the arm's pruning chain, or by which weights go in its trainings."""
    if mask := arm_mask(study, arm):
        return mask.score
    if arm.score:
        return arm.score
    return "magnitude" if chain_is_deterministic(arm) else study.prune.score


def arm_sigma(study: Study, arm: Arm) -> Literal["trained", "start", "shuffled"]:
    """Return the std that the chain's score is given; a deterministic network has none to choose."""
    return "trained" if chain_is_deterministic(arm) else arm.sigma or study.prune.sigma


def arm_prune(study: Study, arm: Arm) -> PruneSettings:
    """Return the pruning of the arm's chain: the study's with the arm's changes."""
    own = {
        name: value
        for name in ("budget", "cost_exponent", "scope", "structure")
        if (value := getattr(arm, name)) is not None
    }
    if arm.cost_exponent is not None and own.get("budget", study.prune.budget) == "weights":
        raise TombolaError(
            f"arm {arm.arm} has cost_exponent {arm.cost_exponent:g}, but its budget is weights, which all cost the same; "
            "set its budget to flops"
        )
    return replace(
        study.prune,
        score=arm_score(study, arm),
        sigma=arm_sigma(study, arm),
        rewind=arm.rewind or study.prune.rewind,
        **own,
    )


_NAMES = {  # of arms that are called otherwise in legends
    "transplant_shuffle": "transplant, shuffled mask",
    "transplant_reinit": "transplant, re-drawn weights",
    "reinit": "re-init",
    "shuffle_layerwise": "layer-wise shuffle",
    "shuffle_global": "global shuffle",
    "shuffle_even": "even shuffle",
    "equal_budget": "equal budget",
    "before_training": "before training",
}


def curve_label(study: Study, arm: Arm) -> str:
    """Return the curve's name in legends and tables."""
    mask = arm_mask(study, arm)
    name = mask.way if mask else _NAMES.get(arm.arm, arm.arm)
    of = " of deterministic" if arm.of == "deterministic" and arm.arm != "deterministic" and by_map(arm) else ""
    rewind = arm.rewind or study.prune.rewind
    sigma = arm_sigma(study, arm)
    extra = [] if sigma == "trained" else [f"sigma {_SIGMAS[sigma]}"]
    extra += [] if rewind == "init" else ["learning-rate rewinding" if rewind == "learning_rate" else f"rewind {rewind}"]
    rule = arm_prune(study, arm)
    if rule.budget != "weights":
        extra.append(f"{rule.budget} budget, exponent {rule.cost_exponent:g}")
    extra += [
        f"{name} {value}" for name in ("scope", "structure") if (value := getattr(rule, name)) != getattr(study.prune, name)
    ]
    changes = ({} if study.train.method == "vi" or by_map(arm) else {"method": study.train.method}) | arm.train
    extra += [f"{name}={value}" for name, value in changes.items() if name != "sparse" or not mask]
    extra += [f"{name}={value}" for name, value in _unusual(mask).items()] if mask else []
    return ", ".join([f"{name}{of} ({arm_score(study, arm)})", *extra])


def _unusual(mask: SparseSettings) -> dict[str, Any]:
    """Return the fields that have other values than their defaults; way, density and score are in the curve's name."""
    plain = dataclasses.asdict(SparseSettings())
    found = dataclasses.asdict(mask).items()
    return {name: value for name, value in found if name not in ("way", "density", "drop") and value != plain[name]}


_SIGMAS = {"start": "as at the start", "shuffled": "shuffled"}


def settings_labels(study: Study, arm: Arm, fingerprint: str) -> dict[str, Any]:
    """Return the columns `chain`, `settings` and `changes` of an arm's rows."""
    return {
        "chain": "deterministic" if chain_is_deterministic(arm) else "bayesian",
        "settings": _text({"data.fingerprint": fingerprint} | _settings(study)),
        "changes": _text(_changes(study, arm)),
    }


def _settings(study: Study) -> dict[str, Any]:
    """Return path -> value of the settings that differ from their defaults in keys."""
    return {
        f"{section}.{name}": value
        for section in SECTIONS
        for name, value in canonical(getattr(study, section)).items()
        if name not in marked(getattr(study, section), UNLABELLED)
    }


def _changes(study: Study, arm: Arm) -> dict[str, Any]:
    """Return path -> value of the settings in which the arm differs from its study, without the ones with a column."""
    own = {name: value for name, value in arm.train.items() if name != "method" and value != getattr(study.train, name)}
    plain = dataclasses.asdict(Arm()) | dataclasses.asdict(study.prune)
    rest = {
        name: value
        for name, value in dataclasses.asdict(arm).items()
        if name not in ("arm", "score", "of", "rewind", "levels", "densities", "train") and value not in (None, plain[name])
    }
    return {f"train.{name}": value for name, value in own.items()} | rest


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)
