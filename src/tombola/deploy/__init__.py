"""Trained tickets as fast predictors on a CPU: sparse kernels chosen by measurement, and moments in one pass."""

from .compiler import compile, compile_moments

__all__ = ["compile", "compile_moments"]
