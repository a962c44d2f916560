"""Batches: normalisation, order, determinism."""

import pytest
import torch

from pliant.data import Batches, RandomCrop, RandomFlip, Split

MOMENTS = {"mean": (0.2, 0.4, 0.6), "std": (0.1, 0.2, 0.3)}


def split(count=23):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 6, 6), generator=generator, dtype=torch.uint8)
    return Split(pixels, torch.arange(count))


def random_batches(**changes):
    augment = (RandomCrop(padding=1), RandomFlip())
    return Batches(split(), **{"batch_size": 5, "shuffle": True, "augment": augment, **MOMENTS, **changes})


def labels(batches):
    return torch.cat([y for _, y in batches]).tolist()


def inputs(batches):
    return torch.cat([x for x, _ in batches])


def test_without_shuffle_the_split_comes_in_its_order_normalised():
    whole = split()
    batches = Batches(whole, batch_size=5, **MOMENTS)
    mean, std = (torch.tensor(MOMENTS[key])[:, None, None] for key in ("mean", "std"))
    assert labels(batches) == list(range(23))
    torch.testing.assert_close(inputs(batches), (whole.images / 255 - mean) / std, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "drop", "sizes"), [(5, False, [5] * 4 + [3]), (5, True, [5] * 4), (50, True, [])])
def test_length_is_the_number_of_batches(size, drop, sizes):
    batches = Batches(split(), batch_size=size, drop_last=drop, **MOMENTS)
    assert [len(y) for _, y in batches] == sizes
    assert len(batches) == len(sizes)


def test_every_epoch_is_a_permutation_and_epochs_differ():
    batches = random_batches()
    orders = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        orders.append(labels(batches))
    assert all(sorted(order) == list(range(23)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_an_epoch_depends_only_on_seed_and_epoch():
    first, second = random_batches(seed=7), random_batches(seed=7)
    next(iter(first))  # an abandoned iteration
    list(first)
    torch.manual_seed(99)
    for batches in (first, second):
        batches.set_epoch(4)
    assert labels(first) == labels(second)
    assert torch.equal(inputs(first), inputs(second))
    assert torch.equal(inputs(first), inputs(first))


def test_iterating_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(random_batches())
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_differ_and_do_not_trade_places_with_epochs():
    first, second = random_batches(seed=0), random_batches(seed=1)
    first.set_epoch(1)
    assert labels(first) != labels(second)
    assert labels(random_batches(seed=0)) != labels(second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("channels_last", [False, True])
def test_dtype_and_memory_format_change_nothing_else(dtype, channels_last):
    plain = random_batches()
    other = random_batches(dtype=dtype, channels_last=channels_last)
    for (x, y), (x_other, y_other) in zip(plain, other, strict=True):
        assert x_other.dtype == dtype
        form = torch.channels_last if channels_last else torch.contiguous_format
        assert x_other.is_contiguous(memory_format=form)
        assert torch.equal(y, y_other)
        assert torch.equal(x.to(dtype), x_other)


def test_the_split_is_not_changed_by_augmentation():
    whole = split()
    before = whole.images.clone()
    list(Batches(whole, batch_size=4, augment=(RandomCrop(padding=2), RandomFlip()), **MOMENTS))
    assert torch.equal(whole.images, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_sees_the_same_batches():
    for (x, y), (x_gpu, y_gpu) in zip(random_batches(), random_batches(device="cuda"), strict=True):
        assert torch.equal(y, y_gpu.cpu())
        torch.testing.assert_close(x, x_gpu.cpu())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, found 0"),
        ({"mean": (0.5,)}, "mean and std need 3 values each, found 1 and 3"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be positive"),
        ({"seed": -1}, "seed must be at least 0, found -1"),
        ({"dtype": torch.int64}, "dtype must be a floating-point type"),
    ],
)
def test_arguments_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        random_batches(**changes)


def test_a_negative_epoch_is_refused():
    with pytest.raises(ValueError, match="epoch must be at least 0, found -1"):
        random_batches().set_epoch(-1)
