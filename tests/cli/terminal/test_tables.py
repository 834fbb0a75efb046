"""Tables in the terminal: whatever the width and the labels, every digit is there."""

import io
import re

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tombola.cli.terminal.tables import graph_table, lettered, results_table
from tombola.engine.store import Store

LABELS = st.text("abcdefghij (),=.-", min_size=1, max_size=60).map(str.strip).filter(bool)


def printed(table, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None, legacy_windows=False)
    console.print(table)
    return console.file.getvalue()


def records(curves: list[str], variants: list[str], values: list[float], levels: int) -> pd.DataFrame:
    rows = [
        {"curve": curve, "variant": variant, "model": "mlp", "data": "digits", "level": level, "density": 0.64**level}
        | {"seed": seed, "accuracy": values[(i + level + seed) % len(values)], "rmse": float("nan")}
        for i, (curve, variant) in enumerate((c, v) for c in curves for v in variants)
        for level in range(levels)
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows)


@settings(max_examples=40, deadline=None)
@given(
    curves=st.lists(LABELS, min_size=1, max_size=3, unique=True),
    variants=st.lists(LABELS, min_size=1, max_size=3, unique=True),
    values=st.lists(st.floats(0, 1000), min_size=1, max_size=5),
    levels=st.integers(1, 12),
    width=st.sampled_from([40, 60, 80, 120, 200]),
)
def test_no_digit_is_lost_at_any_width(curves, variants, values, levels, width):
    table = records(curves, variants, values, levels)
    shown = printed(results_table(table, width), width)
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    for _, rows in table[table["level"] == 0].groupby(["curve", "variant"]):
        assert f"{rows['accuracy'].mean():.3f} ±{rows['accuracy'].std():.3f}" in shown
    letters = lettered(variants)
    together = re.sub(r"\s", "", shown)
    for variant in variants if len(variants) > 1 else []:
        assert letters[variant] in shown or re.sub(r"[^a-j]", "", variant) in re.sub(r"[^a-j]", "", together)


def test_the_demo_at_eighty_columns():
    curves = [
        "ticket (snr)",
        "ticket (mu)",
        "deterministic (magnitude)",
        "transplant (magnitude)",
        "layer-wise shuffle (snr)",
    ]
    shown = printed(results_table(records(curves, [""], [0.954, 0.91], 11), 80), 80)
    assert re.findall(r"[\d.]+%", shown) == ["100%", "10.7%", "1.15%"]
    assert all(curve in shown for curve in curves)


def test_long_variants_become_letters_with_a_legend():
    variants = [f"train.lr={lr}, train.log_std_lr_factor=5, evaluate.batch_norm=batch" for lr in (0.001, 0.01)]
    shown = printed(results_table(records(["ticket (snr)"], variants, [0.5], 3), 80), 80)
    assert "ticket (snr) · A" in shown
    assert "ticket (snr) · B" in shown
    assert [line[:20] for line in shown.splitlines()[-2:]] == ["A  train.lr=0.001, t", "B  train.lr=0.01, tr"]


def test_short_variants_keep_their_name_and_a_hundred_have_letters():
    assert lettered(["lr=0.1", "lr=0.2", ""]) == {"lr=0.1": "lr=0.1", "lr=0.2": "lr=0.2"}
    many = lettered(f"{'long ' * 8}{i}" for i in range(100))
    assert list(many.values())[:3] == ["A", "B", "C"]
    assert list(many.values())[25:28] == ["Z", "AA", "AB"]
    assert len(set(many.values())) == 100


def test_the_graph_of_stages_has_every_count_at_any_width(tiny, plan_of, tmp_path):
    raw = tiny | {"prune": {"fraction": 0.5, "levels": 3}, "arms": ["ticket", "transplant", {"arm": "reinit"}]}
    plan = plan_of(raw | {"train": tiny["train"] | {"lr": [0.01, 0.0213]}})
    shown = {width: printed(graph_table(plan, Store(tmp_path)), width) for width in (40, 80, 200)}
    counts = {width: re.findall(r"\b0/1\b", text) for width, text in shown.items()}
    assert len(counts[40]) == len(counts[80]) == len(counts[200]) > 10
    for width, text in shown.items():
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
