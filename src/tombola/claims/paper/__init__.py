"""The claims of arXiv 2602.18825, "Bayesian Lottery Ticket Hypothesis"."""

from .claims import CLAIMS

__all__ = ["CLAIMS", "PAPER"]

PAPER = "paper-"
"""Beginning of the names of the paper's studies, of which alone the claims are judged unasked."""
