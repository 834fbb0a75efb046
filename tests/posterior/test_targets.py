"""Targets that do not fit the outputs: one sentence instead of a wrong loss."""

import numpy as np
import pytest
import torch
from torch import nn

import tombola
from tombola.posterior.likelihood import Categorical, GaussianNoise, NextToken

SIX = torch.arange(6)


def loss(classes, labels, **kind):
    torch.manual_seed(0)
    model = tombola.Bayesian(nn.Linear(4, classes), **kind)
    return model.negative_elbo((torch.randn(len(labels), 4), labels), examples=len(labels))


@pytest.mark.parametrize("label", [-1, 3, 255, -99])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16])
def test_a_label_that_is_no_class_is_named(label, dtype):
    labels = torch.tensor([0, 1, label, 2], dtype=dtype)
    with pytest.raises(
        tombola.TombolaError, match=f"there is a label {label}, but the network has 3 outputs: labels are 0 to"
    ):
        loss(3, labels)


@pytest.mark.parametrize("label", [255, 3])
def test_a_label_of_bytes_that_is_no_class_is_named(label):
    with pytest.raises(tombola.TombolaError, match=f"there is a label {label}, but"):
        loss(3, torch.tensor([0, label], dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(2, 5, 5), (2, 5, 5, 5), (2, 5, 4, 5)])
@pytest.mark.parametrize("soft", [True, False])
def test_logits_whose_classes_may_be_in_either_of_two_dimensions_are_refused(shape, soft):
    logits = torch.randn(shape)
    labels = logits.softmax(-1) if soft else torch.zeros(shape[:-1], dtype=torch.long)
    with pytest.raises(tombola.TombolaError, match=r"do not tell which dimension is the classes', the last one or, as for"):
        Categorical()(logits, (None, labels))
    flat = Categorical()(logits.flatten(1, -2)[:, :4], (None, labels.flatten(1, -2 if soft else -1)[:, :4]))
    assert flat.shape == (2,)


def test_a_label_of_a_position_that_is_no_class_is_named():
    with pytest.raises(tombola.TombolaError, match="there is a label 7, but the network has 5 outputs"):
        NextToken()(torch.randn(2, 4, 5), {"labels": torch.tensor([[0, 1, 2, 7], [0, 1, 2, -100]])})


@pytest.mark.parametrize("labels", [SIX % 2, (SIX % 2).float()[:, None], torch.zeros(6).long(), (SIX % 2).bool()])
def test_one_logit_is_no_categorical_distribution(labels):
    with pytest.raises(tombola.TombolaError, match="needs one output for each class, the network has one"):
        loss(1, labels)


@pytest.mark.parametrize(
    ("row", "total"),
    [([0.0, 0, 0], "0"), ([1.0, 1, 0], "2"), ([1.0, 1, 1], "3"), ([1.5, -0.5, 0], "1"), ([float("nan"), 1, 0], "nan")],
)
def test_rows_that_are_no_probabilities_are_refused(row, total):
    with pytest.raises(
        tombola.TombolaError, match=rf"labels sums to {total}, .*multi-label.*use the likelihood 'bernoulli'"
    ):
        loss(3, torch.tensor([[0.0, 1, 0], row]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_probabilities_are_taken_in_any_precision(dtype):
    rows = torch.softmax(torch.randn(50, 40), -1).to(dtype)
    assert Categorical()(torch.randn(50, 40), (None, rows)).isfinite().all()


def test_labels_that_do_not_count_are_taken():
    assert Categorical()(torch.randn(3, 2), (None, torch.tensor([0, -100, 1])))[1] == 0


@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 12), (60,), (3, 5, 4), (5, 3, 5)])
def test_a_target_of_another_shape_is_refused(shape):
    target = torch.randn(shape)
    with pytest.raises(tombola.TombolaError, match=r"targets of shape \(.*\) do not fit outputs of shape \(5, 3, 4\)"):
        GaussianNoise()(torch.randn(5, 3, 4), (None, target))


@pytest.mark.parametrize(("mean", "target"), [((5, 1), (5,)), ((5,), (5, 1)), ((1, 3), (3,)), ((5, 1, 4), (5, 4))])
def test_dimensions_of_one_do_not_count(mean, target):
    output = torch.randn(mean)
    assert GaussianNoise()(output, (None, output.view(target))).sum() == GaussianNoise()(output, (None, output)).sum()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_targets_that_are_not_finite_are_refused(value):
    targets = torch.tensor([[0.0], [value], [1.0]])
    with pytest.raises(tombola.TombolaError, match="a target is not finite"):
        loss(1, targets, likelihood=GaussianNoise())
    settings, dense = tombola.TrainSettings(likelihood="gaussian", epochs=1), tombola.PruneSettings(levels=0)
    with pytest.raises(tombola.TombolaError, match="a target is not finite"):
        tombola.find_tickets(nn.Linear(4, 1), (torch.randn(3, 4), targets), train=settings, prune=dense, progress=False)
