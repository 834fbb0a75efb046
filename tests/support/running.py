"""The command line in this process, and studies whose pages have no pictures."""

import traceback
from typing import Any

import pytest

TINY = {
    "name": "tiny",
    "threads": 1,
    "data": {"name": "digits", "args": {"validation": 0, "test": 1500}},
    "model": {"name": "mlp", "args": {"hidden": [8]}},
    "train": {"epochs": 2, "batch_size": 64, "lr": 0.01},
    "prune": {"fraction": 0.5, "levels": 1},
    "evaluate": {"samples": 2},
}
"""The settings of a study of seconds: 297 digits to train on, one level, half of the weights pruned."""


def command_line(*args: object) -> Any:
    """Return the result of a command (typer's). An error that the command line does not catch fails the test."""
    from typer.testing import CliRunner

    from tombola.cli.app import app

    result = CliRunner().invoke(app, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        pytest.fail("".join(traceback.format_exception(result.exception)))
    return result


def leave_out_figures(patch: pytest.MonkeyPatch) -> None:
    """Make pages without layout and bytes of pictures, four fifths of a short study. Their numbers are written."""
    from tombola.report import images

    empty = b'<svg xmlns="http://www.w3.org/2000/svg"><g id="figure_1"/></svg>'
    patch.setattr(images, "_saved", lambda figure, kind: empty)
    patch.setattr(images.Picture, "of", lambda name, drawing: images.Picture(name, drawing, empty))
