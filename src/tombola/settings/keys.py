"""What of the settings enters a stage's key."""

import dataclasses
from typing import Any

from .fields import BAYESIAN, marked


def canonical(settings: Any) -> dict[str, Any]:
    """The fields that differ from their defaults: what enters a stage's key."""
    defaults = type(settings)()
    fields = (f.name for f in dataclasses.fields(settings))
    return {name: value for name in fields if (value := getattr(settings, name)) != getattr(defaults, name)}


def deterministic_part(settings: Any) -> Any:
    """Return the settings with the fields of Bayesian training at their defaults: what a deterministic stage depends on."""
    defaults = type(settings)()
    return dataclasses.replace(settings, **{name: getattr(defaults, name) for name in marked(settings, BAYESIAN)})
