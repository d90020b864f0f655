"""The SVDRR feature distance sees what a reader would miss, on a phantom that it was not trained on."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, shift

from svdrr.ct.body import body_center_ras
from svdrr.ct.phantoms import ThoraxOptions, thorax_phantom
from svdrr.drr import attenuation, make_renderer, to_display
from svdrr.evaluation.feature_distance import HARM, WEIGHTS, feature_distance
from svdrr.evaluation.training.distortions import DISTORTIONS
from svdrr.geometry import CArmPose, Detector, View
from svdrr.synthesis.training.phantom_views import FIRST_HELD_OUT_SEED

Image = NDArray[np.float32]


@pytest.fixture(scope="module")
def radiographs() -> Image:
    """PA and an oblique view (2, 256, 256) of a held-out phantom."""
    return radiographs_of(FIRST_HELD_OUT_SEED + 30)


@pytest.fixture(scope="module")
def of_somebody_else() -> Image:
    """The same views of another one."""
    return radiographs_of(FIRST_HELD_OUT_SEED + 31)


def radiographs_of(seed: int) -> Image:
    ct = thorax_phantom(seed, ThoraxOptions(spacing_mm=2.25)).ct
    renderer = make_renderer(attenuation(ct), "joseph")
    poses = [CArmPose(primary, 0.0, body_center_ras(ct)) for primary in (0.0, 40.0)]
    return np.stack([to_display(renderer.render(View(pose, Detector.square(256)))) for pose in poses])


def blurred(images: Image, sigma: float) -> Image:
    return gaussian_filter(images, (0.0, sigma, sigma))


def noisy(images: Image, deviation: float) -> Image:
    noise = np.random.default_rng(0).normal(0.0, deviation, images.shape)
    return np.clip(images + noise, 0.0, 1.0).astype(np.float32)


def test_equal_images_are_at_no_distance(radiographs: Image) -> None:
    np.testing.assert_array_equal(feature_distance(radiographs, radiographs), 0.0)


def test_it_does_not_matter_which_is_the_truth(radiographs: Image) -> None:
    other = blurred(radiographs, 1.5)
    np.testing.assert_allclose(feature_distance(radiographs, other), feature_distance(other, radiographs), rtol=1e-5)


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_more_of_a_distortion_is_farther_away(radiographs: Image, kind: str) -> None:
    strengths = (0.3, 0.5, 0.75, 1.0)
    distorted = [
        np.stack([DISTORTIONS[kind](image, strength, np.random.default_rng(1)) for image in radiographs])
        for strength in strengths
    ]
    distances = np.stack([feature_distance(images.astype(np.float32), radiographs) for images in distorted])
    assert (np.diff(distances, axis=0) > 0.0).all()
    assert (distances[0] > 0.0).all()


def test_more_blur_is_farther_away(radiographs: Image) -> None:
    *distances, of_a_mere_haze = (
        feature_distance(blurred(radiographs, sigma), radiographs) for sigma in (1, 2, 4, 8, 16)
    )
    assert (np.diff(distances, axis=0) > 0.0).all()
    assert (of_a_mere_haze > distances[2]).all()


def test_a_picture_without_anatomy_is_worse_than_a_blurred_one(radiographs: Image) -> None:
    """The body as one even gray, and nothing at all: neither may count as safe ground."""
    silhouette = np.where(radiographs > 0.05, np.float32(0.45), np.float32(0.0))
    nothing = np.zeros_like(radiographs)
    from_blurred, from_silhouette, from_nothing = (
        feature_distance(images, radiographs) for images in (blurred(radiographs, 2.0), silhouette, nothing)
    )
    assert (from_blurred < from_silhouette).all()
    assert (from_silhouette < from_nothing).all()


def test_the_anatomy_of_somebody_else_is_worse_than_one_s_own_blurred(
    radiographs: Image, of_somebody_else: Image
) -> None:
    from_other = feature_distance(of_somebody_else, radiographs)
    assert (from_other > feature_distance(blurred(radiographs, 4.0), radiographs)).all()
    half = feature_distance((0.5 * (radiographs + of_somebody_else)).astype(np.float32), radiographs)
    assert (half < from_other).all()


def test_lost_detail_is_worse_than_what_no_reader_would_mind(radiographs: Image) -> None:
    """A blur as of enlarging by 2 and by 4, against quantum noise and a part of a pixel."""
    twice, four_times = (feature_distance(blurred(radiographs, sigma), radiographs) for sigma in (1.0, 2.0))
    harmless = [
        feature_distance(noisy(radiographs, 0.002), radiographs),
        feature_distance(shift(radiographs, (0.0, 0.25, 0.25), order=3), radiographs),
    ]
    for distance in harmless:
        assert (four_times > 5.0 * distance).all()
        assert (twice > distance).all()


def test_it_works_from_256_to_1024_pixels(radiographs: Image) -> None:
    for factor in (1, 2, 4):
        large = radiographs[:1].repeat(factor, axis=1).repeat(factor, axis=2)
        assert feature_distance(blurred(large, 3.0), large).item() > feature_distance(blurred(large, 1.5), large).item()


def test_distances_follow_the_harm_of_random_distortions(radiographs: Image) -> None:
    """Of one or two kinds at once, as in its training, but on the held-out phantom."""
    generator = np.random.default_rng(4)
    harms, distances = [], []
    for _ in range(40):
        image, harm = radiographs[generator.integers(2)], 0.0
        distorted = image
        for kind in generator.choice(list(DISTORTIONS), generator.integers(1, 3), replace=False):
            strength = generator.uniform(0.05, 1.0)
            distorted = np.clip(DISTORTIONS[kind](distorted, strength, generator), 0.0, 1.0).astype(np.float32)
            harm += strength * HARM[kind]
        harms.append(harm)
        distances.append(feature_distance(distorted[None], image[None]).item())
    assert np.corrcoef(harms, distances)[0, 1] > 0.75


def test_its_weights_are_small() -> None:
    assert WEIGHTS.stat().st_size < 500_000
