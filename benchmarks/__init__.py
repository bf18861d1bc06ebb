"""Measurements on real models and data; each is a command that writes its figures to ``benchmarks/results``."""
