"""Real architectures, small enough to be cut in seconds, each with an example."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from zoo_nets import AudioNet, UNet


@dataclass(frozen=True)
class Architecture:
    """One architecture of the zoo.

    Args:
        source: the library that it comes from.
        name: its name there.
        build: returns the model.
        example: returns what it can be called with, random numbers drawn anew.
        fast: whether it is cut in every run of the tests.
    """

    source: str
    name: str
    build: Callable[[], nn.Module]
    example: Callable[[], Tensor]
    fast: bool = False

    def __str__(self) -> str:
        return self.name


def of(module: str) -> Any:
    """Return a module of a library that is imported only when it is needed."""
    return importlib.import_module(module)


def images(size: int, count: int = 4) -> Callable[[], Tensor]:
    return lambda: torch.randn(count, 3, size, size)


def words() -> Tensor:
    return torch.randint(2, 60, (3, 9))


def ours(name: str, *, fast: bool = False, size: int = 16, **options: object) -> Architecture:
    def build() -> nn.Module:
        return of("pliant.models").create(name, num_classes=5, in_channels=3, image_size=size, **options)

    return Architecture("pliant", name, build, images(size), fast)


def own(name: str, build: Callable[[], nn.Module], example: Callable[[], Tensor]) -> Architecture:
    return Architecture("the tests", name, build, example, fast=True)


def vision(name: str, *, size: int = 64, fast: bool = False, narrow: bool = False, **options: object) -> Architecture:
    """Classifier of torchvision; `narrow` replaces the three wide layers in front of the classes."""

    def build() -> nn.Module:
        model = getattr(of("torchvision.models"), name)(weights=None, num_classes=5, **options)
        if narrow:
            linears = [(key, layer) for key, layer in model.classifier.named_children() if isinstance(layer, nn.Linear)]
            widths = (linears[0][1].in_features, 96, 64, 5)
            for (key, _), a, b in zip(linears, widths, widths[1:], strict=False):
                setattr(model.classifier, key, nn.Linear(a, b))
        return model

    return Architecture("torchvision", name, build, images(size), fast)


def residual(name: str, **options: Any) -> Architecture:
    """ResNet of torchvision with one bottleneck a stage."""

    def build() -> nn.Module:
        module = of("torchvision.models.resnet")
        return module.ResNet(module.Bottleneck, [1, 1, 1, 1], num_classes=5, **options)

    return Architecture("torchvision", name, build, images(64))


def transformer() -> Architecture:
    def build() -> nn.Module:
        kind = of("torchvision.models").VisionTransformer
        return kind(64, 16, num_layers=2, num_heads=4, hidden_dim=48, mlp_dim=96, num_classes=5)

    return Architecture("torchvision", "vit_b_16", build, images(64))


def swin(name: str, block: str, merge: str) -> Architecture:
    def build() -> nn.Module:
        module = of("torchvision.models.swin_transformer")
        return module.SwinTransformer(
            [4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=5, block=getattr(module, block),
            downsample_layer=getattr(module, merge),
        )  # fmt: skip

    return Architecture("torchvision", name, build, images(64))


def convnext() -> Architecture:
    def build() -> nn.Module:
        module = of("torchvision.models.convnext")
        stages = [module.CNBlockConfig(a, b, 1) for a, b in ((24, 48), (48, 96), (96, None))]
        return module.ConvNeXt(stages, num_classes=5)

    return Architecture("torchvision", "convnext_tiny", build, images(64))


def dense_prediction(name: str, *, size: int = 64) -> Architecture:
    def build() -> nn.Module:
        make = getattr(of("torchvision.models.segmentation"), name)
        return make(weights=None, weights_backbone=None, num_classes=4)

    return Architecture("torchvision", name, build, images(size, 2))


def image_model(name: str, *, size: int = 64, fast: bool = False, **options: object) -> Architecture:
    def build() -> nn.Module:
        return of("timm").create_model(name, num_classes=5, **options)

    return Architecture("timm", name, build, images(size), fast)


def mixer() -> Architecture:
    def build() -> nn.Module:
        return of("timm.models.mlp_mixer").MlpMixer(num_classes=5, img_size=64, num_blocks=2, embed_dim=48)

    return Architecture("timm", "mixer_s16_224", build, images(64))


def token_model(
    name: str,
    config: str,
    example: Callable[[], Tensor] = words,
    *,
    where: str = "transformers",
    fast: bool = False,
    **options: Any,
) -> Architecture:
    """Model of transformers, made from a configuration."""

    def build() -> nn.Module:
        return getattr(of(where), name)(getattr(of("transformers"), config)(**options))

    return Architecture("transformers", name, build, example, fast)


_TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 60,
    "max_position_embeddings": 40,
}  # fmt: skip
_GROUPED = {"num_key_value_heads": 2, "use_cache": False, **_TINY}
_PICTURES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip

ZOO = (
    ours("lenet-5", size=28),
    ours("cnn-4", widths=(6, 8, 8, 10)),
    ours("resnet-20", fast=True, widths=(4, 6, 8)),
    ours("wide-resnet-28-10", depth=10, width=1),
    ours("vgg-16-bn", size=32, widths=(8, 8, 12, 12, 12)),
    ours("vit", fast=True, dim=24, depth=2),
    own("U-Net", UNet, images(16)),
    own("audio net, one-dimensional", AudioNet, lambda: torch.randn(3, 1, 4000)),
    vision("alexnet", narrow=True),
    vision("vgg11_bn", size=32, narrow=True),
    vision("resnet18", size=32),
    residual("resnet50"),
    residual("resnext50_32x4d", groups=32, width_per_group=4),
    residual("wide_resnet50_2", width_per_group=128),
    vision("regnet_x_400mf"),
    vision("regnet_y_400mf"),
    vision("densenet121"),
    vision("googlenet", aux_logits=False, init_weights=False),
    vision("inception_v3", size=96, aux_logits=False, init_weights=False),
    vision("squeezenet1_1", fast=True),
    vision("mobilenet_v2"),
    vision("mobilenet_v3_small"),
    vision("mnasnet0_5"),
    vision("shufflenet_v2_x0_5"),
    vision("efficientnet_b0"),
    convnext(),
    transformer(),
    swin("swin_t", "SwinTransformerBlock", "PatchMerging"),
    swin("swin_v2_t", "SwinTransformerBlockV2", "PatchMergingV2"),
    dense_prediction("deeplabv3_mobilenet_v3_large"),
    dense_prediction("fcn_resnet50"),
    dense_prediction("lraspp_mobilenet_v3_large"),
    image_model("deit_tiny_patch16_224", fast=True, img_size=64, depth=2, embed_dim=48),
    mixer(),
    image_model("resnetv2_50", layers=(1, 1, 1, 1)),
    image_model("repvgg_a0"),
    image_model("ghostnet_050"),
    image_model("res2net50_26w_4s", layers=(1, 1, 1, 1)),
    image_model("ese_vovnet19b_slim"),
    image_model("poolformer_s12"),
    image_model("cait_xxs24_224", img_size=64, depth=2),
    image_model("xcit_nano_12_p16_224", img_size=64, depth=2),
    image_model("levit_128s", img_size=64),
    image_model("coat_tiny", img_size=64, serial_depths=(1, 1, 1, 1), parallel_depth=1),
    image_model("pit_ti_224", img_size=64),
    image_model("mobilevit_xxs"),
    image_model("edgenext_xx_small"),
    image_model("nf_resnet26"),
    image_model("convnextv2_atto", depths=(1, 1, 1, 1)),
    token_model("GPT2LMHeadModel", "GPT2Config", fast=True, n_embd=32, n_layer=2, n_head=4, vocab_size=60,
                n_positions=32, use_cache=False, bos_token_id=0, eos_token_id=1),
    token_model("BertModel", "BertConfig", fast=True, **_TINY),
    token_model("DistilBertModel", "DistilBertConfig", dim=32, n_layers=2, n_heads=4, hidden_dim=48, vocab_size=60,
                max_position_embeddings=32),
    token_model("RobertaModel", "RobertaConfig", **_TINY),
    token_model("AlbertModel", "AlbertConfig", embedding_size=16, **_TINY),
    token_model("ElectraModel", "ElectraConfig", embedding_size=16, **_TINY),
    token_model("LlamaForCausalLM", "LlamaConfig", fast=True, **_GROUPED),
    token_model("Qwen2ForCausalLM", "Qwen2Config", **_GROUPED),
    token_model("MistralForCausalLM", "MistralConfig", **_GROUPED),
    token_model("GPTNeoXForCausalLM", "GPTNeoXConfig", use_cache=False, **_TINY),
    token_model("T5EncoderModel", "T5Config", d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=60),
    token_model("ViTModel", "ViTConfig", images(32), **_PICTURES),
    token_model("CLIPVisionModel", "CLIPVisionConfig", images(32), **_PICTURES),
    token_model("SegformerModel", "SegformerConfig", images(64), hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 1, 1],
                num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=16),
    token_model("WhisperEncoder", "WhisperConfig", lambda: torch.randn(2, 20, 48), d_model=32, encoder_layers=2,
                encoder_attention_heads=4, encoder_ffn_dim=48, num_mel_bins=20, max_source_positions=24,
                where="transformers.models.whisper.modeling_whisper"),
    token_model("Wav2Vec2Model", "Wav2Vec2Config", lambda: torch.randn(2, 400), hidden_size=32, num_hidden_layers=1,
                num_attention_heads=4, intermediate_size=48, conv_dim=(16, 16), conv_stride=(5, 2),
                conv_kernel=(10, 3), num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
                num_feat_extract_layers=2, vocab_size=20, mask_time_prob=0.0),
)  # fmt: skip
