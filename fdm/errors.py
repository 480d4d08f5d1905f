"""The one exception that a user is meant to see."""


class UserError(Exception):
    """Something the user can mend: the message is one line that says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with status 1.
    """


class Interrupted(UserError):
    """A signal asked the process to stop; the state is saved and the same command goes on from there.

    Attributes:
        signal: the number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
