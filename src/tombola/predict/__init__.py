"""Predictions of trained tickets for people: classes by name with their uncertainty, intervals, abstention."""

from .abstention import Abstention, abstain_at
from .predictions import ClassPrediction, RealPrediction
from .predictive import Predictive, describe

__all__ = ["Abstention", "ClassPrediction", "Predictive", "RealPrediction", "abstain_at", "describe"]
