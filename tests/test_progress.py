"""Progress: one line for a stage, whoever counts; plain in a log; and it never breaks the work."""

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from csr_core.layout import Layout
from csr_core.params import load_settings, preset_values, render_params
from csr_core.progress import (
    Progress,
    Tally,
    add_to_figure,
    counting,
    doing,
    file_of_child,
    read_all,
    show_figure,
    shown,
)
from csr_core.progress_line import Display, State, clock, merged, pace
from csr_core.records import CANDIDATES, SCORES, read_json, read_table
from csr_core.stages.costs import stage_costs
from csr_core.stages.plan import plan

SMALL = (
    "iterations=2",
    "data.per_iteration=12",
    "generate.shard_size=4",
    "generate.max_sentences=4",
    "pair.drop_closest=0",
    "finetune.epochs=1",
    "finetune.batch_size=4",
    "evaluate.shard_size=3",
    "evaluate.splits.test.count=8",
    "evaluate.splits.shifted.count=4",
    "evaluate.bootstrap=100",
)


def order(name: str, iteration: int, *more: str) -> list[str]:
    words = [sys.executable, "-m", "csr_core.stages", name, "--iteration", str(iteration)]
    return [*words, *(word for change in (*SMALL, *more) for word in ("--set", change))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("run")
    (made / "params.yaml").write_text(render_params(preset_values("steady")))
    for iteration in (0, 1):
        subprocess.run(order("prepare", iteration), cwd=made, check=True, capture_output=True)
    return made


def in_terminal(command: list[str], folder: Path) -> str:
    """What a terminal of 200 columns is told."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "200", "LINES": "50"}
    process = subprocess.Popen(command, cwd=folder, stdout=theirs, stderr=theirs, stdin=theirs, env=environment)
    os.close(theirs)
    told = b""
    while True:
        try:
            read = os.read(ours, 2**16)
        except OSError:  # the other end is closed
            break
        if not read:
            break
        told += read
    os.close(ours)
    assert process.wait() == 0, told.decode()
    return told.decode()


def in_log(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", done.stdout + done.stderr), "control characters in a log"
    return done.stderr + done.stdout


def test_a_line_has_what_one_wants_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    state = State(done=1, total=400, unit="prompts")
    display = Display("generate 1/3", lambda: State(**vars(state)))
    display.expect(500, "prompts", before=100)
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for done in (0, 20, 40):  # 20 each second
        state.done = done
        display._see(now, display.state())
        if done == 20:
            assert display.line() == "generate 1/3: 120/500 prompts, 20.0/s", "too early to tell the time left"
        now += 1.0
    now -= 1.0
    state.figures = {"log-likelihood {value:.2f}": (-3.1, 10)}
    assert display.line() == "generate 1/3: 140/500 prompts, 20.0/s, 0:18 left, log-likelihood -0.31"
    assert display._fitting(display.state(), 90).startswith("generate 1/3  ▇▇▇░░░░░░░░░  140/500")
    assert display._fitting(display.state(), 75).startswith("generate 1/3  140/500 prompts  20.0/s"), (
        "no room for a bar"
    )
    state.doing = "loading the model"
    assert "loading the model" in display.line(bar=True)
    assert "140/500" in display.line(bar=True)
    assert (clock(22.4), clock(3723), pace(0.05), pace(8.44), pace(1234)) == (
        "0:22",
        "1:02:03",
        "20 s each",
        "8.4/s",
        "1,234/s",
    )


def test_processes_add_up(tmp_path: Path) -> None:
    text = "CHAIR_i {value:.1%} of {n:.0f}"
    for name, wrong, mentions in (("a", 1, 10), ("b", 3, 10)):
        with counting(tmp_path / f"{name}.json"), Progress("answers", 10, "answers") as bar:
            for _ in range(4):
                bar.advance()
            add_to_figure(text, wrong, mentions)
            show_figure("loss {value:.1f}", 2.0)
    (tmp_path / "c.json").write_text('{"half')
    state = merged(read_all(tmp_path))
    assert (state.done, state.total, state.unit) == (8, 20, "answers")
    assert text.format(value=state.figures[text][0] / state.figures[text][1], n=20) == "CHAIR_i 20.0% of 20"
    assert state.figures["loss {value:.1f}"] == (4.0, 2.0)


def test_what_is_not_counted_is_named(tmp_path: Path) -> None:
    with counting(tmp_path / "here.json") as tally:
        with doing("loading the model"):
            assert read_all(tmp_path)[0].doing == "loading the model", "at once, since it may take minutes"
        with Progress("reading pairs", 3, "pairs", counts=False) as bar:
            bar.advance()
            assert tally.state.doing == "reading pairs 1/3"
        assert (tally.state.total, tally.state.doing) == (0, "")
    with counting(None):
        assert file_of_child("1") is None


def test_a_stage_that_another_watches_shows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CSR_PROGRESS_FILE", str(tmp_path / "stage.json"))
    with shown("score 1/1", tmp_path / "unused") as line:
        assert line is None
        with Progress("score", 2, "nodes") as bar:
            bar.advance(2)
    assert read_all(tmp_path)[0].done == 2
    assert capsys.readouterr().err == ""


def test_it_costs_next_to_nothing(tmp_path: Path) -> None:
    with counting(tmp_path / "x.json"), Progress("x", 100_000) as bar:
        begun = time.monotonic()
        for _ in range(100_000):
            add_to_figure("x {value}", 1, 1)
            bar.advance()
        assert time.monotonic() - begun < 2.0, "20 microseconds each"


def test_nothing_to_write_to_breaks_nothing(folder: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    tally = Tally(blocked / "below.json")
    tally.changed(at_once=True)
    (folder / ".csr" / "progress").write_text("in the way")
    ends = ["2>&-", "2>/dev/full"] if Path("/dev/full").exists() else ["2>&-"]
    for number, end in enumerate(ends):
        words = " ".join(f"'{word}'" for word in order("prepare", 1, f"seed={number + 5}"))
        done = subprocess.run(["bash", "-c", f"{words} {end}"], cwd=folder, stdout=subprocess.PIPE, text=True)
        assert done.returncode == 0
        assert "prepare@1: done" in done.stdout
    (folder / ".csr" / "progress").unlink()
    subprocess.run(order("prepare", 1), cwd=folder, check=True, capture_output=True)


def test_generate_in_a_terminal_then_with_workers_in_a_log(folder: Path) -> None:
    told = in_terminal(order("generate", 1), folder)
    assert "\rgenerate 1/2  " in told
    assert re.search("starting|loading the model", told)
    ending = r"generate@1: done in [\d.]+ s \(12 prompts, [\d.,]+(/s| s each), log-likelihood a token (-[\d.]+)\)"
    alone = re.search(ending, told)
    assert alone, told
    rows = [row for row in read_table(Layout(folder).candidates(1), CANDIDATES) if row["node"]]
    mean = sum(row["log_likelihood"] for row in rows) / sum(len(row["token_ids"]) for row in rows)
    assert float(alone[2]) == pytest.approx(mean, abs=0.006)
    assert in_terminal(order("generate", 1), folder).strip() == "generate@1: up to date"
    (folder / "data/iter_1/candidates/summary.json").unlink()
    several = re.search(ending, in_log(order("generate", 1, "run.workers=2"), folder))
    assert several
    assert several[2] == alone[2], "shards of two processes sum up to the same"
    assert in_log(order("generate", 1), folder).strip() == "generate@1: up to date"


def test_shards_of_an_earlier_run_count_as_done(folder: Path) -> None:
    subprocess.run([*order("generate", 1, "seed=3"), "--shard", "1"], cwd=folder, check=True, capture_output=True)
    settings = load_settings(folder / "params.yaml", (*SMALL, "seed=3"))
    call = plan("generate", 1, settings, Layout(folder))
    assert call.title == "generate 1/2"
    assert call.shards is not None
    missing = call.shards.missing(next((folder / ".csr" / "unfinished").glob("generate@1.*")))
    assert missing == [0, 2]
    assert call.shards.extent(missing) == (12, "prompts", 4)
    told = in_log(order("generate", 1, "seed=3"), folder)
    ended = re.search(r"done in ([\d.]+) s \(12 prompts, ([\d.]+)/s", told)
    assert ended
    assert float(ended[2]) > 8 / float(ended[1]), "loading is no part of the rate"
    [row] = [row for row in stage_costs(Layout(folder)) if row["stage"] == "generate"]
    assert row["resumed"]


def test_score_and_finetune_end_with_the_figures_of_their_files(folder: Path) -> None:
    in_log(order("generate", 1), folder)
    told = in_log(order("score", 1, "run.workers=2"), folder)
    found = [row["relevance"] for row in read_table(Layout(folder).scores(1), SCORES)]
    relevances = [value for value in found if value is not None]
    assert f"mean R_I {sum(relevances) / len(relevances):.1f})" in told
    in_log(order("pair", 1), folder)
    told = in_log(order("finetune", 1), folder)
    final = read_json(Layout(folder).model(1) / "summary.json")["final"]
    assert f"loss {final['loss']:.3f}, chosen > rejected {final['rewards/accuracies']:.0%})" in told


def test_evaluate_ends_with_the_figures_of_its_file(folder: Path) -> None:
    told = in_log(order("evaluate", 0, "run.workers=2"), folder)
    assert f"{8 + 48 + 4 + 24} answers" in told
    metrics = read_json(Layout(folder).metrics(0))
    for split, figures in metrics.items():
        assert f"{split} CHAIR_i {figures['chair_i']['value']:.1%} of " in told
        assert f"{split} POPE {figures['pope_accuracy']['value']:.1%} of " in told


def test_a_log_is_told_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("csr_core.progress_line.LOG_SECONDS", 0.5)
    monkeypatch.setattr("csr_core.progress_line.SETUP_SECONDS", 0.3)
    monkeypatch.setattr("csr_core.progress_line.TRUST_SECONDS", 0.2)
    with shown("score 1/3", tmp_path / "progress"):
        with doing("loading the relevance model"):
            time.sleep(1.0)
        with Progress("score", 10, "nodes") as bar:
            for _ in range(10):
                time.sleep(0.1)
                bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("score 1/3: loading the relevance model, 0:0")
    assert any(re.match(r"score 1/3: \d+/10 nodes, [\d.]+/s, 0:0\d left$", line) for line in lines)
    assert len(lines) < 8
