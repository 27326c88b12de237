"""A CLIP of a few units in a folder, and pictures for it to look at."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SIZE = 16


def make_clip(folder: Path) -> Path:
    """Random weights: its vectors tell pictures apart, no more."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 32, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = {"image_size": SIZE, "patch_size": 8}
    config = CLIPConfig(text_config=sizes | text, vision_config=sizes | vision, projection_dim=8)
    letters = {name: place for place, name in enumerate(["<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz "])}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, **marks)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(pictures, words).save_pretrained(folder)
    return folder


def picture(number: int) -> Image.Image:
    colours = np.random.default_rng(number).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    return Image.fromarray(colours)
