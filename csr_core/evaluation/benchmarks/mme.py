"""MME (Fu et al. 2023, arXiv 2306.13394): two yes/no questions on each picture, of 14 subtasks.

A subtask's score is 100 * (accuracy over questions + accuracy+ over pictures), where a picture counts for accuracy+
when both its answers are right; perception is the sum over ten subtasks (at most 2000), cognition over four (at most
800). The metric is that of the official `eval_tool/calculation.py`; LLaVA asks without the files' "Please answer yes or
no.".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from csr_core.errors import InputError
from csr_core.evaluation.benchmarks.common import SHORT, SHORT_TOKENS, Question, Reading
from csr_core.evaluation.statistics import Counts, Item

PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SUBTASKS = (*PERCEPTION, *COGNITION)

TITLE = "MME: perception and cognition"
SOURCE = "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation"
FILES = {f"{task}/**/*.txt": f"MME_Benchmark_release_version/{task}, on application as told there" for task in SUBTASKS}

_REQUEST = "Please answer yes or no."
_ENDINGS = (".jpg", ".png", ".jpeg")


def read(folder: Path) -> Reading:
    """`folder` is MME_Benchmark_release_version: SUBTASK/NAME.txt with two lines `question<TAB>Yes|No` beside the
    picture, or SUBTASK/questions_answers_YN/NAME.txt and SUBTASK/images/."""
    found = Reading()
    for task in SUBTASKS:
        apart = folder / task / "questions_answers_YN"
        texts, pictures = (apart, folder / task / "images") if apart.is_dir() else (folder / task, folder / task)
        for file in sorted(texts.glob("*.txt")):
            key = f"{task}/{file.stem}"
            rows = [line.split("\t") for line in file.read_text("utf-8", "replace").splitlines() if line.strip()]
            if len(rows) != 2 or any(len(row) != 2 or row[1].strip().lower() not in ("yes", "no") for row in rows):
                found.drop(key, f"{file}: expected two lines `question<TAB>Yes` or `No`")
                continue
            names = [file.stem + ending for ending in _ENDINGS]
            image = next((pictures / name for name in names if (pictures / name).is_file()), pictures / names[0])
            for number, (asked, answer) in enumerate(rows):
                prompt = f"{asked.replace(_REQUEST, '').strip()}\n{SHORT}"
                facts = {"task": task, "answer": answer.strip().lower()}
                found.questions.append(Question(f"{key}/{number}", key, image, prompt, SHORT_TOKENS, facts))
    if not found.questions:
        raise InputError(f"{folder} has none of MME's folders {', '.join(SUBTASKS[:3])}, ...: is it the right folder?")
    return found


def read_answer(text: str) -> str:
    """yes or no where one of them is in the first four letters, as the official tool has it; otherwise `other`."""
    begin = text.strip().lower()[:4]
    return "yes" if "yes" in begin else "no" if "no" in begin else "other"


def score(questions: Sequence[Question], answers: Mapping[str, str]) -> list[Item]:
    """An item a picture whose two questions have answers: `perception`, `cognition`, each subtask's score, its
    `accuracy_` and `accuracy_plus_`, and `unparsed`.

    A sum over subtasks of different size is a ratio once each picture is weighed by one over its subtask's size. That
    subtasks differ must not widen its interval, as their sizes are fixed: so each picture has the mean of the subtasks'
    scores and what it is above or below its own subtask's. A sum is there only where each of its subtasks is.
    """
    pairs: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        if question.key in answers:
            pairs[question.picture].append(question)
    whole = {picture: pair for picture, pair in pairs.items() if len(pair) == 2}
    said = {picture: [read_answer(answers[question.key]) for question in pair] for picture, pair in whole.items()}
    rights = {
        picture: sum(one == question.facts["answer"] for one, question in zip(said[picture], pair, strict=True))
        for picture, pair in whole.items()
    }
    points: dict[str, dict[str, float]] = defaultdict(dict)
    for picture, right in rights.items():
        points[whole[picture][0].facts["task"]][picture] = 100.0 * (right / 2 + (right == 2))
    means = {task: sum(of.values()) / len(of) for task, of in points.items()}
    items = []
    for picture, right in rights.items():
        task = str(whole[picture][0].facts["task"])
        counts: Counts = {}
        for name, tasks in (("perception", PERCEPTION), ("cognition", COGNITION)):
            if task in tasks and all(other in means for other in tasks):
                deviation = points[task][picture] - means[task]
                size, total = len(points[task]), sum(means[other] for other in tasks)
                counts[name] = ((total + len(tasks) * deviation) / size, 1 / size)
        counts[task] = (points[task][picture], 1.0)
        counts[f"accuracy_{task}"] = (float(right), 2.0)
        counts[f"accuracy_plus_{task}"] = (float(right == 2), 1.0)
        counts["unparsed"] = (float(said[picture].count("other")), 2.0)
        items.append(Item(picture, picture, counts))
    return items
