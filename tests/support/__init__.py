"""Helpers that several test files need."""
