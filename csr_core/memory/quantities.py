"""How many bytes each part of a stage takes. One function a part, each with its arithmetic; all sizes in bytes.

`element`: bytes of a number in the model's type, 2 for bfloat16 and float16, 4 for float32.
"""

from __future__ import annotations

from csr_core.memory.shapes import TowerShape, VlmShape
from csr_core.search.batches import LOGITS
from csr_core.search.slots import LEAST_ROWS, whole_blocks

SCALES = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}  # bytes a rounded weight, its block's scale counted in
# Of TRL's output layer without Triton: float32 tables of answer tokens x vocabulary at its peak, found by measuring.
HEAD_TABLES, HEAD_WIDTH = 7.25, 32768  # HEAD_WIDTH: columns of its buffer, which Triton's kernel alone needs


def weights(shape: VlmShape, element: int, quantization: str | None = None) -> int:
    """parameters x element; rounded by bitsandbytes the language model's linear layers take 0.516 or 1 byte each.

    nf4: 4 bits, with a scale of 8 bits for each block of 64, and one of 32 bits for 256 of those.
    LLaVA-1.5-7B in bfloat16: 7.063e9 x 2 = 14.13 GB.
    """
    rounded = shape.rounded if quantization else 0
    return int((shape.parameters - rounded) * element + rounded * SCALES.get(quantization or "", 0))


def adapter_values(shape: VlmShape, rank: int) -> int:
    """LoRA adds rank x (inputs + outputs) values to each adapted linear layer."""
    return sum(rank * (inputs + outputs) for inputs, outputs in shape.adapted)


def training_state(values: int, element: int, further: bool) -> int:
    """Of the adapter under training: float32 values, gradients and AdamW's two moments, 4 x 4 bytes a value.

    In 2-byte types autocast holds a copy in that type for the forward pass. `further`: the adapter was there before,
    and its start is kept as the reference, 4 bytes more.
    """
    return values * (16 + (2 if element == 2 else 0) + (4 if further else 0))


def keys_values(shape: VlmShape, tokens: int, element: int) -> int:
    """2 x layers x width of the keys x tokens x element. LLaVA-1.5-7B in bfloat16: 0.52 MB a token."""
    return 2 * shape.layers * shape.keys * tokens * element


def slots(shape: VlmShape, count: int, tokens: int, element: int) -> int:
    """A table of keys and values: slots and tokens are rounded up to 16 (`csr_core.search.slots`)."""
    return -(-count // LEAST_ROWS) * LEAST_ROWS * keys_values(shape, whole_blocks(tokens), element)


def logits(shape: VlmShape, rows: int) -> int:
    """What sampling makes of the next token's logits: LOGITS tables of rows x vocabulary in float32."""
    return LOGITS * rows * shape.vocabulary * 4


def saved_by_layer(shape: VlmShape, tokens: int, rank: int, element: int) -> int:
    """What one decoder layer keeps for its backward pass, base frozen and all linear layers adapted. Per token:

    float32: the inputs of both norms and what they give, 4 H; queries, keys, values, attention's result, 2 Q + 2 K; the
    gate, its activation, the up branch and their product, 4 I; the 7 adapters' inner values, 7 r; each 4 bytes. K
    is Q here: keys and values are repeated for all heads.
    2 bytes: the norms' inputs in float32, 2 H x 4; a copy of its input for each adapter, 5 H + Q + I; queries, keys,
    values and result, 2 Q + 2 K; gate, activation and up, 3 I; 7 r; each 2 bytes.
    """
    h, q, i = shape.hidden, shape.queries, shape.inner
    if element == 4:
        return tokens * 4 * (4 * h + 4 * q + 4 * i + 7 * rank)
    return tokens * (8 * h + 2 * (5 * h + 5 * q + 4 * i + 7 * rank))


def saved_masks(shape: VlmShape, rows: int, tokens: int, element: int) -> int:
    """Each layer keeps the attention mask as numbers: layers x rows x tokens^2 x element."""
    return shape.layers * rows * tokens * tokens * element


def activations(shape: VlmShape, rows: int, tokens: int, rank: int, element: int, checkpointing: bool) -> int:
    """What the forward pass leaves for the backward pass, in rows of so many tokens.

    Without checkpointing what each layer saves; with it each layer's input, tokens x H x element, and the whole of
    one layer.
    """
    one = saved_by_layer(shape, rows * tokens, rank, element)
    masks = saved_masks(shape, rows, tokens, element)
    if not checkpointing:
        return shape.layers * one + masks
    return shape.layers * rows * tokens * shape.hidden * element + one + masks // shape.layers


def layer_work(shape: VlmShape, tokens: int, element: int) -> int:
    """What a layer's pass holds for a moment: residual and normed input, 4 H, and 4 I of the feed-forward part."""
    return tokens * element * (4 * shape.hidden + 4 * shape.inner)


def head_work(shape: VlmShape, tokens: int, element: int, triton: bool) -> int:
    """TRL's output layer over the answers' tokens: a buffer of tokens x HEAD_WIDTH in the model's type.

    Without Triton's kernel (on a CPU) also 7.25 tables of tokens x vocabulary in float32, in its backward pass.
    """
    buffer = tokens * HEAD_WIDTH * element
    return buffer if triton else int(buffer + HEAD_TABLES * tokens * min(shape.vocabulary, HEAD_WIDTH) * 4)


def picture_features(shape: VlmShape, pictures: int, element: int) -> int:
    """What the language model reads of pictures: pictures x tokens x H x element."""
    return pictures * shape.picture_tokens * shape.hidden * element


def vision_work(shape: VlmShape, element: int) -> int:
    """One picture on its way through the vision tower: patches x (2 W + 2 I) x element, one layer at a time."""
    return shape.patches * element * (2 * shape.vision_hidden + 2 * shape.vision_inner)


def tower_weights(tower: TowerShape) -> int:
    """The reward model is float32."""
    return 4 * tower.parameters


def tower_work(tower: TowerShape, pictures: int) -> int:
    """A batch of pictures in the reward model: pixels, and tokens x 10 W in float32.

    10 W: the residual, the normed input, the feed-forward part's 4 W before and 4 W behind its activation.
    """
    return pictures * 4 * (3 * tower.pixels**2 + 10 * tower.tokens * tower.width)
