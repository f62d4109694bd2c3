"""A vision transformer of timm on the picture that log-mel makes of a waveform, as AudioMAE, CAV-MAE and ImageBind hear.

Interface as in tiny.py: waveforms [A S] in -1..1 to (dense features [A C T], class tokens [A C]), frequency averaged away, one step for each
column of patches: 160 ms with patches of 16. Limits: those of timm_vit.py, and patches that divide 128 bins.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from model.encoders.pretrained import PRETRAINED
from model.encoders.timm_vit import create_vit

MEL_BINS = 128
HOP_MS, WINDOW_MS = 10, 25
DEFAULT_PATCH_SIZE = 16
# Of AudioMAE's log-mel. The encoder learns, so other families do with them too (CAV-MAE has -5.081 and 4.4849, ImageBind -4.268 and 9.138).
MEAN, STD = -6.6268077, 5.358466


class MelEncoder(nn.Module):
    """A timm vision transformer with one input channel, on log-mel of [frames 128].

    Args:
        name, weights, norm_eps, gradient_checkpointing: see vit.create_vit; vit_base_patch16_224.mae, for one.
        samples: usual length of the waveforms, to which position embeddings are resampled; for other lengths that happens in every step.
        sample_rate_hz: of the waveforms.

    Raises:
        ValueError: as create_vit, or patches that do not divide the mel bins.

    Source: reference 1.1, 1.4.
    """

    has_cls = True

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
        picture = (DEFAULT_PATCH_SIZE * self.log_mel.steps(samples, DEFAULT_PATCH_SIZE), MEL_BINS)
        self.model = create_vit(name, picture, 1, weights, "model.audio_encoder=mel:", norm_eps, gradient_checkpointing)
        self.channels: int = self.model.num_features
        self._patch_frames, self._patch_bins = self.model.patch_embed.patch_size
        if MEL_BINS % self._patch_bins:
            raise ValueError(
                f"model.audio_encoder=mel:{name} has patches of {self._patch_bins} px, which do not divide the {MEL_BINS} mel bins"
            )

    def forward(self, waveform: Float[Tensor, "A S"]) -> tuple[Float[Tensor, "A C T"], Float[Tensor, "A C"]]:
        """Encode waveforms, the picture padded with silence or cut to whole patches; 164,200 samples give 1,024 frames, which are 64 steps."""
        steps = self.log_mel.steps(waveform.shape[1], self._patch_frames)
        picture = (self.log_mel(waveform, steps * self._patch_frames) - MEAN) / STD
        tokens = self.model.forward_features(picture[:, None])
        dense = tokens[:, self.model.num_prefix_tokens :].unflatten(1, (steps, MEL_BINS // self._patch_bins))
        return dense.mean(dim=2).transpose(1, 2), tokens[:, 0]


class KaldiFbank(nn.Module):
    """Kaldi's log-mel in batches, on any device: the numbers of pipelines.build.log_mel.log_mel.

    Args:
        sample_rate_hz: of the waveforms.

    Source: reference 1.4.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        super().__init__()
        from torchaudio.compliance.kaldi import get_mel_banks

        self.hop, self.window = sample_rate_hz * HOP_MS // 1000, sample_rate_hz * WINDOW_MS // 1000
        self.fft_size = 1 << (self.window - 1).bit_length()
        bank, _ = get_mel_banks(MEL_BINS, self.fft_size, sample_rate_hz, 20.0, 0.0, 100.0, -500.0, 1.0)
        self.register_buffer(
            "_bank", functional.pad(bank, (0, 1)).T, persistent=False
        )  # no filter reaches the highest frequency
        self.register_buffer("_window", torch.hann_window(self.window, periodic=False), persistent=False)

    def steps(self, samples: int, frames: int) -> int:
        """How many stretches of so many frames are nearest to the length of a waveform, one at least: step t of T lies at t / T of it, as masks do."""
        return max(1, round(samples / (self.hop * frames)))

    def forward(self, waveform: Float[Tensor, "A S"], frames: int) -> Float[Tensor, "A N F"]:
        """Natural logarithm of the energy in 128 bins.

        Args:
            waveform: -1..1; its mean is taken off.
            frames: N; silence follows a waveform that is too short, samples that are too many are not heard.
        """
        with torch.autocast(
            waveform.device.type, enabled=False
        ):  # squares of half-precision numbers have no room for silence
            waveform = waveform.float() - waveform.float().mean(dim=1, keepdim=True)
            samples = self.window + self.hop * (frames - 1)
            windows = functional.pad(waveform, (0, max(0, samples - waveform.shape[1])))[:, :samples].unfold(
                1, self.window, self.hop
            )
            windows = windows - windows.mean(dim=2, keepdim=True)
            windows = windows - 0.97 * torch.cat([windows[..., :1], windows[..., :-1]], dim=2)  # pre-emphasis
            energy = torch.fft.rfft(windows * self._window, self.fft_size).abs().square() @ self._bank
            return energy.clamp(min=torch.finfo(torch.float32).eps).log()
