"""The site is built without a warning: no page is left out, no reference leads nowhere, no docstring is malformed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tombola

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {path.stem for path in DOCS.glob("*.md")}


def built(out: Path, kind: str, *options: str) -> Path:
    command = [sys.executable, "-m", "sphinx", "-b", kind, "-E", "-W", "--keep-going", "-q", *options, DOCS, out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_is_there(tmp_path: Path) -> None:
    """As plain text, and without the reference of names, which takes most of a minute."""
    without = ["-D", "exclude_patterns=_build,api.md", "-D", "suppress_warnings=myst.xref_missing,toc.not_readable"]
    assert {path.stem for path in built(tmp_path, "text", *without).glob("*.txt")} == PAGES - {"api"}


def test_the_reference_names_every_public_name() -> None:
    named = set(re.findall(r"^\.\. auto\w+:: tombola\.(\w+)$", (DOCS / "api.md").read_text(), re.M))
    assert set(tombola.__all__) - {"__version__"} <= named


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("site"), "html")


@pytest.mark.slow
def test_the_whole_site_has_every_page_and_every_public_name(site: Path) -> None:
    assert {path.stem for path in site.glob("*.html")} >= PAGES
    reference = (site / "api.html").read_text()
    for name in tombola.__all__:
        assert name == "__version__" or f'id="tombola.{name}"' in reference, name


@pytest.mark.slow
def test_what_a_public_function_says_is_shown(site: Path) -> None:
    reference = (site / "api.html").read_text()
    for function in (tombola.find_tickets, tombola.load, tombola.train):
        first = function.__doc__.splitlines()[0].split("`")[0].strip()
        assert first
        assert first in reference
