"""tombola finds, studies and ships sparse Bayesian neural networks through lottery tickets.

Names are imported when first used, so that `import tombola` costs nothing and the core needs torch and safetensors alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .batches import LoaderBatches as LoaderBatches
    from .bayesian import Bayesian as Bayesian
    from .data.dataset import Dataset as Dataset
    from .errors import TombolaError as TombolaError
    from .find import find_tickets as find_tickets
    from .memory import MemoryForecast as MemoryForecast
    from .memory import forecast_memory as forecast_memory
    from .posterior.layout import Layout as Layout
    from .posterior.likelihood import Categorical as Categorical
    from .posterior.likelihood import GaussianNoise as GaussianNoise
    from .posterior.likelihood import NextToken as NextToken
    from .posterior.predictive import Prediction as Prediction
    from .pruning.torch_prune import from_torch_prune as from_torch_prune
    from .settings import PosteriorSettings as PosteriorSettings
    from .settings import PruneSettings as PruneSettings
    from .settings import TrainSettings as TrainSettings
    from .ticket import Ticket as Ticket
    from .ticket import load as load
    from .together import train_together as train_together
    from .training import train as train

_HOME = {
    "LoaderBatches": "batches",
    "Bayesian": "bayesian",
    "find_tickets": "find",
    "Dataset": "data.dataset",
    "TombolaError": "errors",
    "MemoryForecast": "memory",
    "forecast_memory": "memory",
    "Layout": "posterior.layout",
    "Categorical": "posterior.likelihood",
    "GaussianNoise": "posterior.likelihood",
    "NextToken": "posterior.likelihood",
    "Prediction": "posterior.predictive",
    "from_torch_prune": "pruning.torch_prune",
    "PosteriorSettings": "settings",
    "PruneSettings": "settings",
    "TrainSettings": "settings",
    "Ticket": "ticket",
    "load": "ticket",
    "train": "training",
    "train_together": "together",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tombola' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
