"""Networks that a library makes from a configuration: transformers, MONAI and diffusers.

Configurations are small: a few layers of each kind, widths of tens. A name that ends in "-3d" is a
network on volumes. What a network is asked beside the image (a timestep, a text) is the same for
every image.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# transformers: class, its configuration's class, and what differs from its defaults.

_VIT = {
    "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 96,
    "image_size": 64, "patch_size": 8,
}  # fmt: skip
_STAGES = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 2, 1]}
_RESNET = {"embedding_size": 16, **_STAGES, "layer_type": "basic"}
_SWIN = {
    "image_size": 64, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4,
}  # fmt: skip
_DETR = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_queries": 7,
    "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
}  # fmt: skip

_MIX = {
    "hidden_sizes": [16, 16, 32, 32],
    "depths": [1, 1, 1, 1],
    "decoder_hidden_size": 16,
    "num_attention_heads": [1, 2, 2, 4],
}

TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViTForImageClassification": ("ViTConfig", _VIT),
    "DeiTForImageClassificationWithTeacher": ("DeiTConfig", _VIT),
    "ViTMSNForImageClassification": ("ViTMSNConfig", _VIT),
    "BeitForImageClassification": ("BeitConfig", {**_VIT, "use_relative_position_bias": True}),
    "BeitForMaskedImageModeling": ("BeitConfig", {**_VIT, "vocab_size": 32}),
    "Data2VecVisionForImageClassification": ("Data2VecVisionConfig", _VIT),
    "Dinov2ForImageClassification": ("Dinov2Config", {**_VIT, "mlp_ratio": 2}),
    "Dinov2WithRegistersForImageClassification": (
        "Dinov2WithRegistersConfig",
        {**_VIT, "mlp_ratio": 2},
    ),
    "DINOv3ViTModel": ("DINOv3ViTConfig", {**_VIT, "num_register_tokens": 4}),
    "DINOv3ConvNextModel": ("DINOv3ConvNextConfig", _STAGES),
    "IJepaModel": ("IJepaConfig", _VIT),
    "YolosModel": ("YolosConfig", {**_VIT, "image_size": [64, 64], "num_detection_tokens": 5}),
    "CLIPVisionModel": ("CLIPVisionConfig", _VIT),
    "SiglipVisionModel": ("SiglipVisionConfig", _VIT),
    "BlipVisionModel": ("BlipVisionConfig", _VIT),
    "AltCLIPVisionModel": ("AltCLIPVisionConfig", _VIT),
    "ChineseCLIPVisionModel": ("ChineseCLIPVisionConfig", _VIT),
    "OwlViTVisionModel": ("OwlViTVisionConfig", _VIT),
    "Aimv2VisionModel": ("Aimv2VisionConfig", _VIT),
    "MLCDVisionModel": ("MLCDVisionConfig", _VIT),
    "VitDetModel": ("VitDetConfig", {**_VIT, "mlp_ratio": 2}),
    "VitPoseForPoseEstimation": ("VitPoseConfig", {}),
    "DPTForDepthEstimation": (
        "DPTConfig",
        {
            **_VIT,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [16, 24, 32, 32],
            "fusion_hidden_size": 16,
        },
    ),
    "DepthAnythingForDepthEstimation": ("DepthAnythingConfig", {}),
    "GLPNForDepthEstimation": ("GLPNConfig", _MIX),
    "SegformerForSemanticSegmentation": ("SegformerConfig", _MIX),
    "SwinForImageClassification": ("SwinConfig", _SWIN),
    "Swinv2ForImageClassification": ("Swinv2Config", _SWIN),
    "Swin2SRForImageSuperResolution": (
        "Swin2SRConfig",
        {"image_size": 64, "embed_dim": 24, "depths": [2], "num_heads": [4], "window_size": 4},
    ),
    "HieraForImageClassification": (
        "HieraConfig",
        {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 2, 1]},
    ),
    "ConvNextForImageClassification": ("ConvNextConfig", _STAGES),
    "ConvNextV2ForImageClassification": ("ConvNextV2Config", _STAGES),
    "ResNetForImageClassification": ("ResNetConfig", _RESNET),
    "RegNetForImageClassification": (
        "RegNetConfig",
        {"embedding_size": 16, **_STAGES, "groups_width": 8},
    ),
    "BitForImageClassification": (
        "BitConfig",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "num_groups": 4},
    ),
    "EfficientNetForImageClassification": (
        "EfficientNetConfig",
        {"width_coefficient": 0.25, "depth_coefficient": 0.5, "hidden_dim": 320, "image_size": 64},
    ),
    "MobileNetV1ForImageClassification": ("MobileNetV1Config", {"depth_multiplier": 0.25}),
    "MobileNetV2ForImageClassification": ("MobileNetV2Config", {"depth_multiplier": 0.35}),
    "MobileViTForImageClassification": (
        "MobileViTConfig",
        {
            "image_size": 64,
            "hidden_sizes": [32, 40, 48],
            "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64],
        },
    ),
    "MobileViTV2ForImageClassification": (
        "MobileViTV2Config",
        {"image_size": 64, "width_multiplier": 0.5},
    ),
    "LevitForImageClassification": ("LevitConfig", {"image_size": 64}),
    "PvtForImageClassification": ("PvtConfig", {"image_size": 64, "depths": [1, 1, 1, 1]}),
    "PvtV2ForImageClassification": ("PvtV2Config", {"image_size": 64, "depths": [1, 1, 1, 1]}),
    "PoolFormerForImageClassification": (
        "PoolFormerConfig",
        {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]},
    ),
    "CvtForImageClassification": ("CvtConfig", {"depth": [1, 2, 3]}),
    "FocalNetForImageClassification": (
        "FocalNetConfig",
        {"image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1]},
    ),
    "SwiftFormerForImageClassification": ("SwiftFormerConfig", {"image_size": 64}),
    "TextNetForImageClassification": ("TextNetConfig", {}),
    "HGNetV2ForImageClassification": ("HGNetV2Config", {}),
    "UperNetForSemanticSegmentation": ("UperNetConfig", {}),
    "DetrForObjectDetection": ("DetrConfig", _DETR),
    "ConditionalDetrForObjectDetection": ("ConditionalDetrConfig", _DETR),
    "TableTransformerForObjectDetection": ("TableTransformerConfig", _DETR),
    "MaskFormerSwinModel": ("MaskFormerSwinConfig", _SWIN),
}


def transformers(name: str, size: int) -> Any:
    """Return a network of transformers."""
    import transformers as library

    config_class, given = TRANSFORMERS[name]
    given = dict(given)
    if "DETR" in config_class.upper() or config_class == "TableTransformerConfig":
        given["backbone_config"] = library.ResNetConfig(**_RESNET, out_features=["stage4"])
    if config_class == "UperNetConfig":
        four = ["stage1", "stage2", "stage3", "stage4"]
        given |= {
            "backbone_config": library.ResNetConfig(**_RESNET, out_features=four),
            "hidden_size": 16, "auxiliary_in_channels": 32, "auxiliary_channels": 16,
        }  # fmt: skip
    if config_class == "VitPoseConfig":
        given["backbone_config"] = library.VitPoseBackboneConfig(
            **{**_VIT, "image_size": [64, 64], "patch_size": [8, 8], "mlp_ratio": 2}
        )
    if config_class == "DepthAnythingConfig":
        given |= {
            "backbone_config": library.Dinov2Config(
                **{**_VIT, "mlp_ratio": 2, "num_hidden_layers": 4},
                out_indices=[1, 2, 3, 4], reshape_hidden_states=False, apply_layernorm=True,
            ),
            "reassemble_hidden_size": 48, "patch_size": 8, "neck_hidden_sizes": [16, 24, 32, 32],
            "fusion_hidden_size": 16, "head_hidden_size": 8, "depth_estimation_type": "metric",
        }  # fmt: skip
    config = getattr(library, config_class)(**given)
    config._attn_implementation = "eager" if name.startswith("DeiT") else "sdpa"
    try:
        return getattr(library, name)(config)
    except (ValueError, ImportError):
        config._attn_implementation = "eager"
        return getattr(library, name)(config)


# MONAI: class, and its arguments for images of d dimensions.

MONAI: dict[str, Callable[[int], tuple[str, dict[str, Any]]]] = {
    "UNet": lambda d: ("UNet", {
        "spatial_dims": d, "in_channels": 3, "out_channels": 2, "channels": (8, 16, 32),
        "strides": (2, 2), "num_res_units": 1}),
    "UNet-batch": lambda d: ("UNet", {
        "spatial_dims": d, "in_channels": 3, "out_channels": 2, "channels": (8, 16, 32),
        "strides": (2, 2), "norm": "batch"}),
    "BasicUNet": lambda d: ("BasicUNet", {
        "spatial_dims": d, "in_channels": 3, "features": (8, 8, 16, 16, 32, 8)}),
    "BasicUNetPlusPlus": lambda d: ("BasicUNetPlusPlus", {
        "spatial_dims": d, "in_channels": 3, "features": (8, 8, 16, 16, 32, 8)}),
    "AttentionUnet": lambda d: ("AttentionUnet", {
        "spatial_dims": d, "in_channels": 3, "out_channels": 2, "channels": (8, 16, 32),
        "strides": (2, 2)}),
    "DynUNet": lambda d: ("DynUNet", {
        "spatial_dims": d, "in_channels": 3, "out_channels": 2, "kernel_size": (3, 3, 3),
        "strides": (1, 2, 2), "upsample_kernel_size": (2, 2), "filters": (8, 16, 32)}),
    "SegResNet": lambda d: ("SegResNet", {
        "spatial_dims": d, "in_channels": 3, "out_channels": 2, "init_filters": 8}),
    "SegResNetDS": lambda d: ("SegResNetDS", {
        "spatial_dims": d, "in_channels": 3, "out_channels": 2, "init_filters": 8,
        "blocks_down": (1, 1, 2)}),
    "SegResNetVAE": lambda d: ("SegResNetVAE", {
        "spatial_dims": d, "in_channels": 3, "out_channels": 2, "init_filters": 8,
        "input_image_size": (32,) * d}),
    "VNet": lambda d: ("VNet", {"spatial_dims": d, "in_channels": 4, "out_channels": 2}),
    "HighResNet": lambda d: ("HighResNet", {
        "spatial_dims": d, "in_channels": 3, "out_channels": 2}),
    "UNETR": lambda d: ("UNETR", {
        "spatial_dims": d, "in_channels": 3, "out_channels": 2, "img_size": 32,
        "feature_size": 8, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}),
    "SwinUNETR": lambda d: ("SwinUNETR", {
        "spatial_dims": d, "in_channels": 3, "out_channels": 2, "feature_size": 12,
        "depths": (1, 1, 1, 1), "num_heads": (2, 2, 4, 4), "window_size": 4}),
    "ViT": lambda d: ("ViT", {
        "spatial_dims": d, "in_channels": 3, "img_size": (32,) * d, "patch_size": (8,) * d,
        "hidden_size": 48, "mlp_dim": 96, "num_layers": 2, "num_heads": 4,
        "classification": True}),
    "ViTAutoEnc": lambda d: ("ViTAutoEnc", {
        "spatial_dims": d, "in_channels": 3, "img_size": (32,) * d,
        "patch_size": (4 if d == 2 else 16,) * d,
        "hidden_size": 48, "mlp_dim": 96, "num_layers": 2, "num_heads": 4}),
    "DenseNet": lambda d: ("DenseNet", {
        "spatial_dims": d, "in_channels": 3, "out_channels": 2, "init_features": 16,
        "growth_rate": 8, "block_config": (2, 2, 2)}),
    "SENet": lambda d: ("SEResNet50", {
        "spatial_dims": d, "in_channels": 3, "num_classes": 2, "layers": (1, 1, 1, 1)}),
    "ResNet-basic": lambda d: ("ResNet", {
        "block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [8, 16, 24, 32],
        "spatial_dims": d, "n_input_channels": 3, "num_classes": 2}),
    "ResNet-bottleneck": lambda d: ("ResNet", {
        "block": "bottleneck", "layers": [1, 1, 1, 1], "block_inplanes": [8, 16, 24, 32],
        "spatial_dims": d, "n_input_channels": 3, "num_classes": 2}),
    "EfficientNetBN": lambda d: ("EfficientNetBN", {
        "spatial_dims": d, "model_name": "efficientnet-b0", "in_channels": 3, "num_classes": 2,
        "pretrained": False}),
    "AutoEncoder": lambda d: ("AutoEncoder", {
        "spatial_dims": d, "in_channels": 3, "out_channels": 2, "channels": (8, 16),
        "strides": (2, 2)}),
    "VarAutoEncoder": lambda d: ("VarAutoEncoder", {
        "spatial_dims": d, "in_shape": (3, *(32,) * d), "out_channels": 2, "latent_size": 4,
        "channels": (8, 16), "strides": (2, 2)}),
    "Regressor": lambda d: ("Regressor", {
        "in_shape": (3, *(32,) * d), "out_shape": (2,), "channels": (8, 16), "strides": (2, 2)}),
    "Classifier": lambda d: ("Classifier", {
        "in_shape": (3, *(32,) * d), "classes": 3, "channels": (8, 16), "strides": (2, 2)}),
    "Discriminator": lambda d: ("Discriminator", {
        "in_shape": (3, *(32,) * d), "channels": (8, 16), "strides": (2, 2)}),
    "Critic": lambda d: ("Critic", {
        "in_shape": (3, *(32,) * d), "channels": (8, 16), "strides": (2, 2)}),
    "AutoencoderKL": lambda d: ("AutoencoderKL", {
        "spatial_dims": d, "in_channels": 3, "out_channels": 3, "channels": (8, 16),
        "num_res_blocks": 1, "latent_channels": 4, "norm_num_groups": 4,
        "attention_levels": (False, False)}),
    "DiffusionModelUNet": lambda d: ("DiffusionModelUNet", {
        "spatial_dims": d, "in_channels": 3, "out_channels": 3, "channels": (8, 16),
        "attention_levels": (False, True), "num_res_blocks": 1, "num_head_channels": 8,
        "norm_num_groups": 4}),
    "PatchDiscriminator": lambda d: ("PatchDiscriminator", {
        "spatial_dims": d, "in_channels": 3, "channels": 8, "num_layers_d": 2}),
    "MedNeXt": lambda d: ("MedNeXt", {
        "spatial_dims": d, "in_channels": 3, "out_channels": 2, "init_filters": 8}),
    "LocalNet": lambda d: ("LocalNet", {
        "spatial_dims": d, "in_channels": 3, "out_channels": 2, "num_channel_initial": 8,
        "extract_levels": (0, 1, 2)}),
    "FlexibleUNet": lambda d: ("FlexibleUNet", {
        "spatial_dims": d, "in_channels": 3, "out_channels": 2, "backbone": "resnet10",
        "decoder_channels": (32, 16, 8, 8, 8)}),
}  # fmt: skip


def monai(name: str, size: int) -> Any:
    """Return a network of MONAI."""
    from monai.networks import nets as library

    volume = name.endswith("-3d")
    name = name.removesuffix("-3d")
    call, given = MONAI[name](3 if volume else 2)
    net = getattr(library, call)(**given)
    if name == "DiffusionModelUNet":
        return Asked(net, timesteps=torch.tensor([7, 7]))
    return Reconstructing(net) if name == "AutoencoderKL" else net


# diffusers


class Asked(nn.Module):
    """A network whose other arguments are the same for every image."""

    def __init__(self, net: Any, **given: torch.Tensor) -> None:
        super().__init__()
        self.net = net
        for key, value in given.items():
            self.register_buffer(key, value, persistent=False)
        self.given = list(given)

    def forward(self, image: Any) -> Any:
        return self.net(image, **{key: getattr(self, key) for key in self.given})


class Reconstructing(nn.Module):
    """An autoencoder by its mean: its own forward draws at random."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Any) -> Any:
        return self.net.reconstruct(image)


_BLOCKS = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}

DIFFUSERS: dict[str, tuple[str, dict[str, Any]]] = {
    "UNet2DModel": ("UNet2DModel", {
        **_BLOCKS, "sample_size": 32, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 4}),
    "UNet2DConditionModel": ("UNet2DConditionModel", {
        **_BLOCKS, "sample_size": 32, "in_channels": 3, "cross_attention_dim": 12,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "attention_head_dim": 4}),
    "AutoencoderKL": ("AutoencoderKL", {
        **_BLOCKS, "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "sample_size": 32}),
    "VQModel": ("VQModel", {
        **_BLOCKS, "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "num_vq_embeddings": 16}),
    "DiTTransformer2DModel": ("Transformer2DModel", {
        "in_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1,
        "norm_num_groups": 2}),
}  # fmt: skip


def diffusers(name: str, size: int) -> Any:
    """Return a network of diffusers."""
    import diffusers as library

    call, given = DIFFUSERS[name]
    net = getattr(library, call)(**given)
    if name == "UNet2DModel":
        return Asked(net, timestep=torch.tensor(7))
    if name == "UNet2DConditionModel":
        text = torch.randn(2, 5, 12, dtype=torch.float64)
        return Asked(net, timestep=torch.tensor(7), encoder_hidden_states=text)
    return net
