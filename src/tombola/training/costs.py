"""Costs of a network's weights, for pruning by a budget: multiply-adds counted in a forward pass, or given milliseconds."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from tombola.posterior.batch import length_of, run
from tombola.posterior.layout import Layout
from tombola.posterior.modes import in_evaluation, training_mode
from tombola.pruning.costs import spread_costs
from tombola.settings import PruneSettings


@dataclass(frozen=True)
class Operations:
    """Multiply-adds of a dense forward pass, for one example."""

    total: float
    """All that torch counts: products of matrices, convolutions and attention."""
    uses: Mapping[str, float]
    """Multiply-adds that one weight takes part in, by parameter name: for a convolution, the positions of its output."""

    def left(self, layout: Layout, kept: Mapping[str, float]) -> float:
        """Return the share of `total` that is left: products by pruned weights fall away.

        kept: the number of weights of each prunable parameter, as of `kept_counts`.
        """
        gone = 0.0
        for segment in layout.prunable_segments():
            gone += (segment.numel - kept[segment.name]) * self.uses.get(segment.name, 0.0)
        return 1 - gone / self.total if self.total else math.nan


def kept_counts(layout: Layout, mask: Tensor) -> dict[str, float]:
    """Return the number of weights that each prunable parameter has in `mask`."""
    return {s.name: int(mask[s.slice].sum()) for s in layout.prunable_segments()}


@training_mode  # with gradients: without, attention layers take a path of their own that is not counted
def operations_of(module: nn.Module, inputs: Any) -> Operations:
    """Return the operations of `module` in evaluation mode on a batch of `inputs`. The module is not changed.

    A parameter's uses are averages over its elements; products by weights that the forward pass computes from parameters,
    as with weight norm, are in the total alone.
    """
    counter = _Counter(module)
    with in_evaluation(module), sdpa_kernel(SDPBackend.MATH), counter:
        run(module, inputs)
    examples = length_of(inputs)
    uses = {
        name: counter.by_name.get(name, 0) / (p.numel() * examples) for name, p in module.named_parameters() if p.numel()
    }
    return Operations(counter.total / examples, uses)


def weight_costs(settings: PruneSettings, layout: Layout, module: nn.Module, inputs: Any) -> dict[str, float]:
    """Return the cost of one weight of each prunable parameter, by name, in multiply-adds or milliseconds.

    inputs: a batch of one or more examples, on the module's device. Raises TombolaError for a prunable parameter without
    cost.
    """
    found: Mapping[str, float] = settings.costs
    if settings.budget == "flops":
        uses = operations_of(module, inputs).uses
        found = {segment.name: uses[segment.name] for segment in layout.prunable_segments()}
    spread_costs(layout, found)  # names what has none
    return dict(found)


class _Counter(TorchDispatchMode):
    """Multiply-adds of the operations within, in all and by the parameter that is a factor."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.total = 0
        self.by_name: dict[str, int] = {}
        self._places = [
            (p.data_ptr(), p.data_ptr() + p.numel() * p.element_size(), name)
            for name, p in module.named_parameters()
            if p.numel()
        ]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = getattr(func, "overloadpacket", None)
        if packet in flop_registry:
            count = flop_registry[packet](*args, **kwargs, out_val=out) // 2
            self.total += count
            tensors = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim > 1)
            for name in {name for tensor in tensors for name in self._names(tensor)}:
                self.by_name[name] = self.by_name.get(name, 0) + count
        return out

    def _names(self, tensor: Tensor) -> Iterator[str]:
        """Yield the parameter that `tensor` is or views, as its transpose or a part."""
        at = tensor.data_ptr()
        return (name for start, stop, name in self._places if start <= at < stop)
