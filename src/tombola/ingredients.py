"""What stages are made of, a model and a data set: how they enter keys and tickets."""

import json
from dataclasses import dataclass
from typing import Any

from torch import nn

from . import models, plugins, streams
from .data import DATA
from .settings import DataSettings, ModelSettings


@dataclass(frozen=True)
class Net:
    """A model as built for a data set's shapes."""

    settings: ModelSettings
    input_shape: tuple[int, ...]
    outputs: int

    @property
    def words(self) -> str:
        return json.dumps([self.settings.name, self.settings.args, self.input_shape, self.outputs], sort_keys=True)

    def describe(self) -> dict[str, Any]:
        source = plugins.source_digest(self.settings.name, models.MODELS)
        return {"net": self.words} | ({"source": source} if source else {})

    def build(self, *words: streams.Word) -> nn.Module:
        return models.build(self.settings.name, self.settings.args, self.input_shape, self.outputs, (*words, self.words))

    def info(self) -> dict[str, Any]:
        return {
            "name": self.settings.name,
            "args": self.settings.args,
            "input_shape": list(self.input_shape),
            "outputs": self.outputs,
        }


@dataclass(frozen=True)
class Source:
    """A data set with its fingerprint."""

    settings: DataSettings
    fingerprint: str

    def describe(self) -> dict[str, Any]:
        source = plugins.source_digest(self.settings.name, DATA)
        return {"fingerprint": self.fingerprint} | ({"source": source} if source else {})

    def info(self) -> dict[str, Any]:
        return {"name": self.settings.name, "args": self.settings.args, "fingerprint": self.fingerprint}
