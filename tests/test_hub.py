"""Uploading, to a small server on this machine that speaks the hub's protocol; and refusing to."""

import base64
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = """
import sys
from pathlib import Path
from csr_core.errors import InputError
from csr_core.hub import push
try:
    print(push(Path(sys.argv[1]), sys.argv[2]))
except InputError as error:
    sys.exit(f"refused: {error}")
"""


class Hub(BaseHTTPRequestHandler):
    """Takes what it is sent, unless the token is not `secret`."""

    seen: list[tuple[str, object]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != "Bearer hf_secret":
            return self._answer(403, {"error": "no right to write"})
        if self.path.endswith("/api/repos/create"):
            self.seen.append(("create", json.loads(body)))
            return self._answer(200, {"url": f"http://{self.headers['Host']}/owner/name"})
        if "/preupload/" in self.path:
            files = [{"path": one["path"], "uploadMode": "regular"} for one in json.loads(body)["files"]]
            return self._answer(200, {"files": [{**one, "shouldIgnore": False} for one in files]})
        if "/commit/" in self.path:
            rows = [json.loads(line) for line in body.splitlines()]
            self.seen.append(("commit", rows))
            return self._answer(200, {"commitUrl": f"http://{self.headers['Host']}/owner/name/commit/1",
                                      "commitOid": "1", "hookOutput": "", "success": True})  # fmt: skip
        return self._answer(200, {})

    def do_GET(self) -> None:
        self._answer(200, {"id": "owner/name", "sha": "0", "siblings": []})

    def _answer(self, code: int, value: object) -> None:
        text = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub():
    Hub.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").write_text("---\ntags: [csr]\n---\nA card.")
    (tmp_path / "model" / "adapter_config.json").write_text("{}")
    return tmp_path / "model"


def push(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    clean = {"PATH": "/usr/bin:/bin", "HF_HOME": str(folder.parent / "hf"), "HF_HUB_DISABLE_XET": "1", **environment}
    command = [sys.executable, "-c", SCRIPT, str(folder), "owner/name"]
    root = Path(__file__).resolve().parents[1]
    return subprocess.run(command, env=clean, cwd=root, capture_output=True, text=True, check=False)


def test_the_whole_folder_is_uploaded_to_a_private_model(hub, folder) -> None:
    done = push(folder, HF_ENDPOINT=hub, HF_TOKEN="hf_secret")
    assert done.returncode == 0, done.stderr
    assert "owner/name" in done.stdout
    seen = dict(Hub.seen)
    assert seen["create"]["visibility"] == "private", seen["create"]
    sent = {row["value"]["path"]: row["value"]["content"] for row in seen["commit"] if row["key"] == "file"}
    assert {name: base64.b64decode(text) for name, text in sent.items()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"HF_TOKEN": "hf_other"}, "May your token write there"),
        ({}, "hf auth login"),
        ({"HF_TOKEN": "hf_secret", "HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
    ],
)
def test_it_is_refused_with_what_to_do(hub, folder, environment, reason) -> None:
    done = push(folder, HF_ENDPOINT=hub, **environment)
    assert done.returncode == 1
    assert reason in done.stderr
    assert "hf_" not in done.stderr.replace("hf_hub", "")  # no token is told
    assert not [kind for kind, _ in Hub.seen if kind == "commit"]
