"""The judge against a small server that speaks the protocol: what is asked, kept, missing, and never told."""

import json

import pytest

from csr_core.config import JudgeSettings
from csr_core.evaluation.judge import GIVE_UP, Request, judge
from tests.evaluation.benchmarks.endpoint import endpoint


def read(content):
    return float(content) if content.replace(".", "").isdigit() else None


def requests(count):
    return {f"q{n}": Request.of((("user", f"Rate {n}"),), ["Rate"], 0.0, 3) for n in range(count)}


def number(body):
    return int(body["messages"][0]["content"].split()[1])


def ask(server, kept, count=4, model="strict"):
    return judge(JudgeSettings(url=server.url + "/", model=model), requests(count), read, kept, wait=0.001)


def test_judgements_name_their_model_and_instructions(tmp_path):
    with endpoint(lambda body: f"0.{number(body)}") as server:
        made = ask(server, tmp_path / "kept.jsonl")
    version = requests(1)["q0"].version
    assert [(row["key"], row["value"]) for row in made] == [("q0", 0.0), ("q1", 0.1), ("q2", 0.2), ("q3", 0.3)]
    assert {(row["model"], row["answered_by"], row["prompt_version"]) for row in made} == {
        ("strict", "strict-0613", version)
    }
    assert server.bodies[0]["max_tokens"] == 3
    assert server.bodies[0]["temperature"] == 0


def test_a_failed_judgement_is_missing_and_only_it_is_asked_again(tmp_path, caplog):
    """The server cannot be brought to rate the third, and turns the second away for good; next day it does both."""
    kept = tmp_path / "kept.jsonl"
    with endpoint(lambda body: {1: 400, 2: "I would rather not"}.get(number(body), "1.0")) as server:
        made = ask(server, kept)
        assert [row["key"] for row in made] == ["q0", "q3"]
        told = [body for body in server.bodies if number(body) == 2]
        assert [body["temperature"] for body in told] == [0, 0.5, 1.0, 1.5]
    assert "2 of 4 judgements are missing" in caplog.text
    with endpoint(lambda body: "0.5") as server:
        made = ask(server, kept)
        assert [(row["key"], row["value"]) for row in made] == [("q0", 1.0), ("q1", 0.5), ("q2", 0.5), ("q3", 1.0)]
        assert sorted(number(body) for body in server.bodies) == [1, 2]


def test_another_model_is_asked_anew(tmp_path):
    with endpoint(lambda body: "1.0") as server:
        ask(server, tmp_path / "kept.jsonl")
        ask(server, tmp_path / "kept.jsonl", model="other")
        assert len(server.bodies) == 8


def test_a_line_cut_off_by_a_kill_is_asked_again(tmp_path):
    kept = tmp_path / "kept.jsonl"
    with endpoint(lambda body: "1.0") as server:
        ask(server, kept)
        kept.write_text(kept.read_text()[:-20])
        assert len(ask(server, kept)) == 4
        assert len(server.bodies) == 5
        assert len(ask(server, kept)) == 4
        assert len(server.bodies) == 5


@pytest.mark.parametrize("status", [429, 503])
def test_turned_away_for_the_moment_is_tried_again(tmp_path, status):
    seen = []

    def says(body):
        seen.append(number(body))
        return status if seen.count(number(body)) < 3 else "0.5"

    with endpoint(says) as server:
        assert len(ask(server, tmp_path / "kept.jsonl")) == 4


def test_the_key_is_sent_and_nowhere_else(tmp_path, caplog, monkeypatch):
    """The server repeats the key in its refusal, as some do; neither the log nor a file has it."""
    monkeypatch.setenv("OPENAI_API_KEY", "other-key")
    monkeypatch.setenv("CSR_JUDGE_KEY", "sk-very-secret")
    with endpoint(lambda body: 401 if number(body) else "1.0") as server, caplog.at_level("DEBUG"):
        made = ask(server, tmp_path / "kept.jsonl")
    assert set(server.keys) == {"Bearer sk-very-secret"}
    assert "CSR_JUDGE_KEY" in caplog.text
    assert "secret" not in caplog.text + json.dumps(made) + (tmp_path / "kept.jsonl").read_text()


def test_one_that_answers_nobody_is_not_asked_about_everything(tmp_path, caplog):
    with endpoint(lambda body: 403) as server:
        assert ask(server, tmp_path / "kept.jsonl", count=60) == []
        assert len(server.bodies) == GIVE_UP
    assert "60 of 60 judgements are missing" in caplog.text


def test_no_server_at_all(tmp_path):
    settings = JudgeSettings(url="http://127.0.0.1:9/v1", model="m")
    assert judge(settings, requests(2), read, tmp_path / "kept.jsonl", wait=0.001) == []
