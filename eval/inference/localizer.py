"""Localizer: a model with everything that users do with it: localize, score, embed, save, share."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from configs.errors import UsageError
from eval.benchmarks.io import resample_waveform
from eval.inference.encode import encode_image, encode_sound, score_pairs, window_weights
from eval.inference.image import localize_image
from eval.inference.inputs import ImageInput, SoundInput, as_list, read_image, read_sound
from eval.inference.localization import Localization
from eval.inference.map_upsampler import MapUpsampler
from eval.inference.share import push_model, save_model
from eval.inference.video import localize_video, stream_localizations
from model.features import AudioFeatures, ImageFeatures
from model.hub import Pretrained, load_pretrained
from model.published import HubOptions
from model.similarity.global_pooling import CLASS_TOKEN_AGGREGATIONS, mean_pool_audio, mean_pool_image
from model.upsamplers import Upsampler

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Localizer:
    """A DenseAV that takes images, sounds and videos in every common form.

    Images keep their aspect ratio: the short side has the size of training. A sound longer than the model's input is
    encoded window by window. Results are float32 on the CPU.

    Args:
        pretrained: the model, its settings and its folder.
        dtype: of the encoders: float32, bfloat16 or float16 (autocast; weights, scores and maps stay in float32).

    Raises:
        ValueError: another dtype.

    Attributes:
        model: the DenseAV, in evaluation mode.
        config: the settings that build it.
        folder: the folder or file it was loaded from.
    """

    def __init__(self, pretrained: Pretrained, dtype: torch.dtype | None = None) -> None:
        if dtype not in (None, *DTYPES):
            raise UsageError(f"dtype={dtype}: allowed is {', '.join(map(str, DTYPES))}")
        self._loaded = pretrained
        self.model, self.config, self.folder = pretrained
        self.dtype = dtype or torch.float32

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> "Localizer":
        """Load a model.

        Args:
            name_or_path: a run folder (its newest checkpoint), a step folder, an exported folder, a released checkpoint
                (.ckpt, converted on loading), an id of the Hugging Face Hub (`user/name`), or a name: `toy`, the small
                model of this package; `sound`, `language`, `sound_and_language`, the published models, downloaded once.
            device: None: the accelerator of this machine (CUDA, MPS), otherwise the CPU.
            dtype: of the encoders: torch.float32 (None), torch.bfloat16 or torch.float16.
            revision: branch, tag or commit of a repository of the Hugging Face Hub.
            cache_dir: folder of downloads; None: that of the Hugging Face Hub, or of torch.hub for published names.
            token: of the Hugging Face Hub, for private repositories.
            local_files_only: do not download.

        Raises:
            ValueError: no such model, it cannot be downloaded, its weights do not fit, or no such device or dtype.
        """
        hub = HubOptions(revision, cache_dir, token, local_files_only)
        return cls(load_pretrained(name_or_path, device, hub), dtype)

    def __repr__(self) -> str:
        config = self.config
        return f"Localizer({self.folder}: {config.image_encoder}, {config.audio_encoder}, {config.num_heads} heads)"

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    def localize(
        self,
        image: ImageInput,
        sound: SoundInput | None = None,
        upsampler: str | Upsampler = "bilinear",
        max_fps: float | int = 25,
        short_side_px: int = 480,
    ) -> Localization:
        """Where in an image, or in each frame of a video, does a sound come from?

        Args:
            image: see eval.inference.inputs; without `sound` the path of a video.
            sound: see eval.inference.inputs; None: the sound of the video.
            upsampler: how maps are brought to pixels: bilinear, bicubic, anyup, anyup_multi_backbone, or the folder of
                a trained upsampler (model.upsamplers.load).
            max_fps: frames of a video are left out where there are more per second.
            short_side_px: larger frames of a video are scaled down, because all are kept in memory.

        Returns:
            Maps of the size of the image, or of the frames as they are kept.

        Raises:
            ValueError: an input in another form, one that cannot be read, a video without frames or sound, or one whose
                frames need more than 4 GB.
        """
        upsample = MapUpsampler.load(self.model, upsampler)
        if sound is None:
            path = _video_path(image)
            return localize_video(upsample, path, max_fps, short_side_px, self._precision)
        return localize_image(upsample, read_image(image), read_sound(sound), self._precision)

    def localize_stream(
        self,
        video: str | os.PathLike[str],
        upsampler: str | Upsampler = "bilinear",
        max_fps: float | int = 25,
        short_side_px: int = 480,
    ) -> Iterator[Localization]:
        """The frames of a video of any length, one Localization (F = 1) each, with memory that does not grow.

        Args, errors: as `localize`.
        """
        path, upsample = _video_path(video), MapUpsampler.load(self.model, upsampler)
        return stream_localizations(upsample, path, max_fps, short_side_px, self._precision)

    @torch.no_grad()
    def score(
        self, images: ImageInput | Sequence[ImageInput], sounds: SoundInput | Sequence[SoundInput]
    ) -> Float[Tensor, "A V"]:
        """How well does each sound fit each image? Per-head scores summed over heads, as in the retrieval benchmarks.

        Args:
            images: one image or a list of V.
            sounds: one sound or a list of A. A sound longer than the model's input has the mean score of its windows,
                weighted by their valid audio steps.

        Returns:
            Any range; larger fits better.
        """
        encoded_sounds = [self._encode_sound(*read_sound(sound)) for sound in as_list(sounds)]
        scores = torch.zeros(len(encoded_sounds), len(as_list(images)))
        for column, image in enumerate(as_list(images)):
            features = self._encode_image(read_image(image))
            for row, audio in enumerate(encoded_sounds):
                scores[row, column] = score_pairs(self.model, features, audio)
        return scores

    @torch.no_grad()
    def embed_image(self, images: ImageInput | Sequence[ImageInput]) -> Float[Tensor, "V D"]:
        """One vector of length 1 for each image, to search with: the mean over cells, each head normalized.

        Dot products with vectors of `embed_audio` lie in -1 to 1. D is the width of the shared space, all heads
        together. Models that compare class tokens have their class token in place of the mean.

        Args:
            images: one image or a list of V.
        """
        features = (self._encode_image(read_image(image)) for image in as_list(images))
        vectors = [
            image.cls if self._compares_cls and image.cls is not None else mean_pool_image(image) for image in features
        ]
        return self._unit_rows(vectors)

    @torch.no_grad()
    def embed_audio(self, sounds: SoundInput | Sequence[SoundInput]) -> Float[Tensor, "A D"]:
        """One vector of length 1 for each sound, to search with: the mean over its audio steps, as in `embed_image`.

        Args:
            sounds: one sound or a list of A.
        """
        vectors = []
        for sound in as_list(sounds):
            audio = self._encode_sound(*read_sound(sound))
            windows = audio.cls if self._compares_cls else mean_pool_audio(audio)
            vectors.append(torch.einsum("w,wkc->kc", window_weights(audio).to(windows), windows)[None])
        return self._unit_rows(vectors)

    def save_pretrained(self, folder: str | Path, name: str = "", license: str = "mit") -> Path:
        """Write a folder that `denseav.load` reads: config.json, model.safetensors, README.md (the model card).

        A metrics.json of these weights is copied; the table of the card comes from it.

        Args:
            folder: created if it does not exist.
            name: what `denseav.load` gets in the example of the card; empty: the folder.
            license: identifier of the Hugging Face Hub for the weights.

        Raises:
            OSError: the folder cannot be written.
        """
        save_model(self._loaded, Path(folder), name or str(folder), license)
        return Path(folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | bool | None = None,
        revision: str | None = None,
        license: str = "mit",
    ) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face Hub, and return the address of the commit.

        Args:
            repo_id: `user/name`; created if it does not exist.
            private: of a repository that is created.
            token: None: that of `hf auth login`.
            revision: branch; None: main.
            license: identifier of the Hugging Face Hub for the weights.

        Raises:
            ValueError: the upload failed.
        """
        return push_model(self._loaded, repo_id, private, token, revision, license)

    @property
    def _compares_cls(self) -> bool:
        return self.model.similarity_config.aggregation in CLASS_TOKEN_AGGREGATIONS

    def _unit_rows(self, vectors: list[Tensor]) -> Float[Tensor, "N D"]:
        """Vectors [1 K C] as rows of length 1, each head with the same share of it."""
        if not vectors:
            return torch.zeros(0, self.config.embed_dim)
        rows = functional.normalize(torch.cat(vectors).float(), dim=2).flatten(1)
        return functional.normalize(rows, dim=1).cpu()

    def _encode_image(self, pixels: UInt8[Tensor, "3 H_px W_px"]) -> ImageFeatures:
        with self._precision():
            return encode_image(self.model, pixels)

    def _encode_sound(self, waveform: Float[np.ndarray, "S"], rate_hz: int) -> AudioFeatures:
        waveform = resample_waveform(waveform, rate_hz, self.model.inputs.sample_rate_hz)  # in float32
        with self._precision():
            return encode_sound(self.model, waveform)

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def _video_path(video: object) -> Path:
    if not isinstance(video, str | os.PathLike):
        raise UsageError(f"localize of one {type(video).__name__}: give the path of a video, or an image and a sound")
    return Path(video)
