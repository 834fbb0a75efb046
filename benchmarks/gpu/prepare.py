"""What a bare GPU machine needs, written on one with the whole package: the data in one file, settings and the paper's
studies beside it as JSON; and afterwards, of the studies' record, the table that `tombola claims` reads."""

import json
from pathlib import Path

from benchmarks.gpu.nets import NETS, noise
from benchmarks.gpu.packed import unpack
from benchmarks.gpu.studies import STUDIES, SUFFIX, Studies, as_json
from tombola import files
from tombola.data import Dataset, huggingface
from tombola.errors import TombolaError

_SECTIONS = ("train", "posterior", "prune", "evaluate")
_AUGMENTATION = ("flip", "crop")
SIZES = ("full", "gpu")


def prepare(path: str, out: Path) -> None:
    """Images as uint8 and labels of `path` (as of data `huggingface`) into `out`, recipes into the JSON file beside it."""
    files = sorted(Path(path).glob("*.parquet")) if Path(path).is_dir() else []
    data = huggingface(f"{path}/*.parquet" if files else path, normalise="imagenet")
    write(data, out)
    print(f"{out}: {data.name}, {len(data.train[0])} and {len(data.test[0])} images")
    out.with_suffix(".json").write_text(json.dumps(recipes(), indent=1) + "\n")
    print(f"{out.with_suffix('.json')}: settings of {', '.join(NETS)} at sizes {', '.join(SIZES)}")
    write_studies(out, "gpu")


def prepare_toy(out: Path) -> None:
    """The same of noise, with the paper's studies at the size toy: to see that the piece `paper` runs."""
    write(noise(toy=True), out)
    write_studies(out, "toy")


def write(data: Dataset, out: Path) -> None:
    """The file that `nets.stored` reads."""
    tensors = {}
    for part, (inputs, targets) in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        tensors |= {f"{part}.inputs": inputs, f"{part}.targets": targets}
    how = data.normalise
    assert how is not None, "images have a normalisation"
    normalise = {"mean": how.mean, "std": how.std, "scale": how.scale}
    out.parent.mkdir(parents=True, exist_ok=True)
    files.write(out, tensors, {"name": data.name, "normalise": normalise, "digest": data.digest})


def write_studies(out: Path, size: str) -> None:
    """The file beside `out` that `studies.stored_studies` reads."""
    found = paper_studies(size)
    path = out.with_suffix(SUFFIX)
    path.write_text(json.dumps({name: [as_json(one) for one in variants] for name, variants in found.items()}) + "\n")
    print(f"{path}: the paper's studies at size {size}: {', '.join(found)}")


def paper_studies(size: str) -> Studies:
    """The shipped studies of the paper at that size, unfolded."""
    from tombola.study.spec import read, unfold

    return {name: unfold(read(f"paper/{name}", [f"size={size}"])) for name in STUDIES}


def collect(out: Path) -> Path:
    """Writes OUT/records.parquet of OUT/paper.json, whatever is in it so far."""
    from tombola.engine import records

    if not (out / "paper.json").is_file():
        raise TombolaError(f"there is no {out / 'paper.json'}; the piece paper writes it")
    parts = json.loads((out / "paper.json").read_text())["rows"].values()
    table = records.table_of([ticket for part in parts for ticket in unpack(part["tickets"])])
    records.write(table, out / "records.parquet")
    print(f"{out / 'records.parquet'}: {len(table)} tickets; judge them with `tombola claims {out / 'records.parquet'}`")
    return out / "records.parquet"


def recipes() -> dict[str, dict[str, dict]]:
    """Size -> net -> section -> settings, resolved, of what `nets.recipe_of` reads."""
    from tombola.study.recipes import expand

    found: dict[str, dict[str, dict]] = {}
    for size in SIZES:
        for net in NETS:
            (raw,) = expand({"size": size, "nets": [net]})
            sections = {name: raw[name] for name in _SECTIONS if name in raw}
            sections["data"] = {name: raw["data"][name] for name in _AUGMENTATION if name in raw["data"]}
            found.setdefault(size, {})[net] = sections
    return found
