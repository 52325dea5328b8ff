"""Where everything of a run lies below its working folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Paths of a run. Iterations count from 1; iteration 0 is the base model, which is only measured."""

    root: Path = Path()

    def prompts(self, iteration: int) -> Path:
        return self.root / "data" / f"iter_{iteration}" / "prompts"

    def candidates(self, iteration: int) -> Path:
        return self.root / "data" / f"iter_{iteration}" / "candidates"

    def scores(self, iteration: int) -> Path:
        return self.root / "data" / f"iter_{iteration}" / "scores"

    def preferences(self, iteration: int) -> Path:
        return self.root / "data" / f"iter_{iteration}" / "preferences"

    def imported(self, iteration: int) -> Path:
        """Pairs brought in from elsewhere, read by `pair` where `pair.imported` says so.

        Not below `data/`, which Git ignores since stages make it anew: `dvc add` needs a place that it does not.
        """
        return self.root / "imported" / f"iter_{iteration}"

    def answers(self, iteration: int) -> Path:
        return self.root / "data" / f"iter_{iteration}" / "answers"

    def model(self, iteration: int) -> Path:
        return self.root / "models" / f"iter_{iteration}"

    def metrics(self, iteration: int) -> Path:
        return self.root / "metrics" / f"iter_{iteration}.json"

    def main_metrics(self, iteration: int) -> Path:
        """The main figures alone, for DVC's tables."""
        return self.root / "metrics" / "summary" / f"iter_{iteration}.json"

    def guards(self, iteration: int) -> Path:
        """What the guards saw."""
        return self.root / "metrics" / "guards" / f"iter_{iteration}.json"

    @property
    def costs(self) -> Path:
        """What each stage cost, a file each; of no influence on anything."""
        return self.root / "metrics" / "costs"

    def verdict(self, iteration: int) -> Path:
        """Whether a guard stopped the iteration, and nothing else: the same file as long as that is the same."""
        return self.root / "data" / f"iter_{iteration}" / "verdict.json"

    @property
    def report(self) -> Path:
        return self.root / "reports" / "report.html"

    @property
    def splits(self) -> Path:
        return self.root / "data" / "splits"

    def progress(self, label: str) -> Path:
        """Files that the processes of a stage write how far they are to, while they run."""
        return self.state / "progress" / label

    @property
    def state(self) -> Path:
        """Stamps of finished stages, unfinished outputs, remembered digests: safe to delete, work is then redone."""
        return self.root / ".csr"
