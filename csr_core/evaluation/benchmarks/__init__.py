"""Benchmarks over local files. Each module reads an official format and scores by the official metric:

read(folder) -> Reading: the questions, with the prompts of LLaVA-1.5's evaluation, and what was left out;
score(questions, answers by key) -> items (`csr_core.evaluation.statistics`), the share `unparsed` among their figures;
TITLE, SOURCE, and FILES: pattern below the folder -> where to get it. Where a judge is needed, `judge_request` and
`read_judgement` too, and `score` takes judgements by key.
"""

from types import ModuleType

from csr_core.evaluation.benchmarks import (
    chair,
    gqa,
    llava_bench,
    mm_vet,
    mmbench,
    mme,
    pope,
    science_qa,
    seed_bench,
    vizwiz,
)

BENCHMARKS: dict[str, ModuleType] = {
    "mme": mme,
    "seed_bench": seed_bench,
    "llava_bench": llava_bench,
    "mmbench": mmbench,
    "mm_vet": mm_vet,
    "science_qa": science_qa,
    "vizwiz": vizwiz,
    "gqa": gqa,
    "pope": pope,
    "chair": chair,
}
JUDGED = frozenset({"llava_bench", "mm_vet"})
