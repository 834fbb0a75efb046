"""scikit-learn's handwritten digits: 1,797 images of 8x8 pixels in 10 classes (UCI Optical Recognition of Handwritten
Digits, its test part). Real, small, and needs no download."""

import torch

from .dataset import Dataset, split


def digits(validation: int = 180, test: int = 360) -> Dataset:
    """Images [1, 8, 8] in [0, 1]; 1,257 to train on unless other sizes are held out."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().div(16).view(-1, 1, 8, 8)
    return split("digits", images, torch.from_numpy(labels).long(), validation=validation, test=test)
