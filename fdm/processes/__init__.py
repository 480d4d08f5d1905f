"""Diffusion processes: one file per process, found by its name."""

from fdm.processes.base import (
    Event,
    Example,
    Jump,
    Measurement,
    Move,
    Prediction,
    Pretraining,
    Process,
    Stage,
    build_process,
)

__all__ = [
    "Event",
    "Example",
    "Jump",
    "Measurement",
    "Move",
    "Prediction",
    "Pretraining",
    "Process",
    "Stage",
    "build_process",
]
