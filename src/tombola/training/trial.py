"""A trial of a training's examples before its first step: what would end it after an epoch is said at once."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tombola import streams
from tombola.data.batches import Batches, Prepare, TensorBatches
from tombola.errors import TombolaError
from tombola.posterior.attributes import attributes_kept
from tombola.posterior.batch import Batch, in_parts, inputs_of, logits_of, moved, run, targets_of
from tombola.posterior.binding import Binding
from tombola.posterior.likelihood import Categorical, check_classes
from tombola.posterior.state import State

_FEW = 2


@torch.no_grad()
def trial(
    module: nn.Module,
    state: State,
    likelihood: nn.Module,
    batches: Batches,
    validation: Iterable[Batch],
    prepare: Prepare | None,
) -> None:
    """Run a few examples of each set through the module, in evaluation mode and without gradients, and look at all labels.

    Nothing is changed. Examples of a loader are not read. prepare: of the validation examples.
    Raises TombolaError for what the training, its validation or a prediction would not take.
    """
    theta, likelihood = state.posterior.mean.clone(), copy.deepcopy(likelihood).eval()
    bound = Binding(module, state.posterior.layout, theta, state.buffers)
    fits = False  # whether training examples go through: if not, the module may need a step of training first
    with streams.global_stream("trial", device=theta.device), attributes_kept(module), bound:
        module.eval()
        try:
            if isinstance(batches, TensorBatches):
                _try(module, likelihood, (batches.inputs, batches.targets), batches.prepare, theta.device)
                fits = True
            for batch in validation:
                _try(module, likelihood, batch, prepare, theta.device)
        except TombolaError:
            raise
        except Exception as error:  # modules raise whatever they like
            if fits:
                raise TombolaError(
                    f"the validation examples do not go through the module, as those of training do ({error}); give them "
                    "the same form"
                ) from error


def _try(module: nn.Module, likelihood: nn.Module, batch: Batch, prepare: Prepare | None, device: torch.device) -> None:
    part = moved(next(in_parts(batch, _FEW)), device)
    if prepare:
        part = prepare(inputs_of(part)), targets_of(part)
    output, targets = run(module, inputs_of(part)), targets_of(batch) if isinstance(likelihood, Categorical) else None
    likelihood(output, part)
    if isinstance(targets, Tensor):
        check_classes(targets, logits_of(output).shape[-1])
