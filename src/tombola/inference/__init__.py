"""Methods: ways to learn a posterior. A method is a class in one file, and a line in METHODS.

All follow the protocol in `learner`. Variational: `vi` by any of `estimators/`, `ivon`, `low_rank` with correlations, and
`priors` and `variational_dropout` with other priors. By way of a mode, in `penalised`: `keeping` (SWAG), `langevin` and
`spike_slab` (samplers) keep points of their way, `laplace` takes its `curvature`, `mc_dropout` and `ensemble` train with
noise or several times; `map` is deterministic. Losses are in `objectives` (over weight samples) and `forward` (the data
term), which `compiled` and `graphs` make faster; `survivors` leaves out the work of `vi` for pruned weights.
"""

from tombola import plugins
from tombola.errors import TombolaError
from tombola.posterior.families import family_of
from tombola.posterior.point import Point

from .ensemble import Ensemble
from .ivon import Ivon
from .keeping import SWAG
from .langevin import SGHMC, SGLD
from .laplace import Laplace, LaplaceFull
from .learner import Learner
from .low_rank import LowRankVI
from .map import Map
from .mc_dropout import MCDropout
from .objectives import OBJECTIVES
from .priors import LaplacePrior, LayerPrior, MixturePrior
from .spike_slab import SpikeSlab
from .variational_dropout import VariationalDropout
from .vi import VI

METHODS: dict[str, type[Learner]] = {
    "vi": VI,
    "ivon": Ivon,
    "map": Map,
    "sgld": SGLD,
    "sghmc": SGHMC,
    "swag": SWAG,
    "laplace": Laplace,
    "laplace_full": LaplaceFull,
    "mc_dropout": MCDropout,
    "ensemble": Ensemble,
    "vi_laplace": LaplacePrior,
    "vi_mixture": MixturePrior,
    "vi_layers": LayerPrior,
    "vi_low_rank": LowRankVI,
    "variational_dropout": VariationalDropout,
    "sghmc_mixture": SpikeSlab,
}

_MEMBERS = ("learns", *(name for name in vars(Learner) if not name.startswith("_")))
"""The members of `Learner` that a class has itself; `binding`, `layout` and `mask` are its instances'."""


def method_of(name: str) -> type[Learner]:
    """Return the class of a method's name or import path.

    Raises TombolaError for an unknown name, for a class that lacks a member, and for a family that is not registered.
    """
    found = plugins.resolve(name, METHODS, "method")
    if missing := [member for member in _MEMBERS if not hasattr(found, member)]:
        raise TombolaError(
            f"method {name!r} is no method: it has no `{missing[0]}`; give a class such as {', '.join(METHODS)}"
        )
    family_of(found.learns)
    return found


def is_deterministic(method: str) -> bool:
    """Return whether the method of that name or import path learns a point."""
    return method_of(method).learns == Point.family


__all__ = ["METHODS", "OBJECTIVES", "VI", "Ivon", "Learner", "Map", "is_deterministic", "method_of"]
