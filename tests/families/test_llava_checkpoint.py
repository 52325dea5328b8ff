"""A checkpoint in exactly the layout of llava-hf/llava-1.5-7b-hf, made small, on photos with the paper's preset."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaConfig, LlavaForConditionalGeneration

from csr_core.config import ModelSettings
from csr_core.errors import InputError
from csr_core.images import open_image
from csr_core.layout import Layout
from csr_core.loop import iterate
from csr_core.params import flatten, load_settings, preset_values, render_params
from csr_core.policy import load_policy
from csr_core.records import PREFERENCES, PROMPTS, SCORES, read_json, read_table
from tests.families.checkpoints import VICUNA, fill, llama2

COCO = Path(__file__).parents[2].parent / "shared" / "data" / "coco"
SIDE, PATCH = 42, 14  # pixels, in the place of 336: 3 x 3 patches

# What makes the run small; all else is the paper's preset as it is.
SIZES = {"iterations": 1, "generate.max_sentences": 4, "evaluate.max_new_tokens": 16, "evaluate.bootstrap": 100}


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def tokenizer_files(out: Path) -> int:
    """tokenizer.json in the form of Llama's converted from SentencePiece, and what lies beside it. Returns the number
    of words, which `<image>` and `<pad>` follow as 32000 and 32001 do on the hub."""
    llama2("<image>").save_pretrained(out)
    core = json.loads((out / "tokenizer.json").read_text())
    words = len(core["model"]["vocab"])
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    core["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, spaces]}
    core["pre_tokenizer"] = None
    (out / "tokenizer.json").write_text(json.dumps(core, ensure_ascii=False))
    names = {0: "<unk>", 1: "<s>", 2: "</s>", words: "<image>", words + 1: "<pad>"}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {str(number): {"content": name, **flags} for number, name in names.items()}
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    more = {"add_bos_token": True, "add_eos_token": False, "legacy": False, "padding_side": "left"}
    more |= {"clean_up_tokenization_spaces": False, "model_max_length": 10**30, "sp_model_kwargs": {}}
    more |= {
        "processor_class": "LlavaProcessor",
        "tokenizer_class": "LlamaTokenizer",
        "use_default_system_prompt": False,
    }
    _write(out / "tokenizer_config.json", {**special, **more, "added_tokens_decoder": added})
    _write(out / "special_tokens_map.json", special)
    _write(out / "added_tokens.json", {"<image>": words, "<pad>": words + 1})
    return words


def llava_hf(out: Path) -> Path:
    """The hub's files by name and content, sizes apart; weights in float16 and several files."""
    out.mkdir()
    words = tokenizer_files(out)
    _write(out / "chat_template.json", {"chat_template": VICUNA})
    processor = {"image_token": "<image>", "num_additional_image_tokens": 1, "patch_size": PATCH}
    processor |= {"processor_class": "LlavaProcessor", "vision_feature_select_strategy": "default"}
    _write(out / "processor_config.json", processor)
    pixels = {"crop_size": {"height": SIDE, "width": SIDE}, "size": {"shortest_edge": SIDE}, "resample": 3}
    pixels |= dict.fromkeys(("do_center_crop", "do_convert_rgb", "do_normalize", "do_rescale", "do_resize"), True)
    pixels |= {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    pixels |= {"image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor"}
    _write(out / "preprocessor_config.json", {**pixels, "rescale_factor": 1 / 255})
    rows = words + 64
    text = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": rows, "torch_dtype": "float16"}
    text |= {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "_name_or_path": "lmsys/vicuna-7b-v1.5"}
    text |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {"model_type": "clip_vision_model", "image_size": SIDE, "patch_size": PATCH, "projection_dim": 32}
    vision |= {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3}
    config = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "ignore_index": -100}
    config |= {"image_token_index": words, "image_seq_length": 9, "pad_token_id": words + 1, "vocab_size": rows}
    config |= {"projector_hidden_act": "gelu", "vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
    config |= {"text_config": text, "vision_config": {**vision, "vocab_size": words}, "tie_word_embeddings": False}
    config |= {"torch_dtype": "float16", "transformers_version": "4.46.0"}
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(LlavaConfig.from_dict(config))
    fill(model, llama2("<image>"), [2])
    shards(model.half(), out)
    _write(out / "config.json", config)
    _write(out / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": words + 1})
    return out


# How the hub's weights are named, which transformers has renamed since.
RENAMED = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.vision_tower.": "vision_tower.vision_model.",
}


def hub_name(name: str) -> str:
    old = next(old for old in RENAMED if name.startswith(old))
    return RENAMED[old] + name.removeprefix(old).removeprefix("vision_model.")


def shards(model: torch.nn.Module, out: Path) -> None:
    """Three safetensors files and their index."""
    weights = {hub_name(name): value.contiguous() for name, value in model.state_dict().items()}
    files = {name: f"model-{number % 3 + 1:05d}-of-00003.safetensors" for number, name in enumerate(sorted(weights))}
    for file in set(files.values()):
        part = {name: weights[name] for name in weights if files[name] == file}
        save_file(part, out / file, metadata={"format": "pt"})
    size = sum(value.nbytes for value in weights.values())
    _write(out / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": files})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llava_hf(tmp_path_factory.mktemp("hub") / "llava-1.5-7b-hf")


def test_weights_under_the_hubs_names_are_all_found(checkpoint: Path, tmp_path: Path) -> None:
    model = load_policy(ModelSettings(path=str(checkpoint), device="cpu")).model
    found = {hub_name(name): value for name, value in model.state_dict().items()}
    written: dict[str, torch.Tensor] = {}
    for shard in checkpoint.glob("*.safetensors"):
        written |= load_file(shard)
    assert found.keys() == written.keys()
    assert all(torch.equal(found[name], written[name].float()) for name in written)
    assert "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight" in written


def test_weights_that_are_not_there_are_told(checkpoint: Path, tmp_path: Path) -> None:
    """They would be random otherwise."""
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    index = json.loads((other / "model.safetensors.index.json").read_text())
    shard = other / index["weight_map"]["language_model.lm_head.weight"]
    save_file({name: value for name, value in load_file(shard).items() if "lm_head" not in name}, shard)
    with pytest.raises(InputError, match=r"lm_head\.weight.*model\.path"):
        load_policy(ModelSettings(path=str(other), device="cpu"))


def test_prompts_are_vicunas(checkpoint: Path) -> None:
    """One beginning of sequence, the picture's nine tokens, and the turn's end where the answer begins."""
    policy = load_policy(ModelSettings(path=str(checkpoint), device="cpu"))
    assert policy.render("What is this?") == "USER: <image>\nWhat is this? ASSISTANT:"
    image = next((COCO / "images").glob("*.jpg"), None) if COCO.is_dir() else None
    picture = open_image(image) if image else open_image(Path("docs/demo.png"))
    ids = policy.encode(picture, "What is this?").sequence["input_ids"].tolist()
    assert ids.count(policy.model.config.image_token_id) == 9
    assert (ids[0], ids.count(1)) == (1, 1)
    assert policy.decode(ids).replace("  ", " ") == "USER: \nWhat is this? ASSISTANT:"
    assert policy.end_ids == {2}
    assert policy.model.dtype == torch.float32


@pytest.mark.skipif(
    not COCO.is_dir(), reason="needs the 64 COCO photos of ../shared/data/coco, which are not part of this repository"
)
def test_all_stages_with_the_papers_preset_on_coco(checkpoint: Path, tmp_path: Path) -> None:
    split = tmp_path / "held_out"
    split.mkdir()
    for name in ("prompts.json", "instances.json"):
        shutil.copy(COCO / name, split / name)
    (split / "images").symlink_to(COCO / "images")
    paper = preset_values("paper", miniature=False)
    (tmp_path / "params.yaml").write_text(render_params({**paper, **SIZES}))
    paths = {"model.path": checkpoint, "data.prompts": COCO / "prompts.json", "data.images": COCO / "images"}
    splits = "evaluate.splits={coco: {folder: " + str(split) + "}}"
    settings = load_settings(tmp_path / "params.yaml", [*(f"{name}={path}" for name, path in paths.items()), splits])
    now = flatten(settings)
    assert {name: now[name] for name in paper if name not in SIZES} == {
        name: value for name, value in paper.items() if name not in SIZES
    }
    layout = Layout(tmp_path)
    iterate(settings, layout)
    assert len(read_table(layout.prompts(1), PROMPTS)) == 64
    assert len({row["prompt_id"] for row in read_table(layout.scores(1), SCORES)}) == 64
    pairs = read_table(layout.preferences(1), PREFERENCES)
    summary = read_json(layout.model(1) / "summary.json")
    assert summary["left_out"] == []
    assert summary["pairs"] == len(pairs) >= 32
    assert summary["steps"] == -(-len(pairs) // 16)
    # The paper's learning rate, 1e-7: nothing moves far in so few steps, from ln 2.
    assert summary["final"]["loss"] == pytest.approx(0.6931, abs=5e-3)
    for iteration in (0, 1):
        assert read_json(layout.answers(iteration) / "summary.json")["left_out"] == []
        assert len((layout.answers(iteration) / "coco_captions.jsonl").read_text().splitlines()) == 64
    assert "chair_i" in read_json(layout.metrics(1))["coco"]
