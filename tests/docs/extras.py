"""`python -m tests.docs.extras 'dvc[s3]'`: whether what is installed has the extras that a requirement names."""

import sys
from importlib.metadata import metadata

from packaging.requirements import Requirement

for text in sys.argv[1:]:
    asked = Requirement(text)
    missing = asked.extras - set(metadata(asked.name).get_all("Provides-Extra") or ())
    if missing:
        sys.exit(f"{asked.name} has no extra {', '.join(sorted(missing))}")
