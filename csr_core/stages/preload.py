"""What stages import, for a process that others are forked from. Nothing here may start threads or touch a GPU."""

from __future__ import annotations

import contextlib
import warnings

with contextlib.suppress(ImportError):  # said in words by the stage that needs it
    import open_clip  # noqa: F401
    from peft import PeftModel  # noqa: F401
    from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: F401

    import csr_core.evaluation.answers
    import csr_core.evaluation.report
    import csr_core.miniature.weights
    import csr_core.policy
    import csr_core.reward.scorer
    import csr_core.search.tree
    import csr_core.stages.evaluate
    import csr_core.stages.finetune
    import csr_core.stages.generate
    import csr_core.stages.score  # noqa: F401

# A forked process runs the main module again, which was imported here beforehand; this is meant.
warnings.filterwarnings("ignore", category=RuntimeWarning, message=".*found in sys.modules")
# What one library says to another about its next release is no news for the user.
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
