"""Sentences of docs/paper.md about views: which weights masks share, and what lies between two tickets."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from paper_parts import Pool, told

from tombola.claims.contrasts import Contrast, left


def overlap_sentences(pool: Pool, views: pd.DataFrame, pairs: Sequence[tuple[str, str, str]]) -> list[str]:
    """Jaccard index of the masks of two curves (words, names in the table of views), one seed, at the last level."""
    found = []
    for words, a, b in pairs:
        said, density = [], math.nan
        for model in pool.models:
            rows = overlap_rows(views, model, a, b)
            last = rows[rows["level_a"] == rows["level_a"].max()]
            if last.empty:
                continue
            values = last.set_index("seed_a")["value"] - last.set_index("seed_a")["chance"]
            gap = told(Contrast(words, values, "", ()), "").replace("  ", " ")
            said.append(f"{model} {last['value'].mean():.2f}, chance {last['chance'].mean():.2f}: {gap}")
            density = last["density"].mean()
        if said:
            found.append(f"- **Masks of {words}** (Jaccard index at {left(density)} left): {'; '.join(said)}.")
    return found


def seeds_sentences(pool: Pool, views: pd.DataFrame, curves: Mapping[str, str]) -> list[str]:
    """The same of one curve (name in the table of views -> words) between seeds; pairs share seeds: there is no interval."""
    found = []
    for name, words in curves.items() if len(views) else ():
        own = views[(views["view"] == "overlap") & (views["between"] == "seeds") & (views["curve_a"] == name)]
        own = own[own["level_a"] == own["level_a"].max()].groupby("model")[["value", "chance", "density"]].mean()
        said = [f"{m} {own['value'][m]:.3f}, chance {own['chance'][m]:.3f}" for m in pool.models if m in own.index]
        if said:
            density = left(float(own["density"].mean()))
            found.append(f"- **Masks of {words} of two seeds** (mean Jaccard index at {density} left): {'; '.join(said)}.")
    return found


def barriers_of_samples(pool: Pool, views: pd.DataFrame, curve: str) -> list[str]:
    """Mean barriers at the last level, of the mean weights and of weight samples (mean and std interpolated)."""
    said = []
    for model in pool.models if len(views) else ():
        own = views[(views["model"] == model) & (views["curve_a"] == curve)]
        own = own[own["quantity"].isin(["barrier_error_mean", "barrier_error_samples"])]
        last = own[own["level_a"] == own["level_a"].max()].groupby(["between", "quantity"])["value"].mean().unstack()
        pairs = [f"{between} {100 * row.iloc[0]:.1f} and {100 * row.iloc[1]:.1f}" for between, row in last.iterrows()]
        said += [f"{model} {', '.join(pairs)}"] if pairs else []
    start = (
        "- **Barriers of the error, of mean weights and of weight samples** (points, snr tickets, last level; `levels`: the "
    )
    kinds = "ticket of the level before, `noise`: another training, `rewinds`: the other way of rewinding)"
    return [f"{start}{kinds}: {'; '.join(said)}."] if said else []


def overlap_rows(views: pd.DataFrame, model: str, a: str, b: str) -> pd.DataFrame:
    """The overlaps of two curves of one seed, each once."""
    if views.empty:
        return views.assign(level_a=[])
    own = views[(views["view"] == "overlap") & (views["between"] == "curves") & (views["model"] == model)]
    here = own["curve_a"].isin([a, b]) & own["curve_b"].isin([a, b])
    return own[here & (own["variant"].fillna("") == "")].drop_duplicates(["seed_a", "level_a"])
