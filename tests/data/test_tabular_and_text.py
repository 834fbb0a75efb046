"""Diabetes and words: what they hold, and what is refused."""

from pathlib import Path

import pytest
import torch

from tombola.data import load_data
from tombola.data.words import DEBIAN, as_bytes
from tombola.errors import TombolaError


def test_diabetes_is_standardised_by_its_training_examples():
    data = load_data("diabetes", {})
    assert [len(part[1]) for part in (data.train, data.validation, data.test)] == [262, 60, 120]
    for values in data.train:
        assert values.dtype == torch.float32
        assert values.mean(0).abs().max() < 1e-6
        assert (values.std(0, correction=0) - 1).abs().max() < 1e-6
    assert 0.7 < data.test[1].std() < 1.3
    assert data.train[0].shape[1:] == (10,)


@pytest.fixture
def lists(tmp_path):
    texts = {"english": "house\nHouse\nthe\nit's\nan\nshared\n", "german": "Häuser\nStraße\nshared\nüberlebensgroßes\n"}
    for language, text in texts.items():
        (tmp_path / language).write_text(text + "\n".join(f"{language}{a}{b}" for a in "abcdef" for b in "uvwxyz"))
    return {language: str(tmp_path / language) for language in texts}


def test_words_are_bytes_of_one_language_each(lists):
    data = load_data("words", {"files": lists, "examples": 38, "validation": 6, "test": 10})
    inputs = torch.cat([part[0] for part in (data.train, data.validation, data.test)])
    targets = torch.cat([part[1] for part in (data.train, data.validation, data.test)])
    found = {bytes(row[row != 0].tolist()).decode(): int(label) for row, label in zip(inputs, targets, strict=True)}
    assert inputs.dtype == torch.uint8
    assert len(found) == 76
    assert {word: found[word] for word in ("house", "the", "häuser", "straße")} == {
        "house": 0,
        "the": 0,
        "häuser": 1,
        "straße": 1,
    }
    assert not found.keys() & {"shared", "it's", "an", "überlebensgroßes"}  # in both lists, no letters, short, long
    assert data.fingerprint == load_data("words", {"files": lists, "examples": 38, "validation": 6, "test": 10}).fingerprint


def test_a_word_in_bytes():
    assert as_bytes("né", 5).tolist() == [110, 195, 169, 0, 0]
    with pytest.raises(TombolaError, match="has 3 bytes, length is 2"):
        as_bytes("né", 2)


def test_debians_lists_give_three_languages():
    if missing := [path for path in DEBIAN.values() if not Path(path).is_file()]:
        pytest.skip(f"there is no {missing[0]} (Debian: wamerican, wngerman, wfrench)")
    data = load_data("words", {"examples": 2000, "validation": 100, "test": 500})
    assert data.outputs == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"files": {"english": "nowhere"}}, "files has 1 language"),
        ({"files": {"a": "nowhere", "b": "nowhere"}}, "there is no word list of a at nowhere"),
        ({"examples": 100}, "english has 38 words of its own"),
        ({"length": 2}, "length is 2"),
        ({"examples": 2.5}, "examples is 2.5"),
    ],
)
def test_lists_that_do_not_do_are_refused(change, words, lists):
    with pytest.raises(TombolaError, match=words):
        load_data("words", {"files": lists, **change})


def test_a_list_in_another_encoding_is_refused(lists, tmp_path):
    (tmp_path / "german").write_bytes("Häuser".encode("latin-1"))
    with pytest.raises(TombolaError, match="no text in UTF-8"):
        load_data("words", {"files": lists})
