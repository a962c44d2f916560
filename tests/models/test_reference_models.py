"""Laws over all registered models, and their known sizes."""

import pytest
import torch
from torch import nn

from pliant.models import NAMES, create

CHEAP = sorted(set(NAMES) - {"wide-resnet-28-10"})
SIZES = {"num_classes": 10, "in_channels": 3, "image_size": 32}
MNIST = {"num_classes": 10, "in_channels": 1, "image_size": 28}


def build(name, *, seed=0, **sizes):
    torch.manual_seed(seed)
    return create(name, **{**SIZES, **sizes})


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "sizes", "count"),
    [
        ("lenet-300-100", MNIST, 266_610),
        ("lenet-5", MNIST, 431_080),
        ("cnn-4", SIZES, 33_626),
        ("cnn-strided", MNIST, 80 + 1_168 + 785 * 256 + 257 * 128 + 1_290),
        ("dec-4", MNIST, 3 * (16 + 16**2 + 16 * 32 + 3 * 32**2 + 32 * 64 + 64**2) + 4 * (16 + 32 + 32 + 64) + 650),
        ("dec-3", MNIST, 5 * (48 + 48**2 + 48 * 96 + 96**2 + 96 * 128 + 128**2) + 4 * (48 + 96 + 128) + 1290),
        ("dec-8", SIZES, 3 * 2_224_320 + 4 * 2_752 + 5_130),
        ("vgg-16-bn", SIZES, 14_728_266 - 4_224),  # the usual number, less the biases before BatchNorm
        ("resnet-20", SIZES, 269_722 + 2_752),  # the published number, with option B on two shortcuts
        ("resnet-56", SIZES, 853_018 + 2_752),
        ("resnet-18", SIZES, 11_173_962),
        ("wide-resnet-28-10", SIZES, 36_479_194),
        ("vit", SIZES, 4 * 4 * 3 * 192 + 192 + 192 + 65 * 192 + 6 * (12 * 192**2 + 13 * 192) + 384 + 1930),
    ],
)
def test_parameters_are_as_many_as_known(name, sizes, count):
    with torch.device("meta"):
        assert parameters(create(name, **sizes)) == count


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32])
def test_every_model_takes_small_grey_and_colour_images(name, channels, size):
    with torch.device("meta"):
        model = create(name, num_classes=7, in_channels=channels, image_size=size)
        assert model(torch.empty(2, channels, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", CHEAP)
def test_the_seed_fixes_the_weights(name):
    first, same, other = (build(name, seed=seed, image_size=8, in_channels=1) for seed in (0, 0, 1))
    for (key, a), (_, b) in zip(first.state_dict().items(), same.state_dict().items(), strict=True):
        assert torch.equal(a, b), key
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


@pytest.mark.parametrize("name", CHEAP)
def test_every_parameter_has_a_finite_gradient(name):
    model = build(name, image_size=8, in_channels=1)
    scores = model(torch.randn(4, 1, 8, 8))
    nn.functional.cross_entropy(scores, torch.arange(4)).backward()
    assert scores.isfinite().all()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_module_is_used_once_and_every_convolution_before_a_norm_has_no_bias(name):
    calls = {}
    with torch.device("meta"):
        model = create(name, **SIZES)
        for key, module in model.named_modules():
            if not list(module.children()):
                module.register_forward_hook(lambda *_, key=key: calls.update({key: calls.get(key, 0) + 1}))
        model(torch.empty(2, 3, 32, 32))
    leaves = {key for key, m in model.named_modules() if not list(m.children()) and not isinstance(m, nn.Sequential)}
    assert dict.fromkeys(leaves, 1) == {key: count for key, count in calls.items() if key in leaves}
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        assert all(module.bias is None for module in model.modules() if isinstance(module, nn.Conv2d))


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("bad", ["num_classes", "in_channels", "image_size"])
def test_sizes_of_zero_are_refused_by_name(name, bad):
    with pytest.raises(ValueError, match=f"{bad} must be at least [1-9].*found 0"):
        create(name, **{**SIZES, bad: 0})


@pytest.mark.parametrize("name", sorted(NAMES))
def test_arguments_that_a_model_does_not_take_are_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"{name}: takes .*, found colour"):
        create(name, **SIZES, colour="red")


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("lenet-5", {"image_size": 3}, "lenet-5: image_size must be at least 4, found 3"),
        ("resnet-18", {"image_size": 7}, "image_size must be at least 8, found 7"),
        ("resnet-20", {"image_size": 3}, "image_size must be at least 4, found 3"),
        ("wide-resnet-28-10", {"image_size": 3}, "image_size must be at least 4, found 3"),
        ("cnn-4", {"image_size": 1}, "image_size must be at least 2, found 1"),
        ("dec-3", {"kernel": 4}, "kernel must be odd and positive, found 4"),
        ("dec-8", {"widths": ()}, "widths must be positive integers, at least one"),
        ("cnn-4", {"widths": (8, 8)}, "widths must be 4 positive integers, found"),
        ("resnet-20", {"widths": (8, 0, 8)}, "blocks and widths must be positive"),
        ("lenet-5", {"widths": (8, 8, -1)}, "widths must be 3 positive integers"),
        ("vgg-16-bn", {"widths": ()}, "widths must be 5 positive integers"),
        ("wide-resnet-28-10", {"depth": 27}, r"depth must be 6 n \+ 4 .* found 27"),
        ("wide-resnet-28-10", {"width": 0}, "width must be at least 1, found 0"),
        ("wide-resnet-28-10", {"dropout": 1.0}, r"dropout must lie in \[0, 1\), found 1.0"),
        ("vit", {"patch_size": 5}, "patch_size must divide the image size 32, found 5"),
        ("vit", {"image_size": 29}, "image_size must have a divisor from 2 to 4, found 29"),
        ("vit", {"num_heads": 5}, "num_heads a divisor of dim"),
        ("vit", {"depth": 0}, "depth and num_heads must be positive"),
        ("vit", {"mlp_ratio": 0.0}, "mlp_ratio must leave at least one hidden unit"),
    ],
)
def test_impossible_arguments_are_refused(name, args, message):
    with pytest.raises(ValueError, match=message):
        create(name, **{**SIZES, **args})


@pytest.mark.parametrize(("size", "tokens"), [(8, 17), (28, 50), (32, 65), (64, 65), (224, 197)])
def test_vit_chooses_a_sensible_patch(size, tokens):
    with torch.device("meta"):
        assert create("vit", **{**SIZES, "image_size": size}).positions.shape == (1, tokens, 192)


def test_attention_equals_its_slow_twin():
    attention = build("vit", dim=24, depth=1, num_heads=4).blocks[0].attention
    tokens = torch.randn(2, 5, 24)
    query, key, value = attention.qkv(tokens).chunk(3, dim=-1)
    heads = []
    for part in range(4):
        columns = slice(6 * part, 6 * part + 6)
        weights = (query[..., columns] @ key[..., columns].mT / 6**0.5).softmax(-1)
        heads.append(weights @ value[..., columns])
    torch.testing.assert_close(attention(tokens), attention.proj(torch.cat(heads, dim=-1)))


def test_dropout_of_the_wide_resnet_sits_between_the_convolutions_of_every_block():
    model = build("wide-resnet-28-10", depth=10, width=1, dropout=0.4)
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.4] * 3


def test_cnn_4_pools_once_on_digits_and_twice_on_larger_images():
    pools = {
        size: [name for name, _ in build("cnn-4", image_size=size).features.named_children() if "pool" in name]
        for size in (8, 28, 32)
    }
    assert pools == {8: ["pool2"], 28: ["pool2", "pool3"], 32: ["pool2", "pool3"]}


def test_decomposed_convolutions_are_vertical_then_horizontal_with_a_relu_between():
    layers = list(build("dec-4", image_size=28, in_channels=1).features.layer2)
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
    assert (layers[0].kernel_size, layers[3].kernel_size) == ((3, 1), (1, 3))


# factories of the user's own

MODULE = """
from torch import nn
def plain(num_classes, *, hidden=4): return nn.Linear(hidden, num_classes)
def everything(**keywords): return nn.Linear(keywords["in_channels"], keywords["num_classes"])
def nothing(): return "no model"
def failing(): raise RuntimeError("no weights here")
def demanding(num_classes, depth, *, width, hidden=4): return nn.Linear(hidden, num_classes)
number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "models_of_my_own.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "models_of_my_own"


def test_an_importable_factory_gets_the_arguments_that_it_accepts(module):
    assert create(f"{module}:plain", **SIZES, hidden=6).weight.shape == (10, 6)
    assert create(f"{module}:everything", **SIZES).weight.shape == (10, 3)


def test_torch_modules_can_be_factories():
    assert isinstance(create("torch.nn:Identity", **SIZES), nn.Identity)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}:absent", "has no function 'absent'"),
        ("{}:number", "has no function 'number'"),
        ("{}:nothing", r"must return a torch\.nn\.Module, found str"),
        ("no_such_package_at_all.inner:f", "cannot import 'no_such_package_at_all.inner'"),
        (":f", "must have the form"),
        ("{}:", "must have the form"),
        ("resnet-21", "name must be one of cnn-4, .*found 'resnet-21'"),
    ],
)
def test_factories_that_do_not_work_are_refused_by_name(module, name, message):
    with pytest.raises(ValueError, match=message):
        create(name.format(module), **SIZES)


def test_a_factory_that_raises_is_named_with_what_it_was_given(module):
    with pytest.raises(ValueError, match=r"failing: raised RuntimeError: no weights here"):
        create(f"{module}:failing", **SIZES)


def test_arguments_that_a_factory_does_not_accept_are_refused(module):
    with pytest.raises(ValueError, match="plain: takes hidden, found depth"):
        create(f"{module}:plain", **SIZES, depth=3)
    with pytest.raises(ValueError, match="demanding: needs depth as well"):
        create(f"{module}:demanding", **SIZES, width=3)
