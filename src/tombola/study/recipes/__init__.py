"""Recipes: the settings that a study's `size` and `nets` stand for, in one YAML file for all studies of a data set."""

import copy
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from importlib import resources
from typing import Any

from tombola.errors import TombolaError

from ..messages import in_short

Settings = dict[str, Any]


def expand(raw: Settings) -> list[Settings]:
    """Return the raw study on top of the recipe, once for each of its `nets`; without nets, the study alone.

    Later settings override earlier ones: those of all sizes, of the size, of the net, of the study. A study that names
    other data gets none of the recipe's `data.args`.
    Raises TombolaError for an unknown size or net, and for one key without the other.
    """
    size, nets = raw.get("size"), raw.get("nets")
    if size is None and nets in (None, []):
        return [raw]
    sizes = cifar10()
    if not isinstance(size, str) or size not in sizes["sizes"]:
        raise TombolaError(f"{_unlike('size', size, sizes['sizes'])}; nets have one of these sizes")
    there = sizes["sizes"][size]
    if not isinstance(nets, list) or not nets:
        raise TombolaError(f"nets is {in_short(repr(nets))} at size {size}; give a list of {', '.join(there['nets'])}")
    if (model := _name_of(raw.get("model"))) is not None:
        raise TombolaError(f"model.name is {in_short(repr(model))} beside nets {in_short(str(nets))}; leave one of them out")
    expanded = []
    for i, net in enumerate(nets):
        if not isinstance(net, str) or net not in there["nets"]:
            raise TombolaError(_unlike(f"nets.{i}", net, there["nets"]))
        if net in nets[:i]:
            raise TombolaError(f"nets are {in_short(str(nets))}; give {net} once")
        found: Settings = {}
        for part in (sizes["common"], there["common"], there["nets"][net]):
            found = merged(found, part)
        if _name_of(raw.get("data")) not in (None, found["data"]["name"]):
            found["data"]["args"] = {}  # arguments of another factory
        expanded.append(merged(found, raw) | {"nets": [net]})
    return expanded


def common_view(studies: list[Settings], nets: list[str]) -> Settings:
    """Return expanded studies as one, for people to read: a list of values for a setting in which the nets differ."""
    if len(studies) == 1:
        return studies[0]
    return _united(studies) | {"nets": nets}


def merged(under: Any, over: Any) -> Any:
    """Return `over` on top of `under`, mapping by mapping; each of a list of mappings (a fan-out) on top of its own."""
    if isinstance(under, dict) and isinstance(over, dict):
        return under | {name: merged(under[name], v) if name in under else copy.deepcopy(v) for name, v in over.items()}
    if isinstance(under, dict) and isinstance(over, list) and all(isinstance(item, dict) for item in over):
        return [merged(under, item) for item in over]
    return copy.deepcopy(over)


@lru_cache(maxsize=1)
def cifar10() -> Mapping[str, Any]:
    """Return the file: `common`, then `sizes`, each with its `common` and its `nets`."""
    import yaml

    return yaml.safe_load((resources.files(__name__) / "cifar10.yaml").read_text())


def _name_of(section: Any) -> Any:
    return section.get("name") if isinstance(section, dict) else None


def _united(values: list[Any]) -> Any:
    if all(isinstance(value, dict) for value in values):
        names = dict.fromkeys(name for value in values for name in value)
        return {name: _united([value[name] for value in values if name in value]) for name in names}
    different = [value for i, value in enumerate(values) if value not in values[:i]]
    return different[0] if len(different) == 1 else different


def _unlike(what: str, value: Any, known: Mapping[str, Any]) -> str:
    near = get_close_matches(str(value), known, 1)
    return f"{what} is {in_short(repr(value))}: {f'did you mean {near[0]!r}? ' if near else ''}there are {', '.join(known)}"
