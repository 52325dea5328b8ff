"""Small folders in each benchmark's official format, with pictures of one colour."""

import base64
import csv
import io
import json
from pathlib import Path

from PIL import Image

from csr_core.evaluation.benchmarks.mme import SUBTASKS

APART = ("landmark", "scene")  # whose pictures and questions lie in folders of their own, as some of MME's do


def picture(path: Path, colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), colour).save(path, "PNG")


def encoded(colour: str) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write(path: Path, value: object, lines: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = value if lines else [value]
    assert isinstance(rows, list)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def mme(folder: Path, subtasks: tuple[str, ...] = SUBTASKS) -> Path:
    """A picture a subtask, two in existence; the first question's answer is Yes, the second's No."""
    for task in subtasks:
        for name in ("1", "2")[: 2 if task == "existence" else 1]:
            texts, pictures = folder / task, folder / task
            if task in APART:
                texts, pictures = texts / "questions_answers_YN", pictures / "images"
            picture(pictures / f"{name}.{'png' if task == 'OCR' else 'jpg'}")
            texts.mkdir(parents=True, exist_ok=True)
            asked = (f"Is it {task}? Please answer yes or no.\tYes", "Is it a dog?  Please answer yes or no.\tNo")
            (texts / f"{name}.txt").write_text("\n".join(asked) + "\n")
    return folder


def seed_bench(folder: Path) -> Path:
    """Three questions on two pictures, two dimensions, and one on a video."""

    def row(number: int, image: str, dimension: int, answer: str, kind: str = "image") -> dict[str, object]:
        choices = {
            f"choice_{letter}": word for letter, word in zip("abcd", ("One", "Two", "Three", "Four"), strict=True)
        }
        return {
            **choices,
            **{"question_id": str(number), "data_id": image, "data_type": kind, "question_type_id": dimension},
            **{"question": f"How many, {number}?", "answer": answer},
        }

    questions = [
        row(1, "11_22", 5, "A"),
        row(2, "11_22", 1, "B"),
        row(3, "33_44", 5, "C"),
        row(4, "v.mp4", 10, "D", "video"),
    ]
    types = {"Scene Understanding": 1, "Instances Counting": 5, "Action Recognition": 10}
    write(folder / "SEED-Bench.json", {"questions": questions, "question_type": types})
    for name in ("11_22", "33_44"):  # without an ending, as they come
        picture(folder / "SEED-Bench-image" / name)
    return folder


def gqa(folder: Path) -> Path:
    """Three questions on two pictures."""
    asked = [
        ("201", "n1", "Is it red?", "yes"),
        ("202", "n1", "What is it?", "traffic light"),
        ("203", "n2", "Where?", "left"),
    ]
    rows = {key: {"imageId": image, "question": q, "answer": a, "isBalanced": True} for key, image, q, a in asked}
    write(folder / "testdev_balanced_questions.json", rows)
    for name in ("n1", "n2"):
        picture(folder / "images" / f"{name}.jpg")
    return folder


def science_qa(folder: Path) -> Path:
    """Four test questions, three with a picture, one of these with a hint; and one of the training split."""
    base = {"split": "test", "choices": ["iron", "wood", "glass"], "answer": 1, "image": "image.png", "hint": ""}
    problems = {
        "5": {**base, "question": "Which floats?", "hint": "Things  float."},
        "7": {**base, "question": "Which burns?"},
        "8": {**base, "question": "Which is brown?"},
        "9": {**base, "question": "No picture?", "image": None},
        "1": {**base, "question": "Training?"},
    }
    write(folder / "problems.json", problems)
    write(folder / "pid_splits.json", {"train": ["1"], "test": ["5", "7", "8", "9"]})
    for key in ("5", "7", "8"):
        picture(folder / "images/test" / key / "image.png")
    return folder


def vizwiz(folder: Path) -> Path:
    """Two questions with ten answers each."""

    def row(number: int, said: list[str], kind: str) -> dict[str, object]:
        answers = [{"answer": text, "answer_confidence": "yes"} for text in said]
        name = f"VizWiz_val_0000000{number}.jpg"
        return {"image": name, "question": "What is this?", "answers": answers, "answer_type": kind, "answerable": 1}

    rows = [
        row(0, ["coke"] * 2 + ["red can"] * 7 + ["unanswerable"], "other"),
        row(1, ["unanswerable"] * 9 + ["blurry"], "unanswerable"),
    ]
    write(folder / "val.json", rows)
    for one in rows:
        picture(folder / "val" / str(one["image"]))
    return folder


def mmbench(folder: Path, replicas: bool = True) -> Path:
    """Item 0 with three options and a hint, item 1 with two, each in all rotations. replicas: the picture in each row,
    as the older file has it; else once, and the row's index in the others."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "l2-category", "split"]
    rows = []
    items = [
        (0, "What is it?", "It is small.", ["cat", "dog", "red bird"], "red"),
        (1, "Where?", "", ["left", "right"], "blue"),
    ]
    for number, question, hint, options, colour in items:
        for turn in range(len(options)):
            turned = options[turn:] + options[:turn]  # what was right at first moves to the front
            row = dict.fromkeys(columns, "") | dict(zip("ABCD", turned, strict=False))
            row |= {"index": str(number + turn * 1_000_000), "question": question, "hint": hint, "split": "dev"}
            row |= {"answer": "ABCD"[turned.index(options[1])], "l2-category": f"ability {number} (x)"}
            row["image"] = encoded(colour) if replicas or turn == 0 else str(number)
            rows.append(row)
    with (folder / "mmbench_dev_20230712.tsv").open("w", newline="") as file:
        table = csv.DictWriter(file, columns, delimiter="\t")
        table.writeheader()
        table.writerows(rows)
    return folder


def pope(folder: Path) -> Path:
    """Two questions in each of the three files, on two pictures."""
    for category in ("random", "popular", "adversarial"):
        rows = [
            {
                "question_id": i,
                "image": f"COCO_val2014_00000000000{i}.jpg",
                "text": "Is there a dog in the image?",
                "label": label,
            }
            for i, label in ((1, "yes"), (2, "no"))
        ]
        write(folder / f"coco_pope_{category}.json", rows, lines=True)
    for number in (1, 2):
        picture(folder / "images" / f"COCO_val2014_00000000000{number}.jpg")
    return folder


def chair(folder: Path) -> Path:
    """Three pictures; `chair.json` asks about two of them."""
    images = [{"id": i, "file_name": f"{i}.png"} for i in (1, 2, 3)]
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "bench"}, {"id": 3, "name": "cat"}]
    annotations = [
        {"image_id": 1, "category_id": 1},
        {"image_id": 1, "category_id": 2},
        {"image_id": 2, "category_id": 3},
    ]
    write(folder / "instances.json", {"images": images, "categories": categories, "annotations": annotations})
    write(
        folder / "chair.json",
        {"ids": [1, 2], "prompt": "Describe the image.", "max_new_tokens": 24, "parser": "corrected"},
    )
    for row in images:
        picture(folder / "images" / str(row["file_name"]))
    return folder


def llava_bench(folder: Path) -> Path:
    """Three questions of two categories on two pictures."""
    asked = [(0, "001.jpg", "conv"), (1, "001.jpg", "detail"), (2, "002.jpg", "conv")]
    questions = [{"question_id": i, "image": image, "text": f"Question {i}?", "category": c} for i, image, c in asked]
    write(folder / "questions.jsonl", questions, lines=True)
    write(folder / "answers_gpt4.jsonl", [{"question_id": i, "text": f"Reference {i}"} for i, *_ in asked], lines=True)
    contexts = [{"id": name[:3], "image": name, "caption": f"A picture, {name}."} for name in ("001.jpg", "002.jpg")]
    write(folder / "context.jsonl", contexts, lines=True)
    rules = {f"llava_bench_{c}": {"role": "Assistant", "prompt": f"Two numbers for {c}."} for c in ("conv", "detail")}
    write(folder / "rule.json", rules)
    for name in ("001.jpg", "002.jpg"):
        picture(folder / "images" / name)
    return folder


def mm_vet(folder: Path) -> Path:
    """Three questions; the evaluator with its text, which raises where it is run."""
    rows = {
        "v1_0": {"question": "What is x?", "answer": "-1<AND>-5", "capability": ["ocr", "math"]},
        "v1_1": {"question": "Who?", "answer": "a cat<OR>cat", "capability": ["rec"]},
        "v1_2": {"question": "What?", "answer": "a red dog", "capability": ["rec", "ocr"]},
    }
    for key, row in rows.items():
        row["imagename"] = f"{key}.png"
        picture(folder / "images" / f"{key}.png")
    write(folder / "mm-vet.json", rows)
    text = '"""Rate it.\n\nQuestion | Ground truth | Prediction | Correctness\n--- | --- | --- | ---\n"""'
    (folder / "mm-vet_evaluator.py").write_text(
        f"import nothing_of_the_sort\n\nprompt = {text}\n\nraise SystemExit(1)\n"
    )
    return folder


MAKERS = {
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
