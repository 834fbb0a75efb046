"""Claims about nets as code: each a small function over the records, judged over seeds.

`judge` takes records, of one study or of several, and claims, and gives a row for each claim and net. The claims of
arXiv 2602.18825 are `tombola.claims.paper.CLAIMS`.
"""

from .judge import Row, columns_of, judge
from .verdict import Claim

__all__ = ["Claim", "Row", "columns_of", "judge"]
