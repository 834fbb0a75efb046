"""The networks that are exported: the mean, fixed weight samples, and moments, each a module of tensors alone.

Legend: S weight samples, B examples, C classes or outputs.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from tombola.deploy.compiler import moments_graph
from tombola.deploy.graph import Graph, Node, Ref, evaluated
from tombola.errors import TombolaError, is_out_of_memory
from tombola.posterior.batch import lengths_of, logits_of, run
from tombola.posterior.families import draws_of
from tombola.pruning.ticket import Ticket

Kind = Literal["mean", "samples", "moments"]
"""The mean weights; S weight samples; or mean and variance of the outputs in one pass."""


@dataclass(frozen=True)
class Network:
    """A network to export, with an example of its inputs and the names of both ends."""

    module: nn.Module
    inputs: dict[str, Tensor]
    """Example by name, each [B, ...]; the module takes them by position."""
    outputs: tuple[str, ...]


def network_of(ticket: Ticket, module: nn.Module, example: Any, *, kind: Kind, samples: int, seed: int) -> Network:
    """Return the network of a kind. Arguments and errors as of `programs.program`."""
    if kind not in get_args(Kind):
        raise TombolaError(f"kind is {kind!r}; it must be mean, samples or moments")
    if samples < 1:
        raise TombolaError(f"samples is {samples}; it must be at least 1")
    _check_numbers(ticket)
    inputs, by_keyword = _named(example), list(example) if isinstance(example, Mapping) else None
    regression = "log_noise" in ticket.end.likelihood
    if kind == "mean":
        net = _loaded(module, ticket.state_dict(module))
        return Network(_Mean(net, by_keyword), inputs, ("mean" if regression else "logits",))
    if kind == "samples":
        draws = range(draws_of(ticket.posterior, samples))
        nets = [_loaded(module, ticket.state_dict(module, seed=seed, sample=s)) for s in draws]
        return Network(_Samples(nets, by_keyword, regression), inputs, ("mean" if regression else "probs", "epistemic"))
    if ticket.posterior.std is None:
        raise TombolaError("the ticket's posterior is a point, which has no variances; export its mean")
    if not isinstance(example, Tensor):
        raise TombolaError(f"moments take one tensor of inputs, the example is a {type(example).__name__}; export samples")
    return Network(_Moments(moments_graph(ticket, module, example)), inputs, ("mean", "variance"))


class _Mean(nn.Module):
    """Outputs [B, ...] of a network, whose inputs come by position."""

    def __init__(self, net: nn.Module, by_keyword: Sequence[str] | None):
        super().__init__()
        self.net, self.by_keyword = net, by_keyword

    def forward(self, *inputs: Tensor) -> Tensor:
        return _outputs(self.net, inputs, self.by_keyword)


class _Samples(nn.Module):
    """Average over the networks of S weight samples, and the uncertainty due to the weights.

    Of classes: probabilities [B, ..., C] and their mutual information with the weights in nats [B, ...] (Houlsby et al.
    2011); of a regression: means and their variance over the samples, each [B, ..., C].
    """

    def __init__(self, nets: Sequence[nn.Module], by_keyword: Sequence[str] | None, regression: bool):
        super().__init__()
        self.nets, self.by_keyword, self.regression = nn.ModuleList(nets), by_keyword, regression

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.stack([_outputs(net, inputs, self.by_keyword) for net in self.nets])
        mean = found.mean(0)
        if self.regression:
            return mean, (found - mean).square().mean(0)
        logs = found.float().log_softmax(-1)
        probs = logs.exp().mean(0)
        total = -(probs * probs.clamp_min(torch.finfo(probs.dtype).tiny).log()).sum(-1)
        expected = -(logs.exp() * logs).sum(-1).mean(0)
        return probs, (total - expected).clamp_min(0)


class _Moments(nn.Module):
    """Mean and variance of the outputs, each [B, C]: the graph of moments, run by torch."""

    def __init__(self, graph: Graph):
        super().__init__()
        self._input, self._output = graph.input, graph.output
        self._nodes: list[Node] = []
        for given in graph.nodes.values():
            node = given.apart or given
            self._nodes.append(Node(node.name, node.target, self._held(node.arguments), node.shape))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values: dict[str, Any] = {self._input: x, **dict(self.named_buffers())}
        for node in self._nodes:
            values[node.name] = evaluated(node, values)
        mean, variance = values[self._output].unbind(1)
        return mean, variance.clamp_min(0)

    def _held(self, value: Any) -> Any:
        """Return arguments whose tensors are references to buffers, which an exported program keeps as such."""
        if isinstance(value, Tensor):
            name = f"constant_{len(self._buffers)}"
            self.register_buffer(name, value.detach().clone(memory_format=torch.contiguous_format))
            return Ref(name)
        if isinstance(value, Mapping):
            return {key: self._held(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._held(part) for part in value)
        return value


def _outputs(net: nn.Module, inputs: Sequence[Tensor], by_keyword: Sequence[str] | None) -> Tensor:
    return logits_of(run(net, dict(zip(by_keyword, inputs, strict=True)) if by_keyword else tuple(inputs)))


def _loaded(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of `module` with these weights, in evaluation mode."""
    try:
        net = copy.deepcopy(module)
    except Exception as error:  # of whatever a module keeps
        if is_out_of_memory(error):
            raise
        first = str(error).strip().partition("\n")[0]
        raise TombolaError(f"{type(module).__name__} cannot be copied, and so not exported: {first}") from error
    net.load_state_dict(weights)
    return net.eval().requires_grad_(False)


def _check_numbers(ticket: Ticket) -> None:
    """Raise TombolaError for an untrained ticket, and naming the first parameter that is not finite."""
    q = ticket.posterior
    for what, flat in (("mean", q.mean), ("std", q.std)):
        for name, value in ticket.layout.views(flat).items() if flat is not None else ():
            if not bool(value.isfinite().all()):
                raise TombolaError(f"the {what} of {name!r} is not finite; train the ticket anew before it is exported")


def _named(example: Any) -> dict[str, Tensor]:
    """Return the example's tensors by name. Raises TombolaError unless they are batches of one size."""
    parts: dict[str, Any] = (
        {str(name): value for name, value in example.items()}
        if isinstance(example, Mapping)
        else {f"input_{i}": value for i, value in enumerate(example)}
        if isinstance(example, list | tuple)
        else {"input": example}
    )
    for name, value in parts.items():
        if not isinstance(value, Tensor) or not value.ndim or not len(value):
            kind = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise TombolaError(f"{name} of the example is {kind}; each input must be a batch, a tensor [B, ...]")
    if len(sizes := lengths_of(example)) != 1:
        raise TombolaError(f"the example's inputs have {sorted(sizes)} examples; give batches of one size")
    return parts
