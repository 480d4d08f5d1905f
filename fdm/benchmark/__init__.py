"""How fast this machine trains and samples, and how much of what it could do that is: `fdm benchmark`.

Everything is timed in one process, and given as a median with its quartiles.
"""

from fdm.benchmark.run import benchmark, chosen

__all__ = ["benchmark", "chosen"]
