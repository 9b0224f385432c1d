"""What the commands share: exit codes, how arguments are refused, and where sentences go."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

DONE, UNEXPECTED, BAD_INPUT, NOT_FOUND, CANCELLED = 0, 1, 2, 3, 130
"""Exit codes."""


class Parser(argparse.ArgumentParser):
    """Refuses in one sentence, without the usage text."""

    def error(self, message: str) -> NoReturn:
        say(f"{message}; see {self.prog} --help")
        raise SystemExit(BAD_INPUT)


def whole(low: int, high: int, what: str = "") -> Callable[[str], int]:
    """An argparse type for whole numbers in [low, high].

    Args:
        what: begins the sentence where the option's name does not say enough.
    """

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"{what} must be a whole number from {low} to {high}, got {text!r}".lstrip()
            )
        return value

    return convert


def say(sentence: str) -> None:
    """A line on stderr."""
    print(sentence, file=sys.stderr)
