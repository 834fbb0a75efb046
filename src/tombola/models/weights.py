"""Pre-trained weights: a state_dict in a safetensors file."""

import hashlib
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from tombola.errors import TombolaError


def fingerprint(path: str) -> str:
    """Return a hash of the file. Raises TombolaError if it cannot be read."""
    return _hash(path, _found(path).stat().st_mtime_ns)


def load_weights(module: nn.Module, path: str) -> nn.Module:
    """Load the state_dict in the file into `module`, and return it. Of tied weights one name is enough.

    Raises TombolaError for a file of another format, or naming a weight that is missing, unknown or of another shape.
    """
    file = _found(path)
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise TombolaError(f"model.weights {path!r} is no safetensors file ({error}); save the state_dict as one") from None
    own = module.state_dict()
    given = {own[name].data_ptr() for name in tensors if name in own}
    missing = [name for name, value in own.items() if name not in tensors and value.data_ptr() not in given]
    unknown = [name for name in tensors if name not in own]
    other = [name for name in tensors if name in own and tensors[name].shape != own[name].shape]
    for names, what in ((missing, "lacks"), (unknown, "has, but the model lacks,"), (other, "has in another shape")):
        if names:
            raise TombolaError(f"model.weights {path!r} {what} {names[0]!r}; give a state_dict of this very model")
    module.load_state_dict(tensors, strict=False)
    return module


def _found(path: str) -> Path:
    here = Path(path).expanduser()
    if not here.is_file():
        raise TombolaError(f"model.weights is {path!r}, but there is no such file; check the path")
    return here


@lru_cache(maxsize=64)
def _hash(path: str, changed: int) -> str:
    return hashlib.sha256(_found(path).read_bytes()).hexdigest()[:16]
