"""VCDiT: novel X-ray views from one radiograph by a view-conditioned diffusion transformer [sv-drr]."""
