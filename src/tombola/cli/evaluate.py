"""The command evaluate: the metrics of a trained ticket, of a file or of a store."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from tombola import models, plugins
from tombola.data import load_data
from tombola.data.dataset import Dataset
from tombola.data.placement import choose_device
from tombola.engine.store import Store
from tombola.errors import TombolaError
from tombola.predict.shipped import SHIPPED
from tombola.pruning.ticket import Ticket, load
from tombola.settings import EvaluateSettings, TrainSettings
from tombola.settings.keys import restored
from tombola.study.messages import in_short
from tombola.study.parse import parse
from tombola.training.evaluate import evaluate_ticket
from tombola.training.scored import check_targets

from .commands import print_json
from .terminal import Screen

_PREFIX = re.compile(r"[0-9a-f]{4,24}")


def evaluate(
    name: str,
    measure: EvaluateSettings,
    *,
    seed: int,
    device: str,
    store: Path,
    model: str | None,
    data: str | None,
    as_json: bool,
) -> int:
    """Print the metrics of a ticket.

    name: its file, or the key of its stage in the store, or the beginning of one. model, data: in place of the ones that the
    ticket names, as YAML. Raises TombolaError for a damaged or untrained ticket, and for lack of its model or data.
    """
    path = ticket_path(name, store)
    ticket = load(path)
    _ = ticket.posterior  # raises where there is no trained state
    given = named_by(model, "--model") if model else None
    named = given or ticket.info.get("model")
    module = None if given or not named else built(named, ticket)  # before its data, which may take long to load
    found = data_of(ticket, path, data)
    if not named:
        raise TombolaError(
            f"{path} does not name its model (it was saved from Python); give --model, a name or module:function"
        )
    if module is None:
        with plugins.imports(allowed=True):  # the caller has typed it
            module = built(named | {"input_shape": found.input_shape, "outputs": found.outputs}, ticket)
    chosen = choose_device(device)
    row = measured(module.to(chosen), ticket, found, measure, seed, chosen)
    if as_json:
        row["layer_density"] = json.loads(row["layer_density"])
        print_json({"ticket": str(path), "model": named["name"], "data": found.name, "split": measure.split, **row})
        return 0
    what = f"the {measure.split} split of {found.name} ({row['examples']} examples)"
    table = Table(title=f"{path.name}: {named['name']} on {what}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for metric, value in row.items():
        if isinstance(value, int | float):
            table.add_row(metric, f"{value:.6g}")
    Screen().print(table)
    return 0


def ticket_path(name: str, root: Path) -> Path:
    """Return the path of a ticket: a file, a shipped one, or a stage by the beginning of its key or of its evaluation's.

    Raises TombolaError unless exactly one stage has such a key, and where its ticket is gone.
    """
    if Path(name).exists() or not _PREFIX.fullmatch(name):
        return Path(name) if Path(name).exists() else SHIPPED.get(name, Path(name))
    store, keys = Store(root), sorted(path.parent.name for path in root.glob(f"{name}*/record.json"))
    if not keys:
        raise TombolaError(
            f"there is no file {name}, and no stage of {root} whose key begins so; give the folder by --store"
        )
    if len(keys) > 1:
        raise TombolaError(
            f"{len(keys)} stages of {root} have keys that begin with {name} ({keys[0]}, {keys[1]}); give more"
        )
    record = store.record(keys[0])
    key, kind = (record["parents"][0], "train") if record["kind"] == "evaluate" else (keys[0], record["kind"])
    if store.has_ticket(key):
        return store.ticket_path(key)
    if kind in ("train", "prune"):
        raise TombolaError(f"the ticket of stage {key} was removed from {root} by `tombola clean`; only its record is left")
    raise TombolaError(f"stage {key} of {root} has no ticket, it is of kind {kind!r}; give the key of a training")


def built(about: dict[str, Any], ticket: Ticket) -> nn.Module:
    """Return the model of a ticket's description. Raises TombolaError for a damaged one, and for another model."""
    _check_fields("model", about, {"name": str, "args": dict, "input_shape": list | tuple, "outputs": int})
    arguments = (about["name"], about["args"], about["input_shape"], about["outputs"], ("skeleton",))
    if about["name"] in models.MODELS:  # first without memory for numbers: the file may name a model of any size
        with torch.device("meta"), _at_most(4 * len(ticket.layout.segments)):
            ticket.layout.check(models.build(*arguments))
    module = models.build(*arguments)
    ticket.check(module)
    return module


@contextmanager
def _at_most(tensors: int) -> Iterator[None]:
    """Raise TombolaError once modules that are made here have more parameter tensors than that."""
    made = itertools.count(1)

    def count(module: nn.Module, name: str, parameter: Any) -> None:
        if next(made) > tensors:
            raise TombolaError("the ticket's description names a larger model than the ticket's; take another copy")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def data_of(ticket: Ticket, path: Path, given: str | None) -> Dataset:
    """Return the data set to measure on. Raises TombolaError if it is unknown, or has changed since the training."""
    about = named_by(given, "--data") if given else ticket.info.get("data")
    if not about:
        raise TombolaError(
            f"{path} does not name its data (it was saved from Python); give --data, a name or module:function"
        )
    _check_fields("data", about, {"name": str, "args": dict})
    with plugins.imports(allowed=True) if given else nullcontext():  # the caller has typed it
        found = load_data(about["name"], about["args"])
    if about.get("fingerprint", found.fingerprint) != found.fingerprint:
        raise TombolaError(
            f"data {found.name!r} has fingerprint {found.fingerprint}, the ticket was trained on {about['fingerprint']}: "
            "the data has changed since"
        )
    return found


def named_by(text: str, option: str) -> dict[str, Any]:
    """Return name and args that an option gives as YAML: a name, or a mapping of both."""
    raw = parse(text, option)
    given = {"name": raw} if isinstance(raw, str) else raw
    fits = isinstance(given, dict) and "name" in given and given.keys() <= {"name", "args"}
    if not fits or not isinstance(given["name"], str) or not isinstance(given.setdefault("args", {}), dict):
        raise TombolaError(f"{option} is {text!r}; give a name, or '{{name: NAME, args: {{...}}}}' as in a study")
    return given


def train_of(ticket: Ticket) -> TrainSettings:
    """Return the settings of the ticket's training; one of a loop of the caller's own names none."""
    settings = ticket.info.get("settings", {})
    _check_fields("settings", settings, {})
    if "train" in settings:
        _check_fields("train", settings["train"], {})
        return restored(TrainSettings, settings["train"])
    return TrainSettings(likelihood="gaussian" if "log_noise" in ticket.end.likelihood else "categorical")


def measured(
    module: nn.Module, ticket: Ticket, data: Dataset, settings: EvaluateSettings, seed: int, device: torch.device
) -> dict[str, Any]:
    """Return the ticket's metrics. Raises TombolaError where its likelihood is not of the data's targets."""
    train = train_of(ticket)
    check_targets(train.likelihood, data)
    examples, inputs = data.held_out(settings.split), data.train[0]
    return evaluate_ticket(module, ticket, examples, inputs, settings, train, ("evaluate", seed), device, data.prepare)


def _check_fields(what: str, about: Any, fields: Mapping[str, Any]) -> None:
    """Raise TombolaError unless a part of a ticket's info is a mapping with these fields, each of its kind."""
    wrong = "" if isinstance(about, dict) else " is no mapping"
    for name, kind in fields.items() if not wrong else ():
        if not isinstance(about.get(name), kind):
            wrong = f" has {name} {in_short(repr(about.get(name)))}"
            break
    shape = about.get("input_shape", ()) if not wrong else ()
    if not all(type(size) is int for size in shape):
        wrong = f" has input_shape {in_short(repr(shape))}"
    if wrong:
        raise TombolaError(f"the ticket's description is damaged: its {what}{wrong}; take another copy, or train it anew")
