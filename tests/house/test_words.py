"""Docstrings in plain English: a verb or a noun first, and no aphorisms. Ruff's pydocstyle rules look at their form."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("docs/*.py")])

OPENINGS = re.compile(r"(What|Whether|How|Of|As|Where|Why|Who|When)\b")
"""Words that begin no first sentence: it is a verb phrase ("Return ...") or a noun phrase with its noun."""

PHRASES = re.compile(
    r"\b(so many|those|is said|are said|stands? on|sittings?|mends?)\b|(?<!\w)there(?! (is|are|was|were)\b)\b", re.IGNORECASE
)


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring, of attributes too."""
    for node in ast.walk(ast.parse(path.read_text())):
        for inner in getattr(node, "body", []) if isinstance(getattr(node, "body", []), list) else []:
            if isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Constant) and isinstance(inner.value.value, str):
                yield inner.lineno, inner.value.value


def first_sentence(text: str) -> str:
    """Return the first sentence in one line."""
    return re.split(r"(?<=[.?!:;])\s", " ".join(text.split()), maxsplit=1)[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_begin_with_a_verb_or_a_noun(path: Path):
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {sentence}"
        for line, text in docstrings(path)
        if OPENINGS.match(sentence := first_sentence(text)) or PHRASES.search(sentence)
    ]
    assert not wrong, "\n".join(wrong)
