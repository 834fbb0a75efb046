"""tombola finds, studies and ships sparse Bayesian neural networks through lottery tickets.

Names are imported when first used, so that `import tombola` costs nothing and the core needs torch and safetensors alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from .data.batches import LoaderBatches as LoaderBatches
    from .data.dataset import Dataset as Dataset
    from .data.signature import Signature as Signature
    from .deploy.compiler import compile as compile
    from .errors import TombolaError as TombolaError
    from .posterior.layout import Layout as Layout
    from .posterior.likelihood import Categorical as Categorical
    from .posterior.likelihood import GaussianNoise as GaussianNoise
    from .posterior.likelihood import NextToken as NextToken
    from .posterior.predictive import Prediction as Prediction
    from .predict.predictive import Predictive as Predictive
    from .predict.predictive import describe as describe
    from .pruning.ticket import Ticket as Ticket
    from .pruning.ticket import load as load
    from .pruning.torch_prune import from_torch_prune as from_torch_prune
    from .settings import PosteriorSettings as PosteriorSettings
    from .settings import PruneSettings as PruneSettings
    from .settings import TrainSettings as TrainSettings
    from .training.bayesian import Bayesian as Bayesian
    from .training.find import find_tickets as find_tickets
    from .training.loop import train as train
    from .training.memory import MemoryForecast as MemoryForecast
    from .training.memory import forecast_memory as forecast_memory

_HOME = {
    "LoaderBatches": "data.batches",
    "Bayesian": "training.bayesian",
    "find_tickets": "training.find",
    "compile": "deploy.compiler",
    "Dataset": "data.dataset",
    "Signature": "data.signature",
    "TombolaError": "errors",
    "MemoryForecast": "training.memory",
    "forecast_memory": "training.memory",
    "Layout": "posterior.layout",
    "Categorical": "posterior.likelihood",
    "GaussianNoise": "posterior.likelihood",
    "NextToken": "posterior.likelihood",
    "Prediction": "posterior.predictive",
    "Predictive": "predict.predictive",
    "describe": "predict.predictive",
    "from_torch_prune": "pruning.torch_prune",
    "PosteriorSettings": "settings",
    "PruneSettings": "settings",
    "TrainSettings": "settings",
    "Ticket": "pruning.ticket",
    "load": "pruning.ticket",
    "train": "training.loop",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tombola' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
