"""What an evaluation leaves behind: every number as CSV, the tables as Markdown, the estimates as JSON."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from svdrr.errors import counted
from svdrr.evaluation.benchmark import ALL, OBLIQUE, Benchmark, SetDistance
from svdrr.evaluation.statistics import FEWEST, RESAMPLES, Estimate, over_volumes

NOT_FOR_DIAGNOSIS = "These figures are of synthetic images, which are not for diagnosis."
FID = "FID"
_FID_SENTENCE = "Fréchet inception distance (FID) from the true DRRs, each set of n images taken as a whole:"


def write_results(path: Path, view_sets: Mapping[str, Benchmark]) -> None:
    """CSV: one row for each volume, view and method, with a column for each metric."""
    metrics = next(iter(view_sets.values())).metrics
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["volume", "view_set", "primary_deg", "secondary_deg", "method", *metrics])
        for name, result in view_sets.items():
            for number, volume in enumerate(result.volumes):
                for index, (primary, secondary) in enumerate(result.angles_deg()):
                    for method in result.methods:
                        figures = [f"{result.values[metric][method][number, index]:.6g}" for metric in metrics]
                        rows.writerow([volume, name, f"{primary:.6g}", f"{secondary:.6g}", method, *figures])


def estimates(
    view_sets: Mapping[str, Benchmark],
    reference: str,
    distances: Mapping[str, Mapping[str, SetDistance]] | None = None,
) -> dict[str, Any]:
    """By view set, "all views" or the oblique ones, method and metric: mean and confidence interval.

    "difference" is that of `reference`, the model, minus the method, paired by volume. "FID", if it was measured:
    how many images the sets have, and the distance of each method's.
    """
    document: dict[str, Any] = {}
    for name, result in view_sets.items():
        for part, chosen in result.parts().items():
            by_method: dict[str, Any] = {}
            for method in chosen.methods:
                by_method[method] = {metric: asdict(_estimate(chosen, metric, method)) for metric in chosen.metrics}
                if method != reference:
                    by_method[method]["difference"] = {
                        metric: asdict(_difference(chosen, metric, reference, method)) for metric in chosen.metrics
                    }
            document.setdefault(name, {})[part] = {"views": len(chosen.poses), "methods": by_method}
            if distances:
                document[name][part][FID] = asdict(distances[name][part])
    return document


def table(
    view_sets: Mapping[str, Benchmark],
    reference: str,
    definitions: Mapping[str, str],
    lower_is_better: frozenset[str],
    facts: Mapping[str, str],
    distances: Mapping[str, Mapping[str, SetDistance]] | None = None,
) -> str:
    """Markdown: for each view set and part of it, a table with a row for each method and a column for each metric.

    All views have no table of their own where every one is oblique. facts: what the heading says of the run.
    distances: the FID, if it was measured; its tables are its own, since it is of sets and has neither values of views
    nor intervals over volumes.
    """
    first = next(iter(view_sets.values()))
    volumes = len(first.volumes)
    lines = [f"# {reference} against the baselines", "", NOT_FOR_DIAGNOSIS, ""]
    lines += [f"- {what}: {value}" for what, value in facts.items()]
    interval = (
        f"Mean [95 % confidence interval of the mean over n = {volumes} volumes, bootstrap of {RESAMPLES:,} draws]."
        if volumes >= FEWEST
        else f"Mean over {counted(volumes, 'volume')}, too few for confidence intervals."
    )
    lines += ["", interval, "The best of each column is bold. ↑: higher is better, ↓: lower is better.", ""]
    for name, result in view_sets.items():
        for part, title in _titles(result).items():
            chosen = result.parts()[part]
            lines += [f"## {name}: {title}", "", *_rows(chosen, lower_is_better), ""]
            lines += [
                f"{reference} minus the baseline, paired by volume:",
                "",
                *_difference_rows(chosen, reference, lower_is_better),
                "",
            ]
            if distances:
                lines += [_FID_SENTENCE, "", *_distance_rows(distances[name][part]), ""]
    lines += ["## Definitions", "", *(f"- {metric}: {definitions[metric]}." for metric in first.metrics)]
    if distances:
        lines += [f"- {FID}: {definitions[FID]}."]
    lines += [
        f"- {'All other' if distances else 'All'} metrics are taken per view and averaged over the views of a volume, "
        "then over the volumes; intervals draw whole volumes, since the views of one are not independent.",
    ]
    return "\n".join(lines) + "\n"


def _titles(result: Benchmark) -> dict[str, str]:
    """By part that gets a table, which views it has, and how many."""
    count = {part: len(chosen.poses) for part, chosen in result.parts().items()}
    far, every = count.get(OBLIQUE, 0), count[ALL]
    if far == every:
        return {OBLIQUE: f"all views ({every:,}), each {OBLIQUE}"}
    oblique = {OBLIQUE: f"views {OBLIQUE} ({far:,} of {every:,})"} if far else {}
    return {**oblique, ALL: f"{ALL} ({every:,})"}


def _estimate(result: Benchmark, metric: str, method: str) -> Estimate:
    return over_volumes(result.values[metric][method])


def _difference(result: Benchmark, metric: str, reference: str, method: str) -> Estimate:
    return over_volumes(result.values[metric][reference] - result.values[metric][method])


def _rows(result: Benchmark, lower_is_better: frozenset[str]) -> list[str]:
    means = {metric: [result.mean(metric, method) for method in result.methods] for metric in result.metrics}
    best = {metric: (min if metric in lower_is_better else max)(values) for metric, values in means.items()}
    rows = []
    for number, method in enumerate(result.methods):
        cells = []
        for metric in result.metrics:
            text = _text(_estimate(result, metric, method), metric)
            cells.append(f"**{text}**" if means[metric][number] == best[metric] else text)
        rows.append([method, *cells])
    return _markdown(["method", *_headings(result, lower_is_better)], rows)


def _difference_rows(result: Benchmark, reference: str, lower_is_better: frozenset[str]) -> list[str]:
    rows = [
        [method, *(_text(_difference(result, metric, reference, method), metric, "+") for metric in result.metrics)]
        for method in result.methods
        if method != reference
    ]
    return _markdown(["baseline", *_headings(result, lower_is_better)], rows)


def _headings(result: Benchmark, lower_is_better: frozenset[str]) -> list[str]:
    return [f"{metric} {'↓' if metric in lower_is_better else '↑'}" for metric in result.metrics]


def _distance_rows(distance: SetDistance) -> list[str]:
    best = min(distance.by_method.values())
    rows = [
        [method, f"**{value:.2f}**" if value == best else f"{value:.2f}"]
        for method, value in distance.by_method.items()
    ]
    return _markdown(["method", f"{FID} ↓ (n = {distance.images:,})"], rows)


def _text(estimate: Estimate, metric: str, sign: str = "") -> str:
    digits = 2 if "dB" in metric else 3
    text = f"{estimate.mean:{sign}.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{estimate.low:{sign}.{digits}f}, {estimate.high:{sign}.{digits}f}]"


def _markdown(heading: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows)]
