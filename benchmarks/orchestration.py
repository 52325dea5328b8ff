"""What Prefect, DVC and MLflow cost: the same job by the bare functions, by `csr run` and by `dvc repro`.

    python -m benchmarks.orchestration [--params FILE] [--set section.key=value ...] [--repeat N]

Each way works in a fresh clone of this checkout in a temporary folder; the code is that of the installed package, so
of the working tree. Paths in the settings must be absolute. A table is printed, and benchmarks/orchestration.json
written; the exit status is 1 where a way takes longer than the bound or makes other pairs than the bare functions.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from csr_core.config import Settings
from csr_core.digests import digest_value
from csr_core.dvcfile import render
from csr_core.errors import CsrError
from csr_core.layout import Layout
from csr_core.params import flatten, load_settings
from csr_core.records import PREFERENCES, read_json, read_table, write_json
from flows.processes import services
from flows.services import answers

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
RATIO, SECONDS = 1.10, 20.0  # the bound: so many times the bare functions, and so many seconds more
BARE = """
from pathlib import Path
from csr_core.layout import Layout
from csr_core.loop import iterate
from csr_core.params import load_settings
iterate(load_settings(Path("params.yaml")), Layout())
"""
# Read from the disk once, so that the first way does not pay for it.
WARM_UP = "import dvc.repo, mlflow, prefect.flow_engine, csr_core.stages.preload, trl.trainer.dpo_trainer"


@dataclass(frozen=True)
class Way:
    """One way to do the job; `again`: time a second run too, which has nothing to do."""

    name: str
    command: tuple[str, ...]
    server: bool = False  # a Prefect server runs already
    again: bool = True


WAYS = (
    Way("bare functions", (sys.executable, "-c", BARE), again=False),
    Way("csr run, temporary server", ("csr", "run")),
    Way("csr run, running server", ("csr", "run"), server=True),
    Way("dvc repro", ("dvc", "repro")),
)


@dataclass(frozen=True)
class Outcome:
    """What a run made, without what may differ: texts of the pairs by iteration (digest), and every metric."""

    pairs: tuple[str, ...]
    metrics: dict[str, float]

    def difference(self, other: Outcome) -> float:
        """Largest difference of a metric."""
        if missing := self.metrics.keys() ^ other.metrics.keys():
            raise BenchmarkError(f"expected the same metrics of every way, but not all measured {sorted(missing)}")
        both = ((value, other.metrics[name]) for name, value in self.metrics.items())
        return max((abs(a - b) for a, b in both if not (math.isnan(a) and math.isnan(b))), default=0.0)


@dataclass
class Timing:
    """Seconds of each repetition, and how the outcome compares with that of the bare functions."""

    first: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    same_pairs: bool = True
    difference: float = 0.0


class BenchmarkError(CsrError):
    """A timed command failed, or the checkout cannot be cloned."""


def measure(settings: Settings, repeat: int) -> dict[str, Timing]:
    """Time every way `repeat` times, one after the other; by name of the way."""
    timings = {way.name: Timing() for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="csr-benchmark-") as temporary:
        _run([sys.executable, "-c", WARM_UP], Path(temporary), environment(Path(temporary), None))
        for number in range(repeat):
            bare: Outcome | None = None
            for way in WAYS:
                folder = Path(temporary) / f"run-{number}"
                made = time_way(way, settings, folder, timings[way.name])
                bare = bare or made
                timing = timings[way.name]
                timing.same_pairs &= made.pairs == bare.pairs
                timing.difference = max(timing.difference, made.difference(bare))
                shutil.rmtree(folder)
    return timings


def time_way(way: Way, settings: Settings, folder: Path, timing: Timing) -> Outcome:
    """Do the job in the new `folder`, add its seconds to `timing`, and return what came out."""
    prepare(folder, settings)
    with prefect_server(folder.with_name("server")) if way.server else no_server() as api:
        known = environment(folder, api)
        timing.first.append(_run(way.command, folder, known))
        print(f"{way.name}: {timing.first[-1]:.1f} s", flush=True)
        if way.again:
            timing.again.append(_run(way.command, folder, known))
            print(f"{way.name}, nothing to do: {timing.again[-1]:.1f} s", flush=True)
    return outcome(Layout(folder), settings.iterations)


def prepare(folder: Path, settings: Settings) -> None:
    """Clone the checkout into `folder`, with these settings in params.yaml."""
    _run(["git", "clone", "--quiet", str(ROOT), str(folder)], ROOT, dict(os.environ))
    (folder / "params.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), "utf-8")
    (folder / "dvc.yaml").write_text(render(load_settings(folder / "params.yaml"), folder), "utf-8")


def environment(folder: Path, api: str | None) -> dict[str, str]:
    """No telemetry, and Prefect's home in the folder; `api`: of the Prefect server, None for an address without one."""
    return {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        "PREFECT_HOME": str(folder / ".prefect"),
        "PREFECT_API_URL": api or f"http://127.0.0.1:{free_port()}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


@contextmanager
def prefect_server(folder: Path) -> Iterator[str]:
    """A Prefect server with a new database in `folder` while the block runs; yields the address of its API."""
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    with services(folder) as local:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        try:
            local.start("prefect", command, api, environment(folder, api))
            local.wait("prefect", lambda: answers(f"{api}/health"), 180)
            yield api
        finally:
            if "prefect" in local.running:
                local.stop("prefect")
    shutil.rmtree(folder)


@contextmanager
def no_server() -> Iterator[None]:
    yield None


def outcome(layout: Layout, iterations: int) -> Outcome:
    """Read what a run of so many iterations left."""
    numbers = range(1, iterations + 1)
    metrics = {k: read_json(layout.metrics(k)) for k in range(iterations + 1)}
    pairs = [read_table(layout.preferences(k), PREFERENCES) for k in numbers]
    texts = [[[row[name] for name in ("prompt_id", "prompt", "chosen", "rejected")] for row in rows] for rows in pairs]
    # "3/test.chair_i.value": 0.12
    flat = {f"{k}/{name}": value for k, tree in metrics.items() for name, value in flatten(tree).items()}
    return Outcome(
        tuple(digest_value(rows) for rows in texts),
        {name: float(value) for name, value in flat.items() if isinstance(value, int | float)},
    )


def table(timings: dict[str, Timing]) -> list[dict[str, Any]]:
    """A row for each way: median seconds, what that is beside the bare functions, and whether the bound holds."""
    bare = statistics.median(next(iter(timings.values())).first)
    bound = RATIO * bare + SECONDS
    rows = []
    for name, timing in timings.items():
        seconds = statistics.median(timing.first)
        rows.append(
            {
                "way": name, "seconds": seconds, "ratio": seconds / bare, "more": seconds - bare, "bound": bound,
                "held": seconds <= bound, "nothing_to_do": statistics.median(timing.again) if timing.again else None,
                "same_pairs": timing.same_pairs, "largest_difference_of_a_metric": timing.difference,
                "all_seconds": timing.first, "all_seconds_nothing_to_do": timing.again,
            }
        )  # fmt: skip
    return rows


def shown(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    head = (
        f"{'':28}{'seconds':>9}{'x bare':>9}{'more, s':>9}{'bound, s':>10}  {'held':6}{'again, s':>9}  pairs   metrics"
    )
    lines = [head]
    for number, row in enumerate(rows):
        line = f"{row['way']:28}{row['seconds']:9.1f}{row['ratio']:9.3f}{row['more']:9.1f}"
        if number:
            again = f"{row['nothing_to_do']:9.1f}" if row["nothing_to_do"] is not None else f"{'':9}"
            difference = row["largest_difference_of_a_metric"]
            line += f"{row['bound']:10.1f}  {'yes' if row['held'] else 'NO':6}{again}"
            line += f"  {'same' if row['same_pairs'] else 'OTHER':6}  "
            line += f"differ by {difference:.2g}" if difference else "same"
        lines.append(line)
    return "\n".join(lines)


def free_port() -> int:
    """A port of loopback that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(command: list[str] | tuple[str, ...], folder: Path, known: dict[str, str]) -> float:
    """Run a command to its end; returns its wall time in seconds.

    Raises:
        BenchmarkError: it failed; with the end of what it printed.
    """
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        done = subprocess.run(
            command, cwd=folder, env=known, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            log.seek(0)
            lines = log.read().decode(errors="replace").splitlines()[-20:]
            said = "\n".join(f"  {line}" for line in lines)
            raise BenchmarkError(f"`{' '.join(command)}` failed with exit status {done.returncode}:\n{said}")
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml", help="default: those of the demo")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.key=value")
    parser.add_argument("--repeat", type=int, default=1, help="medians are told")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "orchestration.json")
    given = parser.parse_args()
    try:
        settings = load_settings(given.params, given.overrides)
        rows = table(measure(settings, given.repeat))
    except CsrError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    about = {"iterations": settings.iterations, "workers": settings.run.workers, "cores": os.cpu_count()}
    write_json(given.out, {**about, "repeat": given.repeat, "changes": given.overrides, "rows": rows})
    print(f"\n{', '.join(f'{value} {name}' for name, value in about.items())}; median of {given.repeat}")
    print(f"The bound is {RATIO:.2f} x the bare functions + {SECONDS:.0f} s.\n\n{shown(rows)}")
    return 0 if all(row["held"] and row["same_pairs"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
