"""The command claims, which needs no torch."""

from pathlib import Path

from tombola.claims import columns_of, judge
from tombola.claims.field import CLAIMS, claims_of
from tombola.claims.paper import CLAIMS as PAPERS
from tombola.claims.table import as_json, frame, printed
from tombola.errors import TombolaError
from tombola.files import written_aside
from tombola.metrics import records

from .terminal import Screen


def judge_claims(paths: list[Path], csv: Path | None, json: Path | None) -> int:
    """Print the claims' verdicts. Raises TombolaError for a folder without records, and where a file cannot be written."""
    table = records.read(paths, {"study", *columns_of(CLAIMS | PAPERS)})
    rows = judge(table, claims_of(table))
    if "-" not in (str(csv), str(json)):
        Screen().print(printed(rows))
    for out, text in ((csv, lambda: frame(rows).to_csv(index=False)), (json, lambda: as_json(rows))):
        if out is not None:
            _write(out, text())
    return 0


def _write(out: Path, text: str) -> None:
    """Write a text aside and rename it to `out`; in place where `out` is no plain file; "-" prints it."""
    try:
        if str(out) == "-":
            print(text.rstrip("\n"))
        elif out.is_symlink() or (out.exists() and not out.is_file()):  # such as /dev/stdout, which must not be replaced
            out.write_text(text)
        else:
            with written_aside(out) as aside:
                aside.write_text(text)
    except OSError as error:
        raise TombolaError(f"cannot write {out}: {error.strerror}; choose another file") from None
