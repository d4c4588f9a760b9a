"""Feature masks: the counts of Eq. 2, shapes, and unusual spectrograms."""

import pytest
import torch
from captum.attr import FeatureAblation
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_spes import SPES, grid_feature_mask, image_feature_mask, slic_feature_mask


def formants(n_frames=200, n_channels=80):
    time = torch.arange(n_frames)[:, None]
    channel = torch.arange(n_channels)[None]
    ridge = torch.exp(-((channel - 20 - 10 * torch.sin(time / 30)) ** 2) / 8)
    torch.manual_seed(0)
    return (ridge + 0.05 * torch.rand(n_frames, n_channels))[None]


def n_ids(mask):
    """Number of ids, which must be 0, 1, …"""
    ids = mask.unique()
    assert torch.equal(ids, torch.arange(len(ids)))
    return len(ids)


def test_number_of_patches_follows_equation_2():
    spectrogram = formants()
    mask = slic_feature_mask(spectrogram, (20, 40, 400))
    assert mask.shape == (3, 1, 200, 80) and mask.dtype == torch.int64
    for one, expected in zip(mask, (40, 80, 800)):
        assert 0.7 * expected <= n_ids(one) <= 1.2 * expected
    slow = slic_feature_mask(spectrogram, 40, frames_per_second=50)  # 4 s
    assert 110 <= n_ids(slow) <= 190
    capped = slic_feature_mask(spectrogram, 40, max_seconds=1)
    assert 28 <= n_ids(capped) <= 48
    fixed = slic_feature_mask(spectrogram, n_patches=(100,), max_seconds=1)
    assert 70 <= n_ids(fixed) <= 120


def test_patches_are_connected_and_follow_energy():
    from skimage.measure import label

    spectrogram = formants()
    mask = slic_feature_mask(spectrogram, 50)[0, 0]
    for patch in mask.unique():
        assert label((mask == patch).numpy(), connectivity=1).max() == 1
    within = torch.stack([spectrogram[0][mask == patch].var(unbiased=False) for patch in mask.unique()]).mean()
    size = int((mask.numel() / mask.unique().numel()) ** 0.5)
    grid = grid_feature_mask(spectrogram, (size, size))[0]
    within_grid = torch.stack([spectrogram[0][grid == cell].var(unbiased=False) for cell in grid.unique()]).mean()
    assert within < 0.6 * within_grid


def test_sigma_10_is_a_grid():
    """Every cell of the paper's fixed grid is a rectangle, or nearly: it ignores the energy."""
    mask = slic_feature_mask(formants(), 50, sigma=10)[0, 0]
    same = torch.equal(mask, slic_feature_mask(formants() + 0.01 * torch.rand(200, 80), 50, sigma=10)[0, 0])
    rectangular = 0.0
    for patch in mask.unique():
        rows, columns = (mask == patch).nonzero(as_tuple=True)
        rectangular += len(rows) / ((rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)).item()
    assert same or rectangular / n_ids(mask) > 0.85


def test_examples_are_segmented_alone():
    batch = torch.cat((formants(), formants().flip(1)))
    mask = slic_feature_mask(batch, (20, 40))
    assert mask.shape == (2, 2, 200, 80)
    assert torch.equal(mask[:, 1:], slic_feature_mask(batch[1:], (20, 40)))


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(1, 20), st.sampled_from(["random", "constant", "spike"]), st.floats(1, 1e5))
def test_any_spectrogram_gets_a_valid_mask(n_frames, n_channels, kind, patches):
    shape = (1, n_frames, n_channels)
    spectrogram = torch.rand(shape) if kind == "random" else torch.full(shape, -0.5)
    if kind == "spike":
        spectrogram[0, 0, 0] = 1e6
    mask = slic_feature_mask(spectrogram, (patches, 400))
    assert mask.shape == (2, 1, n_frames, n_channels)
    assert 1 <= n_ids(mask[0]) <= n_frames * n_channels
    n_ids(mask[1])


def test_segmentation_does_not_depend_on_scale():
    assert torch.equal(slic_feature_mask(formants(), 50), slic_feature_mask(formants() * 64 - 8, 50))


@pytest.mark.parametrize("function", [slic_feature_mask, lambda x: grid_feature_mask(x, (2, 2))])
@pytest.mark.parametrize(
    ("spectrogram", "words"),
    [
        (torch.rand(10, 80), "must be of shape"),
        (torch.rand(1, 0, 80), "must be of shape"),
        (torch.full((1, 4, 4), float("nan")), "NaN"),
    ],
)
def test_bad_spectrograms(function, spectrogram, words):
    with pytest.raises(ValueError, match=words):
        function(spectrogram)


@pytest.mark.parametrize(
    "arguments",
    [
        {"patches_per_second": 0},
        {"patches_per_second": ()},
        {"n_patches": -3},
        {"max_seconds": 0},
        {"sigma": -1},
        {"compactness": 0},
    ],
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="positive"):
        slic_feature_mask(torch.rand(1, 10, 10), **arguments)
    with pytest.raises(ValueError, match="positive"):
        grid_feature_mask(torch.rand(1, 10, 10), (0, 3))


# Images


def squares():
    """Two images of a bright square on a dark ground, in different places."""
    images = torch.zeros(2, 3, 24, 20)
    images[0, :, 4:12, 6:14] = torch.tensor([1.0, 0.2, 0.4])[:, None, None]
    images[1, :, 10:20, 2:8] = torch.tensor([0.1, 1.0, 0.3])[:, None, None]
    return images


def test_channels_share_the_patches_of_a_grid():
    images = torch.rand(1, 3, 32, 32)
    mask = grid_feature_mask(images, (8, 16))
    assert mask.shape == (1, 1, 32, 32) and torch.equal(mask[0, 0], grid_feature_mask(images[0, :1], (8, 16))[0])
    ablated = FeatureAblation(lambda x: x.sum((1, 2, 3))).attribute(images, feature_mask=mask)
    ours = SPES(lambda x: x.sum((1, 2, 3))).attribute(images, feature_mask=mask, n_samples=256)
    torch.testing.assert_close(ours, ablated, atol=1e-2, rtol=1e-4)
    expected = images[0, :, :8, :16].sum()
    torch.testing.assert_close(ablated[0, :, :8, :16], expected.expand(3, 8, 16), atol=1e-2, rtol=1e-4)


def test_patches_of_images_follow_what_is_in_them():
    images = squares()
    mask = image_feature_mask(images, n_patches=(12, 40), compactness=1)
    assert mask.shape == (2, 2, 1, 24, 20) and mask.dtype == torch.int64
    for granularity in mask:
        for patches, image in zip(granularity[:, 0], images):
            assert torch.equal(patches.unique(), torch.arange(int(patches.max()) + 1))
            for patch in patches.unique():
                assert len(image[0][patches == patch].unique()) == 1  # no patch crosses the square's edge
    assert mask[1].max() > mask[0].max()
    assert torch.equal(mask[:, 1:], image_feature_mask(images[1:], n_patches=(12, 40), compactness=1))


@pytest.mark.parametrize("function", [image_feature_mask, lambda x: grid_feature_mask(x, (2, 2))])
def test_bad_images(function):
    with pytest.raises(ValueError, match="must be of shape"):
        function(torch.rand(1, 3, 0, 8))
    with pytest.raises(ValueError, match="NaN"):
        function(torch.full((1, 3, 8, 8), float("nan")))


@pytest.mark.parametrize("arguments", [{"n_patches": 0}, {"n_patches": ()}, {"compactness": 0}, {"sigma": -1}])
def test_bad_arguments_for_images(arguments):
    with pytest.raises(ValueError, match="positive"):
        image_feature_mask(torch.rand(1, 3, 8, 8), **arguments)
