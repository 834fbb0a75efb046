"""What a stage is called: its kind, and the curve, level and seed that it is run for."""

from .plan import Plan
from .rows import Row, ViewRow
from .stages import Init, Prune, Shuffle, Stage, Train


def names_of(plan: Plan) -> dict[str, str]:
    """Key -> name of every stage, as "train vi · ticket (snr) · level 3 · seed 1".

    Where several curves share a stage, the name has the curve that is nearest to it, and "+2" for two more.
    """
    several = [column for column in ("model", "data") if len({row.labels[column] for row in plan.rows}) > 1]
    nearest: dict[str, tuple[int, Row | ViewRow]] = {}
    curves: dict[str, set[str]] = {}
    levels: dict[str, int] = {}
    stages: dict[str, Stage] = {}
    for row in plan.wanted:
        curve = curve_of(row, several)
        for distance, stage in ancestry(row.stage):
            stages[stage.key] = stage
            curves.setdefault(stage.key, set()).add(curve)
            if stage.key not in nearest or distance < nearest[stage.key][0]:
                nearest[stage.key] = (distance, row)
    names = {}
    for key, stage in stages.items():
        _, row = nearest[key]
        more = f" +{len(curves[key]) - 1}" if len(curves[key]) > 1 else ""
        between = row.labels.get("between", "") if row.stage is stage else ""
        doing = f"{what(stage)} between {between}" if between else what(stage)
        parts = [doing, curve_of(row, several) + more, f"level {_level(stage, levels)}", f"seed {row.labels['seed']}"]
        names[key] = " · ".join(parts)
    return names


def curve_of(row: Row | ViewRow, several: list[str]) -> str:
    """The curve's label with whatever tells it from others of the study: variant, and of `several` its columns."""
    return " · ".join(str(row.labels[name]) for name in ("curve", *several, "variant") if row.labels[name])


def what(stage: Stage) -> str:
    """What the stage does, in a word or two."""
    if isinstance(stage, Train):
        again = " again" if stage.replica else ""
        return f"train {stage.settings.method}{again}" + (f" to {stage.stop}" if stage.stop else "")
    if isinstance(stage, Shuffle):
        return f"shuffle {stage.how}"
    return f"redraw {stage.kind}" if isinstance(stage, Init) and stage.draw != "first" else stage.kind


def ancestry(stage: Stage) -> list[tuple[int, Stage]]:
    """The stage and its ancestors, each once, with how far away it is."""
    found = {stage.key: (0, stage)}
    edge = [stage]
    distance = 0
    while edge:
        distance += 1
        edge = [parent for child in edge for parent in child.parents if parent.key not in found]
        found |= {parent.key: (distance, parent) for parent in edge}
    return list(found.values())


def _level(stage: Stage, known: dict[str, int]) -> int:
    """How often was pruned on the way to the stage."""
    chain = [stage]
    while chain[-1].key not in known and chain[-1].parents:
        chain.append(chain[-1].parents[0])
    for one in reversed(chain):
        if one.key not in known:
            known[one.key] = (known[one.parents[0].key] if one.parents else 0) + isinstance(one, Prune)
    return known[stage.key]
