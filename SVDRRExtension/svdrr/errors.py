"""The error that reaches a user."""

from __future__ import annotations


class SVDRRError(Exception):
    """Bad input or a refused request, in one sentence that says what is wrong and what to do.

    The command line prints the sentence and exits with code 2; a Slicer panel shows it as it is.
    """


def counted(count: int, noun: str) -> str:
    """A number of things for a sentence: ``1 view``, ``1,500 views``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
