"""What enters the keys of stages, and what does not."""

import dataclasses
import typing

import pytest

from tombola import plugins
from tombola.engine.local import dataset
from tombola.pruning.scores import SCORES
from tombola.settings import (
    DataSettings,
    EvaluateSettings,
    ModelSettings,
    PosteriorSettings,
    PruneSettings,
    TrainSettings,
)
from tombola.settings.fields import BAYESIAN, setting
from tombola.settings.keys import KEY_DEFAULTS, canonical, deterministic_part, restored
from tombola.study.plan import plan_study
from tombola.study.spec import unfold
from tombola.study.stages import Evaluate, Init, Prune, Train
from tombola.study.stages.base import Net, Source


def keys(raw):
    return [stage.key for stage in plan_study(unfold(raw), dataset).stages]


def net(**settings):
    return Net(ModelSettings(**settings), (1, 8, 8), 10)


def source(fingerprint="abc", **settings):
    return Source(DataSettings(**settings), fingerprint)


def an_init(**changes):
    given = {"net": net(), "posterior": PosteriorSettings(), "prune": PruneSettings(), "seed": 0}
    return Init(**given | changes)


def a_train(parent=None, settings=None, **changes):
    given = {"net": net(), "source": source(), "settings": settings or TrainSettings(), "seed": 0}
    return Train(parents=(parent or an_init(),), **given | changes)


def an_evaluate(parent=None, settings=None, **changes):
    given = {
        "net": net(),
        "source": source(),
        "settings": settings or EvaluateSettings(),
        "train": TrainSettings(),
        "seed": 0,
    }
    return Evaluate(parents=(parent or a_train(),), **given | changes)


def a_prune(settings, **changes):
    given = {"parents": (a_train(), an_init()), "net": net(), "source": source(), "seed": 0}
    return Prune(settings=settings, **given | changes)


def another(name, default, hint):
    """Return some other value than its default in keys that the field may have."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return next(option for option in options if option != default)
    if name == "measures":
        return ["selective"]
    if default is None:
        return ["*"] if list in [typing.get_origin(option) for option in options] else 1.0
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    if isinstance(default, float):
        return default / 2 or 0.5
    if name in NAMES:
        return NAMES[name]
    if name == "sparse":
        return {"way": "set"}
    return {"list": ["*"] if not default else [0.25], "dict": {"a": 1}, "str": "other"}[type(default).__name__]


NAMES = {"method": "map", "schedule": "cosine", "estimator": "local", "objective": "log_expected", "score": "mu"}
"""Texts that must be known names."""


WITH_LEVELS = {"target": {"target": 0.5, "levels": 4}, "pattern": {"pattern": "2:4", "levels": 2}}
"""Settings that decide how many levels there are."""
BY_MOMENTS = {"estimator": "moments", "samples": 64}
"""Moments need more draws than weight samples."""


def each_change(kind):
    hints = typing.get_type_hints(kind)
    for name, default in KEY_DEFAULTS[kind.__name__].items():
        change = WITH_LEVELS.get(name) or {name: another(name, default, hints[name])}
        change = BY_MOMENTS if kind is EvaluateSettings and name == "estimator" else change
        yield name, kind(**KEY_DEFAULTS[kind.__name__] | change)


@pytest.mark.parametrize(
    ("kind", "stage"),
    [
        (TrainSettings, lambda s: a_train(settings=s)),
        (PosteriorSettings, lambda s: an_init(posterior=s)),
        (EvaluateSettings, lambda s: an_evaluate(settings=s)),
    ],
)
def test_changing_any_single_field_changes_the_key_and_defaults_do_not(kind, stage):
    found, plain = {name: stage(settings).key for name, settings in each_change(kind)}, restored(kind, {})
    assert len(set(found.values()) | {stage(plain).key}) == len(dataclasses.fields(kind)) + 1
    for name, settings in each_change(kind):
        assert canonical(settings).keys() == ({name} if name != "estimator" or kind is TrainSettings else BY_MOMENTS.keys())
        assert stage(settings).key == found[name]
    assert canonical(plain) == {}


KEYED = (DataSettings, EvaluateSettings, ModelSettings, PosteriorSettings, PruneSettings, TrainSettings)


def test_every_field_of_keyed_settings_has_a_frozen_default_that_it_may_have():
    assert {kind.__name__ for kind in KEYED} == KEY_DEFAULTS.keys()
    for kind in KEYED:
        frozen = KEY_DEFAULTS[kind.__name__]
        assert frozen.keys() == {field.name for field in dataclasses.fields(kind)}
        assert canonical(kind(**frozen)) == {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Later(TrainSettings):
    """As a later release may have them: with another default of a field."""

    noise_refresh: float = setting(0.5, "", BAYESIAN)


Later.__name__ = "TrainSettings"


def test_a_changed_default_changes_keys_and_its_old_value_has_the_old_key():
    old = KEY_DEFAULTS["TrainSettings"]["noise_refresh"]
    before = a_train(settings=TrainSettings(noise_refresh=old)).key
    assert a_train(settings=Later()).key == a_train(settings=TrainSettings(noise_refresh=0.5)).key != before
    assert a_train(settings=Later(noise_refresh=old)).key == before


def test_settings_are_restored_from_what_tickets_and_keys_hold_of_them():
    for kind in (PosteriorSettings, TrainSettings, PruneSettings, EvaluateSettings):
        for _, settings in each_change(kind):
            assert restored(kind, canonical(settings)) == settings
    assert restored(Later, {}).noise_refresh == KEY_DEFAULTS["TrainSettings"]["noise_refresh"]


def test_a_changed_default_of_bayesian_training_leaves_deterministic_stages_alone():
    before = canonical(deterministic_part(TrainSettings(method="map")))
    assert canonical(deterministic_part(Later(method="map"))) == before == {"method": "map"}


def test_only_what_makes_the_layout_enters_the_start_of_pruning():
    base = an_init(prune=restored(PruneSettings, {})).key
    same = {name for name, settings in each_change(PruneSettings) if an_init(prune=settings).key == base}
    assert same == set(KEY_DEFAULTS["PruneSettings"]) - {"classifier", "include", "exclude"}


def test_only_what_chooses_the_mask_enters_a_pruning():
    """Where survivors restart is its second parent; how many levels follow changes nothing of it."""

    def key(settings):
        return a_prune(settings).key

    base = key(PruneSettings())
    same = {name for name, settings in each_change(PruneSettings) if key(settings) == base}
    assert same == {"levels", "rewind", "classifier", "include", "exclude", "cost_exponent", "costs"}
    by_cost = PruneSettings(budget="flops")
    assert key(dataclasses.replace(by_cost, cost_exponent=0.5)) != key(by_cost)
    timed = PruneSettings(budget="milliseconds", costs={"a": 1.0})
    assert key(dataclasses.replace(timed, costs={"a": 2.0})) != key(timed)


@pytest.mark.parametrize(
    "stages",
    [
        [
            an_init(),
            an_init(seed=1),
            an_init(draw="redrawn"),
            an_init(net=net(name="conv")),
            an_init(net=net(args={"hidden": [3]})),
        ],
        [a_train(), a_train(seed=1), a_train(source=source("abd")), a_train(an_init(seed=1)), a_train(start="epoch:1")],
        [a_train(stop="epoch:1"), a_train(stop="step:1"), a_train(source=source(crop=1)), a_train(start="epoch:2")],
        [an_evaluate(), an_evaluate(seed=1), an_evaluate(source=source("abd")), an_evaluate(a_train(seed=1))],
        [
            a_prune(PruneSettings(**changes), seed=seed)
            for seed, changes in [
                (0, {}),
                (0, {"score": "mu"}),
                (0, {"fraction": 0.3}),
                (0, {"scope": "layerwise"}),
                (1, {}),
                (0, {"sigma": "start"}),
                (0, {"budget": "flops"}),
                (0, {"target": 0.1}),
                (0, {"target": 0.1, "budget": "flops"}),
                (0, {"pattern": "2:4"}),
            ]
        ],
        [
            a_prune(PruneSettings(), parents=parents)
            for parents in [(a_train(), an_init()), (a_train(), a_train()), (a_train(), an_init(seed=1))]
        ],
    ],
    ids=lambda stages: stages[0].kind,
)
def test_each_word_of_a_stage_enters_its_key(stages):
    assert len({stage.key for stage in stages}) == len(stages)


def test_the_version_enters_the_key(monkeypatch):
    before = an_init().key
    monkeypatch.setattr(Init, "version", Init.version + 1)
    assert an_init().key != before


def test_writing_a_default_down_changes_no_key(tiny):
    whole = {
        section: dataclasses.asdict(kind()) for section, kind in [("posterior", PosteriorSettings), ("train", TrainSettings)]
    }
    assert keys(tiny | {"posterior": {}}) == keys(
        tiny | {"posterior": whole["posterior"], "train": whole["train"] | tiny["train"]}
    )


@pytest.mark.parametrize(
    "change",
    [{"checkpoint_seconds": 3.0}, {"threads": 2}, {"name": "other"}, {"description": "x"}],
    ids=lambda c: next(iter(c)),
)
def test_what_does_not_change_results_does_not_change_keys(change, tiny):
    assert keys(tiny | change) == keys(tiny)


def test_another_seed_or_other_data_shares_no_stage(tiny):
    assert not set(keys(tiny)) & set(keys(tiny | {"seeds": [1]}))
    other = tiny | {"data": {"args": {"validation": 0, "test": 1501}}}
    shared = set(keys(tiny)) & set(keys(other))
    assert len(shared) == 1  # the dense start does not see the data


def test_more_levels_or_arms_keep_the_stages_that_are_done(tiny):
    assert set(keys(tiny)) < set(keys(tiny | {"prune": {"fraction": 0.5, "levels": 3}, "arms": ["ticket", "reinit"]}))


MINE = """
import torch
from torch import nn
from tombola import Dataset
from tombola.inference.estimators.outputs import Local

class Estimator(Local):
    pass

def net(outputs):
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, outputs))

def data():
    part = torch.ones(4, 2), torch.tensor([0, 1, 0, 1])
    return Dataset("mine", part, part, part)

def score(mean, std, generator):
    return mean.abs()
"""


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({"model": {"name": "my_own:net"}}, {"init", "train", "prune", "evaluate"}),
        ({"data": {"name": "my_own:data"}}, {"train", "prune", "evaluate"}),
        ({"prune": {"score": "my_own:score", "levels": 1}}, {"prune", "train", "evaluate"}),
        ({"train": {"estimator": "my_own:Estimator"}}, {"train", "prune", "evaluate"}),
    ],
    ids=["model", "data", "score", "estimator"],
)
def test_a_users_source_enters_the_keys_of_what_uses_it(change, kinds, user_module, tmp_path):
    user_module("my_own", MINE)
    raw = {"name": "it", "model": {"args": {"hidden": [4]}}, "prune": {"levels": 1}} | change
    if "model" in change:
        raw["data"] = {"name": "my_own:data"}

    def by_kind():
        stages = plan_study(unfold(raw), dataset).stages
        return {kind: {s.key for s in stages if s.kind == kind} for kind in {s.kind for s in stages}}

    before, digest = by_kind(), plugins.source_digest("my_own:score", SCORES)
    assert by_kind() == before
    (tmp_path / "my_own.py").write_text(MINE + "# one comment more\n")
    after = by_kind()
    assert plugins.source_digest("my_own:score", SCORES) != digest
    assert {kind for kind in before if before[kind] != after[kind]} == kinds
