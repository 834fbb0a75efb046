"""The job of a piece: networks and settings of the shipped recipes, on data or on noise of its shape."""

from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.data import noise
from tombola.data import Dataset, training_batches
from tombola.data.batches import TensorBatches
from tombola.engine.local import dataset
from tombola.inference import method_of
from tombola.models import build
from tombola.posterior.state import State, initial_state, layout_of
from tombola.settings import TrainSettings
from tombola.study.spec import Study, read, unfold

CLASSES = 10
MINUTES = {"resnet20": 3.0, "vgg11": 3.0, "vit_tiny": 6.0}
"""Net -> target of a 160-epoch Bayesian level on an H200."""


@cache
def recipe(size: str, net: str) -> Study:
    """Return the settings of a net at a size, as the paper's studies have them."""
    return unfold(read("paper/scores", [f"size={size}", f"nets=[{net}]", "seeds=[0]"]))[0].study


@dataclass(frozen=True)
class Job:
    """The arguments of the command line."""

    device: torch.device
    toy: bool = False
    """True: networks and data of the size `toy`, to see that everything runs."""
    path: str = ""
    """CIFAR-10: files on this machine, or its name on the hub; noise without it."""

    def study(self, net: str, size: str = "full") -> Study:
        """Return the recipe of the net: the paper's settings (`full`), or the fast ones (`gpu`)."""
        return recipe("toy" if self.toy else size, net)

    def settings(self, net: str, size: str = "full", **changes: Any) -> TrainSettings:
        """Return the training of that recipe with one weight sample a step and these changes."""
        return replace(self.study(net, size).train, **({"samples": 1} | changes))

    @cached_property
    def data(self) -> Dataset:
        """Digits for toys, else the files of `path`, else noise."""
        if self.toy:
            return dataset(self.study("resnet20").data)
        if not self.path:
            return noise(50_000, 10_000)
        settings = self.study("resnet20").data
        return dataset(replace(settings, args=settings.args | {"path": self.path}))

    def start(self, net: str, method: str = "vi") -> tuple[nn.Module, State]:
        """Return the network and its dense start, on the device."""
        study = self.study(net)
        model = study.model
        module = build(model.name, model.args, self.data.input_shape, CLASSES, ("benchmark",)).to(self.device)
        state = initial_state(module, layout_of(module, study.posterior, study.prune), study.posterior, "benchmark")
        return module, state.as_family(method_of(method).learns).to(self.device)

    def batches(self, net: str, size: int) -> TensorBatches:
        """Return augmented batches of that many training images."""
        return training_batches(self.data, self.study(net).data, size, 0, self.device)

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Return one batch of normalised images and labels on the device."""
        rows = torch.arange(size) % len(self.data.train[0])
        inputs, targets = (part[rows].to(self.device) for part in self.data.train)
        return self.data.prepare(inputs), targets

    @property
    def is_judged(self) -> bool:
        """Return whether targets are judged: they are stated for a GPU."""
        return self.device.type == "cuda" and not self.toy
