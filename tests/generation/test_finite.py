"""NaN and infinite numbers stop sampling and training with a line; they are never black images."""

import pytest
import tiny_backbone
import torch

from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone, load_backbone
from dbbench.suites.sampling import SampleSettings

SETTINGS = SampleSettings(scheduler="dpmsolver++", steps=2, batch_size=2)


@pytest.fixture(params=["sd", "sd3-without-t5"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tiny_backbone.write(tmp_path_factory.mktemp("backbone"), kind=request.param)
    return load_backbone(str(folder), resolution=tiny_backbone.RESOLUTION, device="cpu")


def spoil(backbone: Backbone, part: str, value: float) -> None:
    *_, (_, weight) = backbone.module(part).named_parameters()
    with torch.no_grad():
        weight.fill_(value)


def sample(backbone: Backbone) -> None:
    list(backbone.sample(["a dog", "a cat", "a toy"], seeds=[0, 1, 2], settings=SETTINGS))


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "")])
def test_a_denoiser_of_no_numbers_stops_with_a_line(
    backbone: Backbone, value: float, word: str
) -> None:
    sample(backbone)
    spoil(backbone, backbone.denoiser, value)
    with pytest.raises(UserError, match=f"the denoiser gives has .*{word}.*use other weights"):
        sample(backbone)


def test_an_autoencoder_of_no_numbers_stops_with_a_line(backbone: Backbone) -> None:
    vae = backbone.module("vae")
    with torch.no_grad():
        vae.decoder.conv_out.bias.fill_(float("nan"))  # type: ignore[union-attr]
    with pytest.raises(UserError, match="the autoencoder makes of the latents has NaN"):
        sample(backbone)
    with torch.no_grad():
        vae.encoder.conv_out.bias.fill_(float("nan"))  # type: ignore[union-attr]
    with pytest.raises(UserError, match="the autoencoder makes of the images has NaN"):
        backbone.encode_posterior(tiny_backbone.images(2))


def test_text_of_no_numbers_stops_with_a_line(backbone: Backbone) -> None:
    widths = [
        e.get_input_embeddings().weight.shape[1]
        for e in map(backbone.module, backbone.text_encoders)
    ]  # type: ignore[operator]
    vectors = [torch.full((1, width), float("nan")) for width in widths]
    with backbone.added_tokens({"<x>": vectors}):
        images = backbone.sample(["a <x>"], seeds=[0], settings=SETTINGS)
    with pytest.raises(UserError, match="the denoiser gives has NaN"):
        list(images)
