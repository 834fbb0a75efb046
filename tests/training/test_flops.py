"""Operations of a training, against counts by hand."""

import math

import pytest
import torch
from torch import nn

from tombola.posterior.layout import Layout
from tombola.posterior.state import initial_state
from tombola.settings import PosteriorSettings, TrainSettings
from tombola.training.flops import flops_per_example

BATCH = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


def counted(batch=BATCH, **settings):
    module = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    state = state.as_family("point") if settings.get("method") == "map" else state
    return flops_per_example(module, state, TrainSettings(**settings), batch)


# a multiplication and an addition for each weight: forward, to the weights, and but for the first layer to the inputs
FORWARD = 2 * (5 * 7 + 7 * 3)
STEP = FORWARD + 2 * (5 * 7 + 7 * 3) + 2 * (7 * 3)


@pytest.mark.parametrize(
    ("settings", "times"),
    [
        ({"method": "map"}, STEP),
        ({}, STEP),
        ({"samples": 3}, 3 * STEP),
        ({"estimator": "antithetic", "samples": 2}, 2 * STEP),
        ({"objective": "log_expected", "samples": 2}, 2 * (FORWARD + STEP)),
        ({"estimator": "mean"}, STEP),
        ({"cuda_graphs": True}, STEP),  # on a GPU a capture has four passes
        ({"compile": True}, STEP),
    ],
    ids=str,
)
def test_operations_of_a_step_as_counted_by_hand(settings, times):
    assert counted(**settings) == times


def test_the_count_is_linear_in_the_batch():
    inputs, targets = BATCH
    assert counted((inputs[:2], targets[:2])) == counted()


@pytest.mark.usefixtures("quick_pages")
def test_records_have_the_operations_of_a_ticket_and_of_all_it_stands_on(tiny, cli, study_file, tmp_path):
    import pandas as pd

    raw = tiny | {"prune": {"fraction": 0.5, "levels": 2}, "arms": ["ticket", "deterministic", "transplant"]}
    assert cli("run", study_file(raw)).exit_code == 0
    rows = pd.read_parquet(next(tmp_path.rglob("records.parquet"))).set_index(["arm", "level"])
    examples, epochs = 297, 2
    own = examples * epochs * (4 * (64 * 8 + 8 * 10) + 2 * 80)
    assert (rows["train_flops"] == own).all()  # masked weights are multiplied too
    for (arm, level), row in rows.iterrows():
        before = {"ticket": level, "deterministic": level, "transplant": level}[arm]
        assert row["total_flops"] == (before + 1) * own
        assert row["total_seconds"] >= row["train_seconds"]
    levels = rows["total_seconds"]["deterministic"]
    transplanted = rows.loc["transplant", 2]
    assert math.isclose(transplanted["total_seconds"], levels[1] + transplanted["train_seconds"])


@pytest.mark.usefixtures("quick_pages")
def test_a_training_that_starts_or_stops_within_an_epoch_counts_its_own_steps(tiny, cli, study_file, tmp_path):
    import pandas as pd

    raw = tiny | {"prune": {"fraction": 0.5, "levels": 1, "rewind": "step:3"}}
    assert cli("run", study_file(raw)).exit_code == 0
    rows = pd.read_parquet(next(tmp_path.rglob("records.parquet"))).set_index("level")
    epoch = rows["train_flops"][0] / 2  # of five steps
    assert rows["train_flops"][1] == pytest.approx(7 / 5 * epoch)
    assert rows["total_flops"][1] == pytest.approx((2 + 3 / 5 + 7 / 5) * epoch)  # dense, dense up to step 3, from there


@pytest.mark.usefixtures("quick_pages")
def test_what_torch_cannot_count_is_no_failure_of_the_training(tiny, cli, study_file, tmp_path, monkeypatch):
    import pandas as pd

    def broken(*args):
        raise RuntimeError("cannot count")

    monkeypatch.setattr("tombola.study.stages.train.flops_per_example", broken)
    monkeypatch.setattr("tombola.study.stages.train._FLOPS", {})
    assert cli("run", study_file(tiny)).exit_code == 0
    rows = pd.read_parquet(next(tmp_path.rglob("records.parquet")))
    assert rows["train_flops"].isna().all()
    assert rows["accuracy"].notna().all()


def test_products_of_fused_attention_count():
    """torch's counter does not know the fused attention of a CPU."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(4, 12, bias=False), nn.Linear(4, 3, bias=False)

        def forward(self, x_BND):
            q, k, v = self.qkv(x_BND).chunk(3, dim=-1)
            return self.out(nn.functional.scaled_dot_product_attention(q, k, v).mean(1))

    module, (b, n, d) = Attention(), (2, 5, 4)
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0).as_family("point")
    found = flops_per_example(module, state, TrainSettings(method="map"), (torch.randn(b, n, d), torch.arange(b)))
    linear = 2 * (n * d * 3 * d) * 2 + 2 * (d * 3) * 3  # no gradient to the data
    products = 2 * (n * n * d) * 2 * 3  # queries by keys, weights by values; forward, and backward to both factors
    assert found == linear + products
