"""The claims of arXiv 2602.18825, "Bayesian Lottery Ticket Hypothesis"."""

from .claims import CLAIMS

__all__ = ["CLAIMS"]
