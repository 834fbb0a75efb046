"""Biases that a batch norm takes out: added to every example alike, they are a part of the mean that it subtracts.

The data says nothing about such a bias, so a posterior of it goes to the prior, and its noise shifts a whole channel.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _BatchNorm

from tombola import streams

from .batch import leaves, length_of, mapped, moved, run
from .batch_norm import has_batch_norm, normalising_one
from .functional import holding
from .modes import in_training, recordable
from .roles import is_linear

_FEW = 8  # examples of the pass: enough for batch norm


def cancelled_biases(module: nn.Module, inputs: Any) -> frozenset[str]:
    """Return the names of biases of linear and convolution layers that reach the output through a batch norm alone.

    Read off the autograd graph of one pass in training mode: the layer's output goes to batch norms and nowhere else, and
    the bias to that layer alone, so nothing depends on the values of weights or inputs. A path that autograd does not record
    (`detach`) is not seen; where a layer is hidden from it (checkpointing) none is returned.

    inputs: two examples or more, as in `batch.run`. The module is as it was afterwards.
    """
    owners = {name: m for name, m in module.named_modules() if is_linear(m) and _bias(m) is not None}
    if not owners or not has_batch_norm(module):
        return frozenset()
    made: dict[Node, nn.Module] = {}
    normed: set[Node] = set()

    def remember(layer: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.grad_fn is not None:
            if not isinstance(layer, _BatchNorm):
                made[output.grad_fn] = layer
            elif layer.training:
                normed.add(output.grad_fn)

    call = holding(module, {name: b.clone() for name, b in module.named_buffers()})
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    hooks = [m.register_forward_hook(remember) for m in (*owners.values(), *norms)]
    device = next(module.parameters()).device
    try:
        with torch.enable_grad(), in_training(module), streams.global_stream("cancelled", device=device):
            few = mapped(moved(inputs[:_FEW] if isinstance(inputs, Tensor) else inputs, device), recordable)
            with normalising_one(module, length_of(few)):
                output = run(call, few)
    finally:
        for hook in hooks:
            hook.remove()
    ends = {leaf.grad_fn for leaf in leaves(output) if isinstance(leaf, Tensor) and leaf.grad_fn is not None}
    users, adders = _users(ends)

    def is_taken_out(owner: nn.Module) -> bool:
        own = adders[id(_bias(owner))]
        return bool(own) and all(
            made.get(node) is owner and users[node] and users[node] <= normed and node not in ends for node in own
        )

    first = {id(p): name for name, p in module.named_parameters()}
    return frozenset(first[id(_bias(owner))] for owner in owners.values() if is_taken_out(owner))


def _users(ends: set[Node]) -> tuple[dict[Node, set[Node]], dict[int, set[Node]]]:
    """Return the users of each node's result in the graph behind `ends`, and the users of each parameter, by its id."""
    users: dict[Node, set[Node]] = defaultdict(set)
    adders: dict[int, set[Node]] = defaultdict(set)
    waiting, seen = list(ends), set(ends)
    while waiting:
        node = waiting.pop()
        for used, _ in node.next_functions:
            if used is None:
                continue
            if hasattr(used, "variable"):  # the end of a parameter's path
                adders[id(used.variable)].add(node)
            users[used].add(node)
            if used not in seen:
                seen.add(used)
                waiting.append(used)
    return users, adders


def _bias(owner: nn.Module) -> nn.Parameter | None:
    found = owner._parameters.get("bias")
    return found if found is not None and found.ndim == 1 and found.requires_grad else None
