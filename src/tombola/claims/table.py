"""The rows of claims as texts, as lines for the terminal, and as a data frame for files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from tombola.metrics.column import listed

from .contrasts import RANK, TIMES
from .judge import Row
from .verdict import CONTRADICTED, INCONCLUSIVE, NO_DATA, NO_VERDICT, SUPPORTED, UNTESTABLE, Outcome

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType
    from rich.text import Text

_DASH = "\N{EN DASH}"
SIGNS = {SUPPORTED: "✓", CONTRADICTED: "✗", INCONCLUSIVE: "?", UNTESTABLE: "○", NO_VERDICT: _DASH, NO_DATA: _DASH}
STYLES = {SUPPORTED: "blue", CONTRADICTED: "dark_orange", UNTESTABLE: "dim", NO_VERDICT: "dim", NO_DATA: "dim"}
NOTE = (
    "Verdicts are by 90% Student t intervals over seeds (two one-sided tests at 5% where values should match), after "
    "Holm's correction over all rows that have a test, those about cost apart; 'alone', 'two-sided' and 'beside' are "
    "without it. They say what another seed may change, not what other test examples may. Of several parts all must hold, "
    "and any contradicts (at 5% over their number); the one that decides is shown. Power: the probability of 'supported' "
    "alone if the true effect were 0; a match with less than 50% is not testable here. Variants of a net are never pooled: "
    "each has rows of its own."
)
CHANCE_NOTE = "The records lack the column 'classes': nets at chance are judged like others."
BESIDE_NOTE = (
    "*Optimistic: the same claim of the best epoch's accuracy, which is selected by test data; of MACE, that of every "
    "class. The final epoch's is the result."
)


def named(row: Row) -> str:
    """Return the claim's id with its case, such as "1g (square)"."""
    return f"{row.claim.id} ({row.case})" if row.case else row.claim.id


def verdict_text(verdict: str) -> str:
    """Return the verdict with a sign, for readers who do not see colours."""
    return f"{SIGNS[verdict]} {verdict}"


def effect(found: Outcome) -> str:
    """Return the mean and its interval, such as "+0.31 [-0.10, +0.72] points"."""
    unit = found.part.contrast.unit
    interval = "" if math.isnan(found.low) else f" [{_shown(found.low, unit)}, {_shown(found.high, unit)}]"
    return f"{_shown(found.mean, unit)}{interval}{'' if unit == RANK else f' {unit}'}"


def region(found: Outcome) -> str:
    """Return the region that the claim predicts for the effect, such as "within ±0.5"."""
    low, high, unit = found.part.low, found.part.high, found.part.contrast.unit
    if math.isinf(high):
        return f"above {_bound(low, unit)}"
    if math.isinf(low):
        return f"below {_bound(high, unit)}"
    return f"within ±{high:g}" if low == -high else f"{_bound(low, unit)} to {_bound(high, unit)}"


def parts(row: Row) -> str:
    """Return, for example, "3 of 4 parts hold"; empty for a single part."""
    if row.joint is None or len(row.joint.outcomes) == 1:
        return ""
    held = sum(each.verdict == SUPPORTED for each in row.joint.outcomes)
    return f"{held} of {len(row.joint.outcomes)} parts hold"


def remark(row: Row) -> str:
    """Return what else a reader must know: the reason for no verdict, a curve at chance, the two-sided result, the power."""
    if row.joint is None:
        return ""
    found = row.joint.deciding
    chance = "" if found.reason else " and ".join(found.part.contrast.at_chance)
    said = [found.reason, f"at chance: {chance}" if chance else ""]
    said += [f"two-sided: {verdict_text(row.two_sided.verdict)}"] if row.two_sided else []
    said += (
        [f"power {'at most ' if len(row.joint.outcomes) > 1 else ''}{row.joint.power:.0%}"] if row.joint.power >= 0 else []
    )
    return "; ".join(filter(None, said))


def details(row: Row) -> str:
    """Return the region, the contrast that decides, the number of parts that hold, remarks, and the verdict beside."""
    assert row.joint is not None
    beside = f"beside*: {verdict_text(row.beside.verdict)}" if row.beside else ""
    found = row.joint.deciding
    claimed = f"says {region(found)}, n = {found.n}, {len(row.keys)} rows"
    return "; ".join(filter(None, [claimed, found.part.contrast.words, parts(row), remark(row), beside]))


def decided(row: Row) -> str:
    """Return the corrected verdict with its sign, and the row's own where that differs."""
    return verdict_text(row.corrected) + ("" if row.corrected == row.verdict else f" (alone: {row.verdict})")


def headline(rows: Sequence[Row]) -> str:
    """Return the numbers of corrected verdicts in a sentence, of the rows with data that are not about cost."""
    judged = [row for row in rows if row.joint and not row.claim.costs]
    counts = {verdict: sum(row.corrected == verdict for row in judged) for verdict in SIGNS}
    counted = listed([f"{n} {verdict}" for verdict, n in counts.items() if n])
    costs = sum(row.claim.costs for row in rows if row.joint)
    beside = f" {costs} more are about cost, which the samples a step decide beforehand." if costs else ""
    return f"Of {len(judged)} rows, after Holm's correction: {counted}.{beside}"


def printed(rows: Sequence[Row]) -> RenderableType:
    """Return the rows for the terminal: each claim with its nets below it, then the needs of claims without data."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    judged = [row for row in rows if row.joint]
    width = min(30, max((len(row.net) for row in judged), default=0))
    shown: list[RenderableType] = []
    for (name, sentence), own in groupby(judged, key=lambda row: (named(row), row.claim.sentence)):
        shown.append(Text.assemble((name, "bold"), f"  {sentence}"))
        for row in own:
            shown += [Padding(_aligned(row, width), (0, 0, 0, 4)), Padding(Text(details(row), style="dim"), (0, 0, 0, 6))]
    if shown:
        notes = [NOTE, BESIDE_NOTE, *([] if all(row.chance_known for row in judged) else [CHANCE_NOTE])]
        shown += [Text(f"\n{headline(rows)}", style="bold"), *(Text(note, style="dim") for note in notes)]
    without = [Text(f"{named(row)}  {f'{row.net} ' if row.net else ''}{row.needs}") for row in rows if not row.joint]
    return Group(*shown, *([Text("\nno data", style="bold"), *without] if without else []))


def _aligned(row: Row, width: int) -> Text:
    """Return a line of a table whose lines have sentences between them, so that no rich table aligns them."""
    from rich.text import Text

    assert row.joint is not None
    return Text.assemble(
        f"{row.net:<{width}}  ", (f"{decided(row):<14}  ", STYLES.get(row.corrected, "")), effect(row.joint.deciding)
    )


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Return a line for each row: numbers of the part that decides, in the unit that `unit` names; empty without any."""
    import pandas as pd

    return pd.DataFrame([_line(row) for row in rows])


def as_json(rows: Sequence[Row]) -> str:
    """Return the lines of `frame` with every part of a claim in `each`; null for a number or bound that is missing."""
    import json

    lines = [_line(row) | {"each": [_numbers(found) for found in row.joint.outcomes] if row.joint else []} for row in rows]
    return json.dumps(_finite(lines), indent=1)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(found: Outcome) -> dict[str, object]:
    unit = found.part.contrast.unit
    bounds = (found.mean, found.low, found.high, found.part.low, found.part.high)
    mean, low, high, says_low, says_high = (math.exp(x) if unit == TIMES else x for x in bounds)
    return {
        "contrast": found.part.contrast.words,
        "unit": unit,
        "effect": mean,
        "low": low,
        "high": high,
        "says_low": says_low,
        "says_high": says_high,
        "n": found.n,
        "seeds": sorted(found.part.contrast.values),
        "power": found.power,
        "reason": found.reason,
        "verdict": found.verdict,
    }


def _line(row: Row) -> dict[str, object]:
    numbers = _numbers(row.joint.deciding) if row.joint else {}
    outcomes = row.joint.outcomes if row.joint else []
    return {
        "claim": row.claim.id,
        "case": row.case,
        "sentence": row.claim.sentence,
        "net": row.net,
        "verdict": row.verdict,
        "verdict_holm": row.corrected,
        "p_supported": row.joint.p_inside if row.joint else math.nan,
        "p_contradicted": row.joint.p_outside if row.joint else math.nan,
        "p_supported_holm": row.p_supported,
        "p_contradicted_holm": row.p_contradicted,
        "contrast": numbers.get("contrast", ""),
        "unit": numbers.get("unit", ""),
        **{name: numbers.get(name, math.nan) for name in ("effect", "low", "high", "says_low", "says_high")},
        "n": numbers.get("n", 0),
        "power": row.joint.power if row.joint else math.nan,
        "two_sided": row.two_sided.verdict if row.two_sided else "",
        "reason": row.joint.deciding.reason if row.joint and row.corrected == NO_VERDICT else "",
        "parts": len(outcomes),
        "parts_supported": sum(each.verdict == SUPPORTED for each in outcomes),
        "rows": len(row.keys),
        "beside_metric": row.beside_metric if row.beside else "",
        "beside_verdict": row.beside.verdict if row.beside else "",
        "beside_effect": row.beside.deciding.mean if row.beside else math.nan,
        "needs": row.needs,
        "keys": " ".join(row.keys),
    }


def _shown(value: float, unit: str) -> str:
    return f"{math.exp(value):.2f}" if unit == TIMES else f"{value:+.2f}"


def _bound(value: float, unit: str) -> str:
    return f"{math.exp(value) if unit == TIMES else value:g}"
