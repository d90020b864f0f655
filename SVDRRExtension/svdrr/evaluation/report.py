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
    """Markdown in the shape of the paper's Table 1 [sv-drr]: a row for each method, columns for view sets and metrics.

    facts: what the heading says of the run. distances: the FID, if it was measured; its tables are its own, since
    it is of sets and has neither values of views nor intervals over volumes.
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
    for part in (OBLIQUE, ALL):
        chosen = {name: parts[part] for name, result in view_sets.items() if part in (parts := result.parts())}
        if chosen:
            lines += [f"## Views: {part}", "", *_rows(chosen, lower_is_better), ""]
            lines += [
                f"{reference} minus the baseline, paired by volume:",
                "",
                *_difference_rows(chosen, reference),
                "",
            ]
            if distances:
                of_part = {name: distances[name][part] for name in chosen}
                lines += [_FID_SENTENCE, "", *_distance_rows(of_part), ""]
    lines += ["## Definitions", "", *(f"- {metric}: {definitions[metric]}." for metric in first.metrics)]
    if distances:
        lines += [f"- {FID}: {definitions[FID]}."]
    lines += [
        f"- {'All other' if distances else 'All'} metrics are taken per view and averaged over the views of a volume, "
        "then over the volumes; intervals draw whole volumes, since the views of one are not independent.",
    ]
    return "\n".join(lines) + "\n"


def _estimate(result: Benchmark, metric: str, method: str) -> Estimate:
    return over_volumes(result.values[metric][method])


def _difference(result: Benchmark, metric: str, reference: str, method: str) -> Estimate:
    return over_volumes(result.values[metric][reference] - result.values[metric][method])


def _rows(view_sets: Mapping[str, Benchmark], lower_is_better: frozenset[str]) -> list[str]:
    columns = [(name, metric) for name, result in view_sets.items() for metric in result.metrics]
    headings = [f"{name}: {metric} {'↓' if metric in lower_is_better else '↑'}" for name, metric in columns]
    methods = next(iter(view_sets.values())).methods
    means = {(name, metric): [view_sets[name].mean(metric, method) for method in methods] for name, metric in columns}
    best = {key: (min if key[1] in lower_is_better else max)(values) for key, values in means.items()}
    rows = []
    for number, method in enumerate(methods):
        cells = []
        for name, metric in columns:
            text = _text(_estimate(view_sets[name], metric, method), metric)
            cells.append(f"**{text}**" if means[name, metric][number] == best[name, metric] else text)
        rows.append([method, *cells])
    return _markdown(["method", *headings], rows)


def _difference_rows(view_sets: Mapping[str, Benchmark], reference: str) -> list[str]:
    columns = [(name, metric) for name, result in view_sets.items() for metric in result.metrics]
    methods = [method for method in next(iter(view_sets.values())).methods if method != reference]
    rows = [
        [
            method,
            *(_text(_difference(view_sets[name], metric, reference, method), metric, "+") for name, metric in columns),
        ]
        for method in methods
    ]
    return _markdown(["baseline", *(f"{name}: {metric}" for name, metric in columns)], rows)


def _distance_rows(of_sets: Mapping[str, SetDistance]) -> list[str]:
    headings = [f"{name}: {FID} ↓ (n = {distance.images:,})" for name, distance in of_sets.items()]
    best = [min(distance.by_method.values()) for distance in of_sets.values()]
    rows = []
    for method in next(iter(of_sets.values())).by_method:
        values = [distance.by_method[method] for distance in of_sets.values()]
        texts = [
            f"**{value:.2f}**" if value == low else f"{value:.2f}" for value, low in zip(values, best, strict=True)
        ]
        rows.append([method, *texts])
    return _markdown(["method", *headings], rows)


def _text(estimate: Estimate, metric: str, sign: str = "") -> str:
    digits = 2 if "dB" in metric else 3
    text = f"{estimate.mean:{sign}.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{estimate.low:{sign}.{digits}f}, {estimate.high:{sign}.{digits}f}]"


def _markdown(heading: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows)]
