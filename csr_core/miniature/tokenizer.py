"""The miniature's two small word-level tokenizers and its chat format, all in the usual Hugging Face form.

The language model's tokenizer keeps the space before a word inside its token (` fork`), so decoding is exact and pieces
decoded one after the other join to the whole. CLIP's reads lower-case words without spaces. Unknown words: `<unk>`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from csr_core.miniature.world import DESCRIBE, OBJECTS, Question, sentences

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import LlavaProcessor, PreTrainedTokenizerFast

# The end of a sequence must not be number 2: transformers' CLIP then pools at the highest token instead of at the end.
PAD, BOS, UNK, EOS, IMAGE = "<pad>", "<s>", "<unk>", "</s>", "<image>"
SPECIALS = {PAD: 0, BOS: 1, UNK: 2, EOS: 3, IMAGE: 4}
PATCH = 32  # pixels, square
IMAGE_TOKENS = 9  # 3 x 3 patches of a 96 x 96 picture
CLIP_CONTEXT = 32  # tokens; a sentence of the world has at most 8

# An answer ends with the end token, so that it is learnt with it; the prompt with `add_generation_prompt` is a prefix
# of the whole conversation.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '' if loop.first else '\n' }}{{ message['role'] | upper + ':\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\nASSISTANT:\n' }}{% endif %}"
)


def chat_text(question: str, answer: str = "") -> str:
    """One exchange about one picture as the chat template writes it, picture tokens expanded; the end is left open."""
    return f"{BOS}USER:\n{IMAGE * IMAGE_TOKENS}\n{question}\nASSISTANT:\n{answer}"


def _words() -> list[str]:
    """Every word of the world and of the chat format, sorted."""
    asked = [Question(name, True, "").text for name in OBJECTS]
    text = " ".join([*sentences(), *asked, DESCRIBE, "Yes No USER ASSISTANT SYSTEM"])
    return sorted({word.strip(".?") for word in text.split()})


def _fast(core: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        unk_token=UNK,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **options,
    )


def _core(tokens: list[str]) -> Tokenizer:
    """A word-level core: the special tokens at their fixed numbers, then `tokens`."""
    from tokenizers import AddedToken, Tokenizer, models

    names = [*SPECIALS, *tokens]
    core = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token=UNK))
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    return core


def language_tokenizer() -> PreTrainedTokenizerFast:
    """The tiny LLaVA's tokenizer; it adds no special tokens of its own (the chat template writes them)."""
    from tokenizers import Regex, decoders, pre_tokenizers

    words = _words()
    core = _core([*words, *(f" {word}" for word in words), *".,:;?!'\"-()/", " ", "\n"])
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|\s|[^\sA-Za-z]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    return _fast(core, extra_special_tokens={"image_token": IMAGE}, padding_side="left")


def clip_tokenizer() -> PreTrainedTokenizerFast:
    """The tiny CLIP's tokenizer: begin, lower-case words and punctuation, end."""
    from tokenizers import normalizers, pre_tokenizers, processors

    core = _core([*sorted({word.lower() for word in _words()}), *".,:;?!'\"-()/"])
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, SPECIALS[BOS]), (EOS, SPECIALS[EOS])]
    )
    return _fast(core, padding_side="right", model_max_length=CLIP_CONTEXT)


def llava_processor() -> LlavaProcessor:
    """Pictures to 96 x 96 pixels in -1..1, conversations by CHAT_TEMPLATE, nine picture tokens each."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    pictures = CLIPImageProcessor(
        size={"shortest_edge": 96},
        crop_size={"height": 96, "width": 96},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        do_convert_rgb=True,
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=language_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )
