"""Prompts and inversions that are longer than the text encoders read are said or refused."""

import logging
from pathlib import Path

import pytest
import tiny_backbone
import torch

from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone, load_backbone
from dbbench.generation.tokens import embeddings_of, find_vectors
from dbbench.suites.sampling import SampleSettings


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder: Path = tiny_backbone.write(tmp_path_factory.mktemp("backbone"))
    return load_backbone(str(folder), resolution=tiny_backbone.RESOLUTION, device="cpu")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("dbbench")]


def test_a_prompt_is_cut_from_the_first_token_that_is_not_read(
    backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    (limit,) = backbone.contexts
    assert limit == 24
    whole = " ".join(["dog"] * (limit - 2))
    with caplog.at_level(logging.WARNING):
        backbone.tokenize([whole])
        assert said(caplog) == []
        settings = SampleSettings(steps=1)
        list(backbone.sample(["a dog", f"{whole} cat"], seeds=[0, 1], settings=settings))
    (line,) = said(caplog)
    assert line.startswith("1 of 3 texts is cut: the text encoder reads 24 tokens")
    assert "the longest has 25" in line


def test_a_token_of_several_vectors_counts_as_several(
    backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    with backbone.added_tokens({"<x>": [torch.zeros(21, 32)]}):
        backbone.tokenize(["a <x>"])
        assert said(caplog) == []
        backbone.tokenize(["a <x> in the snow"])
    assert "the longest has 27" in said(caplog)[0]


def test_an_inversion_longer_than_the_context_is_refused(backbone: Backbone) -> None:
    width = embeddings_of(backbone, "a")[0].shape[-1]
    assert len(find_vectors("<x>", {"<x>": torch.zeros(22, width)}, backbone)[0]) == 22
    with pytest.raises(UserError, match="has 23 vectors, and .* reads 22 tokens"):
        find_vectors("<x>", {"<x>": torch.zeros(23, width)}, backbone)
