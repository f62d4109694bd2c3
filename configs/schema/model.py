"""Settings of the model: encoders, projections and similarity (`model.*` of `train.py`)."""

from dataclasses import dataclass
from typing import Literal

from configs.field import field


@dataclass
class ModelConfig:
    image_encoder: str = field("tiny", "tiny, or a vision transformer of timm, such as vit_small_patch8_224.dino")
    audio_encoder: str = field(
        "tiny",
        "tiny; on the waveform hubert_base, hubert_large, hubert_large_ls960, wav2vec2_base, wav2vec2_large, "
        "wavlm_base, wavlm_large; on log-mel a vision transformer of timm, such as mel:vit_base_patch16_224.mae",
    )
    image_weights: str = field(
        "pretrained",
        "initial weights of a timm image encoder: pretrained (timm's, cached or downloaded), random, or a file",
    )
    audio_weights: str = field(
        "pretrained",
        "initial weights of a full-size audio encoder: pretrained (torchaudio's or timm's, cached or downloaded), "
        "random, or a file",
    )
    lora_rank: int = field(
        0,
        "rank of the LoRA adapters on qkv of every block of the image transformer, whose weights are then frozen; "
        "0: no adapters, all weights learn",
        min=0,
    )
    lora_alpha: float = field(32.0, "scale of the LoRA adapters, which is alpha / rank", min=0)
    lora_dropout: float = field(0.1, "dropout before the LoRA adapters", min=0, max=1)
    norm_eps: float = field(
        0.0,
        "eps of the layer norms of full-size encoders, 1e-4 in the published models; 0: the encoder's default",
        min=0,
    )
    audio_conv_bias: bool = field(
        False,
        "bias in the convolutions of a speech encoder, as in the published models; torchaudio's weights have none",
    )
    gradient_checkpointing: bool = field(
        False, "recompute the blocks of full-size encoders in the backward pass instead of storing activations"
    )
    audio_projection: Literal["conv_attention", "linear"] = field(
        "conv_attention", "projection of audio features; the published models use conv_attention"
    )
    projection_init_gain: float = field(
        1.0, "factor on the initial weights of linear projections; initial similarities scale with its square", min=0
    )
    embed_dim: int = field(384, "channels of the projected image and audio features, all heads together", min=1)
    num_heads: int = field(1, "number of heads K: groups of channels compared separately", min=1)
    image_pool_size: int = field(2, "average pooling of the image grid in training; 1: none", min=1)
    similarity_aggregation: Literal["misa", "mima", "sisa", "paired", "mean_pool", "cls_token", "simpool"] = field(
        "misa",
        "aggregation of a similarity volume to a score; mean_pool, cls_token and simpool are baselines that compare "
        "one vector per image and audio",
    )
    head_aggregation: Literal["max_elementwise", "sum", "max"] = field("max_elementwise", "aggregation of the heads")
    clamp_nonneg: bool = field(False, "clamp negative similarities to 0")
    add_cls_similarity: bool = field(False, "add the similarity of the class tokens to every similarity of a head")
    logit_bias: bool = field(
        False, "learned logit bias; required by loss.objective bce and siglip, no effect otherwise"
    )
    logit_bias_init: float = field(0.0, "initial logit bias; SigLIP uses -10")
