"""Estimators: what a forward pass has in place of random weights, and the gradients of their means and stds.

An estimator is a `WeightSample` or a subclass, and a line in ESTIMATORS.

- `sample`: weight samples, shared by a batch, with their analytic gradients: `weight_sample`, `antithetic`, `mean`
- `outputs`: noise in the output of each operation: `local` (local reparameterisation) and `flipout`
- `intercept`: the interception of operations in an unmodified module, for `outputs`
- `operations`: the operations that `outputs` has rules for, and the torch functions that are one
- `functions`: the autograd functions of `outputs`
- `noise`: the normal draws of both, from pools of which a step renews a fraction
"""

from collections.abc import Callable

from .outputs import Flipout, Local
from .sample import Antithetic, MeanWeights, WeightSample

ESTIMATORS: dict[str, Callable[..., WeightSample]] = {
    "weight_sample": WeightSample,
    "antithetic": Antithetic,
    "local": Local,
    "flipout": Flipout,
    "mean": MeanWeights,
}
