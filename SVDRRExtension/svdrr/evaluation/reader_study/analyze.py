"""The statistics of a reader study, from its key and its readers' answers."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest, ttest_1samp

from svdrr.errors import SVDRRError, counted
from svdrr.evaluation.reader_study import FORMAT

COLUMNS = ("study", "reader", "position", "pair", "left", "right", "chosen", "seconds")
CHANCE = 0.5
_CONFIDENCE = 0.95
_CODE_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True)
class Key:
    """study: its name. synthetic: by pair, which of its images, ``a`` or ``b``, is the synthetic one."""

    study: str
    synthetic: dict[int, str]


@dataclass(frozen=True)
class Reader:
    """How often somebody took the true DRR for the real image: `correct` of `total` pairs."""

    name: str
    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """The share of pairs, 0 to 1."""
        return self.correct / self.total


@dataclass(frozen=True)
class Statistics:
    """A study in figures; all p-values are two-sided, against chance (50 %).

    mean, deviation, low, high: of the readers' accuracies, each reader counted once; deviation with n − 1. t, t_p,
    t_interval: Student's one-sample t-test on them, and the 95 % confidence interval of the mean; None where it is
    not defined: fewer than two readers, or all alike. binomial_p, binomial_interval: the exact binomial test on all
    answers together, and the exact (Clopper-Pearson) 95 % interval of their accuracy.
    """

    readers: tuple[Reader, ...]
    mean: float
    deviation: float | None
    low: float
    high: float
    t: float | None
    t_p: float | None
    t_interval: tuple[float, float] | None
    correct: int
    total: int
    binomial_p: float
    binomial_interval: tuple[float, float]

    def document(self) -> dict[str, Any]:
        """As plain JSON values, the readers with their accuracy."""
        readers = [{**asdict(reader), "accuracy": reader.accuracy} for reader in self.readers]
        return {"format": FORMAT, **asdict(self), "readers": readers}


def read_key(path: Path) -> Key:
    """The key that `write_study` wrote. SVDRRError for anything else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError
        synthetic = {int(entry["pair"]): str(entry["synthetic"]) for entry in document["pairs"]}
        key = Key(str(document["study"]), synthetic)
    except OSError as error:
        raise SVDRRError(f"Cannot read the key {path}: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError):
        raise SVDRRError(
            f"{path} is not the key of a reader study; give the {FORMAT} file that was made with it."
        ) from None
    if not synthetic or not set(synthetic.values()) <= {"a", "b"}:
        raise SVDRRError(f"The key {path} is damaged: it does not say for every pair which image is synthetic.")
    return key


def read_results(key: Key, files: Sequence[Path]) -> list[Reader]:
    """The readers of the files that the page saved, one whole study each.

    SVDRRError, which names the file, for one that is none, of another study, damaged, incomplete, or by several
    readers, and for a reader who comes twice.
    """
    readers: dict[str, Path] = {}
    found = []
    for file in files:
        reader = _read_result(key, file)
        if reader.name in readers:
            raise SVDRRError(
                f"{file} and {readers[reader.name]} are both by the reader '{reader.name}'; give one of them."
            )
        readers[reader.name] = file
        found.append(reader)
    return found


def analyze(readers: Sequence[Reader]) -> Statistics:
    """The statistics of the paper's section 5.2 [sv-drr], with their intervals. readers: at least one."""
    accuracies = np.array([reader.accuracy for reader in readers])
    deviation = t = p = interval = None
    if len(readers) > 1:
        deviation = float(accuracies.std(ddof=1))
    if deviation:
        test = ttest_1samp(accuracies, CHANCE)
        t, p = float(test.statistic), float(test.pvalue)
        limits = test.confidence_interval(_CONFIDENCE)
        interval = float(limits.low), float(limits.high)
    correct, total = sum(reader.correct for reader in readers), sum(reader.total for reader in readers)
    binomial = binomtest(correct, total, CHANCE)
    limits = binomial.proportion_ci(_CONFIDENCE, "exact")
    return Statistics(
        readers=tuple(readers),
        mean=math.fsum(accuracies) / len(accuracies),
        deviation=deviation,
        low=float(accuracies.min()),
        high=float(accuracies.max()),
        t=t,
        t_p=p,
        t_interval=interval,
        correct=correct,
        total=total,
        binomial_p=float(binomial.pvalue),
        binomial_interval=(float(limits.low), float(limits.high)),
    )


def markdown(statistics: Statistics) -> str:
    """Tables and sentences for people."""
    lines = ["| reader | correct | pairs | accuracy |", "|---|---:|---:|---:|"]
    for reader in sorted(statistics.readers, key=lambda reader: _natural(reader.name)):
        lines.append(f"| {reader.name} | {reader.correct} | {reader.total} | {_percent(reader.accuracy)} |")
    spread = f" (range {_percent(statistics.low)} to {_percent(statistics.high)})"
    lines += [
        "",
        f"Mean accuracy of {counted(len(statistics.readers), 'reader')}: {_percent(statistics.mean)}{spread}.",
    ]
    if statistics.t is None or statistics.t_p is None or statistics.t_interval is None:
        lines.append("No t-test: it needs two readers or more, who are not all alike.")
    else:
        lines.append(
            f"One-sample t-test against 50 %, two-sided: t = {statistics.t:.2f}, {_p_value(statistics.t_p)}; "
            f"95 % confidence interval of the mean {_interval(statistics.t_interval)}."
        )
    lines.append(
        f"Exact binomial test against 50 %, two-sided: {statistics.correct} of {statistics.total} correct "
        f"({_percent(statistics.correct / statistics.total)}), {_p_value(statistics.binomial_p)}; "
        f"95 % confidence interval {_interval(statistics.binomial_interval)}."
    )
    return "\n".join(lines)


def _read_result(key: Key, file: Path) -> Reader:
    rows = _rows(file)
    studies, readers = ({row[column] for row in rows} for column in ("study", "reader"))
    if studies != {key.study}:
        raise SVDRRError(f"{file} has answers to another study than that of the key, '{key.study}'.")
    if len(readers) > 1:
        raise SVDRRError(f"{file} mixes the answers of {len(readers)} readers; give one file for each.")
    (name,) = readers
    if not _CODE_NAME.fullmatch(name):
        raise SVDRRError(
            f"{file} names no reader as the page does, with letters, digits, - and _; it has been changed."
        )
    # Compared as text, since a changed file may hold what is no number, or one of any length.
    pairs = {str(pair): pair for pair in key.synthetic}
    positions = set(map(str, range(1, len(pairs) + 1)))
    answered: set[int] = set()
    correct = 0
    for line, row in enumerate(rows, start=2):
        pair = pairs.get(row["pair"])
        if (
            pair is None
            or {row["left"], row["right"]} != {"a", "b"}
            or row["chosen"] not in ("a", "b")
            or row["position"] not in positions
            or not _SECONDS.fullmatch(row["seconds"])
        ):
            raise SVDRRError(f"Line {line} of {file} is no answer to a pair of this study; it has been changed.")
        if pair in answered:
            raise SVDRRError(f"{file} answers the pair {pair} twice; give the file as the page saved it.")
        answered.add(pair)
        correct += row["chosen"] != key.synthetic[pair]
    if len(answered) < len(key.synthetic):
        raise SVDRRError(
            f"{file} is incomplete: {len(answered)} of {counted(len(key.synthetic), 'pair')}; have the reader open "
            "the page again, which goes on where it was, or leave the file out."
        )
    return Reader(name, correct, len(answered))


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        # Spreadsheets begin with a byte order mark.
        with file.open(encoding="utf-8-sig", newline="") as text:
            first, *others = [row for row in csv.reader(text) if row]
    except OSError as error:
        raise SVDRRError(f"Cannot read {file}: {error.strerror}.") from None
    except (ValueError, csv.Error):
        first, others = [], []
    if tuple(first) != COLUMNS or not others or any(len(row) != len(COLUMNS) for row in others):
        raise SVDRRError(f"{file} is not what a reader study's page saves: a CSV file with {', '.join(COLUMNS)}.")
    return [dict(zip(COLUMNS, row, strict=True)) for row in others]


def _natural(name: str) -> list[str | int]:
    """For sorting: r2 before r10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]


def _p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _percent(share: float) -> str:
    return f"{100.0 * share:.1f} %"


def _interval(interval: tuple[float, float]) -> str:
    return f"{_percent(interval[0])} to {_percent(interval[1])}"
