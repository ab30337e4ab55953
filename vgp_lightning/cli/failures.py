"""Failures: how a command ends with one message."""

from typing import NoReturn


class Failure(SystemExit):
    """The end of a command, with the one message that ``main`` prints.

    It is no ValueError, since jsonargparse would catch that where it tries one type after the other.

    Attributes:
        message: The message.
    """

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(code)
        self.message = message


def fail(message: str, code: int = 2) -> NoReturn:
    """End the command with one message."""
    raise Failure(message, code)
