"""Finding what a name in a study means: one of ours, or the user's own `package.module:function`."""

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .errors import TombolaError


def resolve(name: str, known: Mapping[str, Any], kind: str) -> Any:
    """`known[name]`, or what an import path names. Raises TombolaError for anything else."""
    if ":" not in name:
        if name in known:
            return known[name]
        near = get_close_matches(name, known, 1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise TombolaError(f"unknown {kind} {name!r}: {meant}there are {', '.join(known)}, or package.module:name")
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # a user's file beside the study is found, as `python -m` would
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise TombolaError(f"cannot import {kind} {name!r}: {error}; run where {module_name!r} can be imported") from None
    except AttributeError:
        raise TombolaError(f"{kind} {name!r}: module {module_name!r} has no {attribute!r}; check the name") from None


def call(factory: Callable[..., Any], offered: Mapping[str, Any], args: Mapping[str, Any], name: str) -> Any:
    """`factory(**args)` with those of `offered` that it takes. Raises TombolaError for arguments that do not fit."""
    signature = inspect.signature(factory)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    arguments = {k: v for k, v in offered.items() if takes_all or k in signature.parameters} | dict(args)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise TombolaError(f"{name}{signature} does not fit args {dict(args)}: {error}") from None
    return factory(**arguments)


def source_digest(name: str, known: Mapping[str, Any]) -> str:
    """A hash of the module that a user's name lives in; empty for ours, whose changes raise a stage's version."""
    if name in known:
        return ""
    target = resolve(name, known, "name")
    file = inspect.getsourcefile(inspect.unwrap(target))
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else ""
