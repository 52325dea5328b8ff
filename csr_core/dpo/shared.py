"""Both answers of a pair in one row, behind their picture and prompt, which goes through the model once.

A row is [prompt | chosen | rejected]. The rejected answer's tokens have the positions they would have right behind the
prompt, and do not see the chosen one. TRL's trainer, which knows nothing of this, gets batches of answers, each behind
the last token of its prompt; hooks on the model put the rows together on the way in and take them apart on the way
out. A frozen vision tower's features are computed once a batch, for both answers and for the reference too.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from csr_core.policy import Policy, PromptInputs, collate
from csr_core.policy.pictures import picture_features, takes_features, vision_is_frozen, without_pixels
from csr_core.search.passes import base_model, inner_model
from csr_core.search.shared import NAME, has_windows

PROMPT = "shared_prompt"  # the batch's entry, which the hooks take out again


def shared_pair_batch(
    samples: Sequence[PromptInputs], chosen: Sequence[list[int]], rejected: Sequence[list[int]], pad_id: int
) -> dict[str, Any]:
    """Batch of N pairs: the N chosen answers, then the N rejected ones, padded on the right, without their prompts.

    Returns: input_ids, attention_mask, completion_mask [2N, 1 + A], each row beginning with its prompt's last token,
    which is not part of the completion; and under PROMPT the N prompts [N, P], padded on the left, with the pictures.
    """
    answers = [*chosen, *rejected]
    longest = 1 + max(map(len, answers))
    ids = torch.full((len(answers), longest), pad_id)
    mask = torch.zeros(len(answers), longest, dtype=torch.long)
    for row, (sample, answer) in enumerate(zip([*samples, *samples], answers, strict=True)):
        ids[row, 0] = sample.sequence["input_ids"][-1]
        ids[row, 1 : 1 + len(answer)] = torch.tensor(answer)
        mask[row, : 1 + len(answer)] = 1
    completion = mask.clone()
    completion[:, 0] = 0
    prompts = collate(samples, [()] * len(samples), pad_id, "cpu")
    return {"input_ids": ids, "attention_mask": mask, "completion_mask": completion, PROMPT: prompts}


def visible(
    prompt: Int[Tensor, "pairs P"], chosen: Int[Tensor, "pairs A"], rejected: Int[Tensor, "pairs A"]
) -> Bool[Tensor, "pairs 1 T T"]:
    """Which token sees which, from the masks of the three parts: what is before it, but the other answer.

    Padding sees itself, since a softmax over nothing is no number.
    """
    own = torch.cat([prompt, chosen, rejected], dim=1).bool()
    before, answer = prompt.shape[1], chosen.shape[1]
    seen = torch.ones(own.shape[1], own.shape[1], dtype=torch.bool, device=own.device).tril()
    seen[before + answer :, before : before + answer] = False
    alone = torch.eye(own.shape[1], dtype=torch.bool, device=own.device)
    return ((seen & own[:, None, :]) | alone)[:, None]


class SharedPrompts:
    """The hooks, on a VLM without its head; batches without PROMPT pass as they are."""

    def __init__(self, model: Any, frozen: bool | None = None) -> None:
        """`model`: as the trainer has it; None finds out from its trainable parameters whether its vision is frozen."""
        base = base_model(model)
        self._inner = inner_model(model)
        self._features = takes_features(self._inner) and (vision_is_frozen(base) if frozen is None else frozen)
        self._bool_mask = base.config.get_text_config()._attn_implementation in ("sdpa", NAME)
        self._lengths: tuple[int, int] | None = None
        self._pictures: tuple[Any, Any] = (None, None)  # a batch's pixels, and their features
        self._handles = [
            self._inner.register_forward_pre_hook(self._join, with_kwargs=True),
            self._inner.register_forward_hook(self._part),
        ]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _join(self, module: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        self._lengths = None
        if PROMPT not in given:
            return None
        # Some heads hand on their arguments by place (LLaVA-NeXT).
        given = {**dict(zip(inspect.signature(module.forward).parameters, args, strict=False)), **given}
        prompt, ids, mask = given.pop(PROMPT), given.pop("input_ids"), given.pop("attention_mask")
        pairs, before = prompt["input_ids"].shape
        answer = ids.shape[1] - 1
        self._lengths = (before, answer)
        chosen, rejected = mask[:pairs, 1:], mask[pairs:, 1:]
        joined = {"input_ids": torch.cat([prompt["input_ids"], ids[:pairs, 1:], ids[pairs:, 1:]], dim=1)}
        features = {}
        for name, value in prompt.items():
            if value.shape != prompt["input_ids"].shape:
                features[name] = value
            elif name not in ("input_ids", "attention_mask"):
                joined[name] = torch.nn.functional.pad(value, (0, 2 * answer))
        seen = visible(prompt["attention_mask"], chosen, rejected)
        if not self._bool_mask:
            seen = torch.zeros(seen.shape, dtype=module.dtype, device=seen.device).masked_fill(
                ~seen, torch.finfo(module.dtype).min
            )
        joined["attention_mask"] = seen
        joined["position_ids"] = _positions(module, prompt, features, answer)
        return (), {**given, **joined, **self._of_pictures(features)}

    def _of_pictures(self, features: dict[str, Any]) -> dict[str, Any]:
        pixels = features.get("pixel_values")
        if not self._features or pixels is None:
            return features
        if self._pictures[0] is not pixels:
            self._pictures = (pixels, picture_features(self._inner, features))
        return {**without_pixels(features), "mm_encoder_outputs": {"image": self._pictures[1]}}

    def _part(self, module: Any, args: tuple[Any, ...], out: Any) -> Any:
        if self._lengths is None:
            return None
        before, answer = self._lengths
        hidden = out.last_hidden_state
        last = hidden[:, before - 1 : before]
        sides = (hidden[:, before : before + answer], hidden[:, before + answer :])
        out["last_hidden_state"] = torch.cat([torch.cat([last, side], dim=1) for side in sides])
        return out


def _positions(module: Any, prompt: dict[str, Any], features: dict[str, Any], answer: int) -> Tensor:
    """[N, P + 2A], or [3, N, P + 2A] where a family counts pictures by rows and columns."""
    mask = prompt["attention_mask"]
    behind = mask.sum(-1, keepdim=True) + torch.arange(answer, device=mask.device)
    if not hasattr(module, "get_rope_index"):
        return torch.cat([(mask.cumsum(-1) - 1).clamp(min=0), behind, behind], dim=-1)
    known = inspect.signature(module.get_rope_index).parameters
    given = {name: value for name, value in {**prompt, **features}.items() if name in known}
    own, offsets = module.get_rope_index(**given)
    behind = (behind + offsets.view(-1, 1)).expand(own.shape[0], -1, -1)
    positions: Tensor = torch.cat([own, behind, behind], dim=-1)
    return positions


@torch.no_grad()
def shares_prompts(policy: Policy, plain: dict[str, Tensor], shared: dict[str, Any]) -> bool:
    """Whether the model gives the answers of one batch the same likelihoods in either form; found out by trying."""
    config = policy.model.config.get_text_config()
    if has_windows(config) or config._attn_implementation not in ("sdpa", "eager", NAME):
        return False
    hooks = SharedPrompts(policy.model, frozen=True)  # so that features are tried too
    training = policy.model.training
    policy.model.eval()
    try:
        found = [likelihoods(policy, batch) for batch in (plain, shared)]
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError):
        return False
    finally:
        hooks.remove()
        policy.model.train(training)
    close = 1e-4 if policy.model.dtype == torch.float32 else 5e-2
    return bool((found[0] - found[1]).abs().max() <= close * found[0].abs().max().clamp(min=1.0))


def likelihoods(policy: Policy, batch: dict[str, Any]) -> Float[Tensor, " tokens"]:
    """Log p (nats) of each answer token of a batch, one row after the other."""
    inputs = {name: _to(value, policy.device) for name, value in batch.items() if name != "completion_mask"}
    logits = policy.model(**inputs, use_cache=False).logits[:, :-1].float()
    gains: Tensor = logits.log_softmax(-1).gather(2, inputs["input_ids"][:, 1:, None])[..., 0]
    return gains[batch["completion_mask"][:, 1:].bool().to(gains.device)]


def _to(value: Any, device: torch.device) -> Any:
    return {name: one.to(device) for name, one in value.items()} if isinstance(value, dict) else value.to(device)
