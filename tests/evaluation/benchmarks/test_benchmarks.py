"""Each benchmark's parser and metric against a small folder in its official format, counted by hand."""

import json
from pathlib import Path

import pytest

from csr_core.errors import InputError
from csr_core.evaluation.benchmarks import BENCHMARKS, chair, gqa, mmbench, mme, science_qa, seed_bench, vizwiz
from csr_core.evaluation.benchmarks.common import LETTER, SHORT
from csr_core.evaluation.statistics import measure
from csr_core.images import open_image
from csr_core.stages.benchmarks import read_benchmark
from tests.evaluation.benchmarks import folders


def values(name, folder, answers, *more):
    """The figures of `answers` (by key), as {name: value}."""
    module = BENCHMARKS[name]
    items = module.score(module.read(folder).questions, answers, *more)
    return {figure: interval.value for figure, interval in measure(items, 100).items()}


def test_every_benchmark_has_a_folder_here():
    assert list(folders.MAKERS) == list(BENCHMARKS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_pictures_are_found_and_nothing_is_left_out(name, tmp_path):
    found = read_benchmark(name, folders.MAKERS[name](tmp_path))
    assert found.left_out == []
    for question in found.questions:
        assert open_image(question.image).size == (64, 64)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_is_missing_is_said_with_its_source(name, tmp_path):
    with pytest.raises(InputError) as error:
        read_benchmark(name, tmp_path)
    assert BENCHMARKS[name].SOURCE in str(error.value)


def test_mme(tmp_path):
    """15 pictures with two questions each; all answers right (Yes, No) but these: existence/1 says yes twice (1 of 2),
    existence/2 says nothing to the second (1 of 2), count/1 is wrong twice, code_reasoning/1 says no twice (1 of 2).

    existence: accuracy 2/4, accuracy+ 0/2: 50. count: 0. The other eight of perception 200 each: 1650.
    code_reasoning: accuracy 1/2, accuracy+ 0: 50; cognition 50 + 600 = 650. Unparsed: 1 of 30 answers.
    """
    folder = folders.mme(tmp_path)
    questions = mme.read(folder).questions
    assert len(questions) == 30
    assert questions[0].prompt == f"Is it existence?\n{SHORT}"
    answers = {q.key: "Yes." if q.facts["answer"] == "yes" else "No, it is not" for q in questions}
    answers |= {"existence/1/1": "yes", "existence/2/1": "", "count/1/0": "no", "count/1/1": "YES"}
    answers |= {"code_reasoning/1/0": "no"}
    found = values("mme", folder, answers)
    assert found["perception"] == pytest.approx(50 + 0 + 8 * 200)
    assert found["cognition"] == pytest.approx(50 + 3 * 200)
    assert (found["existence"], found["count"], found["OCR"]) == (50, 0, 200)
    assert (found["accuracy_existence"], found["accuracy_plus_existence"]) == (0.5, 0)
    assert found["unparsed"] == pytest.approx(1 / 30)


def test_mme_sums_are_absent_where_a_subtask_is(tmp_path):
    """Without OCR there is no sum of perception to compare with others; cognition is whole: 4 * 200."""
    folder = folders.mme(tmp_path, tuple(task for task in mme.SUBTASKS if task != "OCR"))
    answers = {q.key: q.facts["answer"] for q in mme.read(folder).questions}
    found = values("mme", folder, answers)
    assert "perception" not in found
    assert found["cognition"] == pytest.approx(800)


@pytest.mark.parametrize(
    ("text", "said"),
    [("Yes", "yes"), ("no.", "no"), (" Yes, it", "yes"), ("nothing", "no"), ("I think no", "other"), ("", "other")],
)
def test_mme_reads_the_first_four_letters(text, said):
    assert mme.read_answer(text) == said


def test_seed_bench(tmp_path):
    """Three of four questions are on pictures. A is right, "B." is no letter alone (unparsed, wrong), C is right:
    accuracy 2/3, counting 2/2, scene 0/1, unparsed 1/3."""
    folder = folders.seed_bench(tmp_path)
    asked = seed_bench.read(folder).questions
    assert asked[0].prompt == f"How many, 1?\nA. One\nB. Two\nC. Three\nD. Four\n{LETTER}"
    assert [question.key for question in asked] == ["1", "2", "3"]
    found = values("seed_bench", folder, {"1": "A", "2": "B.", "3": "C"})
    expected = {
        "accuracy": 2 / 3,
        "accuracy_instances_counting": 1,
        "accuracy_scene_understanding": 0,
        "unparsed": 1 / 3,
    }
    assert found == pytest.approx(expected)


def test_gqa(tmp_path):
    """Yes with a full stop is yes, and Traffic Light is traffic light; right is not left: 2 of 3."""
    folder = folders.gqa(tmp_path)
    assert gqa.read(folder).questions[0].prompt == f"Is it red?\n{SHORT}"
    found = values("gqa", folder, {"201": "Yes.", "202": "Traffic Light", "203": "right"})
    assert found == pytest.approx({"accuracy": 2 / 3, "unparsed": 0})


def test_science_qa(tmp_path):
    """Three questions have a picture, B is right in all: "B" is, "A. iron" is not, "E" is no option of three:
    accuracy 1/3, unparsed 1/3."""
    folder = folders.science_qa(tmp_path)
    asked = science_qa.read(folder).questions
    assert [question.key for question in asked] == ["5", "7", "8"]
    options = "Options: (A) iron (B) wood (C) glass"
    assert asked[0].prompt == f"Context: Things float.\nQuestion: Which floats?\n{options}\n{LETTER}"
    assert asked[1].prompt.startswith("Context: N/A\n")
    found = values("science_qa", folder, {"5": "B", "7": "A. iron", "8": "E"})
    assert found == pytest.approx({"accuracy": 1 / 3, "unparsed": 1 / 3})


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("C", "C"),
        ("C\n", "C"),
        ("B. wood", "B"),
        ("B\nwood", "B"),
        ("So: The answer is D.", "D"),
        ("B.", ""),
        ("b", ""),
    ],
)
def test_science_qa_reads_letters_as_llava_does(text, letter):
    """A line break counts as a full stop and a space, so that "C" and a line break is "C. ", C."""
    assert science_qa.read_answer(text) == letter


def test_vizwiz(tmp_path):
    """Of ten, 2 say "coke" as "Coke." does: leaving out one of the two leaves 1 (1/3), any other 2 (2/3): (2 * 1/3 +
    8 * 2/3) / 10 = 0.6. "Unanswerable" is said by 9 of 10: 1. Accuracy 0.8.
    """
    folder = folders.vizwiz(tmp_path)
    asked = vizwiz.read(folder).questions
    request = "When the provided information is insufficient, respond with 'Unanswerable'."
    assert asked[0].prompt == f"What is this?\n{request}\n{SHORT}"
    found = values("vizwiz", folder, {asked[0].key: "Coke.", asked[1].key: "Unanswerable"})
    expected = {"accuracy": 0.8, "accuracy_other": 0.6, "accuracy_unanswerable": 1.0, "unparsed": 0.0}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("The Two dogs!", "2 dogs"),  # article, number word, a mark at the end gives a space
        ("red-blue", "red blue"),  # a mark between letters gives a space
        ("red- blue", "red blue"),
        ("red -blue-green", "red bluegreen"),  # one with a space beside it: all of its kind go
        ("1,000 /a", "1000"),  # a comma in a number: marks go without a trace; then "a" is an article
        ("3.5 mm.", "3.5 mm"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("its", "its"),
        ("none", "0"),
        ("a\nthe", ""),
    ],
)
def test_vizwiz_normalises_as_the_challenge_does(text, form):
    assert vizwiz.normalised(text) == form


@pytest.mark.parametrize("replicas", [True, False])
def test_mmbench(tmp_path, replicas):
    """Item 0 (dog) is right in all three rotations, said as "B", "A." and "It is the dog". Item 1 (right) is B, then A;
    it says B and then "maybe", which is unparsed. Circular: 1 of 2; as asked first: 2 of 2; unparsed: 1 of 5."""
    folder = folders.mmbench(tmp_path, replicas)
    asked = mmbench.read(folder).questions
    assert [question.key for question in asked] == ["0", "1000000", "2000000", "1", "1000001"]
    assert asked[0].prompt == f"It is small.\nWhat is it?\nA. cat\nB. dog\nC. red bird\n{LETTER}"
    assert asked[1].prompt == f"It is small.\nWhat is it?\nA. dog\nB. red bird\nC. cat\n{LETTER}"
    assert asked[0].image is asked[2].image
    answers = {"0": "B", "1000000": "A.", "2000000": "It is the dog", "1": "B", "1000001": "maybe"}
    found = values("mmbench", folder, answers)
    by_ability = {"accuracy_ability_0_x": 1.0, "accuracy_ability_1_x": 0.0}
    assert found == pytest.approx({"accuracy": 0.5, "vanilla_accuracy": 1.0, "unparsed": 0.2, **by_ability})


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("C", "C"),
        ("(B) dog", "B"),
        ("The answer is B.", "B"),
        ("A dog is in the picture", "B"),  # this A is an article; the text names one option
        ("A or B", ""),  # two letters, no option's text
        ("a Red Bird", "C"),
        ("a cat and a dog", ""),
        ("D", ""),  # no such option
        ("no idea what it is, but I would say it could be a dog", ""),  # too long for a matching by text
    ],
)
def test_mmbench_reads_what_the_rules_can_tell(text, letter):
    assert mmbench.read_answer(text, {"A": "cat", "B": "dog", "C": "red bird"}) == letter


def test_mmbench_leaves_out_bad_rows(tmp_path):
    folder = folders.mmbench(tmp_path)
    with (folder / "mmbench_dev_20230712.tsv").open("a") as file:
        file.write("5\tWhat?\t\tx\ty\t\t\tA\tc\t" + "!" * 80 + "\tl\tdev\r\n7\tWhat?\t\tx\ty\t\t\tA\tc\t99\tl\tdev\r\n")
    found = mmbench.read(folder)
    assert len(found.questions) == 5
    assert [item["prompt_id"] for item in found.left_out] == ["5", "7"]


def test_mmbench_without_rotations_is_refused(tmp_path):
    """What is asked once only is no circular evaluation, and easier."""
    file = folders.mmbench(tmp_path) / "mmbench_dev_20230712.tsv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if "00000" not in line.split("\t")[0]))
    with pytest.raises(InputError, match="1 of its 3 rotations"):
        read_benchmark("mmbench", tmp_path)


def test_pope(tmp_path):
    """Six questions, three with yes: "Yes" to all, but "Maybe" (a yes to POPE's rule, unclear) in adversarial/2:
    accuracy 3/6, recall 3/3, unparsed 1/6."""
    folder = folders.pope(tmp_path)
    keys = [f"{category}/{number}" for category in ("random", "popular", "adversarial") for number in (1, 2)]
    found = values("pope", folder, {**dict.fromkeys(keys, "Yes"), "adversarial/2": "Maybe"})
    assert (found["pope_accuracy"], found["pope_recall"], found["pope_yes_ratio"]) == (0.5, 1, 1)
    assert found["pope_accuracy_adversarial"] == 0.5
    assert found["unparsed"] == pytest.approx(1 / 6)
    assert BENCHMARKS["pope"].read(folder).questions[0].prompt == f"Is there a dog in the image?\n{SHORT}"


def test_chair(tmp_path):
    """Picture 1 has a dog and a bench, 2 a cat. "A dog and a cat." names one that is there and one that is not,
    "A cat." one that is: CHAIR_i 1/3, CHAIR_s 1/2, recall 2/3."""
    folder = folders.chair(tmp_path)
    asked = chair.read(folder).questions
    assert [(q.key, q.prompt, q.max_new_tokens) for q in asked] == [(k, "Describe the image.", 24) for k in ("1", "2")]
    found = values("chair", folder, {"1": "A dog and a cat.", "2": "A cat."})
    expected = {"chair_i": 1 / 3, "chair_s": 1 / 2, "recall": 2 / 3, "words": 3.5, "unparsed": 0}
    assert found == pytest.approx(expected)


def test_chair_without_a_statement_asks_about_every_picture(tmp_path):
    folder = folders.chair(tmp_path)
    (folder / "chair.json").unlink()
    asked = chair.read(folder).questions
    assert [(q.prompt, q.max_new_tokens) for q in asked] == [(chair.PROMPT, chair.MAX_NEW_TOKENS)] * 3
    (folder / "chair.json").write_text(json.dumps({"promt": "x"}))
    with pytest.raises(InputError, match="promt"):
        chair.read(folder)


def test_llava_bench(tmp_path):
    """GPT-4's ratings 8, 9, 8; the model's 6, none, 4: relative score (6 + 4) / (8 + 8) over the two that were judged,
    all of category conv; 1 of 3 unjudged; one empty answer: unparsed 1/3."""
    folder = folders.llava_bench(tmp_path)
    judgements = {"0": [8.0, 6.0], "2": [8.0, 4.0]}
    found = values("llava_bench", folder, {"0": "a", "1": "", "2": "c"}, judgements)
    expected = {"relative_score": 10 / 16, "relative_score_conv": 10 / 16, "unjudged": 1 / 3, "unparsed": 1 / 3}
    assert found == pytest.approx(expected)
    assert set(values("llava_bench", folder, {"0": "a", "1": "", "2": "c"})) == {"unjudged", "unparsed"}


def test_llava_bench_asks_the_judge_by_the_official_rule(tmp_path):
    module = BENCHMARKS["llava_bench"]
    question = module.read(folders.llava_bench(tmp_path)).questions[0]
    request = module.judge_request(question, "It is red.")
    assert request.messages[1] == (
        "user",
        "[Context]\nA picture, 001.jpg.\n\n[Question]\nQuestion 0?\n\n"
        "[Assistant 1]\nReference 0\n\n[End of Assistant 1]\n\n[Assistant 2]\nIt is red.\n\n[End of Assistant 2]\n\n"
        "[System]\nTwo numbers for conv.\n\n",
    )
    assert request.version == module.judge_request(question, "It is blue.").version


@pytest.mark.parametrize(
    ("content", "ratings"),
    [("8 7\nWell.", [8, 7]), ("8, 7.5", [8, 7.5]), ("8 7 9", None), ("Eight 7", None), ("", None), ("11 2", None)],
)
def test_llava_bench_reads_two_ratings_or_none(content, ratings):
    assert BENCHMARKS["llava_bench"].read_judgement(content) == ratings


def test_mm_vet(tmp_path):
    """0.5 and 1.0 of two that were judged: score 0.75; ocr 0.5 (the third is unjudged), rec 1.0; unjudged 1/3."""
    folder = folders.mm_vet(tmp_path)
    found = values("mm_vet", folder, dict.fromkeys(("v1_0", "v1_1", "v1_2"), "cat"), {"v1_0": 0.5, "v1_1": 1.0})
    expected = {"score": 0.75, "score_ocr": 0.5, "score_math": 0.5, "score_rec": 1.0, "unjudged": 1 / 3, "unparsed": 0}
    assert found == pytest.approx(expected)


def test_mm_vet_takes_the_instructions_from_the_evaluator_and_runs_nothing(tmp_path):
    module = BENCHMARKS["mm_vet"]
    question = module.read(folders.mm_vet(tmp_path)).questions[0]
    text = module.judge_request(question, "x = -1").messages[0][1]
    assert text.startswith("Rate it.\n\nQuestion | Ground truth")
    assert text.endswith("\nWhat is x? | -1 <AND> -5 | x = -1 | ")


@pytest.mark.parametrize(("content", "value"), [("0.5", 0.5), ("1.0 is", 1.0), ("2", None), ("good", None), ("", None)])
def test_mm_vet_reads_a_share_or_nothing(content, value):
    assert BENCHMARKS["mm_vet"].read_judgement(content) == value


def test_broken_files_are_told(tmp_path):
    folder = folders.gqa(tmp_path)
    (folder / "testdev_balanced_questions.json").write_text('{"201": {"imageId"')
    with pytest.raises(InputError, match="Fetch it again"):
        read_benchmark("gqa", folder)


def test_rows_that_lack_something_are_left_out_and_named(tmp_path):
    folder = folders.vizwiz(tmp_path)
    rows = json.loads((folder / "val.json").read_text())
    del rows[0]["answers"]
    folders.write(folder / "val.json", rows)
    found = vizwiz.read(folder)
    assert len(found.questions) == 1
    assert "answers" in found.left_out[0]["reason"]


SHARED = Path(__file__).resolve().parents[3] / "../shared/data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data, which is not part of this repository")
def test_pope_on_its_own_question_files():
    """Half of the questions of each file are about what is there: "yes" to all is right half the time."""
    module = BENCHMARKS["pope"]
    questions = module.read(SHARED / "pope").questions
    items = module.score(questions, dict.fromkeys((question.key for question in questions), "Yes"))
    found = measure(items, 100)
    assert found["pope_accuracy"].n == len(questions) > 8000
    for name in ("pope_accuracy_random", "pope_accuracy_popular", "pope_accuracy_adversarial"):
        assert found[name].value == pytest.approx(0.5, abs=0.01)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data, which is not part of this repository")
def test_chair_on_published_captions(tmp_path):
    """Within 0.3 points of the published figures, as `csr evaluate chair` is."""
    (tmp_path / "instances.json").symlink_to(SHARED / "chair/instances.json")
    questions = chair.read(tmp_path).questions
    assert (len(questions), questions[0].max_new_tokens) == (2000, chair.MAX_NEW_TOKENS)
    lines = (SHARED / "chair/captions-2_llava.jsonl").read_text().splitlines()
    captions = {str(row["image_id"]): row["caption"] for row in map(json.loads, lines)}
    found = measure(chair.score(questions, captions), 100)
    expected = json.loads((SHARED / "chair/expected.json").read_text())["2_llava"]
    for name, published in (("chair_i", "CHAIRi"), ("chair_s", "CHAIRs"), ("recall", "Recall")):
        assert found[name].value == pytest.approx(expected[published], abs=0.003)


def test_the_interval_of_mme_is_that_of_fixed_subtasks(tmp_path):
    """Where all pictures of a subtask score the same, nothing varies that the benchmark does not fix: no width, however
    much subtasks differ."""
    folder = folders.mme(tmp_path)
    answers = {
        q.key: "yes" if q.facts["task"] == "existence" else q.facts["answer"] for q in mme.read(folder).questions
    }
    found = measure(mme.score(mme.read(folder).questions, answers), 200)["perception"]
    assert (found.low, found.value, found.high) == pytest.approx((1850, 1850, 1850))
