"""Draw the rooms of the package from its imports: python docs/make_architecture.py > docs/architecture.svg."""

import ast
from html import escape
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "tombola"

FLOORS: list[dict[str, str]] = [
    {"errors": "the one error of a user", "streams": "named random streams"},
    {
        "settings": "frozen, checked fields",
        "plugins": "names and import paths",
        "files": "safetensors, written aside",
        "metrics": "metrics, record columns",
    },
    {"posterior": "module + posterior, layout", "models": "shipped networks", "claims": "verdicts over seeds"},
    {
        "inference": "methods and estimators",
        "pruning": "tickets, scores, masks",
        "data": "sets, batches, augmentation",
        "report": "one page from a table",
    },
    {"training": "the loop, memory, Python", "deploy": "tickets as fast predictors"},
    {"predict": "new inputs, abstention", "export": "ONNX, torch.export, files"},
    {"study": "YAML to a graph of stages", "sklearn": "fit and predict"},
    {"engine": "store, runs, records"},
    {"cli": "commands and terminal"},
]
"""Each room with its job, from the ground up. A room imports only from floors below its own."""

WIDTH, HEIGHT, GAP, MARGIN, SHEET = 176, 46, 58, 24, 920


def imports_of(path: Path) -> set[str]:
    """Return the rooms that a file imports from, for type checking too."""
    inside = ("tombola", *path.relative_to(SOURCE).parts[:-1])
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) - node.level + 1] if node.level else ()
            dotted = [*base, *(node.module.split(".") if node.module else [])]
            if dotted[0] == "tombola":
                found |= {dotted[1]} if len(dotted) > 1 else {alias.name for alias in node.names}
    return found


def arrows() -> dict[str, set[str]]:
    """Return each room with the other rooms that it imports from."""
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    found: dict[str, set[str]] = {room: set() for room in rooms - {"__init__"}}
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room in found:
            found[room] |= imports_of(path) - {room}
    return found


def drawn(found: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Return the arrows that no path of other arrows implies."""

    def reached(room: str) -> set[str]:
        return found[room].union(*map(reached, found[room]))

    return sorted((a, b) for a in found for b in found[a] if not any(b in reached(via) for via in found[a] - {b}))


def picture() -> str:
    """Return the rooms on their floors, as SVG."""
    at: dict[str, tuple[float, float]] = {}
    for floor, rooms in enumerate(FLOORS):
        free = (SHEET - 2 * MARGIN - len(rooms) * WIDTH) / len(rooms)
        for i, room in enumerate(rooms):
            x = MARGIN + free / 2 + i * (WIDTH + free)
            at[room] = x, MARGIN + (len(FLOORS) - 1 - floor) * (HEIGHT + GAP)
    lines = [_arrow(at[a], at[b]) for a, b in drawn(arrows())]
    boxes = [_box(room, job, *at[room]) for rooms in FLOORS for room, job in rooms.items()]
    height = 2 * MARGIN + len(FLOORS) * (HEIGHT + GAP) - GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SHEET} {height}" font-family="sans-serif">',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0 L8 4 L0 8 z" fill="#7a8694"/></marker></defs>',
            f'<rect width="{SHEET}" height="{height}" fill="#ffffff"/>',
            *lines,
            *boxes,
            "</svg>\n",
        ]
    )


def _box(room: str, job: str, x: float, y: float) -> str:
    middle = x + WIDTH / 2
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#eef5fa" stroke="#0072b2"/>'
        f'<text x="{middle:g}" y="{y + 19:g}" text-anchor="middle" font-size="14" font-weight="bold">{escape(room)}</text>'
        f'<text x="{middle:g}" y="{y + 36:g}" text-anchor="middle" font-size="11" fill="#44505c">{escape(job)}</text>'
    )


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x, y), (to_x, to_y) = start, end
    x, to_x = x + WIDTH / 2, to_x + WIDTH / 2
    # leave and arrive on the side that faces the other room, so that arrows spread
    lean = max(-WIDTH / 3, min(WIDTH / 3, (to_x - x) / 4))
    y, bend = y + HEIGHT, (to_y - y - HEIGHT) / 2
    x, to_x = x + lean, to_x - lean
    path = f"M{x:.0f} {y:.0f} C{x:.0f} {y + bend:.0f} {to_x:.0f} {to_y - bend:.0f} {to_x:.0f} {to_y - 2:.0f}"
    return f'<path d="{path}" fill="none" stroke="#7a8694" stroke-width="1.2" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    print(picture(), end="")
