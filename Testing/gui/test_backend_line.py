"""The backend that panels share: what is shown, what is asked about, and what is used are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from panels import MODULES

REMOTE = "http://gpu.example.org:8650"
NAMES = ("DRRGenerator", "RadiographSuperResolution")


@pytest.fixture
def lines(host: Any, backend_environment: Path) -> dict[str, Any]:
    """The backend's part of two panels, both opened once."""
    host.start([MODULES / name for name in NAMES])
    return {name: host.select(name)._backend for name in NAMES}


def choose_remote(line: Any, url: str) -> None:
    line._ui.backendWhereComboBox.currentIndex = 1
    line._ui.backendUrlLineEdit.text = url


def test_a_panel_shows_what_another_has_chosen(host: Any, lines: dict[str, Any]) -> None:
    from svdrr.mrml.backend import chosen_backend

    host.select("DRRGenerator")
    choose_remote(lines["DRRGenerator"], REMOTE)
    lines["DRRGenerator"]._edited()
    host.select("RadiographSuperResolution")
    assert lines["RadiographSuperResolution"].choice == chosen_backend()
    assert lines["RadiographSuperResolution"].choice.url == REMOTE


def test_what_was_typed_last_is_what_is_asked_about_and_used(host: Any, lines: dict[str, Any]) -> None:
    from svdrr.mrml.backend import chosen_backend

    line = lines["RadiographSuperResolution"]
    choose_remote(line, REMOTE)
    host.desk.answers.append("Yes")
    line.require_agreement()
    assert "gpu.example.org" in host.messages[-1].text
    assert chosen_backend().url == REMOTE
    assert line._ui.backendConsentCheckBox.checked
    asked = len(host.messages)
    line.require_agreement()
    assert len(host.messages) == asked


def test_without_agreement_nothing_is_sent(host: Any, lines: dict[str, Any]) -> None:
    from svdrr.errors import SVDRRError

    line = lines["RadiographSuperResolution"]
    choose_remote(line, REMOTE)
    host.desk.answers.append("No")
    with pytest.raises(SVDRRError, match=r"^Nothing was sent to gpu\.example\.org\.$"):
        line.require_agreement()
    assert not line._ui.backendConsentCheckBox.checked


def test_agreement_can_be_withdrawn(host: Any, lines: dict[str, Any]) -> None:
    from svdrr.mrml.backend import uploads_allowed

    line = lines["RadiographSuperResolution"]
    choose_remote(line, REMOTE)
    host.desk.answers.append("Yes")
    line.require_agreement()
    assert uploads_allowed(line.choice)
    host.click(line._ui.backendConsentCheckBox)
    assert not uploads_allowed(line.choice)


@pytest.mark.parametrize("address", ["nonsense", "ftp://gpu.example.org"])
def test_what_is_no_address_is_a_reason(lines: dict[str, Any], address: str) -> None:
    line = lines["RadiographSuperResolution"]
    choose_remote(line, address)
    (reason,) = line.reasons()
    assert f"'{address}' is not an address" in reason
