"""Reverse-process solvers and the one sampler loop."""
