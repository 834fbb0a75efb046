"""Claims of the study as code: each a small function over the records, judged over seeds.

`judge` takes records, of one study or of several, and gives a row for each claim and net.
"""

from .judge import Row, judge
from .paper.claims import CLAIMS
from .verdict import Claim

__all__ = ["CLAIMS", "Claim", "Row", "judge"]
