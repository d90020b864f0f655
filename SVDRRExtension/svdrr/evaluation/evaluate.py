"""The whole evaluation of a model: methods, metrics and view sets in one run, and the files that it leaves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdrr.evaluation.baselines import back_projection, check_baselines, copy_source, lifting, mean_drr
from svdrr.evaluation.benchmark import Benchmark, Case, Images, Method, Metric, Render, benchmark, view_parts
from svdrr.evaluation.feature_distance import feature_distance
from svdrr.evaluation.fid import FidOfSets, check_sets
from svdrr.evaluation.inception import load_inception
from svdrr.evaluation.lpips import load_lpips
from svdrr.evaluation.metrics import ms_ssim, psnr_db, ssim
from svdrr.evaluation.plots import AXES, plot_examples, plot_over_angle
from svdrr.evaluation.report import FID, estimates, table, write_results
from svdrr.evaluation.volumes import Volumes, open_volumes
from svdrr.geometry import CArmPose, relative_view_encoding
from svdrr.models import ModelDescription
from svdrr.provenance import Provenance
from svdrr.synthesis.sampling import Sampling
from svdrr.synthesis.synthesize import Synthesizer, default_batch_size

PSNR, SSIM, MS_SSIM, FEATURE_DISTANCE, LPIPS = (
    "PSNR (dB)",
    "SSIM",
    "MS-SSIM",
    "SVDRR feature distance",
    "LPIPS (AlexNet)",
)

METRICS: dict[str, Metric] = {PSNR: psnr_db, SSIM: ssim, MS_SSIM: ms_ssim, FEATURE_DISTANCE: feature_distance}

LOWER_IS_BETTER = frozenset({FEATURE_DISTANCE, LPIPS})

DEFINITIONS = {
    PSNR: "peak signal-to-noise ratio, peak 1, whole image, per view; then the mean over views, in dB",
    SSIM: "structural similarity (Wang et al., 2004): Gaussian window of 11 pixels, σ 1.5, data range 1",
    MS_SSIM: "multi-scale SSIM (Wang et al., 2003), five scales; fewer below 176 pixels (four at 128), their weights "
    "scaled to add up to 1",
    FEATURE_DISTANCE: "SVDRR's own perceptual distance, on features of a small network trained on phantom radiographs; "
    "it is NOT LPIPS, and its numbers compare at one resolution only",
    LPIPS: "LPIPS 0.1 (Zhang et al., 2018) with the AlexNet weights that the user supplied",
    FID: "Fréchet inception distance (Heusel et al., 2017) with the weights that the user supplied, between a method's "
    "n images and the n true DRRs of the same views; it is biased upward, below about 2,048 images, the number of its "
    "features, strongly: compare it at equal n only",
}

TRIVIAL: dict[str, Method] = {"mean DRR": mean_drr, "copy source": copy_source}
"""The baselines that look at no 3D."""

BASELINES: dict[str, Method] = {"3D lifting": lifting, "back-projection": back_projection, **TRIVIAL}

_EXAMPLE_VIEWS = 6


def model_method(synthesizer: Synthesizer, sampling: Sampling) -> Method:
    """The model's views, as a method of the benchmark."""

    def of(source: NDArray[np.float32]) -> Render:
        def render(poses: Sequence[CArmPose]) -> Images:
            return synthesizer.pipeline(
                source,
                np.stack([relative_view_encoding(CArmPose(), pose) for pose in poses]),
                sampling.num_inference_steps,
                sampling.guidance_scale,
                sampling.seed,
                default_batch_size(synthesizer.device, synthesizer.model.resolution),
            )

        return render

    return of


def short_benchmark(synthesizer: Synthesizer, phantoms: int, poses: Sequence[CArmPose]) -> Benchmark:
    """PSNR and SSIM of the model, as "model", on held-out phantoms, against the trivial baselines."""
    cases = cases_of(open_volumes(f"phantoms:{phantoms}", synthesizer.model, poses))
    methods = {"model": model_method(synthesizer, Sampling.of(synthesizer.model)), **TRIVIAL}
    return benchmark(cases, poses, methods, {PSNR: psnr_db, SSIM: ssim})


def cases_of(volumes: Volumes) -> Iterator[Case]:
    """All views of each volume, rendered when it is asked for."""
    for volume in volumes.volumes:
        source, *truth = volume.render(range(volume.views))
        assert source.provenance is not None
        yield Case(source.provenance.source, source.pixels, np.stack([view.pixels for view in truth]))


class Evaluation:
    """One run: what it needs is read and checked before any work starts, with SVDRRError for what cannot be.

    view_sets: by specification, the poses about the origin, PA not among them. volumes: opened with all of these, in
    this order, see `svdrr.evaluation.volumes.open_volumes`. lpips: file of `svdrr.evaluation.lpips.load_lpips`; fid: of
    `svdrr.evaluation.inception.load_inception`.
    """

    def __init__(
        self,
        model: ModelDescription,
        volumes: Volumes,
        view_sets: Mapping[str, Sequence[CArmPose]],
        sampling: Sampling,
        lpips: Path | None = None,
        fid: Path | None = None,
    ) -> None:
        self.model, self.volumes, self.view_sets, self.sampling = model, volumes, view_sets, sampling
        check_baselines(model)
        self.metrics = {**METRICS, **({LPIPS: load_lpips(lpips)} if lpips else {})}
        self.poses = [pose for poses in self.view_sets.values() for pose in poses]
        self.inception = load_inception(fid) if fid else None
        if self.inception:
            check_sets(self._parts(), len(self.volumes.volumes))

    @property
    def methods(self) -> list[str]:
        """Names of the model and the baselines."""
        return [self.model.name, *BASELINES]

    @property
    def total(self) -> int:
        """How many images will be made."""
        return len(self.volumes.volumes) * len(self.poses) * len(self.methods)

    def run(self, synthesizer: Synthesizer, folder: Path, on_view: Callable[[], None]) -> dict[str, Any]:
        """Writes ``results.csv``, ``table.md``, ``figures.json`` and the plots to `folder`; returns the figures.

        on_view: called for each image.
        """
        name = self.model.name
        methods = {name: model_method(synthesizer, self.sampling), **BASELINES}
        examples = _Examples(self.poses)
        listeners = [examples.add]
        fid = FidOfSets(self.inception.to(synthesizer.device), self._parts()) if self.inception else None
        if fid:
            listeners.append(fid.add)

        def on_images(method: str, case: Case, chosen: slice, images: Images) -> None:
            for listener in listeners:
                listener(method, case, chosen, images)

        whole = benchmark(cases_of(self.volumes), self.poses, methods, self.metrics, on_view, on_images)
        view_sets = {views: whole.of_poses(chosen) for views, chosen in self._numbers().items()}
        distances = fid.distances() if fid else None
        facts = {
            "Model": f"{name}, weights SHA-256 {self.model.weights_sha256()[:16]}…",
            "Sampling": f"{self.sampling.num_inference_steps} steps, guidance {self.sampling.guidance_scale:g}, "
            f"seed {self.sampling.seed}",
            "Data": self.volumes.description,
            "Images": f"{self.model.resolution} × {self.model.resolution} pixels of a "
            f"{self.model.field_of_view_mm:g} mm detector; the source is PA, which is not measured",
        }
        write_results(folder / "results.csv", view_sets)
        text = table(view_sets, name, DEFINITIONS, LOWER_IS_BETTER, facts, distances)
        (folder / "table.md").write_text(text, encoding="utf-8")
        figures = {**facts, "definitions": DEFINITIONS, "estimates": estimates(view_sets, name, distances)}
        (folder / "figures.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False), encoding="utf-8")
        for views, result in view_sets.items():
            label = re.sub(r"\W+", "-", Path(views).name)
            for axis, angles in zip(AXES, result.angles_deg().T, strict=True):
                if np.ptp(angles) > 0.0:
                    title = f"{name}: {views}, {self.volumes.description}"
                    plot_over_angle(result, axis, title, folder / f"{label}_over_{axis}.png")
        provenance = Provenance(
            method="true DRRs, VCDiT and baselines, by row",
            source=self.volumes.description,
            model=name,
            weights_sha256=self.model.weights_sha256(),
            seed=self.sampling.seed,
            settings={
                "Steps": str(self.sampling.num_inference_steps),
                "Guidance": f"{self.sampling.guidance_scale:g}",
            },
        )
        examples.plot(f"{name}: {self.volumes.description}", folder / "examples.png", provenance)
        return figures

    def _numbers(self) -> dict[str, NDArray[np.int64]]:
        """Which of all the views are those of each view set."""
        ends = accumulate(len(poses) for poses in self.view_sets.values())
        of_sets = zip(ends, self.view_sets.items(), strict=True)
        return {views: np.arange(end - len(poses), end) for end, (views, poses) in of_sets}

    def _parts(self) -> dict[str, dict[str, NDArray[np.bool_]]]:
        """Which of all the views are in each part of each view set."""
        parts: dict[str, dict[str, NDArray[np.bool_]]] = {}
        for views, numbers in self._numbers().items():
            for part, chosen in view_parts(self.view_sets[views]).items():
                members = np.zeros(len(self.poses), bool)
                members[numbers[chosen]] = True
                parts.setdefault(views, {})[part] = members
        return parts


class _Examples:
    """Some views of the first volume by every method."""

    def __init__(self, poses: Sequence[CArmPose]) -> None:
        self._poses = poses
        self._indices = np.unique(np.linspace(0, len(poses) - 1, _EXAMPLE_VIEWS).round().astype(int))
        self._images: dict[str, list[NDArray[np.float32]]] = {}
        self._volume = ""

    def add(self, method: str, case: Case, chosen: slice, images: Images) -> None:
        self._volume = self._volume or case.name
        if case.name == self._volume:
            for index in self._indices[(self._indices >= chosen.start) & (self._indices < chosen.stop)]:
                if method not in self._images:
                    self._images.setdefault("true DRR", [])
                    self._images[method] = []
                if len(self._images) == 2:
                    self._images["true DRR"].append(case.truth[index])
                self._images[method].append(np.array(images[index - chosen.start]))

    def plot(self, title: str, path: Path, provenance: Provenance) -> None:
        captions = [self._poses[index].label for index in self._indices]
        images = {name: np.stack(views) for name, views in self._images.items()}
        plot_examples(images, captions, title, path, provenance)
