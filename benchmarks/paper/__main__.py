"""All studies of the paper at one size, and the page that is made from their records.

python -m benchmarks.paper --path FILES [--size cpu] [--jobs 2] [--seeds N]    run the studies
python -m benchmarks.paper page [--figures] > docs/paper.md                    make the page
"""

import argparse
import sys
from pathlib import Path

from benchmarks.paper.page import DOCS, FOLDERS, page
from benchmarks.paper.studies import run
from tombola.study.recipes import cifar10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    if sys.argv[1:2] == ["page"]:
        parser.add_argument("page")
        for size, folder in FOLDERS.items():
            parser.add_argument(f"--{size}", type=Path, default=folder, help=f"folder of records of the size {size}")
        parser.add_argument("--figures", type=Path, nargs="?", const=DOCS / "paper", help="write figures here (docs/paper)")
        args = parser.parse_args()
        print(page({size: getattr(args, size) for size in FOLDERS}, args.figures), end="")
        return 0
    parser.add_argument("--path", required=True, help="CIFAR-10: files on this machine, or its name on the hub")
    parser.add_argument("--size", choices=cifar10()["sizes"], default="cpu", help="which recipe (cpu)")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the work (1)")
    parser.add_argument("--seeds", type=int, help="how many (those of the studies)")
    parser.add_argument("--runs", type=Path, help="folder of the studies' folders (runs/paper-SIZE)")
    parser.add_argument("--out", type=Path, help="folder of what is kept (results/paper-SIZE)")
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
