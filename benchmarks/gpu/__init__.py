"""Measurements on one GPU, in pieces that resume: python -m benchmarks.gpu PIECE. See docs/gpu.md."""
