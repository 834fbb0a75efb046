"""Per-example gradients whose squares sum to the Fisher information, which is the generalised Gauss-Newton matrix.

Legend: b examples, O outputs, n random parameters.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from tombola.errors import TombolaError, is_out_of_memory
from tombola.posterior.batch import Batch, inputs_of, length_of, logits_of, mapped, parts, run
from tombola.posterior.functional import holding
from tombola.posterior.layout import Layout
from tombola.posterior.likelihood import Categorical, GaussianNoise

_AT_ONCE = 1 << 24  # numbers of the gradients that are made together: 64 MB


def check_likelihood(likelihood: nn.Module, method: str) -> None:
    """Raise TombolaError for a likelihood whose Fisher information is not known in closed form."""
    if type(likelihood) not in (Categorical, GaussianNoise):
        raise TombolaError(
            f"method {method} knows the curvature of the likelihoods categorical and gaussian, not that of "
            f"{type(likelihood).__name__}; use another method"
        )


def fisher_rows(module: nn.Module, layout: Layout, theta: Tensor, likelihood: nn.Module, batch: Batch) -> Iterator[Tensor]:
    """Yield rows [b O, n] of b examples at a time, whose outer products sum to the Fisher information F at `theta` [P].

    F = sum_i E_y[grad log p(y | x_i) grad log p(y | x_i)^T] over the batch's examples i and the random parameters.
    The expectation is over the model's own labels and exact. Of classes, an example's rows are sqrt(p_c) times the gradient
    of log p_c; of reals, each output's gradient over the noise's std. The module must be in evaluation mode.

    Raises TombolaError for classes at positions, and for a module that torch cannot differentiate example by example.
    """
    n, classes = layout.random_numel, type(likelihood) is Categorical
    scale = torch.tensor(1.0) if classes else torch.exp(-likelihood.log_noise.detach())  # type: ignore[operator]
    held = layout.views(theta.detach())

    def outputs(random: Tensor, example: Any) -> tuple[Tensor, Tensor]:
        # views of `random` alone: those of a whole vector would have the gradients of all layers computed
        forward = holding(module, held | {s.name: s.view(random) for s in layout.segments if s.random})
        found = logits_of(run(forward, mapped(example, lambda leaf: leaf.unsqueeze(0))))[0]
        if classes and found.ndim != 1:
            raise TombolaError(
                f"method laplace needs logits [B, C], these have {found.ndim + 1} dimensions; use another method"
            )
        found = found.float().log_softmax(-1) if classes else found.reshape(-1) * scale
        return found, found.detach()

    inputs = inputs_of(batch)
    with torch.no_grad():
        width = logits_of(run(module, inputs))[0].numel()
    each: Callable[..., tuple[Tensor, Tensor]] = jacrev(outputs, has_aux=True)
    rows = vmap(each, in_dims=(None, 0), randomness="error")
    try:
        for part in parts(inputs, length_of(inputs), max(1, _AT_ONCE // (n * width))):
            gradients_bOn, values_bO = rows(theta[:n].detach(), part)
            weights_bO = (0.5 * values_bO).exp() if classes else torch.ones_like(values_bO)
            yield (gradients_bOn * weights_bO.unsqueeze(-1)).reshape(-1, n).detach()
    except (RuntimeError, NotImplementedError) as error:
        if is_out_of_memory(error):  # no fault of the module: the training says what to lower
            raise
        raise TombolaError(
            f"method laplace needs gradients of each example, which torch cannot take of this module ({error}); "
            "use another method"
        ) from error
