"""Resolution of names in settings: a built-in, or the user's own `package.module:function`."""

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tombola.errors import TombolaError, is_out_of_memory

_allowed = True  # one for the process and not a context variable: threads that a command starts must see it


@contextmanager
def imports(*, allowed: bool) -> Iterator[None]:
    """Refuse import paths within the context unless they are `allowed`: for commands that read files of others."""
    global _allowed
    before, _allowed = _allowed, allowed
    try:
        yield
    finally:
        _allowed = before


def resolve(name: str, known: Mapping[str, Any], kind: str) -> Any:
    """Return `known[name]`, or the object of an import path. Raises TombolaError for any other name."""
    if ":" not in name:
        if name in known:
            return known[name]
        near = get_close_matches(name, known, 1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise TombolaError(f"unknown {kind} {name!r}: {meant}there are {', '.join(known)}, or package.module:name")
    if not _allowed:
        raise TombolaError(
            f"{kind} {name!r} is an import path, and this command only reads: to import it would run code; "
            "if you trust the files that name it, add --allow-imports, or import the module yourself in Python"
        )
    module_name, _, attribute = name.partition(":")
    look_in(Path.cwd())  # as `python -m` does
    try:
        found = getattr(importlib.import_module(module_name), attribute, None)
    except ImportError as error:
        raise TombolaError(f"cannot import {kind} {name!r}: {error}; run where {module_name!r} can be imported") from None
    except (Exception, SystemExit) as error:  # whatever the user's module does when it is imported
        raise TombolaError(f"cannot import {kind} {name!r}: {_in_short(error)}; correct {module_name!r}") from error
    if not callable(found):
        raise TombolaError(f"{kind} {name!r}: module {module_name!r} has no function {attribute!r}; check the name")
    return found


def look_in(folder: Path) -> None:
    """Let import paths name modules in `folder`, where they are allowed; last, so that it hides no installed package."""
    if _allowed and str(folder) not in sys.path:
        sys.path.append(str(folder))


def call(factory: Callable[..., Any], offered: Mapping[str, Any], args: Mapping[str, Any], name: str) -> Any:
    """Return `factory(**args)`, with the arguments of `offered` that it takes. Raises TombolaError for wrong arguments."""
    try:
        signature = inspect.signature(factory)
    except ValueError as error:  # some builtins have no signature
        raise TombolaError(f"{name}: {_in_short(error)}; wrap it in a function of yours") from None
    takes_all = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    arguments = {k: v for k, v in offered.items() if takes_all or k in signature.parameters} | dict(args)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        takes = ", ".join(p for p in signature.parameters if p not in offered)
        raise TombolaError(f"{name} does not fit args {dict(args)}: {error}; it takes {takes or 'none'}") from None
    try:
        return factory(**arguments)
    except TombolaError:
        raise
    except (Exception, SystemExit) as error:  # a factory that leaves the program has not made anything
        if is_out_of_memory(error):
            raise
        raise TombolaError(f"{name} failed with args {dict(args)}: {_in_short(error)}; correct them or it") from error


def source_digest(name: str, known: Mapping[str, Any]) -> str:
    """Return a hash of the module of a user's name; empty for a built-in, whose changes raise a stage's version."""
    if name in known:
        return ""
    target = inspect.unwrap(resolve(name, known, "name"))
    try:
        file = inspect.getsourcefile(target)
    except TypeError:  # a callable object or a builtin: the module that it is named by
        file = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else ""


def _in_short(error: BaseException) -> str:
    """Return an error of the user's code in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
