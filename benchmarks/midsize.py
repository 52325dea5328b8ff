"""Models with random weights, made in place: large enough that arithmetic takes the time in them, not Python."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from csr_core.policy import Policy

VOCABULARY = 32_000
SPECIALS = {"<pad>": 0, "<unk>": 1, "<s>": 2, "</s>": 3, "<image>": 4}
PERIOD, NEWLINE = 5, 6
WORDS_A_SENTENCE = 20  # in the mean, geometric
TEMPLATE = (
    "<s>USER: {% for part in messages[0]['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %} ASSISTANT:"
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a LLaVA; `sentences`: how many an answer has in the mean."""

    hidden: int = 512
    inner: int = 1376
    layers: int = 8
    heads: int = 8
    vision_hidden: int = 768
    vision_inner: int = 3072
    vision_layers: int = 12
    vision_heads: int = 12
    patch: int = 16
    sentences: int = 6


MID = Shape()  # with a ViT-B/16: 196 picture tokens at 224 pixels, 576 at 384
# LLaVA-1.5-7B with its ViT-L/14: 576 picture tokens at 336 pixels.
SEVEN_B = Shape(4096, 11008, 32, 32, 1024, 4096, 24, 16, 14, 8)


def llava(
    pixels: int = 224, seed: int = 0, shape: Shape = MID, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Policy:
    """A LLaVA whose answers are random words.

    The output's bias makes a full stop follow a word, and the end a full stop, about as often as in captions of
    `shape.sentences` sentences of WORDS_A_SENTENCE words.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    text = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=shape.hidden, intermediate_size=shape.inner, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.heads, max_position_embeddings=4096, pad_token_id=0,
        bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=shape.vision_hidden, intermediate_size=shape.vision_inner, num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_heads, image_size=pixels, patch_size=shape.patch, projection_dim=512,
    )  # fmt: skip
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=4, pad_token_id=0)
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config).eval()
            _end_sentences(model, shape.sentences)
    finally:
        torch.set_default_dtype(before)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 3, 0
    processor = _processor(pixels, shape.patch)
    return Policy(model, processor, torch.device(device), 0, frozenset({3}), (0, 1, 2, 4, NEWLINE))


def _end_sentences(model: Any, sentences: int) -> None:
    """Bias the output: a full stop with probability 1 / WORDS_A_SENTENCE, the end with that over `sentences`.

    Logits of the random model are close to 0, so the other VOCABULARY tokens weigh about 1 each.
    """
    head = model.lm_head
    biased = torch.nn.Linear(head.in_features, head.out_features, bias=True)
    with torch.no_grad():
        biased.weight.copy_(head.weight)
        biased.bias.zero_()
        stop = VOCABULARY / WORDS_A_SENTENCE
        biased.bias[PERIOD] = math.log(stop)
        # The end is asked for after every word, but counts only where a sentence ended or it would end one there.
        biased.bias[3] = math.log(VOCABULARY / (sentences * WORDS_A_SENTENCE))
    model.lm_head = biased


def _processor(pixels: int, patch: int) -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    names = [*SPECIALS, ".", "\n", *(f" w{number}" for number in range(VOCABULARY - 7))]
    core = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+|\s|[^\s\w]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        padding_side="left", extra_special_tokens={"image_token": "<image>"}, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    pictures = CLIPImageProcessor(size={"shortest_edge": pixels}, crop_size={"height": pixels, "width": pixels})
    return LlavaProcessor(
        image_processor=pictures, tokenizer=tokenizer, patch_size=patch, vision_feature_select_strategy="default",
        chat_template=TEMPLATE, num_additional_image_tokens=1,
    )  # fmt: skip


def png(pixels: int, seed: int = 1) -> bytes:
    """A picture of noise."""
    from PIL import Image

    draw = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (pixels, pixels, 3), generator=draw, dtype=torch.uint8)
    out = io.BytesIO()
    Image.fromarray(noise.numpy()).save(out, format="PNG")
    return out.getvalue()


def pairs(policy: Policy, count: int, pixels: int, folder: Path) -> list[dict[str, Any]]:
    """`count` rows for training: a picture, a question of 20 words, two answers of 80 to 160 random words."""
    folder.mkdir(parents=True)
    draw = torch.Generator().manual_seed(2)
    rows = []
    for number in range(count):
        path = folder / f"{number}.png"
        path.write_bytes(png(pixels, number))
        words = [torch.randint(0, 1000, (20,), generator=draw).tolist()]
        for _ in range(2):
            length = int(torch.randint(80, 161, (1,), generator=draw))
            words.append(torch.randint(7, 1000, (length,), generator=draw).tolist())
        question = "".join(f" w{word}" for word in words[0])
        row = {"prompt_id": f"p{number}", "images": [str(path)], "prompt": question}
        rows.append({**row, "chosen_ids": [*words[1], 3], "rejected_ids": [*words[2], 3]})
    return rows


def prompts(policy: Policy, count: int, pixels: int) -> list[Any]:
    """`count` prompts with random pictures and questions of 20 words."""
    from PIL import Image

    draw = torch.Generator().manual_seed(1)
    out = []
    for _ in range(count):
        noise = torch.randint(0, 256, (pixels, pixels, 3), generator=draw, dtype=torch.uint8)
        words = torch.randint(0, 1000, (20,), generator=draw).tolist()
        out.append(policy.encode(Image.fromarray(noise.numpy()), "".join(f" w{word}" for word in words)))
    return out


def clip(folder: Path) -> Path:
    """An open_clip ViT-B/16 with random weights, in its local-dir layout."""
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(model.state_dict()), folder / "open_clip_model.safetensors")
    config = {"model_cfg": open_clip.get_model_config("ViT-B-16"), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder
