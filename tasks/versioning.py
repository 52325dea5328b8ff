"""DVC: what a finished stage left becomes the record of the matching stage of `dvc.yaml`."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from csr_core.config import Settings
from csr_core.digests import Digests, digest_value
from csr_core.errors import CsrError
from csr_core.params import load_settings
from csr_core.records import read_json, write_json
from csr_core.stages import STAGES
from csr_core.stages.plan import WITHOUT_INFLUENCE
from tasks.run import Run

if TYPE_CHECKING:
    from dvc.repo import Repo

T = TypeVar("T")
PATIENCE = 60.0  # seconds to wait for another DVC process
LATER = "; the run goes on, and `dvc commit -f` or `dvc push` makes up for it"

BASE_STAGES = {"prepare": "splits", "evaluate": "base"}  # iteration 0: name of the stage -> its name in dvc.yaml

# Of the iterations, each stage knows its own number alone; the rest says how and where to work.
_NO_STAGES_PARAMETER = {"iterations", "run", "tracking"}


class Versioning:
    """Records what a flow makes with DVC, so that afterwards `dvc status` is clean and `dvc repro` runs nothing.

    Does nothing in a folder without `dvc.yaml` and `.dvc`, and in a run whose settings are not those of `params.yaml`:
    DVC would take its results for those of the file. What goes wrong is told and never stops the run.
    """

    def __init__(self, run: Run) -> None:
        self.root = run.layout.root
        self._told: set[str] = set()
        self._revisions: dict[str, str] = {}
        self._opened = False
        self.recording = (self.root / "dvc.yaml").is_file() and (self.root / ".dvc").is_dir()
        if self.recording and not self._as_in_params_file(run):
            self.recording = False
            self._tell("DVC records nothing: this run's settings (--set, --params) are not those of params.yaml")

    def record(self, name: str, iteration: int, made: Mapping[str, Any] | None = None) -> str | None:
        """Record the outputs of stage `name` of `iteration`, which has finished.

        `made`: the stage's `key` and the digests of its `outputs`; with those it was last recorded with, and unchanged
        files of DVC's, it is recorded already, which spares DVC the look at every output.

        Returns: the MD5 by which DVC knows the first output (of a folder with `.dir`); None where it was not recorded.
        """
        stage = stage_name(name, iteration)
        if self.recording and made is not None and (md5 := self._remembered(stage, made)):
            self._revisions[stage] = md5
            return md5
        found = self._try(lambda repo: self._record(repo, stage, iteration), f"record {name}@{iteration}")
        if found is not None:
            self._revisions[stage] = found
            if made is not None:
                write_json(self._memory(stage), {"content": self._content(made), "md5": found})
        return found

    def recorded(self, name: str, iteration: int) -> str | None:
        """What `record` returned for the stage."""
        return self._revisions.get(stage_name(name, iteration))

    def _memory(self, stage: str) -> Path:
        return self.root / ".csr" / "dvc" / f"{stage}.json"

    def _content(self, made: Mapping[str, Any]) -> str:
        """What DVC's record of a stage depends on."""
        files = [self.root / name for name in ("dvc.yaml", "params.yaml")]
        return digest_value([made["key"], made["outputs"], *(Digests().path(file) for file in files)])

    def _remembered(self, stage: str, made: Mapping[str, Any]) -> str | None:
        memory, lock = self._memory(stage), self.root / "dvc.lock"
        if not memory.is_file() or not lock.is_file():
            return None
        known = read_json(memory)
        still = known["content"] == self._content(made) and known["md5"] in lock.read_text("utf-8")
        return str(known["md5"]) if still else None

    def push(self, iteration: int) -> None:
        """Copy the recorded outputs of `iteration` to the default remote, where one is set up."""
        self._try(lambda repo: self._push(repo, iteration), f"push iteration {iteration}")

    def _record(self, repo: Repo, name: str, iteration: int) -> str | None:
        from dvc.repo import lock_repo
        from dvc.stage.exceptions import StageNotFound

        with lock_repo(repo):
            try:
                stage = repo.stage.load_one(str(self._file), name)
            except StageNotFound:
                self._tell(
                    f"DVC does not record iteration {iteration}: dvc.yaml was written for fewer; "
                    "`python -m csr_core.dvcfile` writes it for the iterations in params.yaml"
                )
                return None
            target = f"{self._file}:{name}"
            # Looking is three times as fast as recording, and in a second flow most stages have not changed.
            if repo.status(targets=[target]):
                [stage] = repo.commit(target, force=True)
            return str(stage.outs[0].hash_info.value)

    def _push(self, repo: Repo, iteration: int) -> None:
        if not repo.config["core"].get("remote"):
            return
        names = {stage.name for stage in repo.stage.load_all(str(self._file))}
        wanted = [stage_name(name, iteration) for name in (STAGES if iteration else BASE_STAGES)]
        if targets := [f"{self._file}:{name}" for name in wanted if name in names]:
            repo.push(targets=targets)

    @property
    def _file(self) -> Path:
        return (self.root / "dvc.yaml").resolve()

    def _try(self, work: Callable[[Repo], T], what: str) -> T | None:
        """Do `work` with the repository; waits while another DVC process holds it, and tells what fails."""
        if not self.recording:
            return None
        from dvc.lock import LockError

        until = time.monotonic() + PATIENCE
        while True:
            try:
                return self._with_repo(work)
            except LockError:
                if time.monotonic() < until:
                    time.sleep(0.5)
                    continue
                self._tell(f"DVC could not {what}: another DVC process held the repository for {PATIENCE:.0f} s{LATER}")
            except Exception as error:  # also of the network libraries behind a remote
                self._tell(f"DVC could not {what}: {type(error).__name__}: {error}{LATER}")
            return None

    def _with_repo(self, work: Callable[[Repo], T]) -> T:
        from dvc.repo import Repo

        # Its news ("Updating lock file") and bars belong to its own command line.
        logging.getLogger("dvc").setLevel(logging.WARNING)
        if not self._opened:
            _follow_git(self.root)
            self._opened = True
        with Repo(str(self.root)) as repo:
            return work(repo)

    def _as_in_params_file(self, run: Run) -> bool:
        try:
            return _deciding(load_settings(self.root / "params.yaml")) == _deciding(run.settings)
        except CsrError:
            return False

    def _tell(self, line: str) -> None:
        if line not in self._told:
            print(line, file=sys.stderr, flush=True)
            self._told.add(line)


def stage_name(name: str, iteration: int) -> str:
    """The stage in `dvc.yaml`: `splits` and `base` of iteration 0, else such as `generate@1`."""
    return f"{name}@{iteration}" if iteration else BASE_STAGES[name]


def _deciding(settings: Settings) -> dict[str, Any]:
    """The settings that decide what comes out."""
    return settings.model_dump(exclude={**dict.fromkeys(_NO_STAGES_PARAMETER, True), **WITHOUT_INFLUENCE})


def _follow_git(root: Path) -> None:
    """Outside a Git checkout DVC refuses to work unless told so; inside one it must not be told so any more."""
    from dvc.config import Config
    from dvc.scm import SCM, SCMError

    try:
        SCM(str(root)).close()
        outside = False
    except SCMError:
        outside = True
    config = Config(str((root / ".dvc").resolve()))
    if outside != bool(config["core"].get("no_scm")):
        with config.edit("local") as local:
            if outside:
                local.setdefault("core", {})["no_scm"] = True
            else:
                local.get("core", {}).pop("no_scm", None)
