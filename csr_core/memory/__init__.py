"""What each stage of a run needs in memory: estimated from the configuration alone, and measured by a trial.

`quantities` has a function for each part, with its arithmetic; `shapes` reads the sizes they need off a model without
weights; `stages` puts the parts of each stage together; `advice` looks for settings that fit; `trial` measures.
"""
