"""The golden case of the full-size model: features and scores of one image and one waveform, with generated weights."""

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from model.build import build_denseav
from model.convert.denseav import convert_state_dict, infer_model_config
from model.encoders.encoder import ImageEncoder
from model.inputs import InputSpec
from model.similarity.config import SimilarityConfig
from model.similarity.dense import pairwise_similarity, similarity_per_head

SAMPLES = 164_200


def released_checkpoint(params: dict[str, Any], _tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Convert the weights and run the model.

    Args:
        params: `num_heads`, `input_seed`, and `keys`, the shape of every weight by name.

    Source: tests/golden/README.md.
    """
    stored = {name: make_weight(name, shape) for name, shape in params["keys"].items()}
    inputs = InputSpec(224, SAMPLES / 16_000, 16_000)
    with torch.device("meta"):
        model = build_denseav(infer_model_config(stored, params["num_heads"]), inputs).eval()
    state, unused, missing = convert_state_dict(stored, model.state_dict())
    assert not unused and not missing, (unused, missing)
    model.load_state_dict(state, assign=True)
    image_encoder = model.image_encoder
    assert isinstance(image_encoder, ImageEncoder)
    random = np.random.RandomState(params["input_seed"])
    frames = torch.from_numpy(random.standard_normal((1, 3, 224, 224)).astype(np.float32))
    waveform = torch.from_numpy((0.1 * random.standard_normal(SAMPLES)).astype(np.float32))[None]
    with torch.no_grad():
        image = model.project_image(*image_encoder.encode_normalized(frames))
        audio = model.encode_audio(waveform, torch.ones_like(waveform, dtype=torch.bool))
        scores = pairwise_similarity(audio, image, SimilarityConfig())
        by_head = similarity_per_head(audio, image, SimilarityConfig())
    assert image.cls is not None and audio.cls is not None, "both encoders of the published models have a class token"
    yield {
        "image_features": image.dense.flatten(1, 2)[:, :, ::4, ::4],
        "audio_features": audio.dense.flatten(1, 2),
        "image_cls": image.cls.flatten(1),
        "audio_cls": audio.cls.flatten(1),
        "scores": scores,
        "scores_by_head": by_head,
    }


def make_weight(name: str, shape: list[int]) -> Float[Tensor, "..."]:
    """A weight of the given shape that is a function of its name."""
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    last = name.rpartition(".")[2]
    if last == "weight_g" or (last == "weight" and len(shape) == 1):
        return torch.from_numpy(1 + 0.02 * x)
    return torch.from_numpy(x / np.sqrt(np.prod(shape[1:]), dtype=np.float32) if len(shape) > 1 else 0.02 * x)
