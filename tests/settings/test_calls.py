"""Settings called from Python: names, types and choices that are wrong are one sentence with the right one."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from tombola import PosteriorSettings, PruneSettings, TombolaError, TrainSettings, find_tickets
from tombola.settings import DataSettings, EvaluateSettings, ModelSettings
from tombola.study.spec import Arm, Study

KINDS = [PosteriorSettings, TrainSettings, PruneSettings, ModelSettings, DataSettings, EvaluateSettings, Arm, Study]


def refused(said, make, *args, **given):
    with pytest.raises(TombolaError) as caught:
        make(*args, **given)
    assert str(caught.value).startswith(said), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (TrainSettings, {"epoch": 3}, "TrainSettings has no setting 'epoch': did you mean 'epochs'?"),
        (TrainSettings, {"optimizer": "sgd"}, "TrainSettings has no setting 'optimizer': did you mean 'optimiser'?"),
        (PruneSettings, {"zzz": 0.2}, "PruneSettings has no setting 'zzz': there are score, sigma, fraction, levels,"),
        (PruneSettings, {"epochs": 3}, "PruneSettings has no setting 'epochs': it is one of TrainSettings"),
        (PosteriorSettings, {"prior_std": 1.0}, "PosteriorSettings has no setting 'prior_std': it is one of TrainSettings"),
        (Study, {"seed": [1]}, "Study has no setting 'seed': did you mean 'seeds'?"),
    ],
)
def test_a_misspelt_field_names_the_nearest_right_one(kind, given, said):
    refused(said, kind, **given)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_given_by_name(kind):
    refused(f"{kind.__name__} takes its settings by name: {kind.__name__}(", kind, 3)
    assert kind() == kind(**vars(kind()))


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (TrainSettings, {"optimiser": "adma"}, "optimiser is 'adma'; it must be one of adam, adamw, sgd (did"),
        (PruneSettings, {"scope": "layer"}, "scope is 'layer'; it must be one of global, layerwise, erk (did you mean"),
        (PruneSettings, {"scope": 3}, "scope is 3; it must be one of global, layerwise"),
        (Arm, {"sigma": "shufled"}, "sigma is 'shufled'; it must be one of trained, start, shuffled or None (did you mean"),
        (
            PruneSettings,
            {"score": abs},
            "score is the function abs; it must be text: give an import path, as 'package.module",
        ),
        (TrainSettings, {"method": nn.Linear}, "method is the class Linear; it must be text: give an import path"),
        (ModelSettings, {"name": nn.Linear(2, 2)}, "name is a Linear; it must be text: give an import path"),
        (TrainSettings, {"epochs": 3.5}, "epochs is 3.5; it must be a whole number"),
        (TrainSettings, {"epochs": "3"}, "epochs is '3'; it must be a whole number"),
        (TrainSettings, {"epochs": True}, "epochs is True; it must be a whole number"),
        (TrainSettings, {"lr": None}, "lr is None; it must be a number"),
        (TrainSettings, {"clip_norm": "1"}, "clip_norm is '1'; it must be a number or None"),
        (TrainSettings, {"nesterov": 1}, "nesterov is 1; it must be True or False"),
        (TrainSettings, {"milestones": 0.5}, "milestones is 0.5; it must be a list, each a number"),
        (PruneSettings, {"include": "*.weight"}, "include is '*.weight'; it must be a list, each text"),
        (ModelSettings, {"args": [1]}, "args is [1]; it must be a dict"),
        (Study, {"train": {"epochs": 3}}, "train is a dict; it must be TrainSettings"),
        (Study, {"arms": ["ticket"]}, "arms is ['ticket']; it must be a list, each Arm"),
    ],
)
def test_a_value_of_a_wrong_kind_says_what_it_must_be(kind, given, said):
    refused(said, kind, **given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train": {"epochs": 3}}, "train is a dict; give TrainSettings(epochs=3)"),
        ({"prune": 0.2}, "prune is 0.2; give PruneSettings(...)"),
        ({"prune": TrainSettings()}, "prune is a TrainSettings; give PruneSettings(...)"),
        ({"posterior": PosteriorSettings}, "posterior is the class PosteriorSettings; give PosteriorSettings(...)"),
    ],
)
def test_find_tickets_names_the_settings_that_belong_there(given, said):
    data = torch.randn(4, 2), torch.tensor([0, 1, 0, 1])
    refused(said, find_tickets, nn.Linear(2, 2), data, progress=False, **given)


def test_numbers_and_tuples_of_other_libraries_become_pythons_own():
    made = TrainSettings(epochs=np.int64(3), lr=np.float32(0.5), beta1=0, milestones=(0.25, 0.5))
    assert made == TrainSettings(epochs=3, lr=0.5, beta1=0.0, milestones=[0.25, 0.5])
    assert [type(v) for v in (made.epochs, made.lr, made.beta1, made.milestones)] == [int, float, float, list]


@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_copied_and_pickled(kind):
    made = kind()
    assert pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == dataclasses.replace(made) == made
