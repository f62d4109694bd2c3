"""Normalization of frames: in the image encoder only, from uint8."""

import inspect

import pytest
import torch
from jaxtyping import TypeCheckError
from torchvision.transforms import functional

from model.encoders.encoder import IMAGENET_MEAN, IMAGENET_STD, ImageEncoder, normalize
from model.encoders.image import TimmImageEncoder
from model.encoders.tiny import TinyImageEncoder


class _Recorder(ImageEncoder):
    """Returns the frames it would encode."""

    channels, stride = 3, 1

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def encode_normalized(self, frames):
        return frames, None


def _frames():
    return torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)


def test_frames_are_normalized_as_by_torchvision():
    frames = _frames()
    expected = functional.normalize(frames / 255, IMAGENET_MEAN, IMAGENET_STD)
    normalized = normalize(frames, IMAGENET_MEAN, IMAGENET_STD)
    assert normalized.dtype == torch.float32
    assert torch.allclose(normalized, expected, atol=1e-6)
    assert torch.equal(_Recorder()(frames)[0], normalized)


def test_an_encoder_with_its_own_normalization_keeps_it():
    vit, tiny = TimmImageEncoder("vit_tiny_patch16_224", 32, "random"), TinyImageEncoder()
    assert (vit.mean, vit.std) == (vit.model.pretrained_cfg["mean"], vit.model.pretrained_cfg["std"])
    assert (tiny.mean, tiny.std) == (IMAGENET_MEAN, IMAGENET_STD)
    recorder, frames = _Recorder(), _frames()
    recorder.mean, recorder.std = vit.mean, vit.std
    expected = functional.normalize(frames / 255, vit.mean, vit.std)
    assert torch.allclose(recorder(frames)[0], expected, atol=1e-6)
    assert not torch.allclose(recorder(frames)[0], _Recorder()(frames)[0], atol=0.01)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_frames_take_the_dtype_of_the_weights(dtype):
    encoder = TinyImageEncoder().to(dtype).eval()
    with torch.no_grad():
        assert encoder(_frames())[0].dtype == dtype


def test_frames_that_are_not_uint8_are_refused():
    frames = _frames() / 255
    with pytest.raises(TypeCheckError):
        TinyImageEncoder()(frames)
    # Without the type checks of the tests, as in production.
    with pytest.raises(ValueError, match=r"frames are torch\.float32; allowed is torch\.uint8, RGB in 0 to 255"):
        inspect.unwrap(ImageEncoder.forward)(TinyImageEncoder(), frames)
