"""Tickets that come with the package, and pictures to try them on. `python -m benchmarks.shipped` makes them."""

from importlib import resources
from pathlib import Path

_FOLDER = Path(str(resources.files(__package__))) / "shipped_tickets"
SHIPPED = {"digits": _FOLDER / "digits.safetensors"}
"""Name -> file. `digits`: a LeNet for handwritten digits of 8x8 pixels, a tenth of its weights left."""
PICTURES = {"digits": _FOLDER / "digits"}
"""Name -> folder of pictures of its test examples, in a subfolder a class."""
