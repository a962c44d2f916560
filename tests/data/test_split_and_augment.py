"""Splits and augmentations: stratification, determinism, slow twins."""

import pytest
import torch
from torch.nn import functional as F

from pliant.data import Augmentation, Dataset, RandomCrop, RandomFlip, RandomRotation, Split

AUGMENTATIONS = (RandomCrop(padding=2), RandomFlip(), RandomFlip(probability=1.0), RandomRotation(degrees=30))


def images(count=12, channels=3, height=6, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, height, width), generator=generator, dtype=torch.uint8)


def split(count=100, classes=7):
    return Split(images(count, 1, 4, 4), torch.arange(count) % classes)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_augmentations_keep_shape_dtype_and_argument(augmentation: Augmentation, dtype):
    before = images().to(dtype)
    argument = before.clone()
    after = augmentation(argument, torch.Generator().manual_seed(1))
    assert after.shape == before.shape
    assert after.dtype == dtype
    assert torch.equal(argument, before)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=repr)
def test_augmentations_depend_only_on_the_generator(augmentation: Augmentation):
    first, second = (augmentation(images(), torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


def test_augmentations_differ_between_generators():
    crop = RandomCrop(padding=2)
    first, second = (crop(images(), torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert not torch.equal(first, second)


def test_random_crop_equals_its_slow_twin():
    batch = images()
    fast = RandomCrop(padding=2)(batch, torch.Generator().manual_seed(5))
    rows, columns = torch.randint(5, (2, len(batch)), generator=torch.Generator().manual_seed(5))
    padded = F.pad(batch, (2, 2, 2, 2))
    for number, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        assert torch.equal(fast[number], padded[number, :, row : row + 6, column : column + 8])


def test_random_crop_reaches_every_shift_up_to_the_padding_and_no_other():
    dot = torch.zeros(400, 1, 5, 5, dtype=torch.uint8)
    dot[:, :, 2, 2] = 255
    shifted = RandomCrop(padding=1)(dot, torch.Generator().manual_seed(0))
    places = {tuple(place) for place in shifted.nonzero()[:, 2:].tolist()}
    assert places == {(row, column) for row in (1, 2, 3) for column in (1, 2, 3)}


def test_random_flip_mirrors_about_half_of_the_images_left_to_right():
    batch = images(400)
    flipped = RandomFlip()(batch, torch.Generator().manual_seed(0))
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(flipped, batch, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(flipped, batch, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 150 < sum(mirrored) < 250


def test_random_flip_with_certainty_mirrors_all_and_with_zero_none():
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(RandomFlip(probability=1.0)(images(), generator), images().flip(-1))
    assert torch.equal(RandomFlip(probability=0.0)(images(), generator), images())


def test_rotation_keeps_distances_from_the_centre_in_images_that_are_not_square():
    bar = torch.zeros(64, 1, 33, 65)
    bar[:, :, 16, 24:41] = 1  # 8 pixels to the left and right of the centre
    turned = RandomRotation(degrees=180)(bar, torch.Generator().manual_seed(0))
    rows = torch.arange(33.0)[:, None] - 16
    columns = torch.arange(65.0)[None] - 32
    mass = turned.sum((1, 2, 3))
    spread = (turned[:, 0] * (rows**2 + columns**2)).sum((1, 2)) / mass
    assert torch.allclose(spread, torch.full((64,), 24.0), rtol=0.06)
    assert torch.allclose(mass, torch.full((64,), 17.0), rtol=0.15)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomCrop(padding=0), "padding must be at least 1 pixel, found 0"),
        (lambda: RandomFlip(probability=1.5), r"probability must lie in \[0, 1\], found 1.5"),
        (lambda: RandomRotation(degrees=0), r"degrees must lie in \(0, 180\], found 0"),
    ],
)
def test_augmentations_refuse_what_is_out_of_range(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.33, 0.5, 0.99])
def test_holdout_is_a_stratified_partition(fraction):
    whole = split()
    train, held = whole.holdout(fraction, seed=4)
    assert len(held) == round(fraction * len(whole))
    rows = torch.cat((train.images, held.images)).flatten(1).tolist()
    assert sorted(rows) == sorted(whole.images.flatten(1).tolist())
    shares = torch.bincount(held.labels, minlength=7) - fraction * torch.bincount(whole.labels)
    assert shares.abs().max() < 1


def test_holdout_keeps_images_with_their_labels_and_is_fixed_by_its_seed():
    whole = split()
    whole.images[:, 0, 0, 0] = whole.labels.to(torch.uint8)
    (train, held), (again, _), (other, _) = (whole.holdout(0.3, seed) for seed in (1, 1, 2))
    assert torch.equal(held.images[:, 0, 0, 0].long(), held.labels)
    assert torch.equal(train.images, again.images)
    assert not torch.equal(train.images, other.images)


@pytest.mark.parametrize("fraction", [-0.1, 0.0, 0.001, 0.999, 1.0, float("nan")])
def test_holdout_refuses_empty_parts(fraction):
    with pytest.raises(ValueError, match="fraction must lie"):
        split().holdout(fraction)


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (torch.zeros(2, 1, 3, 3), torch.zeros(2, dtype=torch.int64), "images must be uint8"),
        (torch.zeros(2, 3, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "images must be uint8"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(2), "labels must be int64"),
        (
            torch.zeros(2, 1, 3, 3, dtype=torch.uint8),
            torch.zeros(3, dtype=torch.int64),
            "labels must be int64",
        ),
    ],
)
def test_a_split_refuses_tensors_of_another_kind(pixels, labels, message):
    with pytest.raises(ValueError, match=message):
        Split(pixels, labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("a", "b")}, r"train split: labels must lie in \[0, 1\], found \[0, 6\]"),
        ({"mean": (0.1, 0.2)}, "mean and std need 1 values each, found 2 and 1"),
        ({"test": Split(images(2, 1, 5, 5), torch.zeros(2, dtype=torch.int64))}, "must have one shape"),
        ({"test": Split(images(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64))}, "at least one image"),
    ],
)
def test_a_dataset_refuses_parts_that_do_not_fit(changes, message):
    fields = {"name": "x", "train": split(), "test": split(), "classes": tuple("abcdefg")}
    with pytest.raises(ValueError, match=message):
        Dataset(**{**fields, "mean": (0.5,), "std": (0.5,), **changes})
