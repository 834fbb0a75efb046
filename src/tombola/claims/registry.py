"""What a claim is."""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from .verdict import Part


@dataclass(frozen=True)
class Claim:
    """A sentence about nets, and the function that says what in the records would make it true."""

    id: str
    sentence: str
    function: Callable[..., list[Part]]
    """(net, *case) -> parts, all of which the claim says; raises `Missing` for what the records lack."""
    _: KW_ONLY
    study: str
    """The study that has what it needs."""
    nets: tuple[str, ...] = ()
    """How the names of its models begin; all models if empty."""
    metric: str = "accuracy"
    """The column that it is about."""
    cases: Mapping[str, tuple[Any, ...]] = field(default_factory=lambda: {"": ()})
    """Name -> further arguments of the function: what is judged apart, each in a row of its own."""
    varied: tuple[str, ...] = ()
    """Settings, as train.lr, that may differ within one net: the claim compares them, or they don't matter to it."""

    def about(self, model: str) -> bool:
        """Whether it speaks of that model."""
        return not self.nets or model.startswith(self.nets)
