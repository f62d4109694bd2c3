"""torchaudio's speech transformers as audio encoders, on raw waveforms: HuBERT, wav2vec 2.0, WavLM, base and large.

50 steps per second, no class token. Limits: 16 kHz.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.encoders.encoder import Encoder, EncoderBuilder
from model.encoders.pretrained import PRETRAINED, RANDOM, mismatched_weights_error, read_weights, summarize_error

SAMPLE_RATE_HZ = 16_000
# Our name -> torchaudio's bundle; its own loader caches the weights in torch's cache.
BUNDLES = {
    "hubert_base": "HUBERT_BASE",
    "hubert_large": "HUBERT_LARGE",
    "hubert_large_ls960": "HUBERT_ASR_LARGE",
    "wav2vec2_base": "WAV2VEC2_BASE",
    "wav2vec2_large": "WAV2VEC2_LARGE",
    "wavlm_base": "WAVLM_BASE",
    "wavlm_large": "WAVLM_LARGE",
}


class SpeechTransformerEncoder(Encoder):
    """The last layer of a speech transformer.

    Args:
        name: a key of BUNDLES.
        sample_rate_hz: of the waveforms.
        weights: `pretrained` (torchaudio's own loader: its cache, or the network), `random`, or a file.
        norm_eps: epsilon of the layer norms of feature projection and transformer; None: the model's own. The published
            models have 1e-4; the seven convolution layers always keep 1e-5.
        conv_bias: add a bias to the seven convolutions, as in the published models; torchaudio's pre-trained weights
            have none.
        gradient_checkpointing: recompute layers in the backward pass instead of storing their activations.

    Raises:
        ValueError: no such model, another sample rate, or weights that are missing or do not fit.

    Source: reference 1.1.
    """

    stride = 320

    def __init__(
        self,
        name: str,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
        weights: str = PRETRAINED,
        norm_eps: float | None = None,
        conv_bias: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if sample_rate_hz != SAMPLE_RATE_HZ:
            raise ValueError(
                f"stream.sample_rate_hz={sample_rate_hz}: model.audio_encoder={name} expects {SAMPLE_RATE_HZ} Hz"
            )
        self.model = _create(name, weights, conv_bias)
        # Most of torchaudio's recipes drop 5 to 20 % of the layers in a step. Their parameters then get no gradient,
        # and processes that drop different layers stop with an error or deadlock. The other dropouts stay.
        self.model.encoder.transformer.layer_drop = 0.0
        self.channels = self.model.encoder.feature_projection.projection.out_features
        self.blocks = tuple(self.model.encoder.transformer.layers)
        for module in self.model.encoder.modules():
            if norm_eps is not None and isinstance(module, nn.LayerNorm):
                module.eps = norm_eps
        self._gradient_checkpointing = gradient_checkpointing

    def forward(self, waveform: Float[Tensor, "A S"]) -> tuple[Float[Tensor, "A C T"], None]:
        """Encode waveforms, normalized to zero mean and unit variance with padding; 164,200 samples give 512 steps."""
        waveform = waveform - waveform.mean(dim=1, keepdim=True)
        waveform = waveform / torch.sqrt(waveform.var(dim=1, keepdim=True, correction=0) + 1e-7)
        features, _ = self.model.feature_extractor(waveform, None)
        encode = self._checkpointed if self._gradient_checkpointing and self.training else self.model.encoder
        return encode(features).transpose(1, 2), None

    def _checkpointed(self, features: Float[Tensor, "A T F"]) -> Float[Tensor, "A T C"]:
        """The same as `self.model.encoder`, storing only the inputs of each layer."""
        transformer = self.model.encoder.transformer
        hidden = transformer._preprocess(self.model.encoder.feature_projection(features))
        position_bias = None
        for layer in transformer.layers:
            hidden, position_bias = checkpoint(layer, hidden, None, position_bias=position_bias, use_reentrant=False)
        return hidden if transformer.layer_norm_first else transformer.layer_norm(hidden)


def _create(name: str, weights: str, conv_bias: bool) -> Any:
    """Create a torchaudio Wav2Vec2Model; torchaudio has no types and is slow to import."""
    import torchaudio

    if name not in BUNDLES:
        raise ValueError(
            f"model.audio_encoder={name}: allowed are tiny, mel:NAME of a timm model, {', '.join(BUNDLES)}"
        )
    bundle = getattr(torchaudio.pipelines, BUNDLES[name])
    settings = {key: value for key, value in bundle._params.items() if key != "aux_num_out"}
    if weights == PRETRAINED:
        if conv_bias and not settings["extractor_conv_bias"]:
            raise ValueError(
                f"model.audio_conv_bias=true: the convolutions of torchaudio's pre-trained {name} have no bias; "
                f"allowed here is false, or a file as model.audio_weights, or model.audio_weights={RANDOM}"
            )
        try:
            model = bundle.get_model()
        except Exception as error:  # URLError, HTTPError, RuntimeError of a broken cache
            raise ValueError(
                f"model.audio_encoder={name}: its pre-trained weights are not in torch's cache and cannot be fetched "
                f"({summarize_error(error)}); give a file as model.audio_weights, or model.audio_weights={RANDOM}"
            ) from None
        # WavLM and the large ones come in a wrapper that normalizes the waveform.
        model = getattr(model, "model", model)
        model.aux = None
        return model
    build = torchaudio.models.wavlm_model if name.startswith("wavlm") else torchaudio.models.wav2vec2_model
    model = build(**settings | {"extractor_conv_bias": conv_bias or settings["extractor_conv_bias"]}, aux_num_out=None)
    if weights != RANDOM:
        origin = f"model.audio_weights={weights}"
        try:
            model.load_state_dict(read_weights(weights, origin, ignore=("aux.",)))
        except RuntimeError as error:
            raise mismatched_weights_error(origin, error) from None
    return model


SPEECH = EncoderBuilder(
    lambda name, config, inputs: SpeechTransformerEncoder(
        name,
        inputs.sample_rate_hz,
        config.audio_weights,
        config.norm_eps or None,
        config.audio_conv_bias,
        config.gradient_checkpointing,
    ),
    frozenset({"audio_weights", "norm_eps", "audio_conv_bias", "gradient_checkpointing"}),
)
