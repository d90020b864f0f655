"""What the application would ask of the person in front of it, and what the test answers for that person."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Message:
    """A message box that was shown: kind is information, warning, error or question."""

    kind: str
    text: str
    details: str
    title: str


@dataclass
class Desk:
    """Records, and answers in the order in which they are asked for.

    An answer to a message box is the name of a button, such as "Cancel"; without one, the first of Ok, Yes, Retry
    and Close that the box has. An answer to a file dialog is a path; without one the dialog is cancelled.
    """

    messages: list[Message] = field(default_factory=list)
    opened_urls: list[str] = field(default_factory=list)
    asked_paths: list[tuple[str, str]] = field(default_factory=list)
    answers: deque[str] = field(default_factory=deque)
    paths: deque[Any] = field(default_factory=deque)

    def clear(self) -> None:
        for part in (self.messages, self.opened_urls, self.asked_paths, self.answers, self.paths):
            part.clear()

    def answer_path(self, kind: str, caption: str) -> str:
        self.asked_paths.append((kind, caption))
        return str(self.paths.popleft()) if self.paths else ""


desk = Desk()
