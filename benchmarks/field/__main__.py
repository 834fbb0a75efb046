"""The table of the field: records of the studies `field` and `field_last_layer`, and the page docs/field.md of them.

python -m benchmarks.field keep runs/field runs/field_last_layer    copy their records, with the bytes of each ticket
python -m benchmarks.field page [--figures] > docs/field.md         make the page

Unfinished runs give rows too, marked with the seeds that they have.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.field.page import DOCS, RESULTS, page
from benchmarks.quietly import write
from tombola.engine import records as tables
from tombola.engine.folder import StudyFolder
from tombola.export import compact


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    kept = commands.add_parser("keep")
    kept.add_argument("runs", type=Path, nargs="+", help="folders that tombola run made")
    kept.add_argument("--out", type=Path, default=RESULTS, help="folder of what is kept (results/field-cpu)")
    made = commands.add_parser("page")
    made.add_argument("--records", type=Path, default=RESULTS, help="folder of records (results/field-cpu)")
    made.add_argument("--figures", type=Path, nargs="?", const=DOCS / "field", help="write figures here (docs/field)")
    args = parser.parse_args()
    if args.command == "page":
        print(page(args.records, args.figures), end="")
    else:
        keep(args.runs, args.out)
    return 0


def keep(runs: list[Path], out: Path) -> None:
    """Write records.parquet of all finished rows, with the bytes of each ticket's compact file, and record.json."""
    folders = [StudyFolder.open(run) for run in runs]
    records = pd.concat([tables.collect(folder.plan, folder.store) for folder in folders], ignore_index=True)
    store = folders[0].store
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as space:
        path = Path(space) / "ticket.safetensors"
        sizes = {}
        for key in records["ticket"].unique():
            compact(store.ticket(key), path)
            sizes[key] = path.stat().st_size
    tables.write(records.assign(bytes=records["ticket"].map(sizes)), out / "records.parquet")
    times = pd.concat([tables.stage_times(folder.plan, folder.store) for folder in folders])
    write(
        out / "record.json",
        "field",
        [],
        trainings=int(records["ticket"].nunique()),
        alone_seconds=float(times["seconds"].sum()),
    )


if __name__ == "__main__":
    sys.exit(main())
