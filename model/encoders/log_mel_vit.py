"""A timm vision transformer on the log-mel spectrogram of a waveform, as in AudioMAE, CAV-MAE and ImageBind.

Frequency is averaged away, so there is one step for each column of patches: 160 ms with patches of 16. Limits: those of
timm_vit.py, and patches that divide 128 bins.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.encoders.encoder import Encoder, EncoderBuilder
from model.encoders.pretrained import PRETRAINED
from model.encoders.timm_vit import create_vit

MEL_BINS = 128
HOP_MS, WINDOW_MS = 10, 25
DEFAULT_PATCH_SIZE = 16
# AudioMAE's. The encoder is trained, so they serve for other families too (CAV-MAE -5.081, 4.4849; ImageBind -4.268,
# 9.138).
MEAN, STD = -6.6268077, 5.358466
LOG_SILENCE = math.log(torch.finfo(torch.float32).eps)  # every bin of a silent frame


class MelEncoder(Encoder):
    """A timm vision transformer with one input channel, on log-mel spectrograms [frames 128].

    Args:
        name, weights, norm_eps, gradient_checkpointing: see timm_vit.create_vit; for example vit_base_patch16_224.mae.
        samples: usual length of the waveforms, to which position embeddings are resampled; at other lengths this
            happens in every step.
        sample_rate_hz: of the waveforms.

    Raises:
        ValueError: as create_vit, or patches that do not divide the mel bins.

    Source: reference 1.1, 1.4.
    """

    has_cls = True
    reads_log_mel = True

    def __init__(
        self,
        name: str,
        samples: int,
        sample_rate_hz: int = 16_000,
        weights: str = PRETRAINED,
        norm_eps: float | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.log_mel = KaldiFbank(sample_rate_hz)
        spectrogram = (DEFAULT_PATCH_SIZE * self.log_mel.steps(samples, DEFAULT_PATCH_SIZE), MEL_BINS)
        self.model = create_vit(
            name, spectrogram, 1, weights, "model.audio_encoder=mel:", norm_eps, gradient_checkpointing
        )
        self.channels, self.blocks = self.model.num_features, tuple(self.model.blocks)
        self._patch_frames, self._patch_bins = self.model.patch_embed.patch_size
        self.stride = self._patch_frames * self.log_mel.hop
        if MEL_BINS % self._patch_bins:
            raise ValueError(
                f"model.audio_encoder=mel:{name} has patches of {self._patch_bins} px, "
                f"which do not divide the {MEL_BINS} mel bins"
            )

    def forward(
        self, waveform: Float[Tensor, "A S"] | Float[Tensor, "A N F"]
    ) -> tuple[Float[Tensor, "A C T"], Float[Tensor, "A C"]]:
        """Encode waveforms, or log-mel spectrograms as the build pipeline stores them.

        Spectrograms are padded or cropped to whole patches; 164,200 samples, or 1,026 frames, give 64 steps.
        """
        if waveform.ndim == 3:
            steps = self.log_mel.steps(waveform.shape[1] * self.log_mel.hop, self._patch_frames)
            frames = steps * self._patch_frames
            missing = max(0, frames - waveform.shape[1])
            log_mel = nn.functional.pad(waveform.float()[:, :frames], (0, 0, 0, missing), value=LOG_SILENCE)
        else:
            steps = self.log_mel.steps(waveform.shape[1], self._patch_frames)
            log_mel = self.log_mel(waveform, steps * self._patch_frames)
        spectrogram = (log_mel - MEAN) / STD
        tokens = self.model.forward_features(spectrogram[:, None])
        dense = tokens[:, self.model.num_prefix_tokens :].unflatten(1, (steps, MEL_BINS // self._patch_bins))
        return dense.mean(dim=2).transpose(1, 2), tokens[:, 0]


class KaldiFbank(nn.Module):
    """Kaldi's log-mel filter bank in batches, on any device; values as the stored log-mel of the build pipeline.

    Args:
        sample_rate_hz: of the waveforms.

    Source: reference 1.4.
    """

    _bank: Tensor
    _window: Tensor

    def __init__(self, sample_rate_hz: int) -> None:
        super().__init__()
        from torchaudio.compliance.kaldi import get_mel_banks

        self.hop, self.window = sample_rate_hz * HOP_MS // 1000, sample_rate_hz * WINDOW_MS // 1000
        self.fft_size = 1 << (self.window - 1).bit_length()
        bank, _ = get_mel_banks(MEL_BINS, self.fft_size, sample_rate_hz, 20.0, 0.0, 100.0, -500.0, 1.0)
        # No filter reaches the highest frequency.
        self.register_buffer("_bank", nn.functional.pad(bank, (0, 1)).T, persistent=False)
        self.register_buffer("_window", torch.hann_window(self.window, periodic=False), persistent=False)

    def steps(self, samples: int, frames: int) -> int:
        """Number of steps of `frames` frames in a waveform, rounded, at least 1; step t of T starts at t / T of it."""
        return max(1, round(samples / (self.hop * frames)))

    def forward(self, waveform: Float[Tensor, "A S"], frames: int) -> Float[Tensor, "A N F"]:
        """Natural logarithm of the energy in 128 bins.

        Args:
            waveform: -1 to 1; its mean is subtracted.
            frames: N; shorter waveforms are padded with silence, longer ones cropped.
        """
        # Squares in half precision would underflow for quiet audio.
        with torch.autocast(waveform.device.type, enabled=False):
            waveform = waveform.float() - waveform.float().mean(dim=1, keepdim=True)
            samples = self.window + self.hop * (frames - 1)
            windows = nn.functional.pad(waveform, (0, max(0, samples - waveform.shape[1])))[:, :samples].unfold(
                1, self.window, self.hop
            )
            windows = windows - windows.mean(dim=2, keepdim=True)
            windows = windows - 0.97 * torch.cat([windows[..., :1], windows[..., :-1]], dim=2)  # pre-emphasis
            energy = torch.fft.rfft(windows * self._window, self.fft_size).abs().square() @ self._bank
            return energy.clamp(min=torch.finfo(torch.float32).eps).log()


MEL = EncoderBuilder(
    lambda name, config, inputs: MelEncoder(
        name,
        inputs.samples,
        inputs.sample_rate_hz,
        config.audio_weights,
        config.norm_eps or None,
        config.gradient_checkpointing,
    ),
    frozenset({"audio_weights", "norm_eps", "gradient_checkpointing"}),
)
