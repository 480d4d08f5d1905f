"""The exceptions that a user is meant to see, or to be spared."""

from typing import ClassVar


class UserError(Exception):
    """Something the user can mend: the message is one line that says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with status 1, or of the signal that was the reason.
    """

    status: ClassVar[int] = 1


class Elsewhere(UserError):
    """Another process of the same training names the error: the command line prints nothing, and exits with status 3."""

    status: ClassVar[int] = 3


class Interrupted(UserError):
    """A signal asked the process to stop; the state is saved and the same command goes on from there.

    Attributes:
        signal: the number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
