"""Hand-made scored trees."""

from typing import Any


def node(number: int, parent: int | None, text: str, reward: float | None, final: bool = False) -> dict[str, Any]:
    """A row of SCORES with what pairing reads."""
    return {"node": number, "parent": parent, "text": text, "reward": reward, "is_final": final, "dropped": None}


def small_tree() -> list[dict]:
    """Rewards 10, 4, 2, 6, 3 (mean 5): three answers of one, two and two sentences."""
    return [
        node(0, None, "Describe.", None),
        node(1, 0, " A dog.", 10.0),
        node(2, 0, " A cat.", 4.0, final=True),
        node(3, 1, " A bus.", 2.0, final=True),
        node(4, 1, " A bed.", 6.0, final=True),
        node(5, 0, " A cup.", 3.0),  # never ended: no answer
    ]
