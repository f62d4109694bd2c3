"""The golden case of the full-size model: weights made from their names, features and scores of one picture and one sound (tests/golden/README.md)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any


def released_checkpoint(params: dict[str, Any], _given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Run it; `params` holds the number of heads, the seed of the inputs, and name -> shape of every weight as `keys`."""
    import numpy as np
    import torch

    from model.build import build_denseav
    from model.convert.denseav import convert_state_dict, infer_model_config
    from model.denseav import InputSpec
    from model.similarity.config import SimilarityConfig
    from model.similarity.dense import pairwise_similarity, similarity_per_head

    stored = {name: weight(name, shape) for name, shape in params["keys"].items()}
    config = infer_model_config(stored, params["num_heads"])
    with torch.device("meta"):
        model = build_denseav(config, InputSpec(224, 164_200 / 16_000, 16_000)).eval()
    state, unused, missing = convert_state_dict(stored, model.state_dict())
    assert not unused and not missing, (unused, missing)
    model.load_state_dict(state, assign=True)
    draw = np.random.RandomState(params["input_seed"])
    frames = torch.from_numpy(draw.standard_normal((1, 3, 224, 224)).astype(np.float32))
    waveform = torch.from_numpy((0.1 * draw.standard_normal(164_200)).astype(np.float32))[None]
    with torch.no_grad():
        image = model.project_image(*model.image_encoder.encode_normalized(frames))
        audio = model.encode_audio(waveform, torch.ones_like(waveform, dtype=torch.bool))
        scores = pairwise_similarity(audio, image, SimilarityConfig())
        by_head = similarity_per_head(audio, image, SimilarityConfig())
    dense = {"image_features": image.dense.flatten(1, 2)[:, :, ::4, ::4], "audio_features": audio.dense.flatten(1, 2)}
    yield dense | {
        "image_cls": image.cls.flatten(1),
        "audio_cls": audio.cls.flatten(1),
        "scores": scores,
        "scores_by_head": by_head,
    }


def weight(name: str, shape: list[int]) -> Any:
    """A weight that is a function of its name."""
    import numpy as np
    import torch

    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    last = name.rpartition(".")[2]
    if last == "weight_g" or (last == "weight" and len(shape) == 1):
        return torch.from_numpy(1 + 0.02 * x)
    return torch.from_numpy(x / np.sqrt(np.prod(shape[1:]), dtype=np.float32) if len(shape) > 1 else 0.02 * x)
