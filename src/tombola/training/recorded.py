"""One forward pass of a module on weights that autograd follows back to flat parameters.

Legend: P parameters of the layout.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.posterior.batch import length_of
from tombola.posterior.batch_norm import normalising_one
from tombola.posterior.binding import buffers_of, of_foreign_code, shown
from tombola.posterior.functional import holding
from tombola.posterior.layout import Layout


def run_recorded(
    module: nn.Module,
    layout: Layout,
    theta: Tensor,
    buffers: Mapping[str, Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    training: bool,
) -> tuple[Any, dict[str, Tensor]]:
    """Return the output of `module` on the weights `theta` [P], and its persistent buffers after the pass.

    Gradients of the output reach `theta`, but not the parameters that the module has frozen. The module itself does not
    change. buffers: the persistent ones by name, under all their names. Raises TombolaError for a module of Hugging Face's
    that recomputes activations: that happens later, on the module's own weights.
    """
    if any(getattr(part, "gradient_checkpointing", False) is True for part in module.modules()):
        raise TombolaError(
            f"{type(module).__name__} recomputes activations in the backward pass, where the weight sample is gone; call "
            "its gradient_checkpointing_disable(), or train by negative_elbo"
        )
    views, tensors, foreign = layout.views(theta), dict[str, Tensor](), of_foreign_code(module)
    for name, p in module.named_parameters():
        value = views[name] if p.requires_grad else views[name].detach()
        tensors[name] = shown(value, p, id(p) in foreign)
    for name, own in module.named_buffers():
        tensors[name] = buffers.get(name, own).to(theta.device, copy=True)
    inner = _Pass(module)
    with _in_mode(module, training):
        output = holding(inner, {f"module.{k}": v for k, v in tensors.items()})(*args, **kwargs)
    return output, inner.buffers_after


class _Pass(nn.Module):
    """A pass of a module, which reads batch-norm statistics and buffers while the given ones are in place."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module, self.buffers_after = module, dict[str, Tensor]()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with normalising_one(self.module, length_of((args, kwargs)) if self.module.training else 0):
            output = self.module(*args, **kwargs)
        self.buffers_after = buffers_of(self.module)
        return output


@contextmanager
def _in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Put the module in training or evaluation mode; afterwards each part is in the mode that it had."""
    modes = [(m, m.training) for m in module.modules()]
    try:
        module.train(training)
        yield
    finally:
        for m, mode in modes:
            m.training = mode
