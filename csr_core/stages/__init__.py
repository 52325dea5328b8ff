"""The stages: a function each, and what runs them."""

STAGES = ("prepare", "generate", "score", "pair", "finetune", "evaluate", "guard")
