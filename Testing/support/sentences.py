"""What every refusal must be."""

from __future__ import annotations

from svdrr.errors import SVDRRError


def assert_one_sentence(error: SVDRRError) -> None:
    text = str(error)
    assert text[0].isupper() or text[0] == "'"  # A path comes in quotes.
    assert text.endswith(".")
    assert "\n" not in text
    assert ". " not in text
