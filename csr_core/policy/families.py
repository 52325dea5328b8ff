"""What differs between families of models and cannot be asked for. All else is asked of transformers' interface.

Asked: the language model (`get_decoder`), its head (`get_output_embeddings`), its configuration (`get_text_config`),
the ends of a turn (`generation_config`), the picture's token (`processor.image_token`), the turn format
(`apply_chat_template`), what the vision side makes of pictures (`get_image_features`), positions in three dimensions
(`get_rope_index`). A family that is not listed here works if that is all there is to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from csr_core.errors import InputError

# In a model's configuration: tokens that stand for pictures, videos and sounds, never for words.
PLACEHOLDERS = (
    "image_token_id", "image_token_index", "video_token_id", "video_token_index", "audio_token_id", "audio_token_index",
)  # fmt: skip

# How a processor's names of what belongs to pictures begin, whatever the shape: InstructBLIP's Q-Former looks at a
# picture with the question in mind. Names without these beginnings and with an entry a token belong to the sequence.
OF_PICTURES = ("pixel_", "image_", "qformer_")

# Kinds of language layers whose past is keys and values, one a token: only that can be shared, forked and cut.
KEPT_BY_TOKEN = ("full_attention", "sliding_attention", "chunked_attention")


@dataclass(frozen=True)
class Family:
    """One family's ways.

    template: of TEMPLATES, where a checkpoint has no chat template of its own.
    places_pictures: the processor puts the pictures' tokens in front by itself, the template writes none.
    behind_prompt: what the processor writes between the rendered prompt and the answer.
    answer_argument: the processor's argument for the answer, where it lays out prompt and answer differently.
    not_inputs: what the processor gives that is not for reading a prompt.
    on_answers: values of per-token inputs on an answer's tokens; 0 unless named.
    text_part: the part of the model that reads on where no picture comes any more, if the whole one cannot.
    """

    template: str | None = None
    places_pictures: bool = False
    behind_prompt: str = ""
    answer_argument: str | None = None
    not_inputs: tuple[str, ...] = ()
    on_answers: Mapping[str, int] = field(default_factory=dict)
    text_part: str | None = None


# By `model_type` of the configuration.
FAMILIES: dict[str, Family] = {
    # Prompts see themselves whole and answers what is before them; the token types tell which is which.
    "paligemma": Family(
        template="paligemma",
        behind_prompt="\n",
        answer_argument="suffix",
        not_inputs=("labels",),
        on_answers={"token_type_ids": 1},
    ),
    "instructblip": Family(template="instructblip", places_pictures=True, text_part="language_model"),
}


def family_of(config: Any) -> Family:
    """The ways of the model with this configuration."""
    return FAMILIES.get(getattr(config, "model_type", ""), Family())


def picture_token(processor: Any) -> str | None:
    """What stands for a picture in a rendered prompt, where the processor tells."""
    token = getattr(processor, "image_token", None)
    return str(getattr(token, "content", token)) if token else None


def placeholder_ids(config: Any, processor: Any) -> set[int]:
    """Tokens that ask for a picture, and so must never be written by the model."""
    named = {getattr(config, name, None) for name in PLACEHOLDERS}
    token = picture_token(processor)
    told = processor.tokenizer.convert_tokens_to_ids(token) if token else None
    unknown = processor.tokenizer.unk_token_id
    return {int(one) for one in (*named, told) if one is not None and (one in named or one != unknown)}


def check_config(config: Any, path: str) -> None:
    """Refuse, from its configuration alone, a model that this pipeline cannot work with.

    Raises:
        InputError: not an image-text-to-text model with a decoder of its own, or one whose past is no keys and values.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN

    kind = getattr(config, "model_type", "")
    if kind not in KNOWN and not getattr(config, "auto_map", None):
        raise InputError(
            f"{path} is a model of type {kind!r}, which transformers does not list among those that answer with text "
            "to pictures and text (AutoModelForImageTextToText): set model.path to a vision-language model, such as "
            "llava-hf/llava-1.5-7b-hf, or install a transformers version that knows this one"
        )
    text = config.get_text_config()
    if getattr(text, "is_encoder_decoder", False) or getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"{path} ({kind}) reads the prompt with an encoder. Expected a model that reads and writes with one "
            "decoder, whose likelihood of each sentence is what the search needs: choose another model.path"
        )
    others = sorted(set(getattr(text, "layer_types", None) or ()) - set(KEPT_BY_TOKEN))
    if others:
        raise InputError(
            f"{path} ({kind}) has language layers of the kinds {others}, whose memory of the past is not kept token by "
            f"token. Expected layers among {', '.join(KEPT_BY_TOKEN)}, so that sentences can go on from a common "
            "beginning: choose another model.path"
        )


def check_processor(processor: Any, family: Family, path: str) -> None:
    """Refuse a processor that cannot render a picture and a question.

    Raises:
        InputError: there is no tokenizer or image processor in it, or the chat template writes no place for a picture.
    """
    for name in ("tokenizer", "image_processor"):
        if getattr(processor, name, None) is None:
            raise InputError(
                f"the processor of {path} is a {type(processor).__name__} without {name}: expected the processor of a "
                "vision-language model (processor_config.json or preprocessor_config.json, and tokenizer files). Is a "
                "file missing, or is the model for text alone?"
            )
    written = rendered(processor, "What is this?", 1)
    if not family.places_pictures and written == rendered(processor, "What is this?", 2):
        token = picture_token(processor)
        raise InputError(
            f"the chat template of {path} writes {written!r} for a question on one picture and on two alike: expected "
            f"{repr(token) if token else 'a token'} in it for each. Is it a template for text alone? Set "
            "model.prompt_template to one that renders pictures"
        )


def rendered(processor: Any, question: str, pictures: int, answer: str | None = None) -> str:
    """The chat template's text for `pictures` and a question, up to where the assistant writes, or with its answer.

    Raises:
        InputError: the template refuses such a conversation.
    """
    content = [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": question}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if answer is not None:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    try:
        return str(processor.apply_chat_template(messages, add_generation_prompt=answer is None, tokenize=False))
    except Exception as error:  # Jinja's own, and whatever a template raises
        raise InputError(
            f"the chat template cannot render {pictures} picture(s), a question and "
            f"{'no' if answer is None else 'an'} answer: {error}. Expected one for messages whose content is a list of "
            "parts of type 'image' and 'text': set model.prompt_template"
        ) from error
