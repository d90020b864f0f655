"""The page that readers see, in Qt's JavaScript engine with a stand-in for a browser's document."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from test_reader_study import Study, written

from svdrr.evaluation.reader_study.analyze import Reader, read_key, read_results

BROWSER = """
var focused = "", saved = [], onKey = null, now = 0;
Date.now = () => now;
var elements = {};
function named(id) {
  if (!ids.includes(id)) throw new Error("the page has no element " + id);
  if (!elements[id]) elements[id] = {
    hidden: false, value: "", textContent: "", src: "", on: {},
    addEventListener(kind, does) { this.on[kind] = does; },
    focus() { focused = id; },
    // Of radio buttons one is checked.
    get checked() { return this.isChecked === true; },
    set checked(is) {
      if (is) for (const other of ["left", "right"]) named(other).isChecked = false;
      this.isChecked = is;
    },
  };
  return elements[id];
}
var document = {
  getElementById: named,
  addEventListener(kind, does) { onKey = does; },
  createElement: () => ({ click() { saved.push({ name: this.download, text: this.href }); } }),
};
var localStorage = {
  getItem(name) { if (!keeps) throw new Error("no storage"); return name in store ? store[name] : null; },
  setItem(name, text) { if (!keeps) throw new Error("no storage"); store[name] = text; },
};
function Blob(parts, options) { this.text = parts.join(""); }
var URL = { createObjectURL: (blob) => blob.text };
named("study").textContent = data;
function fire(id, kind) { named(id).on[kind]({ preventDefault() {} }); }
function press(key, alt) { onKey({ key, altKey: !!alt, ctrlKey: false, metaKey: false, preventDefault() {} }); }
"""


class _Page(HTMLParser):
    """The page's elements, and the text of its scripts and of what is shown."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.scripts: list[str] = []
        self.data = ""
        self.labels: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self._in: dict[str, str | None] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag == "label" and found.get("for"):
            self.labels.append(str(found["for"]))
        if tag == "img":
            self.pictures.append(found)
        self._in = found if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._in is None:
            return
        if self._in.get("id") == "study":
            self.data += data
        else:
            self.scripts.append(data)


class Tab:
    """The page in a browser's tab. store: what the browser keeps, None where it keeps nothing."""

    def __init__(self, study: Study, store: dict[str, str] | None) -> None:
        from PySide6.QtQml import QJSEngine

        self._engine = QJSEngine()
        self.page = _Page(study.page)
        self.run(f"var ids = {json.dumps(self.page.ids)}, data = {json.dumps(self.page.data)};")
        self.run(f"var keeps = {json.dumps(store is not None)}, store = {json.dumps(store or {})};")
        self.run(BROWSER)
        self.run("\n".join(self.page.scripts))

    def run(self, code: str) -> Any:
        value = self._engine.evaluate(code)
        assert not value.isError(), f"{value.toString()}, line {value.property('lineNumber').toString()}"
        return value.toVariant()

    def json(self, expression: str) -> Any:
        return json.loads(self.run(f"JSON.stringify({expression})"))

    def begin(self, reader: str) -> None:
        self.run(f'named("reader").value = {json.dumps(reader)}; fire("begin", "submit")')

    def answer(self, side: str, seconds: float = 2.0) -> None:
        self.run(f"now += {1000 * seconds}; press('Arrow{side.capitalize()}'); fire('answer', 'submit')")

    @property
    def shown(self) -> list[str]:
        return [name for name in ("welcome", "trial", "end") if not self.json(f"named('{name}').hidden")]

    def image(self, side: str) -> str:
        return str(self.json(f"named('{side}-image').src")).removeprefix("data:image/png;base64,")

    def save(self) -> tuple[str, str]:
        self.run("fire('save', 'click')")
        saved = self.json("saved[saved.length - 1]")
        return saved["name"], saved["text"]


@pytest.fixture(scope="module", autouse=True)
def application() -> Iterator[None]:
    """Qt's engine needs an application; that of the panels' tests must be the process's only one."""
    from slicer_host import host

    host.start()
    yield
    host.stop()


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return written(tmp_path)


def true_side(tab: Tab, study: Study) -> str:
    """Where the page shows the true DRR now."""
    for images, entry in zip(study.images, study.key["pairs"], strict=True):
        true = images["b" if entry["synthetic"] == "a" else "a"]
        if true in (tab.image("left"), tab.image("right")):
            return "left" if true == tab.image("left") else "right"
    raise AssertionError("no true DRR is shown")


def test_from_code_name_to_figures(study: Study) -> None:
    tab = Tab(study, {})
    assert tab.shown == ["welcome"]
    assert tab.json("named('forgetful').hidden")
    assert tab.json("focused") == "reader"
    tab.begin("R-1")
    for number in range(1, 7):
        assert tab.shown == ["trial"]
        assert tab.json("named('progress').textContent") == f"Pair {number} of 6"
        side = true_side(tab, study)
        tab.answer(side if number != 2 else {"left": "right", "right": "left"}[side], 2.5)
    assert tab.shown == ["end"]
    name, text = tab.save()
    assert name == f"reader-study-{study.key['study']}-R-1.csv"
    file = study.folder / name
    file.write_bytes(text.encode())
    assert read_results(read_key(study.key_file), [file]) == [Reader("R-1", 5, 6)]
    assert {line.rpartition(",")[2] for line in text.splitlines()[1:]} == {"2.5"}


def test_a_reload_goes_on_where_it_was(study: Study) -> None:
    whole = Tab(study, {})
    whole.begin("ada")
    for number in range(6):
        whole.answer("left" if number % 2 else "right")
    begun = Tab(study, {})
    begun.begin("ada")
    for number in range(3):
        begun.answer("left" if number % 2 else "right")
    shown = begun.image("left"), begun.image("right")
    reloaded = Tab(study, begun.json("store"))
    assert reloaded.json("named('reader').value") == "ada"
    reloaded.run("fire('begin', 'submit')")
    assert reloaded.json("named('progress').textContent") == "Pair 4 of 6"
    assert (reloaded.image("left"), reloaded.image("right")) == shown
    for number in range(3, 6):
        reloaded.answer("left" if number % 2 else "right")
    assert reloaded.save() == whole.save()
    # Whoever comes back when all is done can save again.
    late = Tab(study, reloaded.json("store"))
    late.run("fire('begin', 'submit')")
    assert late.shown == ["end"]
    assert late.save() == whole.save()


def test_the_next_reader_begins_anew(study: Study) -> None:
    tab = Tab(study, {})
    tab.begin("ada")
    for _ in range(6):
        tab.answer("left")
    tab.run("fire('another', 'click')")
    assert (tab.shown, tab.json("named('reader').value")) == (["welcome"], "")
    tab.begin("bo")
    assert tab.json("named('progress').textContent") == "Pair 1 of 6"
    assert not tab.json("named('left').checked || named('right').checked")


def test_nothing_is_answered_without_a_choice(study: Study) -> None:
    tab = Tab(study, {})
    tab.begin("ada")
    tab.run("fire('answer', 'submit')")
    tab.run("press('ArrowLeft', true); fire('answer', 'submit')")  # Alt and an arrow: the browser's way back.
    tab.run("press('a'); fire('answer', 'submit')")
    assert tab.json("named('progress').textContent") == "Pair 1 of 6"
    tab.run("press('ArrowLeft')")
    tab.answer("right")
    (kept,) = (json.loads(text) for name, text in tab.json("store").items() if name.endswith(" ada"))
    assert [answer["side"] for answer in kept] == ["right"]


def test_a_browser_that_keeps_nothing_says_so(study: Study) -> None:
    tab = Tab(study, None)
    assert not tab.json("named('forgetful').hidden")
    tab.begin("ada")
    for _ in range(6):
        tab.answer("left")
    assert tab.save()[1].count("\n") == 7


@pytest.mark.parametrize("kept", ["", "{", "[1]", '{"side": "left"}', '[{"side": "up", "seconds": 1}]', "[" * 9])
def test_damaged_memories_are_forgotten(study: Study, kept: str) -> None:
    name = f"SVDRR reader study {study.key['study']} ada"
    tab = Tab(study, {name: kept})
    tab.begin("ada")
    assert tab.json("named('progress').textContent") == "Pair 1 of 6"


def test_order_and_sides_are_the_readers_own_and_fair(study: Study) -> None:
    tab = Tab(study, {})
    readers, pairs = 2000, 10
    orders = tab.json(f"Array.from({{length: {readers}}}, (_, n) => trialsOf('study', 'R' + n, {pairs}))")
    assert tab.json(f"trialsOf('study', 'R7', {pairs})") == orders[7]
    assert tab.json(f"trialsOf('another', 'R7', {pairs})") != orders[7]
    assert all(sorted(trial["pair"] for trial in order) == list(range(1, pairs + 1)) for order in orders)
    assert all({trial["left"], trial["right"]} == {"a", "b"} for order in orders for trial in order)
    assert len({json.dumps(order) for order in orders}) == readers
    # Each within five standard deviations of what chance gives.
    places = Counter((position, trial["pair"]) for order in orders for position, trial in enumerate(order))
    assert len(places) == pairs**2
    assert all(abs(count - readers / pairs) < 5 * (readers * 0.1 * 0.9) ** 0.5 for count in places.values())
    for pair in range(1, pairs + 1):
        left = sum(trial["left"] == "a" for order in orders for trial in order if trial["pair"] == pair)
        assert abs(left - readers / 2) < 5 * (readers / 4) ** 0.5
    # Neighboring pairs' sides do not go together.
    alike = sum(order[n]["left"] == order[n + 1]["left"] for order in orders for n in range(pairs - 1))
    assert abs(alike / (readers * (pairs - 1)) - 0.5) < 0.02


def test_the_page_is_made_for_everybody(study: Study) -> None:
    page = _Page(study.page)
    assert len(page.ids) == len(set(page.ids))
    assert page.labels == ["reader"]
    assert [picture["alt"] for picture in page.pictures] == ["Left X-ray image", "Right X-ray image"]
    # Outside of the screens that come and go.
    before_screens = study.page.partition("<section")[0]
    assert "SYNTHETIC" in before_screens
    assert "Not for diagnosis" in before_screens
