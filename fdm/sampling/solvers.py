"""Solvers of the reverse process: how one network evaluation moves the state from t to s."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fdm.config import SamplingConfig
from fdm.processes import Event, Jump, Move, Prediction, Process

Denoiser = Callable[[Tensor, float, int], Tensor]
"""(z, t, stage) -> network output."""


@dataclass(frozen=True)
class State:
    """The noisy state and what the next events may need of the past: the last prediction and the move it served."""

    z: Tensor
    prediction: Prediction | None = None
    move: Move | None = None


@dataclass(frozen=True)
class Solver:
    """A reverse step of strength ``eta`` (1 ancestral, 0 deterministic) on the last or the extrapolated prediction.

    Attributes:
        name: as in the configuration.
        eta: noise drawn anew, in units of the posterior's; at most sigma_s is drawn.
        multistep: extrapolate predictions to second order, over jumps too where the process carries them.
        discretised: discretise the reverse stochastic differential equation in place of the exact reverse step.
        order: convergence order in the number of evaluations, as the oracle confirms it.
        correct: what to make of every prediction at its stage before it is used, where more is known about the image.
    """

    name: str
    eta: float
    multistep: bool = False
    discretised: bool = False
    order: int = 1
    correct: Callable[[Prediction, int], Prediction] | None = None

    def advance(
        self, process: Process, denoise: Denoiser, state: State, event: Event, noise: Tensor, *, clip: bool
    ) -> State:
        """Apply one event of the plan. ``noise`` has the shape of the state that results."""
        if isinstance(event, Jump):
            assert state.prediction is not None
            z = process.jump(state.z, state.prediction, event.stage, noise)
            return State(z, state.prediction, state.move) if self.multistep else State(z)
        output = denoise(state.z, event.t, event.stage)
        prediction = process.predict(output, state.z, event.t, event.stage, clip)
        if self.correct:
            prediction = self.correct(prediction, event.stage)
        used = self._extrapolate(process, prediction, state, event) if self.multistep else prediction
        if self.discretised:
            z = process.reverse_diffusion(state.z, used, event, noise=noise)
        else:
            z = process.reverse(state.z, used, event, eta=self.eta, noise=noise)
        return State(z, prediction, event)

    def _extrapolate(self, process: Process, prediction: Prediction, state: State, move: Move) -> Prediction:
        """The process's second-order prediction; first order at the start and into data. [DPM++]

        After a jump it is of second order in what both stages have, where the process can carry a prediction over.
        """
        earlier = state.prediction
        if state.move is None or earlier is None or move.s <= process.data_time(move.stage):
            return prediction
        if state.move.stage != move.stage:
            earlier = process.carry(earlier, prediction, state.move.stage)
        return process.extrapolate(prediction, earlier, state.move, move) if earlier else prediction


def build_solver(config: SamplingConfig) -> Solver:
    """The solver that ``config`` names."""
    return {
        "ancestral": Solver("ancestral", eta=1.0),
        "ddim": Solver("ddim", eta=config.eta),
        "multistep2": Solver("multistep2", eta=config.eta, multistep=True, order=2),
        "reverse-diffusion": Solver("reverse-diffusion", eta=1.0, discretised=True),
    }[config.solver]
