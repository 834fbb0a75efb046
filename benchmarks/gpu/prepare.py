"""What a bare GPU machine needs, written on one with the whole package: the data in one file, settings beside it as JSON."""

import json
from pathlib import Path

from benchmarks.gpu.nets import NETS
from tombola import tensorfile
from tombola.data import Dataset, huggingface

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


def write(data: Dataset, out: Path) -> None:
    """The file that `nets.stored` reads."""
    tensors = {}
    for part, (inputs, targets) in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        tensors |= {f"{part}.inputs": inputs, f"{part}.targets": targets}
    how = data.normalise
    assert how is not None, "images have a normalisation"
    normalise = {"mean": how.mean, "std": how.std, "scale": how.scale}
    out.parent.mkdir(parents=True, exist_ok=True)
    tensorfile.write(out, tensors, {"name": data.name, "normalise": normalise, "digest": data.digest})


def recipes() -> dict[str, dict[str, dict]]:
    """Size -> net -> section -> settings, resolved, of what `nets.recipe_of` reads."""
    from tombola.recipes import expand

    found: dict[str, dict[str, dict]] = {}
    for size in SIZES:
        for net in NETS:
            (raw,) = expand({"size": size, "nets": [net]})
            sections = {name: raw[name] for name in _SECTIONS if name in raw}
            sections["data"] = {name: raw["data"][name] for name in _AUGMENTATION if name in raw["data"]}
            found.setdefault(size, {})[net] = sections
    return found
