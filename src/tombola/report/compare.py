"""Two studies on one page: their curves in common figures, paired gaps, and the settings in which they differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import pandas as pd
import yaml

from tombola.errors import TombolaError
from tombola.metrics.column import NONE, left, listed

from . import text
from .images import DEFAULT_FORMATS, SETTINGS, Picture
from .looks import DASHES, Style, styles
from .page import Section, as_yaml, data_of, fill, pictures_of, show
from .panels import Panel, main_quantity, ordered_curves
from .plates import plates_of_measurements
from .statistics import by_seed, common_level, density_at, gaps, paired_gap
from .tables import Table

SAME_DENSITY = 0.99  # counts are rounded layer by layer, so that equal fractions leave nearly equal densities
PAIRING = (
    "Gaps are paired over the seeds that both studies have, at a density that both have (within 1%). A seed gives both the "
    "same initial weights only if their network and posterior agree, and the same order of batches only if data and batch "
    "size do; otherwise the interval is still right, but wider than it need be."
)


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two studies."""

    label: str
    """Prefix of its curves: the study's name, or the folder's where the names are equal."""
    records: pd.DataFrame
    study: Mapping[str, Any]
    """The resolved study."""


@dataclass(frozen=True)
class Pair:
    """A curve that both studies have, by its names in the panel."""

    own: str
    first: str
    second: str


def render(first: Side, second: Side, folder: str, formats: Sequence[str] = DEFAULT_FORMATS) -> tuple[str, list[Picture]]:
    """Return the page as HTML, with links into `folder`, and its pictures. Raises TombolaError for nothing in common."""
    sections, panels = [], []
    look: dict[str, Style] = {}
    with matplotlib.rc_context(SETTINGS):
        for number, (model, data) in enumerate(_shared(first, second), start=1):
            panel, pairs, alone = common_panel(number, model, data, first, second)
            look |= look_of(panel)
            every = gap_table(panel, pairs)
            sections.append(
                Section(
                    title=panel.title,
                    findings=[*(finding(panel, pair) for pair in pairs), *alone],
                    plates=show(plates_of_measurements(panel, look), number),
                    folded=[every] if every.rows else [],
                )
            )
            panels.append(panel)
    texts = {f"{side.label}, as resolved": as_yaml(side.study) for side in (first, second)}
    html = fill(
        name=f"{first.label} and {second.label}",
        lead=f"Two studies compared: {first.label} with {len(first.records)} tickets, {second.label} with "
        f"{len(second.records)}.",
        about="Curves of the first study are solid or dotted, of the second dashed.",
        numbers=[],
        failed=[],
        unfinished="",
        sections=sections,
        notes=[text.INTERVALS, PAIRING],
        closing=Section(title="Settings", tables=[settings_that_differ(first, second)], texts=texts),
        folder=folder,
        formats=formats,
        data=data_of(panels, look),
    )
    return html, pictures_of(sections)


def gap_table(panel: Panel, pairs: list[Pair]) -> Table:
    """Return the first study minus the second for each curve of both, at every density that both have."""
    quantity, rows = panel.main, []
    for pair in pairs:
        for level, gap in gaps(panel.records, pair.first, pair.second, quantity.name, every_level=True):
            means = [by_seed(panel.records, curve, level, quantity.name).mean() for curve in (pair.first, pair.second)]
            gap_words = [quantity.signed(gap.mean), text.interval(gap, quantity), str(gap.n)]
            rows.append([pair.own, left(density_at(panel.records, level)), *map(quantity.show, means), *gap_words])
    return Table(
        title=f"{quantity.label} of both studies and their gap ({quantity.gap_unit}), at every density that both have",
        head=["curve", "left", "first", "second", "gap", "95% interval", "seeds"],
        rows=rows,
        note="The first study minus the second, paired over seeds.",
    )


def settings_that_differ(first: Side, second: Side) -> Table:
    """Return a row for each setting whose values differ, except names and descriptions."""
    one, two = _flat(first.study), _flat(second.study)
    paths = [path for path in dict.fromkeys([*one, *two]) if path not in ("name", "description")]
    rows = [[path, one.get(path, NONE), two.get(path, NONE)] for path in paths if one.get(path) != two.get(path)]
    return Table(
        title="Settings that differ",
        head=["setting", first.label, second.label],
        rows=rows,
        note="" if rows else "No setting differs.",
    )


def common_levels(records: pd.DataFrame) -> pd.Series:
    """Return the level of each row, counted anew over the densities of both studies, so that equal ones meet.

    Columns of the records: `side`, `own` (the curve within its study), `level`, `density`.
    """
    own = ["side", "own", "level"]  # variants of one study may prune by other fractions
    means = records.groupby(own)["density"].mean().sort_values(ascending=False, kind="stable")
    found: dict[Any, int] = {}
    begin, number = float("inf"), -1
    present: set[Any] = set()  # curves that have a level of this number
    for key, density in means.items():
        curve: Any = tuple(key)[:-1]  # type: ignore[arg-type]
        if density < SAME_DENSITY * begin or curve in present:  # two levels of one curve never share a number
            number, begin, present = number + 1, density, set()
        present.add(curve)
        found[key] = number
    return pd.Series([found[key] for key in zip(*(records[name] for name in own), strict=True)], index=records.index)


def _shared(first: Side, second: Side) -> list[tuple[str, str]]:
    """Return each (model, data) of both studies, in the order of the first."""
    of = [list(dict.fromkeys(zip(side.records["model"], side.records["data"], strict=True))) for side in (first, second)]
    shared = [each for each in of[0] if each in of[1]]
    if not shared:
        has = [listed([f"{model} on {data}" for model, data in each]) for each in of]
        raise TombolaError(
            f"{first.label} and {second.label} have no model and data in common: {first.label} has {has[0]}, {second.label} "
            f"has {has[1]}; compare studies of the same network and data"
        )
    return shared


def common_panel(number: int, model: str, data: str, first: Side, second: Side) -> tuple[Panel, list[Pair], list[str]]:
    """Return the panel of both studies, the curves that both have, and sentences about the others."""
    parts = []
    for i, side in enumerate((first, second)):
        rows = side.records[(side.records["model"] == model) & (side.records["data"] == data)]
        variant = rows["variant"].fillna("")
        own = rows["curve"].where(variant == "", rows["curve"] + ", " + variant)
        parts.append(rows.assign(side=i, own=own, curve=f"{side.label}: " + own, variant=""))
    both = pd.concat(parts, ignore_index=True).replace([float("inf"), -float("inf")], float("nan"))
    both["level"] = common_levels(both)
    owns = ordered_curves(both.assign(curve=both["own"]))
    names = [set(part["own"]) for part in parts]
    sides = [(first, names[0], names[1]), (second, names[1], names[0])]
    pairs = [Pair(own, f"{first.label}: {own}", f"{second.label}: {own}") for own in owns if own in names[0] & names[1]]
    alone = [
        f"Only in {side.label}: {listed([own for own in owns if own in here - there])}."
        for side, here, there in sides
        if here - there
    ]
    curves = [f"{side.label}: {own}" for own in owns for side, here, _ in sides if own in here]
    panel = Panel(
        number=number,
        net=f"{model} on {data}",
        variant="",
        setting="",
        records=both,
        curves=curves,
        reference=curves[0],
        main=main_quantity(both),
    )
    return panel, pairs, alone


def look_of(panel: Panel) -> dict[str, Style]:
    """Return a colour and a marker for each curve, the same for both of a pair; dashes tell the studies apart."""
    rows = panel.records.drop_duplicates("curve").set_index("curve").loc[panel.curves]
    own = styles(list(dict.fromkeys(rows["own"])))
    return {
        str(curve): own[name] | {"linestyle": DASHES[2 * (own[name]["linestyle"] != DASHES[0]) + side]}
        for curve, name, side in zip(rows.index, rows["own"], rows["side"], strict=True)
    }


def finding(panel: Panel, pair: Pair) -> str:
    """Compare the first study's curve with the second's at the sparsest density that both have."""
    level = common_level(panel.records, pair.first, pair.second, panel.main.name)
    if level is None:
        return f"{pair.first} and {pair.second} share no density and seed."
    at = panel.records[panel.records["level"] == level]
    keys = [set(at.loc[at["curve"] == curve, "key"]) for curve in (pair.first, pair.second)]
    where = f"at {left(density_at(panel.records, level))} of weights left"
    if keys[0] == keys[1]:
        return f"{pair.own} {where} is one and the same in both studies: nothing that it depends on differs."
    gap = paired_gap(panel.records, pair.first, pair.second, level, panel.main.name)
    return text.gap_sentence(pair.first, pair.second, gap, panel.main, where)


def _flat(node: Any, path: str = "") -> dict[str, str]:
    """Return the leaves of nested mappings as texts, by their dotted paths; a list is one leaf."""
    if isinstance(node, Mapping) and node:
        parts = [_flat(value, f"{path}.{name}".strip(".")) for name, value in node.items()]
        return {key: text for part in parts for key, text in part.items()}
    text = yaml.safe_dump(node, default_flow_style=True, width=10**6, sort_keys=False)
    return {path: text.removesuffix("\n").removesuffix("\n...")}
