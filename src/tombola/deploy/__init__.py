"""Trained tickets as fast predictors on a CPU: sparse kernels chosen by measurement, and moments in one pass."""

from .compiler import compile, compile_moments, compile_samples

__all__ = ["compile", "compile_moments", "compile_samples"]
