"""Handwritten digits of scikit-learn: 1,797 images of 8x8 pixels in 10 classes, without a download.

They are the test part of UCI's Optical Recognition of Handwritten Digits.
"""

import torch

from .dataset import Dataset, split


def digits(validation: int = 180, test: int = 360) -> Dataset:
    """Return images [1, 8, 8] in [0, 1]; by default 1,257 of them to train on."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().div(16).view(-1, 1, 8, 8)
    return split("digits", images, torch.from_numpy(labels).long(), validation=validation, test=test)
