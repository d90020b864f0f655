"""The FID: its arithmetic against closed forms, its network against the architecture written out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from svdrr.errors import SVDRRError
from svdrr.evaluation.benchmark import ALL, OBLIQUE, Case, view_parts
from svdrr.evaluation.fid import FidOfSets, Gaussian, Moments, check_sets, frechet_distance, inception_features
from svdrr.evaluation.inception import inception_v3, load_inception
from svdrr.geometry import CArmPose

Array = NDArray[np.float64]

# Distance of Gaussians


def gaussian_of(features: Array) -> Gaussian:
    """In two parts, as they come."""
    moments = Moments(features.shape[1])
    moments.add(features[:3])
    moments.add(features[3:])
    return moments.gaussian()


def samples(mean: Array, root: Array, count: int = 40, seed: int = 0) -> Array:
    """Samples (count, features) of which mean and covariance, root times its transpose, are exactly those."""
    drawn = np.random.default_rng(seed).standard_normal((count, len(root)))
    white, _ = np.linalg.qr(drawn - drawn.mean(axis=0))
    return mean + np.sqrt(count - 1) * white @ root.T


def test_deviations_along_the_same_axes() -> None:
    """|μ₁ - μ₂|² + Σ (σ₁ - σ₂)², in any orientation, with a mean far from 0."""
    generator = np.random.default_rng(1)
    axes, _ = np.linalg.qr(generator.standard_normal((6, 6)))
    first, second = generator.uniform(0.1, 3.0, (2, 6))
    apart = generator.standard_normal(6)
    distance = frechet_distance(
        gaussian_of(samples(axes @ apart + 50.0, axes * first)),
        gaussian_of(samples(np.full(6, 50.0), axes * second, 90, 2)),
    )
    assert distance == pytest.approx((apart**2).sum() + ((first - second) ** 2).sum(), rel=1e-9)


def test_two_features_that_do_not_share_axes() -> None:
    """In the plane, the trace of the root of a product P is √(tr P + 2 √(det P))."""
    first, second = np.array([[2.0, 0.0], [1.0, 0.5]]), np.array([[0.3, 1.0], [-1.0, 2.0]])
    covariances = first @ first.T, second @ second.T
    product = covariances[0] @ covariances[1]
    root = np.sqrt(np.trace(product) + 2.0 * np.sqrt(np.linalg.det(product)))
    expected = 0.25 + sum(map(np.trace, covariances)) - 2.0 * root
    pair = gaussian_of(samples(np.array([0.5, 1.0]), first)), gaussian_of(samples(np.array([0.0, 1.0]), second))
    assert frechet_distance(*pair) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(*reversed(pair)) == pytest.approx(expected, rel=1e-9)


def test_fewer_images_than_features() -> None:
    features = np.random.default_rng(4).standard_normal((10, 64)) + 5.0
    assert frechet_distance(gaussian_of(features), gaussian_of(features[::-1])) == pytest.approx(0.0, abs=1e-6)
    # Spread along axes that have nothing in common: the root of the product is 0.
    across, along = np.zeros((2, 10, 64))
    across[:, :9], along[:, 20:29] = samples(np.zeros(9), np.eye(9), 10), samples(np.zeros(9), 2.0 * np.eye(9), 10)
    assert frechet_distance(gaussian_of(across), gaussian_of(along)) == pytest.approx(9.0 + 36.0, rel=1e-9)


# Network


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Random ones that keep the signal's size, in half precision, with the classifier's."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in inception_v3().state_dict().items()}
    drawn = {}
    for name, shape in shapes.items():
        if name.endswith("conv.weight"):
            drawn[name] = torch.randn(shape, generator=generator) * (2.0 / shape[1:].numel()) ** 0.5
        elif name.endswith(("bn.weight", "running_var")):
            drawn[name] = 0.5 + torch.rand(shape, generator=generator)
        elif name.endswith(("bn.bias", "running_mean")):
            drawn[name] = 0.2 * torch.randn(shape, generator=generator)
    return {name: tensor.half() for name, tensor in {**drawn, "fc.weight": torch.zeros(1008, 2048)}.items()}


def written_out(weights: Mapping[str, Tensor], values: Tensor) -> Tensor:
    """The features, layer by layer, after the figures of Szegedy et al., 2015, and the graph's poolings."""

    def conv(name: str, x: Tensor, stride: int = 1, padding: tuple[int, int] = (0, 0)) -> Tensor:
        of = {key.removeprefix(f"{name}."): tensor.float() for key, tensor in weights.items() if f"{name}." in key}
        x = functional.conv2d(x, of["conv.weight"], None, stride, padding)
        mean, variance, scale, shift = (
            of[f"bn.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.relu((x - mean) / torch.sqrt(variance + 0.001) * scale + shift)

    def smoothed(x: Tensor) -> Tensor:
        counted = functional.avg_pool2d(torch.ones_like(x), 3, 1, 1)
        return functional.avg_pool2d(x, 3, 1, 1) / counted

    def halved(x: Tensor) -> Tensor:
        return functional.max_pool2d(x, 3, 2)

    x = conv("Conv2d_2a_3x3", conv("Conv2d_1a_3x3", values, 2))
    x = halved(conv("Conv2d_2b_3x3", x, padding=(1, 1)))
    x = halved(conv("Conv2d_4a_3x3", conv("Conv2d_3b_1x1", x)))
    for name in ("Mixed_5b.", "Mixed_5c.", "Mixed_5d."):
        five = conv(name + "branch5x5_2", conv(name + "branch5x5_1", x), padding=(2, 2))
        three = conv(name + "branch3x3dbl_2", conv(name + "branch3x3dbl_1", x), padding=(1, 1))
        three = conv(name + "branch3x3dbl_3", three, padding=(1, 1))
        pooled = conv(name + "branch_pool", smoothed(x))
        x = torch.cat([conv(name + "branch1x1", x), five, three, pooled], dim=1)
    double = conv("Mixed_6a.branch3x3dbl_2", conv("Mixed_6a.branch3x3dbl_1", x), padding=(1, 1))
    double = conv("Mixed_6a.branch3x3dbl_3", double, 2)
    x = torch.cat([conv("Mixed_6a.branch3x3", x, 2), double, halved(x)], dim=1)
    wide, tall = (0, 3), (3, 0)
    for name in ("Mixed_6b.", "Mixed_6c.", "Mixed_6d.", "Mixed_6e."):
        once = conv(name + "branch7x7_2", conv(name + "branch7x7_1", x), padding=wide)
        once = conv(name + "branch7x7_3", once, padding=tall)
        twice = conv(name + "branch7x7dbl_2", conv(name + "branch7x7dbl_1", x), padding=tall)
        for number, padding in (("3", wide), ("4", tall), ("5", wide)):
            twice = conv(name + "branch7x7dbl_" + number, twice, padding=padding)
        pooled = conv(name + "branch_pool", smoothed(x))
        x = torch.cat([conv(name + "branch1x1", x), once, twice, pooled], dim=1)
    three = conv("Mixed_7a.branch3x3_2", conv("Mixed_7a.branch3x3_1", x), 2)
    seven = conv("Mixed_7a.branch7x7x3_2", conv("Mixed_7a.branch7x7x3_1", x), padding=wide)
    seven = conv("Mixed_7a.branch7x7x3_4", conv("Mixed_7a.branch7x7x3_3", seven, padding=tall), 2)
    x = torch.cat([three, seven, halved(x)], dim=1)
    for name, pool in (("Mixed_7b.", smoothed), ("Mixed_7c.", lambda x: functional.max_pool2d(x, 3, 1, 1))):
        three = conv(name + "branch3x3_1", x)
        double = conv(name + "branch3x3dbl_2", conv(name + "branch3x3dbl_1", x), padding=(1, 1))
        sides = [
            conv(f"{name}{stem}{letter}", part, padding=padding)
            for stem, part in (("branch3x3_2", three), ("branch3x3dbl_3", double))
            for letter, padding in (("a", (0, 1)), ("b", (1, 0)))
        ]
        x = torch.cat([conv(name + "branch1x1", x), *sides, conv(name + "branch_pool", pool(x))], dim=1)
    return x.mean(dim=(2, 3))


def test_the_network_is_the_architecture(weights: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(weights, tmp_path / "inception.safetensors")
    network = load_inception(tmp_path / "inception.safetensors")
    values = torch.rand(2, 3, 107, 91, generator=torch.Generator().manual_seed(1)) * 2.0 - 1.0
    expected = written_out(weights, values)
    assert expected.std(dim=0).mean() > 1e-2
    torch.testing.assert_close(network(values), expected, rtol=1e-4, atol=1e-4)


def test_names_and_shapes_are_those_of_the_published_weights() -> None:
    with torch.device("meta"):
        network = inception_v3()
        sizes = {}
        for name, block in network.named_children():
            block.register_forward_hook(lambda _, __, output, name=name: sizes.update({name: tuple(output.shape[1:])}))
        assert network(torch.empty(1, 3, 299, 299)).shape == (1, 2048)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert sum(name.endswith("conv.weight") for name in shapes) == 94
    # Without the classifier, 21,802,784 in the graph, which has no scales but three values for each channel.
    parameters = sum(parameter.numel() for parameter in network.parameters())
    channels = sum(shape[0] for name, shape in shapes.items() if name.endswith("bn.bias"))
    assert parameters == 21_785_568
    assert parameters + channels == 21_802_784
    for name, shape in {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_4a_3x3.conv.weight": (192, 80, 3, 3),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
        "Mixed_6b.branch7x7dbl_4.conv.weight": (128, 128, 7, 1),
        "Mixed_6e.branch7x7_2.conv.weight": (192, 192, 1, 7),
        "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "Mixed_7c.branch_pool.bn.running_var": (192,),
    }.items():
        assert shapes[name] == shape
    # The sizes of the paper's table 1.
    assert sizes["Conv2d_2b_3x3"] == (64, 147, 147)
    assert sizes["Mixed_5d"] == (288, 35, 35)
    assert sizes["Mixed_6e"] == (768, 17, 17)
    assert sizes["Mixed_7c"] == (2048, 8, 8)


def test_other_files_are_no_weights_of_the_fid(weights: dict[str, Tensor], tmp_path: Path) -> None:
    """Among them torchvision's of ImageNet, which have the same names but for the number of classes."""
    (tmp_path / "text").write_text("no weights")
    save_file({**weights, "fc.weight": torch.zeros(1000, 2048)}, tmp_path / "torchvision")
    few = {name: tensor for name, tensor in weights.items() if tensor.ndim == 1}
    save_file(few, tmp_path / "lacking")
    for name in ("text", "torchvision", "lacking", "nothing"):
        with pytest.raises(SVDRRError, match=r"weights of pytorch_fid's fid_inception_v3"):
            load_inception(tmp_path / name)


class Tiles(nn.Module):
    """A network of four features, the means of the image's quarters; keeps its last input."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = nn.Parameter(torch.ones(()))

    def forward(self, values: Tensor) -> Tensor:
        self.seen = values
        return functional.adaptive_avg_pool2d(self.unit * values[:, 0], 2).flatten(1)


def test_images_come_to_the_network_in_its_size_and_range_without_smoothing() -> None:
    images = np.random.default_rng(5).random((2, 897, 897)).astype(np.float32)
    network = Tiles()
    inception_features(network, images)
    assert network.seen.shape == (2, 3, 299, 299)
    for channel in network.seen.movedim(1, 0):
        np.testing.assert_allclose(channel, 2.0 * images[:, 1::3, 1::3] - 1.0, atol=1e-5)


# Sets of images


def test_each_set_of_views_has_its_own_distance() -> None:
    """One method is right, one is brighter, and one is wrong only near the source view."""
    poses = [CArmPose(angle) for angle in (-60.0, -40.0, -20.0, 20.0, 40.0, 60.0)]
    oblique = view_parts(poses)[OBLIQUE]
    assert oblique.tolist() == [True, True, False, False, True, True]
    fid = FidOfSets(Tiles(), {"sweep": view_parts(poses)})
    generator = np.random.default_rng(6)
    for name in "ab":
        truth = generator.uniform(0.2, 0.8, (6, 32, 32)).astype(np.float32)
        near_wrong = np.where(oblique[:, None, None], truth, 1.0 - truth)
        for method, images in {"right": truth, "brighter": truth + 0.05, "near wrong": near_wrong}.items():
            for chosen in (slice(0, 4), slice(4, 6)):
                fid.add(method, Case(name, truth[0], truth), chosen, images[chosen].astype(np.float32))
    found = fid.distances()["sweep"]
    assert {part: distance.images for part, distance in found.items()} == {OBLIQUE: 8, ALL: 12}
    for distance in found.values():
        assert list(distance.by_method) == ["right", "brighter", "near wrong"]
        assert distance.by_method["right"] == pytest.approx(0.0, abs=1e-9)
        # Each of four features is off by 0.1 on the scale from -1 to 1.
        assert distance.by_method["brighter"] == pytest.approx(4 * 0.1**2, rel=1e-4)
    assert found[OBLIQUE].by_method["near wrong"] == pytest.approx(0.0, abs=1e-9)
    assert found[ALL].by_method["near wrong"] > 1e-5


def test_one_image_is_no_set() -> None:
    one, two = ({"sweep": view_parts([CArmPose(40.0 + angle) for angle in range(count)])} for count in (1, 2))
    with pytest.raises(SVDRRError, match=r"'sweep' has one \(at least 30° from the source view\)"):
        check_sets(one, 1)
    check_sets(one, 2)
    check_sets(two, 1)
