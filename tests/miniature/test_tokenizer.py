"""The miniature's tokenizers and its chat format."""

import pytest
from PIL import Image

from csr_core.miniature import tokenizer, world

USER = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": world.DESCRIBE}]}]
ANSWER = "The image shows a kitchen. There is a fork. There is an umbrella."


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    """Saved and loaded as any model's processor."""
    from transformers import AutoProcessor

    folder = tmp_path_factory.mktemp("processor")
    tokenizer.llava_processor().save_pretrained(folder)
    return AutoProcessor.from_pretrained(folder)


def test_captions_survive_and_pieces_join(processor):
    words = processor.tokenizer
    for scene in world.sample_split("pretraining", 50, 0):
        caption = world.pretraining_caption(scene)
        ids = words(caption)["input_ids"]
        assert words.decode(ids) == caption
        assert "".join(words.decode([number]) for number in ids) == caption
        assert words.unk_token_id not in ids
    assert words.convert_ids_to_tokens(words("There is a fork. There")["input_ids"])[4:] == [".", " There"]


def test_any_text_is_read(processor):
    for text in ("", "Écris 3.5 çats\t\n  <odd> 日本 \U0001f355", "What colour is the fire-engine?", "a" * 5000):
        assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) is not None
        assert tokenizer.clip_tokenizer()(text)["input_ids"][-1] == tokenizer.SPECIALS[tokenizer.EOS]


def test_special_tokens(processor):
    words = processor.tokenizer
    assert (words.pad_token_id, words.bos_token_id, words.unk_token_id, words.eos_token_id) == (0, 1, 2, 3)
    assert words.convert_tokens_to_ids("<image>") == processor.image_token_id == 4
    assert words.eos_token_id != 2  # see tokenizer.py


def test_the_prompt_is_a_prefix_of_the_conversation(processor):
    prompt = processor.apply_chat_template(USER, add_generation_prompt=True)
    whole = processor.apply_chat_template([*USER, {"role": "assistant", "content": ANSWER}])
    listed = [*USER, {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}]
    assert whole == prompt + ANSWER + "</s>" == processor.apply_chat_template(listed)
    short, long = processor.tokenizer(prompt)["input_ids"], processor.tokenizer(whole)["input_ids"]
    assert long[: len(short)] == short
    assert long[-1] == processor.tokenizer.eos_token_id
    again = [
        *USER,
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": "Is there a cup in the image?"},
    ]
    assert processor.apply_chat_template(again, add_generation_prompt=True) == (
        whole + "\nUSER:\nIs there a cup in the image?\nASSISTANT:\n"
    )


def test_training_texts_are_the_chat_templates(processor):
    texts = processor.apply_chat_template(USER, add_generation_prompt=True)
    ids = processor(images=Image.new("L", (640, 480)), text=texts, return_tensors="pt")["input_ids"][0].tolist()
    assert processor.tokenizer(tokenizer.chat_text(world.DESCRIBE))["input_ids"] == ids
    assert ids.count(processor.image_token_id) == tokenizer.IMAGE_TOKENS


def test_clip_ignores_case_and_spaces():
    words = tokenizer.clip_tokenizer()
    assert words(" There is  a FORK.")["input_ids"] == words("there is a fork.")["input_ids"]
    assert all(words.unk_token_id not in words(text)["input_ids"] for text in world.sentences())
