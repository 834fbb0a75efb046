"""Diabetes patients of scikit-learn: 442 of them, ten measurements each, and how far the disease went in a year.

From Efron, Hastie, Johnstone and Tibshirani 2004; in scikit-learn, without a download.
"""

import torch

from .dataset import Dataset, Split, split


def diabetes(validation: int = 60, test: int = 120) -> Dataset:
    """Return age, sex, body mass index, blood pressure and six blood values [10], and the progression [1].

    All eleven are standardised by mean and standard deviation of the training examples: an RMSE of 1 is that of always
    giving the mean. By default 262 patients to train on.
    """
    from sklearn.datasets import load_diabetes

    inputs, targets = (torch.from_numpy(v) for v in load_diabetes(return_X_y=True, scaled=False))
    raw = split("diabetes", inputs, targets[:, None], validation=validation, test=test)
    scale = [(v.mean(0), v.std(0, correction=0)) for v in raw.train]

    def standardised(part: Split) -> Split:
        (x, y), (mean_x, std_x), (mean_y, std_y) = part, *scale
        return ((x - mean_x) / std_x).float(), ((y - mean_y) / std_y).float()

    return Dataset(raw.name, standardised(raw.train), standardised(raw.validation), standardised(raw.test))
