"""The command clean: what may go from a store, in a table, and its removal."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

from tombola.engine.clean import Cleaning, size_of, survey
from tombola.engine.folder import StudyFolder, studies_on
from tombola.engine.outline import Outline
from tombola.errors import TombolaError
from tombola.files import in_words

from .commands import print_json
from .terminal import Screen


def clean_store(paths: list[Path], *, keep_masks: bool, orphans: bool, yes: bool, as_json: bool) -> int:
    """Print what may go from the store of these studies; with `yes` remove it."""
    store, folders = studies_on(paths)
    cleaning = survey(store, [_outline(folder) for folder in folders], keep_masks=keep_masks, orphans=orphans)
    table, freed, before = _table(cleaning), cleaning.freed, size_of([store.root])
    names = [str(folder.raw["name"]) for folder in folders]
    parts = [{"what": p.what, "count": len(p.paths), "bytes": p.bytes, "goes": p.goes} for p in cleaning.parts]
    if yes:
        cleaning.run()
    after = size_of([store.root])
    if as_json:
        about = {"store": str(store.root), "studies": names, "bytes": after, "may_free": freed, "removed": yes}
        print_json(about | {"freed": before - after, "parts": parts})
        return 0
    console = Screen()
    if table.row_count:
        console.print(table)
    console.print(Text(f"studies of {store.root}: {', '.join(names) or 'none found beside it'}"), soft_wrap=True)
    if yes:
        said = f"freed {in_words(before - after)}; {in_words(after)} are left"
    elif freed:
        said = f"nothing was removed: add --yes to free {in_words(freed)} of {in_words(before)}"
    else:
        said = f"nothing to remove from {in_words(before)}"
    console.print(said + (", less the masks that stay" if keep_masks and freed and not yes else ""), soft_wrap=True)
    return 0


def _outline(folder: StudyFolder) -> Outline:
    try:
        return folder.outline
    except TombolaError as error:
        raise TombolaError(f"{folder.path} uses this store, and its needs are unknown: {error}") from None


def _table(cleaning: Cleaning) -> Table:
    table = Table(title=f"what may go from {cleaning.store.root}", title_justify="left")
    table.add_column("what")
    for column in ("number", "size", ""):
        table.add_column(column, justify="right")
    for part in cleaning.parts:
        if part.paths:
            why = "" if part.goes else "stay" if part is cleaning.masks else "stay (--orphans removes them)"
            table.add_row(part.what, str(len(part.paths)), in_words(part.bytes), why)
    return table
