"""Several processes at one training: each takes a share of every batch, and one all-reduce averages their gradients.

The loss of a batch is a mean over its examples plus terms that all ranks have alike (the KL term). With weight
b_r / B of the rank that has b_r of the B examples, the weighted sum of the ranks' gradients is the whole batch's: the
weights sum to 1, so that the KL term counts once. Every rank then makes the same step, and no weights are sent.

Legend: C channels of a norm layer.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tombola import plugins
from tombola.errors import TombolaError
from tombola.inference import VI, Learner, Map, method_of
from tombola.inference.compiled import intercepts
from tombola.inference.estimators import ESTIMATORS
from tombola.posterior.batch import Batch, examples_of, shares
from tombola.posterior.families import Posterior
from tombola.settings import TrainSettings
from tombola.streams import Name

from .checkpoint import Checkpoint, TimeUp
from .optim import Joined


class Fabric(Protocol):
    """Part of `lightning.Fabric` that a training uses, once it is launched."""

    @property
    def world_size(self) -> int: ...
    @property
    def global_rank(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    def all_reduce(self, data: Any, group: Any = None, reduce_op: Any = "mean") -> Any: ...
    def broadcast(self, obj: Any, src: int = 0) -> Any: ...


@dataclass
class Ranks:
    """One of the processes of a training."""

    fabric: Fabric
    same_sample: bool = False
    """True: every rank draws the same weight sample; False: its own, so that a step averages over more of them."""
    weight: float = field(default=1.0, init=False)
    """Share of the present batch that this rank has."""
    examples: int = field(default=0, init=False)
    """Number of examples in that share."""

    def own(self, stream: Name) -> Name:
        """Return a stream of this rank; the first rank has that of a training in one process."""
        rank = self.fabric.global_rank
        return stream if rank == 0 else (*stream, "rank", rank)

    def gradients(
        self,
        learner: Learner,
        optimiser: torch.optim.Optimizer | Joined,
        batch: Batch,
        step: int,
        kl: float | Tensor,
        due: bool,
    ) -> tuple[Tensor, bool]:
        """Set the gradients of the whole `batch`; return its loss and whether the first rank's checkpoint is due."""
        with self._synchronised(learner.binding.module):
            loss = learner.gradients(self._share(batch), step, kl)
        grads = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
        first = self.fabric.global_rank == 0
        flat = torch.cat([*(g.flatten() for g in grads), loss.reshape(1)]) * self.weight
        flat = torch.cat([flat, flat.new_full((1,), float(due and first))])
        flat = self.fabric.all_reduce(flat, reduce_op="sum")
        for grad, summed in zip(grads, flat[:-2].split([g.numel() for g in grads]), strict=True):
            grad.copy_(summed.view_as(grad))
        return flat[-2], bool(flat[-1])

    def by_first(self, save: Callable[[], None]) -> None:
        """Let the first rank save a checkpoint. Raises TimeUp on all if its time is over."""
        over = False
        if self.fabric.global_rank == 0:
            try:
                save()
            except TimeUp:
                over = True
        if self.fabric.broadcast(over):
            raise TimeUp

    def load(self, checkpoint: Checkpoint, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return on all ranks the checkpoint that the first one finds."""
        return self.fabric.broadcast(checkpoint.load(device) if self.fabric.global_rank == 0 else None)

    def check_equal(self, posterior: Posterior) -> None:
        """Raise TombolaError unless all ranks have the same weights, as they have unless a device computes wrongly."""
        value = torch.stack([value.double().sum() for value in posterior.tensors().values()]).sum()
        ends = torch.stack([value, -value])
        ends = self.fabric.all_reduce(ends, reduce_op="max")
        if not bool(ends[0] == -ends[1]) and bool(ends.isfinite().all()):
            raise TombolaError(
                "the processes of this training have different weights by now; give each the same data, seed, settings and "
                "torch build, and the same kind of device"
            )

    def _share(self, batch: Batch) -> Batch:
        """Return this rank's part of a batch. One that finds none left does the first part over, with weight 0."""
        length, rank = examples_of(batch), self.fabric.global_rank
        found = list(shares(batch, length, self.fabric.world_size))
        part, rows = found[rank] if rank < len(found) else found[0]
        self.examples = rows.stop - rows.start if rank < len(found) else 0
        self.weight = self.examples / length
        return part

    @contextmanager
    def _synchronised(self, module: nn.Module) -> Iterator[None]:
        """Let the batch norms in training mode normalise by the statistics of the whole batch."""
        with ExitStack() as undo:
            for layer in module.modules():
                if isinstance(layer, _BatchNorm) and "forward" not in vars(layer):
                    layer.forward = partial(_normalise, self, layer, layer.forward)  # type: ignore[method-assign]
                    undo.callback(vars(layer).pop, "forward")
            yield


def check_shared(settings: TrainSettings, batch_norm: bool, same_sample: bool) -> None:
    """Raise TombolaError for a training that several processes cannot share. batch_norm: whether the network has any."""
    method = method_of(settings.method)
    if not (issubclass(method, VI) or method is Map):
        raise TombolaError(
            f"method {settings.method} makes more of its steps than averaged gradients, so several processes cannot "
            "share it; train with one, or by vi, ivon or map"
        )
    if settings.cuda_graphs:
        raise TombolaError("cuda_graphs is on, but a step that several processes share is no graph; turn it off")
    estimator = plugins.resolve(settings.estimator, ESTIMATORS, "estimator")
    in_outputs = issubclass(method, VI) and intercepts(estimator)
    if in_outputs and same_sample:
        raise TombolaError(
            f"estimator {settings.estimator} draws noise for each example, so no two processes can draw that of one; "
            "use weight_sample, or train in one process"
        )
    for given, what in (
        (settings.compile, "compile: true"),
        (bool(settings.sparse), "sparse, a mask that changes"),
        (settings.accumulate > 1, f"accumulate: {settings.accumulate}"),
        (in_outputs, f"estimator: {settings.estimator}"),
    ):
        if given and batch_norm:
            raise TombolaError(
                f"batch norm is synchronised between processes, which train.{what} cannot have; leave it out, or "
                "train in one process"
            )


class _Summed(torch.autograd.Function):
    """Sum over ranks. Backward: what reaches it on a rank is of that rank's loss, which has the rank's weight."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.fabric.all_reduce(value.detach().clone(), reduce_op="sum")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ranks: Ranks = ctx.ranks
        summed = ranks.fabric.all_reduce(grads[0] * ranks.weight, reduce_op="sum")
        # divided by the weight that this rank's whole gradient is multiplied by later
        return (summed / ranks.weight if ranks.weight else torch.zeros_like(summed)), None


def _normalise(ranks: Ranks, layer: _BatchNorm, alone: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
    """Return the layer's output, as of one process that has the whole batch; update its running statistics."""
    if not (layer.training or layer.running_mean is None):
        return alone(input)
    layer._check_input_dim(input)
    axes, shape = [d for d in range(input.ndim) if d != 1], [1, -1, *[1] * (input.ndim - 2)]
    present = float(ranks.examples > 0)
    x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    count = x.new_full((1,), present * x.numel() / x.shape[1])
    packed = _Summed.apply(torch.cat([present * x.sum(axes), count]), ranks)
    n, mean_C = packed[-1].detach(), packed[:-1] / packed[-1].detach()
    centred = x - mean_C.view(shape)
    var_C = _Summed.apply(present * centred.square().sum(axes), ranks) / n
    out = centred * (var_C + layer.eps).rsqrt().view(shape)
    if layer.affine:
        out = out * layer.weight.view(shape) + layer.bias.view(shape)
    if layer.training and layer.track_running_stats and layer.running_mean is not None and layer.running_var is not None:
        with torch.no_grad():
            assert layer.num_batches_tracked is not None
            layer.num_batches_tracked.add_(1)
            moved = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
            layer.running_mean.lerp_(mean_C.to(layer.running_mean), moved)
            layer.running_var.lerp_((var_C * n / (n - 1)).to(layer.running_var), moved)
    return out.to(input.dtype)
