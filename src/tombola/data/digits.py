"""Handwritten digits of scikit-learn: 1,797 images of 8x8 pixels in 10 classes, without a download.

They are the test part of UCI's Optical Recognition of Handwritten Digits.
"""

import gzip
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

from tombola.errors import TombolaError

from .dataset import Dataset, split


def digits(validation: int = 180, test: int = 360) -> Dataset:
    """Return images [1, 8, 8] in [0, 1]; by default 1,257 of them to train on.

    Raises TombolaError where scikit-learn is not installed.
    """
    rows = gzip.decompress(_file().read_bytes()).decode().split()
    table = torch.tensor([list(map(int, row.split(","))) for row in rows])
    images = table[:, :-1].float().div(16).view(-1, 1, 8, 8)
    found = split("digits", images, table[:, -1].clone(), validation=validation, test=test)
    return replace(found, decoding={"unit": True})


def _file() -> Path:
    """Return the path of scikit-learn's file, found without its import, which takes longer than many a command."""
    spec = find_spec("sklearn")
    path = Path(*(spec.submodule_search_locations or [""])[:1], "datasets", "data", "digits.csv.gz") if spec else Path()
    if not path.is_file():
        raise TombolaError("data 'digits' are scikit-learn's, which is not installed; run pip install scikit-learn")
    return path
