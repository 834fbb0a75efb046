"""Predictive: the predictive distribution of a trained ticket, for inputs in memory or batch by batch.

Legend: B examples, C classes, S weight samples.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tombola.data.signature import Signature, check_finite
from tombola.errors import MemoryShortError, TombolaError, is_out_of_memory
from tombola.posterior.arrays import as_tensors
from tombola.posterior.batch import inputs_of, leaves, lengths_of, logits_of, mapped, moved, parts, run
from tombola.pruning.ticket import Ticket

from .abstention import Abstention, abstain_at, check_target, right_of
from .predictions import ClassPrediction, Predictions, of_classes, of_reals

Method = Literal["samples", "moments", "mean"]
_DRAWS = 512
"""Normal outputs drawn around the moments, whose softmax is averaged."""


class Predictive:
    """Predictive distribution of a trained ticket: `predictive(inputs)` is a `ClassPrediction` or a `RealPrediction`.

    The ticket says whether it is of classes or of real targets. One that keeps a signature (see `describe`) takes stored
    inputs, as uint8 pixels, checks them and normalises them as its training did; another takes what the network takes.
    """

    def __init__(
        self,
        ticket: Ticket,
        module: nn.Module,
        *,
        method: Method = "samples",
        samples: int = 16,
        seed: int = 0,
        batch: int = 256,
        compiled: bool = False,
        abstention: Abstention | None = None,
        signature: Signature | None = None,
    ):
        """Take a trained ticket and its module, which is not changed (`samples` writes to it and puts it back).

        method: `samples`, the average over weight samples; `moments`, mean and variance in one pass, on a CPU; or `mean`,
            the mean weights alone, without an epistemic part.
        samples, seed: weight samples drawn, equal for every batch.
        batch: examples of a forward pass.
        compiled: with `mean`, whether to run on `tombola.compile`'s kernels.
        abstention: as of `abstaining`.
        signature: in place of the ticket's own.

        Raises TombolaError if the ticket is untrained, of another model, or has weights that are not finite.
        """
        if method not in ("samples", "moments", "mean"):
            raise TombolaError(f"method is {method!r}; it must be samples, moments or mean")
        if samples < 1 or batch < 1:
            raise TombolaError(f"samples is {samples}, batch {batch}; both must be at least 1")
        if compiled and method != "mean":
            raise TombolaError(f"compiled is of the mean weights, method is {method!r}; give method='mean'")
        ticket.check(module)
        _check_weights(ticket)
        self.ticket, self.abstention = ticket, abstention
        self.signature = signature or signature_of(ticket)
        self._noise_std = _noise_std(ticket)
        self._alone = method == "mean" or ticket.posterior.std is None
        self._batch, self._device, self._name = batch, next(module.parameters()).device, type(module).__name__
        if method == "mean" and not compiled:
            self._outputs = _of_mean(ticket, module)
        elif method == "samples":
            self._outputs = lambda x: ticket.outputs(module, x, samples=samples, seed=seed, batch=batch)
        else:
            self._outputs = _Compiled(ticket, module, method == "moments", seed)

    def __call__(self, inputs: Any) -> Predictions:
        """Return the prediction for `inputs` of B examples.

        inputs: a tensor or numpy array [B, ...]; or a tuple of positional or a mapping of keyword arguments of the module.
        Raises TombolaError for inputs that do not fit, are not finite, or differ in length, and where memory runs out.
        """
        inputs = as_tensors(inputs)
        lengths = lengths_of(inputs)
        if not lengths:
            found = ", ".join(sorted({str(getattr(leaf, "dtype", type(leaf).__name__)) for leaf in leaves(inputs)}))
            raise TombolaError(f"inputs are no batch of numbers ({found or 'empty'}); give a tensor or an array [B, ...]")
        if len(lengths) != 1 or 0 in lengths:
            raise TombolaError(f"inputs have the lengths {sorted(lengths)}; give at least one example, and as many of each")
        with torch.no_grad():
            whole = enumerate(parts(inputs, lengths.pop(), self._batch))
            out = [self._run(self._prepared(part, i * self._batch)) for i, part in whole]
            return self._of(out[0] if len(out) == 1 else torch.cat(out, 1))

    def batches(self, loader: Iterable[Any]) -> Iterator[Predictions]:
        """Yield the prediction for each batch of a loader, in order and in the memory of one batch.

        A batch is inputs, [inputs], a pair (inputs, targets) or a mapping with or without `labels`; targets are not read.
        """
        for given in loader:
            is_pair = isinstance(given, tuple | list) and len(given) in (1, 2)
            yield self(given[0] if is_pair else inputs_of(given) if isinstance(given, Mapping) else given)

    def abstaining(
        self, inputs: Any, targets: Any, *, coverage: float | None = None, risk: float | None = None
    ) -> "Predictive":
        """Return a predictive that abstains where its confidence is low, by a threshold from held-out examples.

        targets: class numbers [n], or, of a ticket that names its classes, their names. coverage, risk: as of `abstain_at`.
        Raises TombolaError for a regression, and as `abstain_at` does.
        """
        check_target(coverage, risk)
        self.check_abstains()
        prediction = self(inputs)
        assert isinstance(prediction, ClassPrediction)
        if getattr(getattr(targets, "dtype", None), "kind", "") in ("O", "U"):  # numpy's arrays of names
            targets = targets.tolist()
        numbers = self.numbers_of(targets) if _are_names(targets) else as_tensors(targets)
        right = right_of(prediction.labels, numbers, prediction.probs.shape[1])
        found = copy.copy(self)
        found.abstention = abstain_at(prediction.confidence, right, coverage=coverage, risk=risk)
        return found

    def check_abstains(self) -> None:
        """Raise TombolaError for a regression."""
        if self._noise_std is not None:
            raise TombolaError("the ticket is a regression, and abstention is of classes; use the interval's width")

    def numbers_of(self, names: Iterable[str]) -> Tensor:
        """Return the numbers of classes. Raises TombolaError for a name that the ticket does not know."""
        known = {name: i for i, name in enumerate(self.signature.classes if self.signature else ())}
        names = [str(name) for name in names]
        if strange := next((name for name in names if name not in known), None):
            shown = ", ".join(list(known)[:10]) + (", ..." if len(known) > 10 else "")
            raise TombolaError(f"there is no class {strange!r}; the ticket's classes are {shown or 'not named'}")
        return torch.tensor([known[name] for name in names])

    def _prepared(self, inputs: Any, first: int) -> Any:
        """Return the network's inputs, checked. first: number of the first example, for errors."""
        if self.signature is not None:
            if not isinstance(inputs, Tensor):
                raise TombolaError(f"inputs are a {type(inputs).__name__}; the ticket takes one tensor or array")
            return self.signature.prepare(inputs, first)
        for leaf in leaves(inputs):
            if isinstance(leaf, Tensor):
                check_finite(leaf, first)
        return mapped(inputs, lambda leaf: leaf.float() if getattr(leaf, "dtype", None) == torch.float64 else leaf)

    def _run(self, part: Any) -> Tensor:
        """Return the outputs [S, B, C] of a part of the inputs."""
        try:
            return self._outputs(moved(part, self._device))
        except TombolaError:
            raise
        except (RuntimeError, ValueError, TypeError, MemoryError) as error:  # torch has a sentence of its own in each layer
            if is_out_of_memory(error):
                raise MemoryShortError(f"out of memory; use a smaller batch (now {self._batch}) or fewer samples") from error
            shapes = ", ".join(str(list(leaf.shape)) for leaf in leaves(part) if isinstance(leaf, Tensor))
            raise TombolaError(
                f"{self._name} does not take inputs of shape {shapes} ({str(error).splitlines()[0]}); give others"
            ) from error

    def _of(self, outputs: Tensor) -> Predictions:
        if not bool(outputs.isfinite().all()):
            wrong = ~outputs.isfinite().all(0)
            first = int(wrong.reshape(len(wrong), -1).any(1).nonzero()[0, 0])
            raise TombolaError(f"the outputs of {self._name} for input {first} are NaN or infinite; look at its values")
        if self._noise_std is not None:
            return of_reals(outputs, self._noise_std, self._alone)
        if outputs.ndim != 3 or outputs.shape[2] < 2:
            raise TombolaError(
                f"{self._name} has outputs of shape {list(outputs.shape[1:])}; class probabilities need [B, classes]"
            )
        count = outputs.shape[2]
        names = (self.signature.classes if self.signature else ()) or tuple(map(str, range(count)))
        if len(names) > count:
            raise TombolaError(f"the ticket names {len(names)} classes, and {self._name} has {count} outputs")
        names += tuple(f"class {i}" for i in range(len(names), count))  # outputs that no training example had
        return of_classes(outputs, names, self.abstention, self._alone)


class _Compiled:
    """Outputs [S, B, C] of the compiled mean network, or S normal outputs by the compiled moments."""

    def __init__(self, ticket: Ticket, module: nn.Module, moments: bool, seed: int):
        self._ticket, self._module, self._moments, self._seed = ticket, module, moments, seed
        self._predictor: Any = None  # compiled for the first batch

    def __call__(self, inputs: Any) -> Tensor:
        from tombola.deploy import compile, compile_moments

        if self._predictor is None:
            make: Callable[..., Any] = compile_moments if self._moments else compile
            self._predictor = make(self._ticket, self._module, inputs)
        if not self._moments:
            return self._predictor(inputs)[None]
        found: Tensor = self._predictor.outputs(inputs, samples=_DRAWS, seed=self._seed)
        return found


def describe(
    ticket: Ticket,
    signature: Signature,
    *,
    model: str | None = None,
    args: Mapping[str, Any] | None = None,
    outputs: int | None = None,
) -> Ticket:
    """Return the ticket with what `tombola predict` needs to know: its inputs and classes, and the model's name.

    Tickets of studies know both. signature: of a `Dataset` its `signature`, else made by hand.
    model, args: as in a study: a shipped model or `module:function`, and its arguments.
    outputs: of the model; by default the number of classes, or 1.
    """
    outputs = outputs or len(signature.classes) or 1
    about = {"name": model, "args": dict(args or {}), "input_shape": list(signature.shape), "outputs": outputs}
    named = {} if model is None else {"model": about}
    return replace(ticket, info=ticket.info | named | {"inputs": signature.to_json()})


def signature_of(ticket: Ticket) -> Signature | None:
    """Return the signature that the ticket keeps, or None."""
    raw = ticket.info.get("inputs")
    return None if raw is None else Signature.of_json(raw)


def _of_mean(ticket: Ticket, module: nn.Module) -> Callable[[Any], Tensor]:
    plain = ticket.write_mean(copy.deepcopy(module)).eval()
    return lambda inputs: logits_of(run(plain, inputs))[None]


def _check_weights(ticket: Ticket) -> None:
    """Raise TombolaError naming a parameter of the trained ticket that is not finite."""
    q = ticket.posterior
    for values in (q.mean, q.std):
        if values is not None and not bool(values.isfinite().all()):
            views = ticket.layout.views(values)
            name = next(name for name, view in views.items() if not bool(view.isfinite().all()))
            raise TombolaError(f"the ticket's weights {name!r} are NaN or infinite: it has diverged; train it anew")


def _noise_std(ticket: Ticket) -> float | None:
    """Return the noise of a regression; None of a classifier. Raises TombolaError for several noises."""
    found = ticket.end.likelihood.get("log_noise")
    if found is not None and found.numel() != 1:
        raise TombolaError(f"the ticket's likelihood has {found.numel()} noises, predictions know one; use ticket.outputs")
    return None if found is None else math.exp(found.item())


def _are_names(targets: Any) -> bool:
    return isinstance(targets, tuple | list) and bool(targets) and isinstance(targets[0], str)
