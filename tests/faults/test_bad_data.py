"""Bad data and taken names: one message that names the file and what to do, and no half-made run."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pliant.cli.main import app

RECIPE = """
name: bad
data: {name: NAME, root: ROOT, batch_size: 4}
model: {name: lenet-300-100}
train: {epochs: 1, device: cpu, threads: 1}
method: {type: sgd}
"""


def png(height=9, width=9):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images"
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(4):
                (root / part / name / f"{number}.png").write_bytes(png())
    return root


@pytest.fixture
def train(tmp_path):
    def run(name, root, *options):
        file = tmp_path / "bad.yaml"
        file.write_text(RECIPE.replace("NAME", name).replace("ROOT", str(root)))
        ended = CliRunner().invoke(app, ["train", str(file), "--runs", str(tmp_path / "runs"), *options])
        return ended.exit_code, " ".join((ended.stderr or ended.stdout).split())

    return run


def break_image(root):
    (root / "train" / "cat" / "2.png").write_bytes(png()[:50])
    return "cat/2.png: not a readable image; replace or remove it"


def remove_class(root):
    for path in (root / "test" / "dog").iterdir():
        path.unlink()
    (root / "test" / "dog").rmdir()
    return "test/dog: at least one image is needed"


def add_class(root):
    (root / "test" / "cow").mkdir()
    return "the class 'cow' is not in"


def remove_everything(root):
    root.rename(root.with_name("elsewhere"))
    return "imagefolder: data not found"


@pytest.mark.parametrize("fault", [break_image, remove_class, add_class, remove_everything])
def test_a_fault_in_an_image_folder_is_named_and_leaves_no_run(images, train, tmp_path, fault):
    message = fault(images)
    code, said = train("imagefolder", images, "-o", "data.args={image_size: 8}")
    assert code == 2
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()


def test_images_of_the_wrong_shape_are_named(train, tmp_path):
    root = tmp_path / "cifar-10-batches-py"
    root.mkdir()
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        content = {b"data": np.zeros((2, 3072 if name != "data_batch_3" else 3000), np.uint8), b"labels": [0, 1]}
        (root / name).write_bytes(pickle.dumps(content, protocol=2))
    code, said = train("cifar10", tmp_path)
    assert code == 2
    assert "data_batch_3: 3072 values an image and one integer label are needed" in said


def test_a_name_that_is_taken_is_never_overwritten(images, train, tmp_path):
    options = ("-o", "data.args={image_size: 8}")
    assert train("imagefolder", images, *options)[0] == 0
    before = (tmp_path / "runs" / "bad" / "model.safetensors").read_bytes()
    code, said = train("imagefolder", images, *options)
    assert code == 2
    assert "--resume continues it, --overwrite replaces it" in said
    assert (tmp_path / "runs" / "bad" / "model.safetensors").read_bytes() == before


def test_an_option_out_of_range_says_so(images, train):
    code, said = train("imagefolder", images, "-o", "data.args={image_size: 0}")
    assert code == 2
    assert "image_size must be at least 1 pixel" in said
