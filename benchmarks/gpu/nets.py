"""What is measured: networks with their targets, data, and settings by size."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tombola import files, streams
from tombola.data import IMAGENET, Dataset, Normalise
from tombola.errors import TombolaError
from tombola.models import build
from tombola.posterior.state import State, initial_state, layout_of
from tombola.settings import DataSettings, EvaluateSettings, PosteriorSettings, PruneSettings, TrainSettings

CLASSES = 10


@dataclass(frozen=True)
class Net:
    """A network, and a tiny relative of it that takes milliseconds on a CPU."""

    model: str
    batch: int
    """Of the paper's settings."""
    minutes: float
    """Target of a 160-epoch Bayesian level on an H200."""
    toy: str
    toy_args: Mapping[str, Any]
    args: Mapping[str, Any] = field(default_factory=dict)


NETS = {
    "resnet20": Net("resnet20", 128, 3, "resnet", {"depth": 8, "width": 4}),
    "vgg11": Net("vgg11", 128, 3, "vgg11", {"width": 4}),
    "vit_tiny": Net("vit_tiny", 1024, 6, "vit", {"dim": 16, "heads": 2, "head": 8, "patch": 8, "depth": 1}, {"patch": 4}),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of one net at one size."""

    train: TrainSettings = field(default_factory=TrainSettings)
    posterior: PosteriorSettings = field(default_factory=PosteriorSettings)
    prune: PruneSettings = field(default_factory=PruneSettings)
    data: DataSettings = field(default_factory=DataSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)

    def with_train(self, **changes: Any) -> "Recipe":
        return dataclasses.replace(self, train=dataclasses.replace(self.train, **changes))


@dataclass(frozen=True)
class Job:
    """What the command line asks for, whatever the piece."""

    device: torch.device
    toy: bool
    data: Dataset
    recipes: Mapping[str, Mapping[str, Recipe]]
    """Size (full, gpu) -> net -> settings."""
    nets: tuple[str, ...] = tuple(NETS)
    seeds: int = 3
    whole: bool = False
    studies: Mapping[str, Any] = field(default_factory=dict)
    """What `studies.stored_studies` gives, for the piece `paper`."""
    chosen: tuple[str, ...] = ()
    """Of these studies, those to run."""

    def module(self, net: str, *words: streams.Word) -> nn.Module:
        """The network on the device, its weights named by the words."""
        one = NETS[net]
        name, args = (one.toy, one.toy_args) if self.toy else (one.model, one.args)
        return build(name, args, self.data.input_shape, CLASSES, words or ("benchmark",)).to(self.device)

    def state(self, module: nn.Module, recipe: Recipe, *words: streams.Word) -> State:
        """Its dense start, on the device."""
        layout = layout_of(module, recipe.posterior, recipe.prune)
        return initial_state(module, layout, recipe.posterior, *(words or ("benchmark",))).to(self.device)

    def batch_of(self, net: str) -> int:
        return 32 if self.toy else NETS[net].batch

    @property
    def judged(self) -> bool:
        """Whether targets are: they are stated for a GPU."""
        return self.device.type == "cuda" and not self.toy

    def verdict(self, target: str, met: bool) -> str:
        return f"   target {target}: {'met' if met else 'MISSED'}" if self.judged else f"   target {target}, not judged here"


def noise(toy: bool) -> Dataset:
    """Images that stand in for CIFAR-10 where nothing is learned: 50,000 of 3x32x32, or toys that a net can learn."""
    train, test, side = (96, 64, 16) if toy else (50_000, 10_000, 32)
    stream = streams.generator("benchmark", "images")
    targets = torch.arange(train + test) % CLASSES
    inputs = torch.randint(256, (train + test, 3, side, side), generator=stream, dtype=torch.uint8)
    if toy:  # each class has a pattern of its own
        patterns = torch.randint(256, (CLASSES, 3, side, side), generator=stream, dtype=torch.uint8)
        inputs = inputs // 2 + patterns[targets] // 2
    train_part, test_part = (inputs[:train], targets[:train]), (inputs[train:], targets[train:])
    nothing = inputs[:0], targets[:0]
    return Dataset("toy" if toy else "noise", train_part, nothing, test_part, Normalise(*IMAGENET, 255.0))


def stored(path: Path) -> Dataset:
    """The data that `prepare` wrote."""
    tensors, about = files.read(path)
    splits = [(tensors[f"{part}.inputs"], tensors[f"{part}.targets"].long()) for part in ("train", "validation", "test")]
    how = about["normalise"]
    normalise = Normalise(tuple(how["mean"]), tuple(how["std"]), how["scale"])
    return Dataset(about["name"], splits[0], splits[1], splits[2], normalise, about["digest"])


def stored_recipes(path: Path) -> dict[str, dict[str, Recipe]]:
    """The settings that `prepare` wrote beside the data; empty where there are none."""
    if not path.is_file():
        return {}
    raw = json.loads(path.read_text())
    return {size: {net: recipe_of(settings) for net, settings in nets.items()} for size, nets in raw.items()}


def recipe_of(raw: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """Raises TombolaError naming a field that this version of tombola does not have."""
    return Recipe(**{name: settings_of(kind, raw.get(name, {}), name) for name, kind in SECTIONS.items()})


def settings_of(kind: Any, given: Mapping[str, Any], where: str) -> Any:
    """The settings of that kind. Raises TombolaError naming a field that it does not have."""
    known = {f.name for f in dataclasses.fields(kind)}
    if unknown := [name for name in given if name not in known]:
        raise TombolaError(f"{where}.{unknown[0]} is no setting of this tombola; prepare the data with the same version")
    return kind(**given)


SECTIONS: dict[str, Any] = {
    "train": TrainSettings,
    "posterior": PosteriorSettings,
    "prune": PruneSettings,
    "data": DataSettings,
    "evaluate": EvaluateSettings,
}

_FULL = {
    "posterior": {"mean": "kaiming_uniform", "std": 0.01, "std_scale": "kaiming"},
    "train": {"epochs": 160, "lr": 1e-3, "schedule": "step", "weight_decay": 1e-4},
    "data": {"flip": True, "crop": 4},
}
FULL = recipe_of(_FULL)
"""The paper's schedule with one weight sample a step: what minutes per level are measured of."""

_TOY = {"posterior": {"std": 0.01}, "data": {"flip": True, "crop": 2}, "evaluate": {"samples": 2}}
TOY_RECIPES = {
    "full": dict.fromkeys(NETS, recipe_of(_TOY | {"train": {"epochs": 3, "batch_size": 32}})),
    "gpu": dict.fromkeys(NETS, recipe_of(_TOY | {"train": {"epochs": 2, "batch_size": 64, "lr": 3e-3}})),
}
