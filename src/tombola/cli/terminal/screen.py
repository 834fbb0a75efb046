"""The console of all commands, on which names from files steer nothing."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment

from tombola.study.messages import printable


class Screen(Console):
    """Console that writes control characters of texts as escapes: files, folders and stores may be of others."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """Yield the segments of a renderable, as `Console` does."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text == "\n" or segment.text.isprintable():
                yield segment
            else:
                lines = segment.text.split("\n")
                yield Segment("\n".join(map(printable, lines)), segment.style)
