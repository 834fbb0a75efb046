"""Estimators of a ticket's outputs without weight samples: of rooms above this one, imported when they are asked for."""

import importlib
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from tombola.errors import TombolaError

if TYPE_CHECKING:
    from .ticket import Ticket

Estimator = Literal["weight_sample", "moments"]

ESTIMATORS = {"moments": "tombola.deploy.estimate:moment_outputs"}
"""Name -> `module:function` that takes what `estimated` does after the name."""


def estimated(
    name: str,
    ticket: "Ticket",
    module: nn.Module,
    inputs: Any,
    *,
    samples: int,
    seed: Any,
    batch: int,
    training: Tensor | None = None,
) -> Tensor:
    """Return `samples` outputs by an estimator of `ESTIMATORS`, [S, B, ...].

    seed: numbers or names of the random stream. training: inputs on which batch-norm statistics are measured.
    Raises TombolaError for an unknown name, and as the estimator does.
    """
    if name not in ESTIMATORS:
        raise TombolaError(f"estimator is {name!r}; it must be weight_sample or {', '.join(ESTIMATORS)}")
    where, _, function = ESTIMATORS[name].partition(":")
    found: Tensor = getattr(importlib.import_module(where), function)(
        ticket, module, inputs, samples=samples, seed=seed, batch=batch, training=training
    )
    return found
