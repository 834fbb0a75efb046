"""Sphinx settings of the site: make docs."""

import re
from importlib.metadata import version as version_of

from sphinx.application import Sphinx

project = "tombola"
author = "The tombola developers"
project_copyright = "The tombola developers, Apache License 2.0"
release = version = version_of("tombola")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_title = f"tombola {version}"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072b2", "color-brand-content": "#0072b2"},
    "dark_css_variables": {"color-brand-primary": "#56b4e9", "color-brand-content": "#56b4e9"},
}

default_role = "code"  # docstrings quote code in single backticks
myst_heading_anchors = 3  # pages link to each other's headings
myst_enable_extensions = ["colon_fence"]

autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": False, "member-order": "bysource"}
autodoc_typehints = "signature"
autoclass_content = "both"  # the class, then what its constructor takes
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
suppress_warnings = ["myst.xref_missing"]


_ARGUMENT = re.compile(r"^((?:\w+, )*\w+): (?=\S)")


def plain(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Our docstrings are plain text: formulas have bare stars, and a paragraph's `name: what it is` tells of an argument."""
    shown: list[str] = []
    for line in lines:
        text = line.strip()
        # stars, bars and trailing underscores mean something to docutils; what is quoted is left alone
        parts = re.split(r"(`[^`]*`)", text)
        escaped = "".join(p if p.startswith("`") else re.sub(r"([*|\\]|_\b)", r"\\\1", p) for p in parts)
        if _ARGUMENT.match(text):
            shown += ["", _ARGUMENT.sub(r"- `\1`: ", escaped)]
        elif text and shown and shown[-1].startswith(("- ", "  ")):
            shown.append(f"  {escaped}")
        else:
            shown.append(escaped)
    lines[:] = shown


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", plain)
