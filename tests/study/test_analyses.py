"""Analyses of a whole study: their graph, what their stages find, their table and their place on the page."""

from collections import Counter
from dataclasses import replace

import matplotlib
import pandas as pd
import pytest
import torch

from tombola.engine.forecast import Forecast
from tombola.engine.local import dataset
from tombola.engine.outline import Outline
from tombola.engine.records import collect, collect_analyses, stage_times
from tombola.engine.store import Store, missing
from tombola.engine.work import outline, work_of
from tombola.errors import TombolaError
from tombola.metrics import columns
from tombola.posterior.predictive import classes_of, outputs, sample_statistics
from tombola.posterior.state import interpolated
from tombola.report.analyses import seen
from tombola.report.images import SETTINGS
from tombola.report.looks import styles
from tombola.report.page import show
from tombola.report.panels import panels
from tombola.study.analyses import ANALYSES
from tombola.study.analyses.connectivity import ALPHAS, Connectivity
from tombola.study.analyses.early_bird import DENSITIES, EarlyBird
from tombola.study.plan import names_of
from tombola.study.stages import RunContext, Train
from tombola.training.reference import stored_reference

RAW = {
    "name": "seen",
    "threads": 1,
    "seeds": [0, 1],
    "data": {"name": "digits", "args": {"validation": 1200, "test": 300}},
    "model": {"name": "conv", "args": {"widths": [4, 4], "batch_norm": True}},
    "posterior": {"std_jitter": 0.1},
    "train": {"epochs": 2, "batch_size": 64, "lr": 0.01},
    "prune": {"fraction": 0.5, "levels": 2},
    "evaluate": {"samples": 2},
    "arms": [{"arm": "ticket", "score": ["snr", "mu"]}, {"arm": "deterministic", "rewind": ["init", "learning_rate"]}],
    "views": list(ANALYSES),
}
SMALL = RAW | {"seeds": [0], "prune": {"fraction": 0.5, "levels": 1}, "arms": ["ticket"], "views": []}
DET, SIBLING = "deterministic (magnitude)", "deterministic (magnitude), learning-rate rewinding"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(plan, store) of the whole study, run once."""
    from conftest import Recorder
    from tombola.engine.local import LocalEngine
    from tombola.engine.store import Store
    from tombola.study.plan import plan_study
    from tombola.study.spec import unfold

    plan, store = plan_study(unfold(RAW), dataset), Store(tmp_path_factory.mktemp("analyses") / "stages")
    engine = LocalEngine(store, torch.device("cpu"), Recorder())
    engine.run(plan)
    assert not engine.failures
    return plan, store


@pytest.fixture(scope="module")
def table(ran):
    return collect_analyses(*ran)


def of(table, analysis, **values):
    found = table[table["view"] == analysis]
    for name, value in values.items():
        found = found[found[name] == value]
    return found


def context(**more):
    return RunContext(torch.device("cpu"), dataset, **more)


def test_analyses_add_stages_and_change_none(ran, plan_of):
    plan, _ = ran
    without = plan_of(RAW | {"views": []})
    added = [stage for stage in plan.stages if stage.key not in {s.key for s in without.stages}]
    assert {stage.key for stage in without.stages} < {stage.key for stage in plan.stages}
    assert Counter(stage.kind for stage in added) == {
        # two levels: of 4 curves over seeds, whose first-level masks are four prunings; of 2 seeds over curves
        "overlap": 4 * 2 + 2 * 2,
        "ranks": 2 * (1 + 2 * 2),  # of each seed: the shared dense one, and two curves at two levels
        # again trained: dense Bayesian and deterministic, and the last level of each curve
        "train": 2 * (2 + 4),
        # noise at those; levels 1 and 2 of 4 curves; siblings at both levels
        "connectivity": 2 * (2 + 4 + 4 * 2 + 2),
        "early_bird": 2 * 2,
    }
    assert all(stage.replica for stage in added if isinstance(stage, Train))


def test_a_replica_of_zero_enters_no_key_and_another_draws_other_noise(plan_of):
    trained = next(stage for stage in plan_of(SMALL).stages if isinstance(stage, Train) and not stage.replica)
    assert "replica" not in trained.describe()
    again = replace(trained, replica=1)
    assert again.key != trained.key
    start = trained.parents[0].run([], context()).ticket
    one, two = (stage.run([start], context()).ticket for stage in (trained, again))
    assert torch.equal(one.rewind.posterior.mean, two.rewind.posterior.mean)
    assert not torch.equal(one.trained.posterior.mean, two.trained.posterior.mean)


def test_looking_at_a_training_changes_none_of_its_bits(plan_of):
    trained = next(stage for stage in plan_of(SMALL).stages if isinstance(stage, Train))
    start, seen = trained.parents[0].run([], context()).ticket, {}
    alone = trained.run([start], context()).ticket.trained.tensors()
    watched = trained.run([start], context(on_state=seen.__setitem__)).ticket.trained.tensors()
    assert list(seen) == [1, 2]
    assert not torch.equal(seen[1].posterior.mean, seen[2].posterior.mean)
    for name, value in alone.items():
        assert torch.equal(watched[name], value)
        assert torch.equal(seen[2].tensors()[name], value)


def test_names_are_complete_and_say_between_what(ran):
    plan, _ = ran
    names = names_of(plan)
    assert set(names) == {stage.key for stage in plan.stages}
    said = " ".join(names.values())
    for words in (
        "overlap between seeds · ",
        "overlap between curves · ",
        "train vi again · ",
        "connectivity between noise · ",
    ):
        assert words in said


def test_nothing_is_missing_afterwards_and_a_lost_analysis_alone_is_run_again(ran):
    plan, store = ran
    assert missing(plan, store) == []
    stage = next(stage for stage in plan.stages if isinstance(stage, Connectivity))
    before = store.record(stage.key)["record"]
    store.discard(stage.key)
    assert [lost.key for lost in missing(plan, store)] == [stage.key]
    outcome = stage.run([store.ticket(parent.key) for parent in stage.parents], context())
    assert outcome.record == before  # the same bits again
    store.save(stage, outcome, {"seconds": 0.1, "device": "cpu", "torch": torch.__version__, "threads": 1})


def test_the_table_names_every_number(ran, table):
    plan, store = ran
    assert list(table.columns) == list(columns.ANALYSES)
    assert set(table["view"]) == set(ANALYSES)
    assert table["value"].notna().mean() > 0.9
    assert set(stage_times(plan, store)["kind"]) >= {"overlap", "ranks", "connectivity", "early_bird"}


def test_an_outline_that_was_written_and_read_gives_the_tables_and_names_of_its_plan(ran, tmp_path):
    plan, store = ran
    (tmp_path / "plan.json").write_text(outline(plan, dataset).to_json(RAW))
    read = Outline.read(tmp_path / "plan.json", RAW)
    for table in (collect, collect_analyses, stage_times):
        pd.testing.assert_frame_equal(table(read, store), table(plan, store))
    assert {stage.key: stage.name for stage in read.stages} == names_of(plan)
    assert [stage.kind for stage in read.stages] == [stage.kind for stage in plan.stages]
    assert [stage.work for stage in read.stages] == [stage.work for stage in outline(plan, dataset).stages]
    nothing = Store(tmp_path / "nothing")
    assert [stage.key for stage in missing(read, nothing)] == [stage.key for stage in missing(plan, nothing)]
    with pytest.raises(TombolaError, match=r"is of other settings than study.json"):
        Outline.read(tmp_path / "plan.json", SMALL)


def test_overlap_is_that_of_the_masks_by_sets(ran, table):
    plan, store = ran
    masks = {}
    for row in plan.rows:
        (trained,) = row.stage.parents
        ticket = store.ticket(trained.key)
        kept = (ticket.mask & ticket.layout.prunable).nonzero().squeeze(1).tolist()
        masks[row.labels["curve"], row.labels["seed"], row.labels["level"]] = set(kept)
    rows = of(table, "overlap")
    for row in rows.itertuples():
        a = masks[row.curve_a, row.seed_a, row.level_a]
        b = masks[row.curve_b, row.seed_b, row.level_b]
        assert row.value == pytest.approx(len(a & b) / len(a | b))
        assert 0 < row.chance < 1
    assert (rows["level_a"] > 0).all()
    seeds, curves = rows[rows["between"] == "seeds"], rows[rows["between"] == "curves"]
    assert (seeds["curve_a"] == seeds["curve_b"]).all()
    assert (curves["seed_a"] == curves["seed_b"]).all()
    assert len(curves) == 2 * 2 * 6  # seeds, levels, pairs of curves


def test_ranks_agree_with_scipy_on_the_stored_ticket(ran, table):
    from scipy.stats import spearmanr

    plan, store = ran
    row = next(row for row in plan.rows if row.labels["curve"] == "ticket (mu)" and row.labels["level"] == 2)
    ticket = store.ticket(row.stage.parents[0].key)
    alive = ticket.mask & ticket.layout.prunable
    mean, std = ticket.posterior.mean[alive].double(), ticket.posterior.std[alive].double()
    here = of(table, "ranks", curve_a="ticket (mu)", level_a=2, seed_a=row.labels["seed"], quantity="spearman")
    found = here.set_index(["score_a", "score_b"])["value"]
    assert found["snr", "mu"] == pytest.approx(float(spearmanr((mean.abs() / std).numpy(), mean.abs().numpy()).statistic))
    assert found["mu", "std_large"] == pytest.approx(float(spearmanr(mean.abs().numpy(), std.numpy()).statistic))
    assert len(found) == 15
    assert not (table.loc[table["view"] == "ranks", "curve_a"].str.startswith("deterministic")).any()


def test_a_line_is_measured_as_by_hand(ran, table):
    plan, store = ran
    analysis = next(
        v
        for v in plan.analyses
        if v.labels["between"] == "levels" and v.labels["level"] == 2 and v.labels["arm"] == "ticket"
    )
    stage, (a, b) = analysis.stage, [store.ticket(parent.key) for parent in analysis.stage.parents]
    rows = table[(table["key"] == stage.key) & (table["curve_a"] == analysis.labels["curve"])]
    data, module = dataset(stage.source.settings), stage.net.build("skeleton")
    state = interpolated(a.trained, b.trained, 0.5)
    words, state = ("connectivity", stage.seed), state.as_family("point")
    reference = stored_reference(data.train[0], data.prepare, torch.device("cpu"))
    found = sample_statistics(module, state, reference, samples=1, stream=words)
    at = {"samples": 1, "stream": words, "statistics": found}
    probs = classes_of(outputs(module, state, data.test[0], **at, prepare=data.prepare)).probs
    error = (probs.argmax(1) != data.test[1]).double().mean().item()
    found = rows[rows["quantity"] == "error_mean"].set_index("x")["value"]
    assert tuple(found.index) == ALPHAS
    assert found[0.5] == pytest.approx(error)
    barrier = rows.loc[rows["quantity"] == "barrier_error_mean", "value"].item()
    assert barrier == pytest.approx(max(0, *(found[x] - (1 - x) * found[0.0] - x * found[1.0] for x in ALPHAS)))
    assert set(rows["quantity"]) == {
        f"{b}{q}_{w}" for b in ("", "barrier_") for q in ("error", "nll") for w in ("mean", "samples")
    }


def test_which_lines_are_drawn(table):
    lines = of(table, "connectivity", quantity="barrier_error_mean", seed_a=0)
    assert set(zip(lines["between"], lines["level_a"], lines["level_b"], strict=True)) == {
        *(("noise", level, level) for level in (0, 2)),
        *(("levels", 1, 0), ("levels", 2, 1)),
        *(("rewinds", level, level) for level in (1, 2)),
    }
    siblings = lines[lines["between"] == "rewinds"]
    assert set(zip(siblings["curve_a"], siblings["curve_b"], strict=True)) == {(DET, SIBLING)}
    assert not of(table, "connectivity", curve_a=DET)["quantity"].str.endswith("samples").any()


def test_early_masks_end_at_the_final_one_because_the_bits_are_the_same(table):
    rows = of(table, "early_bird", quantity="jaccard_final")
    assert sorted(set(rows["x"])) == [0, 1, 2]
    assert (rows.loc[rows["x"] == 2, "value"] == 1).all()
    assert (rows.loc[rows["x"] == 0, "value"] < 1).all()
    assert set(zip(rows["curve_a"], rows["score_a"], strict=True)) == {
        *(("ticket (snr)", score) for score in ("snr", "mu")),
        (DET, "magnitude"),
    }
    assert set(rows["density"]) == set(DENSITIES)
    distances = of(table, "early_bird", quantity="distance_final")
    assert (distances.loc[distances["x"] == 2, "value"] == 0).all()
    # equal counts in both masks: a distance d of n weights with k kept is an index of (k - d/2) / (k + d/2)
    row, prunable = distances[distances["x"] == 1].iloc[0], 3 * 3 * 1 * 4 + 3 * 3 * 4 * 4
    half, kept = row["value"] * prunable / 2, round(row["density"] * prunable)
    index = rows[(rows["key"] == row["key"]) & (rows["x"] == 1) & (rows["score_a"] == row["score_a"])]
    index = index.loc[index["density"] == row["density"], "value"].item()
    assert index == pytest.approx((kept - half) / (kept + half))


def test_work_is_priced_by_what_is_trained_and_measured(ran):
    plan, store = ran
    early = [stage for stage in plan.stages if isinstance(stage, EarlyBird)]
    assert {work_of(stage, dataset) for stage in early} == {10}  # two epochs of 297 examples in batches of 64
    lines = [stage for stage in plan.stages if isinstance(stage, Connectivity)]
    assert {work_of(stage, dataset) for stage in lines} == {1}

    class Without:
        """The store without the analyses."""

        def done(self, key):
            return store.done(key) and key not in {v.stage.key for v in plan.analyses}

        record = staticmethod(store.record)
        has_ticket = staticmethod(store.has_ticket)
        has_mask = staticmethod(store.has_mask)
        fetch = staticmethod(store.fetch)

    forecast = Forecast(outline(plan, dataset), Without())
    first = forecast.left()
    assert first > 0
    forecast.drop(early[0], 1.0)
    assert forecast.left() != first
    assert Forecast(outline(plan, dataset), store).left() == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"views": ["overlaps"]}, "unknown analysis 'overlaps': did you mean 'overlap'"),
        ({"views": ["overlap"]}, "analysis 'overlap' has nothing to look at in this study"),
        ({"views": ["ranks"], "arms": ["deterministic"]}, "analysis 'ranks' has nothing to look at"),
    ],
)
def test_what_cannot_be_seen_is_refused_before_anything_runs(changes, words, plan_of):
    with pytest.raises(TombolaError, match=words):
        plan_of(SMALL | changes)


@pytest.mark.slow
def test_the_command_line_runs_analyses_and_the_page_has_a_section_for_each(cli, study_file, user_module):
    user_module(
        "my_analyses",
        """
        from dataclasses import dataclass
        from tombola.study.graph import analysis_row
        from tombola.study.stages import Outcome, Stage

        @dataclass(frozen=True, kw_only=True, eq=False)
        class Sizes(Stage):
            kind = "sizes"

            def describe(self):
                return {}

            def run(self, tickets, context):
                (ticket,) = tickets
                size = ticket.posterior.mean.abs().mean().item()
                return Outcome(None, {"rows": [{"a": 0, "b": 0, "quantity": "size", "value": size}]})

        def sizes(rows):
            for row in rows:
                yield analysis_row("sizes", "levels", Sizes(parents=row.stage.parents), [row])
        """,
    )
    raw = SMALL | {"seeds": [0, 1], "arms": ["ticket"], "views": [*ANALYSES, "my_analyses:sizes"], "name": "paged"}
    path = study_file(raw)
    first = cli("run", path, "--dry-run")
    assert "overlap between seeds" in first.output
    assert "early_bird 0/2" in first.output
    done = cli("run", path, "--out", "out", "--jobs", 1)  # this process alone knows the module
    assert done.exit_code == 0, done.output
    analyses = pd.read_parquet("out/views.parquet")
    assert set(analyses["view"]) == {*ANALYSES, "sizes"}
    with open("out/report.html") as file:
        page = file.read()
    for title in ("overlap of masks", "ranks of scores", "linear connectivity", "early-bird masks"):
        assert f"{title}</h2>" in page
    for name in ("1-overlap-seeds", "1-ranks", "1-connectivity-noise", "1-connectivity-levels-path", "1-early-bird-20"):
        numbers = pd.read_csv(f"out/figures/{name}.csv")
        assert len(numbers)
    assert "0 to run" in cli("status", "out").output


def test_figures_of_analyses_are_drawn(ran, table):
    (panel,) = panels(collect(*ran))
    with matplotlib.rc_context(SETTINGS):
        for analysis in seen(panel, table[table["seed_a"] == 0], styles(panel.curves)):
            pictures = [picture for shown in show(analysis.plates, 1) for picture in shown.pictures]
            assert pictures, analysis.title
            assert all(picture.svg.count(b"<path") > 10 for picture in pictures)


def test_a_regression_has_lines_too_and_emptied_layers_have_no_ranks(plan_of, run_plan, user_module):
    user_module(
        "reals",
        """
        import torch
        from tombola import Dataset

        def reals():
            stream = torch.Generator().manual_seed(0)
            inputs = torch.randn(60, 4, generator=stream)
            targets = inputs[:, 0] - inputs[:, 1]
            parts = [(inputs[i : i + 20], targets[i : i + 20]) for i in (0, 20, 40)]
            return Dataset("reals", *parts)
        """,
    )
    raw = SMALL | {
        "data": {"name": "reals:reals"},
        "model": {"name": "mlp", "args": {"hidden": [3]}},
        "train": {"epochs": 1, "batch_size": 10, "likelihood": "gaussian", "learn_noise": True},
        "prune": {"fraction": 0.9, "levels": 1},
        "views": ["connectivity", "ranks"],
    }
    plan = plan_of(raw)
    store, _, engine = run_plan(plan)
    assert not engine.failures
    found = collect_analyses(plan, store)
    lines = of(found, "connectivity")
    assert {f"{q}_{w}" for q in ("rmse", "nll") for w in ("mean", "samples")} <= set(lines["quantity"])
    assert lines["value"].notna().all()
    ranked = of(found, "ranks")
    assert ranked.loc[ranked["level_a"] == 1, "value"].isna().all()  # one weight of twelve is left
    assert ranked.loc[ranked["level_a"] == 0, "value"].notna().all()
