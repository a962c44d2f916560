"""Laws over all registered data sets, on small files of the published formats."""

import gzip
import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from pliant.data import (
    NAMES,
    Batches,
    CorruptDataError,
    DatasetNotFoundError,
    MissingExtraError,
    load,
    optional,
    register,
    registry,
)

Image = pytest.importorskip("PIL.Image")
parquet = pytest.importorskip("pyarrow.parquet")
pa = pytest.importorskip("pyarrow")

COUNT = 20
SHAPES = {
    "fashion-mnist": (1, 28),
    "cifar10": (3, 32),
    "cifar100": (3, 32),
    "imagefolder": (3, 16),
    "uci-har": (561, 1),
}
FEATURES = {"uci-har"}  # no images


def pixels(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_fashion(root, *, pack=gzip.compress, suffix=".gz"):
    for part in ("train", "t10k"):
        images, labels = pixels(COUNT, 28, 28), (np.arange(COUNT) % 10).astype(np.uint8)
        (root / f"{part}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images)))
        (root / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(labels)))


def write_pickles(root, folder, files, key):
    (root / folder).mkdir()
    for number, file in enumerate(files):
        content = {b"data": pixels(COUNT, 3072, seed=number), key: [n % 10 for n in range(COUNT)]}
        (root / folder / file).write_bytes(pickle.dumps(content, protocol=2))


def write_cifar10(root):
    write_pickles(root, "cifar-10-batches-py", [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"], b"labels")


def write_cifar100(root):
    write_pickles(root, "cifar-100-python", ["train", "test"], b"fine_labels")


def write_parquet(root, *, label="label", image="img", shards=2):
    for part in ("train", "test"):
        for number in range(shards):
            rows = [{"bytes": png(x), "path": "x.png"} for x in pixels(COUNT, 3, 32, 32, seed=number)]
            table = pa.table({image: rows, label: [n % 10 for n in range(COUNT)]})
            parquet.write_table(table, root / f"{part}-{number:05d}-of-{shards:05d}.parquet")


def write_imagefolder(root, *, test="test"):
    for part in ("train", test):
        for label, name in enumerate(("cat", "dog")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number, array in enumerate(pixels(COUNT // 2, 3, 20, 30, seed=label)):
                (folder / f"{number}.png").write_bytes(png(array))


def write_har(root, *, folders=("", "")):
    generator = np.random.default_rng(0)
    for part, folder in zip(("train", "test"), folders, strict=True):
        (root / folder).mkdir(exist_ok=True)
        rows = ["".join(f" {x: .7e}" for x in row) for row in generator.uniform(-1, 1, (COUNT, 561))]
        (root / folder / f"X_{part}.txt").write_text("\n".join(rows) + "\n")
        (root / folder / f"y_{part}.txt").write_text("".join(f"{1 + n % 6}\n" for n in range(COUNT)))


WRITERS = {
    "uci-har": write_har,
    "fashion-mnist": write_fashion,
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "imagefolder": write_imagefolder,
}
OPTIONS = {"imagefolder": {"image_size": 16}}


@pytest.fixture(params=sorted(NAMES))
def name(request):
    return request.param


@pytest.fixture
def data(name, tmp_path):
    WRITERS.get(name, lambda _: None)(tmp_path)
    if name == "digits":
        pytest.importorskip("sklearn")
    return load(name, tmp_path, **OPTIONS.get(name, {}))


def test_a_data_set_is_consistent(name, data):
    assert data.name == name
    assert (data.in_channels, data.image_size) == SHAPES.get(name, (1, 8))
    assert data.num_classes == len(set(data.classes))
    if name in FEATURES:
        assert data.train.holds_features
        assert data.augmentation == ()
        return
    assert all(0 < value < 1 for value in (*data.mean, *data.std))
    assert data.train.images.dtype == torch.uint8
    assert data.augmentation


def test_a_data_set_trains_in_batches(data):
    batches = Batches(data.train, batch_size=8, mean=data.mean, std=data.std, augment=data.augmentation, shuffle=True)
    x, y = next(iter(batches))
    assert x.shape == (8, data.in_channels, data.image_size, data.image_size)
    assert x.isfinite().all()
    assert y.dtype == torch.int64


def test_a_data_set_loads_the_same_twice(name, data, tmp_path):
    again = load(name, tmp_path, **OPTIONS.get(name, {}))
    assert torch.equal(data.train.images, again.train.images)
    assert torch.equal(data.test.labels, again.test.labels)


@pytest.mark.parametrize("missing", sorted(WRITERS))
def test_a_missing_data_set_says_where_it_looked_and_what_to_do(missing, tmp_path):
    with pytest.raises(DatasetNotFoundError) as caught:
        load(missing, tmp_path)
    message = str(caught.value)
    assert str(tmp_path / missing) in message
    assert "PLIANT_DATA" in message
    assert "train" in message


@pytest.mark.parametrize("found", sorted(WRITERS))
def test_the_environment_variable_names_the_parent_folder(found, tmp_path, monkeypatch):
    (tmp_path / found).mkdir()
    WRITERS[found](tmp_path / found)
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
    assert len(load(found).test) == COUNT


def test_without_root_and_variable_the_error_still_helps(monkeypatch):
    monkeypatch.delenv("PLIANT_DATA", raising=False)
    with pytest.raises(DatasetNotFoundError, match=r"Searched: none.*Put cifar-10-batches-py"):
        load("cifar10")


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"name must be one of cifar10, .*found 'mnist3'"):
        load("mnist3")


def test_a_data_set_of_ones_own_can_be_registered_once(monkeypatch):
    monkeypatch.setattr(registry, "NAMES", dict(NAMES))
    register("mine", lambda root, *, flavour: (root, flavour))
    assert load("mine", "here", flavour="sweet") == ("here", "sweet")
    with pytest.raises(ValueError, match="name must be a new one, found 'mine'"):
        register("mine", lambda root: root)


def test_a_missing_package_names_the_extra():
    with pytest.raises(MissingExtraError, match=r"pip install 'pliant\[data\]'"):
        optional.require("no_such_package_of_pliant")


# digits


def test_digits_have_a_fixed_stratified_split():
    pytest.importorskip("sklearn")
    digits = load()
    assert (len(digits.train), len(digits.test)) == (1300, 497)
    assert digits.test.labels.bincount().tolist() == [49, 50, 49, 51, 50, 50, 50, 50, 48, 50]
    weights = torch.arange(497)
    assert int((digits.test.images.sum((1, 2, 3)) * weights).sum()) == 606_503_695
    assert set(digits.train.images.unique().tolist()) == {round(level * 255 / 16) for level in range(17)}


def test_digits_are_normalised_by_their_own_moments():
    pytest.importorskip("sklearn")
    digits = load()
    scaled = digits.train.images / 255
    assert digits.mean == (round(float(scaled.mean()), 4),)
    assert digits.std == (round(float(scaled.std(correction=0)), 4),)


# fashion-mnist


def test_fashion_mnist_is_read_plain_or_gzipped(tmp_path):
    write_fashion(tmp_path)
    packed = load("fashion-mnist", tmp_path)
    write_fashion(tmp_path, pack=bytes, suffix="")
    plain = load("fashion-mnist", tmp_path)
    assert torch.equal(packed.train.images, plain.train.images)
    assert torch.equal(plain.train.images[:, 0], torch.from_numpy(pixels(COUNT, 28, 28)))
    assert plain.train.labels.tolist() == [n % 10 for n in range(COUNT)]


IMAGES = idx(pixels(3, 28, 28))
DAMAGES = {
    "empty": (b"", "an IDX file starts with 00000803, found"),
    "magic": (b"\0\0\x0d\3" + IMAGES[4:], "an IDX file starts with 00000803, found 00000d03"),
    "dimensions": (idx(pixels(3, 28)), "an IDX file starts with 00000803, found 00000802"),
    "header": (IMAGES[:10], "truncated in its header"),
    "truncated": (IMAGES[:-1], "announces"),
    "too long": (IMAGES + b"x", "announces"),
    "huge": (b"\0\0\x08\3" + b"\xff" * 12 + IMAGES[16:], "announces"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_damaged_idx_file_is_named(tmp_path, damage, packed):
    content, message = DAMAGES[damage]
    pack, suffix = (gzip.compress, ".gz") if packed else (bytes, "")
    write_fashion(tmp_path, pack=pack, suffix=suffix)
    (tmp_path / f"train-images-idx3-ubyte{suffix}").write_bytes(pack(content))
    with pytest.raises(CorruptDataError, match=f"train-images.*{message}"):
        load("fashion-mnist", tmp_path)


@pytest.mark.parametrize("cut", [0, 5, 200, -9])
def test_a_damaged_gzip_file_is_named(tmp_path, cut):
    write_fashion(tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:cut] + (b"junk" if cut == 5 else b""))
    with pytest.raises(CorruptDataError, match=r"t10k-images-idx3-ubyte\.gz"):
        load("fashion-mnist", tmp_path)


def test_images_and_labels_must_be_as_many(tmp_path):
    write_fashion(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(3, np.uint8))))
    with pytest.raises(CorruptDataError, match=r"train-labels.*3 labels for the 20"):
        load("fashion-mnist", tmp_path)


@pytest.mark.skipif(
    not Path("/usr/share/datasets/fashion-mnist").is_dir(),
    reason="needs the Debian package dataset-fashion-mnist",
)
def test_the_real_fashion_mnist_is_found_without_being_told(monkeypatch):
    monkeypatch.delenv("PLIANT_DATA", raising=False)
    data = load("fashion-mnist")
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.train.labels.bincount().tolist() == [6000] * 10
    assert float(data.train.images.double().mean()) / 255 == pytest.approx(0.2860, abs=5e-5)


# uci-har


def test_features_come_as_they_are_and_labels_from_zero(tmp_path):
    write_har(tmp_path)
    data = load("uci-har", tmp_path)
    batches = Batches(data.train, batch_size=COUNT, mean=data.mean, std=data.std)
    x, y = next(iter(batches))
    expected = np.loadtxt(tmp_path / "X_train.txt").astype(np.float32)
    assert torch.equal(x[:, :, 0, 0], torch.from_numpy(expected))
    assert y.tolist() == [n % 6 for n in range(COUNT)]


def test_features_are_normalised_without_being_taken_for_pixels(tmp_path):
    write_har(tmp_path)
    split = load("uci-har", tmp_path).train
    x, _ = next(iter(Batches(split, batch_size=COUNT, mean=(0.5,) * 561, std=(2.0,) * 561)))
    torch.testing.assert_close(x, (split.images - 0.5) / 2.0)


def test_the_published_folders_are_found(tmp_path):
    write_har(tmp_path, folders=("train", "test"))
    assert len(load("uci-har", tmp_path).test) == COUNT


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("X_train.txt", b"", "rows of 561 finite numbers"),
        ("X_train.txt", b"1 2 3\n", r"found shape \(1, 3\)"),
        ("X_train.txt", b"1 2\n1\n", "not a table of numbers"),
        ("X_train.txt", b"\xff\xfe", "not a table of numbers"),
        ("X_test.txt", b" nan" * 561, "finite"),
        ("X_test.txt", b" 0.5" * 561, r"y_test.txt: 20 labels for the 1 rows"),
        ("y_train.txt", b"7\n" * COUNT, "from 1 to 6"),
        ("y_train.txt", b"1.5\n" * COUNT, "from 1 to 6"),
        ("y_train.txt", b"walking\n", "not a table of numbers"),
    ],
)
def test_a_damaged_table_of_numbers_is_named(tmp_path, file, content, message):
    write_har(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(CorruptDataError, match=message) as caught:
        load("uci-har", tmp_path)
    assert ".txt" in str(caught.value)


def test_an_activity_that_no_row_has_is_still_a_class(tmp_path):
    write_har(tmp_path)
    (tmp_path / "y_train.txt").write_text("1\n" * COUNT)
    assert load("uci-har", tmp_path).num_classes == 6


# cifar


def test_pickled_images_come_in_the_order_of_the_files(tmp_path):
    write_cifar10(tmp_path)
    data = load("cifar10", tmp_path)
    assert len(data.train) == 5 * COUNT
    expected = torch.from_numpy(pixels(COUNT, 3072, seed=1)).reshape(-1, 3, 32, 32)
    assert torch.equal(data.train.images[COUNT : 2 * COUNT], expected)


@pytest.mark.parametrize("image", ["img", "image"])
@pytest.mark.parametrize(("name", "label"), [("cifar10", "label"), ("cifar100", "fine_label")], indirect=["name"])
def test_parquet_shards_are_joined_in_order(tmp_path, name, label, image):
    write_parquet(tmp_path, label=label, image=image)
    data = load(name, tmp_path)
    expected = np.concatenate([pixels(COUNT, 3, 32, 32, seed=number) for number in (0, 1)])
    assert torch.equal(data.train.images, torch.from_numpy(expected))
    assert data.test.labels.tolist() == [n % 10 for n in range(COUNT)] * 2


def test_a_missing_shard_is_named(tmp_path):
    write_parquet(tmp_path, shards=3)
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(CorruptDataError, match=r"of the 3 files of train, train-00001-of-00003\.parquet is missing"):
        load("cifar10", tmp_path)


def test_parquet_files_of_another_data_set_are_refused_with_their_columns(tmp_path):
    write_parquet(tmp_path)
    with pytest.raises(CorruptDataError, match=r"fine_label are needed, found \['img', 'label'\]"):
        load("cifar100", tmp_path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 100 + b"PAR1", None])
def test_a_damaged_parquet_file_is_named(tmp_path, content):
    write_parquet(tmp_path, shards=1)
    path = tmp_path / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    with pytest.raises(CorruptDataError, match=r"train-00000-of-00001\.parquet: not a readable parquet"):
        load("cifar10", tmp_path)


BAD_ROWS = {
    "no bytes": ({"bytes": None, "path": "x"}, 0, "row 0: the image's bytes or a label are missing"),
    "no label": ({"bytes": png(pixels(1, 3, 32, 32)[0]), "path": "x"}, None, "row 0: the image's bytes"),
    "no image": ({"bytes": b"hello", "path": "x"}, 0, "row 0: not a readable image"),
    "half": ({"bytes": png(pixels(1, 3, 32, 32)[0])[:500], "path": "x"}, 0, "row 0: not a readable image"),
    "size": ({"bytes": png(pixels(1, 3, 8, 9)[0]), "path": "x"}, 0, "row 0: the image must be 32x32 pixels"),
}


@pytest.mark.parametrize("bad", sorted(BAD_ROWS))
def test_a_bad_row_is_named(tmp_path, bad):
    image, label, message = BAD_ROWS[bad]
    write_parquet(tmp_path, shards=1)
    schema = pa.schema({"img": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()})
    table = pa.table({"img": [image], "label": [label]}, schema=schema)
    parquet.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(CorruptDataError, match=message):
        load("cifar10", tmp_path)


def test_a_label_beyond_the_classes_is_refused(tmp_path):
    write_cifar10(tmp_path)
    content = {"data": pixels(2, 3072), "labels": [0, 10]}
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"test split: labels must lie in \[0, 9\], found \[0, 10\]"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"labels": [0, 1]},
        {"data": pixels(2, 3072)},
        {"data": pixels(2, 3071), "labels": [0, 1]},
        {"data": pixels(2, 3072), "labels": [0]},
        {"data": pixels(2, 3072), "labels": ["a", "b"]},
        {"data": pixels(2, 3072), "labels": [0, 2**70]},
        {"data": pixels(2, 3072), "labels": [0, -1]},
        {"data": pixels(2, 3072).astype(np.float32), "labels": [0, 1]},
    ],
)
def test_a_pickle_without_images_and_labels_is_named(tmp_path, content):
    write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(content))
    with pytest.raises(CorruptDataError, match=r"data_batch_3: .* needed"):
        load("cifar10", tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(
    not (Path(os.environ.get("PLIANT_DATA", "")) / "cifar10").is_dir(),
    reason="needs PLIANT_DATA with cifar10",
)
def test_the_real_cifar10_has_the_moments_it_is_normalised_by():
    data = load("cifar10")
    assert (len(data.train), len(data.test)) == (50_000, 10_000)
    assert data.train.labels.bincount().tolist() == [5000] * 10
    scaled = data.train.images / 255
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.tensor(data.mean), rtol=0, atol=2e-3)
    torch.testing.assert_close(scaled.std((0, 2, 3)), torch.tensor(data.std), rtol=0, atol=2e-3)


# imagefolder


def test_classes_are_the_sorted_folders_and_val_stands_for_test(tmp_path):
    write_imagefolder(tmp_path, test="val")
    data = load("imagefolder", tmp_path, image_size=10)
    assert data.classes == ("cat", "dog")
    assert data.train.images.shape == (COUNT, 3, 10, 10)
    assert data.train.labels.tolist() == [0] * 10 + [1] * 10


def test_images_keep_their_aspect_and_their_colours(tmp_path):
    write_imagefolder(tmp_path)
    red = np.zeros((3, 20, 60), np.uint8)
    red[0, :, 20:40] = 255  # the central square is red, the sides are black
    (tmp_path / "train" / "cat" / "0.png").write_bytes(png(red))
    first = load("imagefolder", tmp_path, image_size=20).train.images[0]
    assert torch.equal(first[0], torch.full((20, 20), 255, dtype=torch.uint8))
    assert int(first[1:].sum()) == 0


def test_grey_images_become_colour_and_other_files_are_left_alone(tmp_path):
    write_imagefolder(tmp_path)
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(tmp_path / "train" / "cat" / "0.png")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("hello")
    assert torch.equal(
        load("imagefolder", tmp_path, image_size=4).train.images[0],
        torch.full((3, 4, 4), 7, dtype=torch.uint8),
    )


def test_mean_and_std_are_those_of_the_training_images(tmp_path):
    write_imagefolder(tmp_path)
    data = load("imagefolder", tmp_path, image_size=16)
    scaled = data.train.images.double() / 255
    assert data.mean == pytest.approx(scaled.mean((0, 2, 3)).tolist())
    assert data.std == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist())


@pytest.mark.parametrize("content", [b"", b"not an image", png(pixels(1, 3, 40, 40)[0])[:1000]])
def test_a_damaged_image_is_named(tmp_path, content):
    write_imagefolder(tmp_path)
    (tmp_path / "test" / "dog" / "3.png").write_bytes(content)
    with pytest.raises(CorruptDataError, match=r"3\.png: not a readable image"):
        load("imagefolder", tmp_path, image_size=16)


def test_an_empty_class_a_foreign_class_and_no_class_are_named(tmp_path):
    write_imagefolder(tmp_path)
    (tmp_path / "test" / "cow").mkdir()
    with pytest.raises(CorruptDataError, match="the class 'cow' is not in"):
        load("imagefolder", tmp_path)
    (tmp_path / "train" / "cow").mkdir()
    with pytest.raises(CorruptDataError, match=r"cow: at least one image is needed"):
        load("imagefolder", tmp_path)
    empty = tmp_path / "other"
    for part in ("train", "test"):
        (empty / part).mkdir(parents=True)
    with pytest.raises(CorruptDataError, match="one folder a class is needed, found none"):
        load("imagefolder", empty)


def test_an_image_size_of_zero_is_refused(tmp_path):
    with pytest.raises(ValueError, match="image_size must be at least 1 pixel, found 0"):
        load("imagefolder", tmp_path, image_size=0)
