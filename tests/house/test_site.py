"""The site is built without a warning: no page is left out, no reference leads nowhere, no docstring is malformed."""

import subprocess
import sys
from pathlib import Path

import pytest

import tombola

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-E", "-W", "--keep-going", "-q", DOCS, out], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return out


@pytest.mark.slow
def test_every_page_is_there_and_every_public_name_is_in_the_reference(site):
    pages = {path.stem for path in DOCS.glob("*.md")}
    assert pages <= {path.stem for path in site.glob("*.html")}
    reference = (site / "api.html").read_text()
    for name in tombola.__all__:
        assert name == "__version__" or f'id="tombola.{name}"' in reference, name


def test_what_a_public_function_says_is_shown(site):
    reference = (site / "api.html").read_text()
    for function in (tombola.find_tickets, tombola.load, tombola.train):
        first = function.__doc__.splitlines()[0].split("`")[0].strip()
        assert first
        assert first in reference
