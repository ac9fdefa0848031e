"""Small random networks in the formats in which real ones are published, for tests of encoders."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ["<pad>", "<unk>", "<start>", "a", "dog", "cat", "teapot", "in", "the", "jungle", "snow"]
WORDS += [".", "<end>"]
IMAGE = 32  # pixels
CONTEXT = 24


def write_tokenizer(folder: Path) -> int:
    """Write a word-level tokenizer in transformers' format; return the size of its vocabulary."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [(mark, vocabulary[mark]) for mark in ("<start>", "<end>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=marks
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "unk_token": "<unk>"}
    special |= {"bos_token": "<start>", "eos_token": "<end>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 24} | special
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(WORDS)


def write_transformers(folder: Path, kind: str) -> Path:
    """Write a CLIP, SigLIP, DINO (a plain ViT) or DINOv2 as `save_pretrained` does."""
    torch.manual_seed(0)
    layers: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    layers["num_attention_heads"] = 2
    vision = layers | {"image_size": IMAGE, "patch_size": 8}
    if kind == "dino":
        model = transformers.ViTModel(transformers.ViTConfig(**vision), add_pooling_layer=False)
        processor = transformers.ViTImageProcessor(size={"height": IMAGE, "width": IMAGE})
    elif kind == "dinov2":
        config = {"mlp_ratio": 2} | {k: v for k, v in vision.items() if k != "intermediate_size"}
        model = transformers.Dinov2Model(transformers.Dinov2Config(**config))
        processor = transformers.BitImageProcessor(
            size={"shortest_edge": 36}, crop_size={"height": IMAGE, "width": IMAGE}
        )
    else:
        size = write_tokenizer(folder)
        text = layers | {"vocab_size": size, "max_position_embeddings": CONTEXT}
        ends = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": size - 1}
        if kind == "clip":
            both = {"vision_config": vision | {"hidden_act": "quick_gelu"}, "projection_dim": 20}
            model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text | ends, **both))
            processor = transformers.CLIPImageProcessor(
                size={"shortest_edge": IMAGE}, crop_size={"height": IMAGE, "width": IMAGE}
            )
        else:
            siglip = transformers.SiglipConfig(text_config=text | ends, vision_config=vision)
            model = transformers.SiglipModel(siglip)
            processor = transformers.SiglipImageProcessor(size={"height": IMAGE, "width": IMAGE})
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_lpips_trunk(file: Path, net: str) -> Any:
    """Write a random trunk in torchvision's naming; return lpips' own model that holds it."""
    import lpips

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # It asks torchvision in a deprecated way.
        model = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    random = torch.Generator().manual_seed(0)
    trunk = {}
    for key, tensor in model.net.state_dict().items():
        scale = 0.1 if tensor.ndim == 1 else (2 / tensor[0].numel()) ** 0.5
        values = torch.randn(tuple(tensor.shape), generator=random, device="cpu")
        trunk[f"features.{key.split('.', 1)[1]}"] = values * scale
    heads = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    state = torch.load(heads, map_location="cpu", weights_only=True)
    state |= {f"net.{k}": trunk[f"features.{k.split('.', 1)[1]}"] for k in model.net.state_dict()}
    model.load_state_dict(state, strict=False, assign=True)
    if file.suffix == ".pth":
        torch.save(trunk, file)
    else:
        save_file(trunk, file)
    return model.eval()
