"""Checks of what a module does in a pass, and torch's errors of a pass in words of the caller's."""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError

_DTYPES = re.compile("dtype|scalar type|input type|expected .*(tensor|type)", re.IGNORECASE)
_OF_NUMPY = {"float64": ", as NumPy's are", "uint8": ", as pixels are"}
Versions = Sequence[tuple[Tensor, int]]
"""Tensors, and how often each was written to."""


def versions_of(inputs: Iterable[Any]) -> Versions:
    """Return the versions of the tensors among `inputs`; of none while a program is traced."""
    if torch.compiler.is_compiling():
        return []
    return [(leaf, leaf._version) for leaf in inputs if isinstance(leaf, Tensor) and not leaf.is_inference()]


def check_unwritten(module: Any, before: Versions) -> None:
    """Raise TombolaError if the module has written to its inputs: the pass of the next weight sample would see others."""
    if any(leaf._version != version for leaf, version in before):
        raise TombolaError(
            f"{type(module).__name__} changes its inputs in place, but each weight sample needs them as they were; let it "
            "make new ones: x = x - mean in place of x -= mean, no inplace=True of its first layer"
        )


def in_words(error: Exception, module: Any, inputs: Any, dtypes: Sequence[torch.dtype]) -> str | None:
    """Return a sentence for an `error` of torch's or Python's: the fault of the call, and the mend; None if it is not known.

    Known are inputs of a dtype, or of a number or names, that the module does not take; a convolution's weight that it
    reads as a view of contiguous memory; and gradients that it takes itself where none are recorded, as in a prediction.
    """
    kind, first = type(module).__name__, (str(error).splitlines() or [""])[0]
    if isinstance(error, TypeError):
        return _of_call(error, module, inputs, kind)
    if "view size is not compatible" in first and any(p.ndim == 4 for p in _parameters(module)):
        return f"{kind} views a convolution's weight, which is channels-last in memory here; use reshape in place of view"
    if "does not require grad" in first and not torch.is_grad_enabled():
        return (
            f"{kind} takes gradients in its forward pass ({first}), and predictions and validations record none; let it "
            "take them within torch.enable_grad()"
        )
    own = {str(p.dtype) for p in _parameters(module)}
    found = [str(dtype) for dtype in dtypes if str(dtype) not in own]
    if own and found and _DTYPES.search(str(error)):
        name = found[0].removeprefix("torch.")
        said = f"the inputs are {name}{_OF_NUMPY.get(name, '')}, which the module does not take ({first})"
        return f"{said}; give {'real numbers' if name.startswith('complex') else 'inputs.float()'}"
    return None


def _of_call(error: TypeError, module: Any, inputs: Any, kind: str) -> str | None:
    """Return the sentence for inputs that do not fit the parameters of `forward`; None if they do."""
    if not isinstance(module, nn.Module):
        return None
    by_name = isinstance(inputs, Mapping)
    args = () if by_name else tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    try:
        inspect.signature(module.forward).bind(*args, **(inputs if by_name else {}))
    except TypeError as misfit:
        what = f"the entries {', '.join(map(str, inputs))}" if by_name else f"{len(args)} inputs"
        return (
            f"{kind} cannot be called with {what} of a batch ({misfit}); a batch is a pair (inputs, targets), or a mapping "
            "of which all but the entry 'labels' go to the module by name"
        )
    except ValueError:  # of a signature that is not known
        return None
    return None


def _parameters(module: Any) -> list[Tensor]:
    return list(module.parameters()) if isinstance(module, nn.Module) else []
