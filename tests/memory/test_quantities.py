"""Each part worked by hand, on sizes small enough for that or of a model whose figures are known."""

from __future__ import annotations

from csr_core.memory import quantities as part
from csr_core.memory.shapes import TowerShape, VlmShape

# 2 layers of width 8, 2 heads of 4, one head of keys and values; 20 inner values, 10 words; a photo of 4 patches
# becomes 3 tokens.
TINY = VlmShape(
    parameters=1000, rounded=640, adapted=((8, 8), (8, 20)), layers=2, hidden=8, inner=20, queries=8, keys=4,
    vocabulary=10, vision_hidden=6, vision_inner=12, picture_tokens=3, patches=4,
)  # fmt: skip


def test_weights() -> None:
    assert part.weights(TINY, 4) == 4000
    assert part.weights(TINY, 2) == 2000
    assert part.weights(TINY, 2, "int8") == 360 * 2 + 640
    # 360 whole ones; of 640 rounded ones 320 bytes, 10 blocks' scales of a byte, and 4 bytes for each 256 of those.
    assert part.weights(TINY, 2, "nf4") == int(720 + 320 + 10 + 640 / 64 / 256 * 4)


def test_the_adapter_and_its_training() -> None:
    values = part.adapter_values(TINY, 3)
    assert values == 3 * (8 + 8) + 3 * (8 + 20) == 132
    assert part.training_state(values, 4, further=False) == 132 * 16
    assert part.training_state(values, 2, further=True) == 132 * (16 + 2 + 4)


def test_keys_and_values() -> None:
    assert part.keys_values(TINY, 5, 2) == 2 * 2 * 4 * 5 * 2
    assert part.slots(TINY, 17, 20, 2) == 32 * part.keys_values(TINY, 32, 2)  # both rounded up to 16
    assert part.logits(TINY, 7) == 6 * 7 * 10 * 4


def test_what_a_layer_saves() -> None:
    assert part.saved_by_layer(TINY, 5, 3, 4) == 5 * 4 * (4 * 8 + 4 * 8 + 4 * 20 + 7 * 3)
    assert part.saved_by_layer(TINY, 5, 3, 2) == 5 * (8 * 8 + 2 * (5 * 8 + 5 * 8 + 4 * 20 + 7 * 3))


def test_checkpointing_keeps_inputs_and_one_layer() -> None:
    one, masks = part.saved_by_layer(TINY, 10, 3, 4), 2 * 2 * 25 * 4
    assert part.saved_masks(TINY, 2, 5, 4) == masks
    assert part.activations(TINY, 2, 5, 3, 4, checkpointing=False) == 2 * one + masks
    assert part.activations(TINY, 2, 5, 3, 4, checkpointing=True) == 2 * 10 * 8 * 4 + one + masks // 2


def test_passing_work() -> None:
    assert part.layer_work(TINY, 5, 2) == 5 * 2 * (4 * 8 + 4 * 20)
    assert part.head_work(TINY, 5, 2, triton=True) == 5 * 32768 * 2
    assert part.head_work(TINY, 5, 4, triton=False) == 5 * 32768 * 4 + 7.25 * 5 * 10 * 4
    assert part.vision_work(TINY, 2) == 4 * 2 * (2 * 6 + 2 * 12)
    assert part.picture_features(TINY, 5, 2) == 5 * 3 * 8 * 2


def test_the_reward_model() -> None:
    tower = TowerShape(parameters=100, width=4, tokens=5, pixels=6)
    assert part.tower_weights(tower) == 400
    assert part.tower_work(tower, 2) == 2 * 4 * (3 * 36 + 10 * 5 * 4)
