"""What is different when a test runs the commands of README.md and docs/. Everything else is run as it is printed.

An entry names a command by its first words (of `Command.plain`); of several that fit, the longest counts. An entry that
fits no command of any page fails the test: take it out with the command.
"""

from tests.docs.commands import Command

# Programs that come with the project.
OURS = ("csr", "dvc", "prefect", "mlflow", "make", "python", "hf", "ray", "torchrun")

# What is put in place of a part of a command. Names in braces are in `reader.Reader.places`.
REPLACED = {
    "csr up": "csr up --mlflow-port {mlflow_port}",  # port 5000 may be taken
    "http://127.0.0.1:5000": "http://127.0.0.1:{mlflow_port}",
    "--port 5000": "--port {mlflow_port}",
    "https://prefect.example.org/api": "{prefect}",
    "https://api.openai.com/v1": "{judge}",
    "/path/to/env/bin/python": "{lmms_python}",
    "dvc remote add -d store s3://bucket/csr": "dvc remote add -d store {elsewhere}/store",
    "git clone URL csr": "git clone . {elsewhere}/csr",
    "cd csr": "cd {elsewhere}/csr",
    "10.0.0.1": "127.0.0.1",
}

# What has to be so before a command, beyond the folder that `reader.py` makes.
BEFORE = {
    "csr ablate": "python -m tests.docs.smaller iterations=1",
    "csr push": "export HF_ENDPOINT={hub} HF_TOKEN=hf_secret HF_HUB_OFFLINE=0",
    "csr report . runs/half": "test -d runs/half || (mkdir -p runs/half && cp -r data metrics models runs/half/)",
    "csr run --root runs/half": "python -m tests.docs.smaller iterations=1",
    "csr run --set reward.image_weight=0.5": "python -m tests.docs.smaller iterations=1",
    "csr run --params presets/llava-1.5-7b-paper.yaml": (
        "python -m tests.docs.smaller presets/llava-1.5-7b-paper.yaml iterations=1 "
        "data.prompts=prompts.json data.images=coco/train2014"
    ),
    "csr run --set model.device=cpu --set run.num_processes=2": "rm -r models/iter_3",  # so that there is training
    "csr run --set run.task_runner=ray": "rm -r data/iter_3/scores",  # so that there are shards
    "csr evaluate score": "cp answers/*.jsonl data/iter_1/answers/",
    "csr import preferences": "rm -r data/iter_1",  # pairs of its own are in the way
    "dvc params diff": "python -m tests.docs.smaller iterations=1",  # a difference, and a short experiment
    "prefect worker start": "prefect work-pool create gpu --type process --overwrite",
}

# What is done after one.
AFTER = {"csr init": "python -m tests.docs.smaller iterations=3"}

# Run only where a page has exactly this for the first time: they take long, or read what the folder has anyway. (A
# block of which every command has been on a page before is not run again at all.)
ONCE = ("csr run", "csr ablate", "csr chat", "csr export", "csr report", "csr table", "csr reward", "make demo")
ONCE += ("mlflow ui", "prefect deployment run")

# Programs that go on until they are stopped, and what they print when they are ready.
SERVERS = {
    "mlflow server": "Application startup complete",
    "mlflow ui": "Application startup complete",
    "prefect server start": "Check out the dashboard",
    "prefect worker start": "started!",
}

# Commands that a test of their own runs through the real command line: not run here again.
RUN_ELSEWHERE = {
    "csr check": "tests/e2e/test_inputs.py::test_check_estimates_the_run",
}

# What cannot be run here: the nearest that can, and why.
STAND_IN = {
    "docker compose": (
        "if command -v docker-compose; then POSTGRES_PASSWORD=a PREFECT_AUTH_STRING=a:a "
        "docker-compose --file docker/compose.yaml config --quiet; fi",
        "images need an engine and a registry; the containers' own commands are run by tests/services",
    ),
    "csr run --set run.num_processes=4 --set run.fsdp=true": (
        "(CUDA_VISIBLE_DEVICES= csr stage finetune --iteration 3 --set run.num_processes=4 --set run.fsdp=true "
        "--set finetune.gradient_checkpointing=true || true) 2>&1 | grep 'shards the model over several GPUs'",
        "needs GPUs: refused for that alone; the training itself is run by tests/stages/test_ranks.py, on the CPU",
    ),
    "hf auth login": ("hf auth login --help", "needs an account"),
    "hf download": ("hf download --help", "needs a network"),
    "make test": ("make --dry-run test", "is what runs this test"),
    "make bench": ("make --dry-run bench", "takes 25 minutes"),
    "make bench-orchestration": ("make --dry-run bench-orchestration", "takes four times the demo's time"),
    "pip install 'dvc[s3]'": ("python -m tests.docs.extras 'dvc[s3]'", "needs a package index"),
    "python -m benchmarks.gpu": ("python -m benchmarks.gpu --help", "needs a GPU, or the processor for half a minute"),
    "python -m benchmarks.orchestration": ("python -m benchmarks.orchestration --help", "takes two minutes and more"),
    "python -m benchmarks.speed": ("python -m benchmarks.speed --rows score-mid --help", "a row takes a minute"),
}

# What is printed by a command that did what the page says; ending with 0 is asked of every command.
SAYS = {
    "csr chat": "iteration 3",
    "csr push": "uploaded to",
    "csr report": "CHAIR_i",
    "csr run --set run.task_runner=ray": "score@3: done",
    "dvc repro": "up to date",
    "dvc params diff": "iterations",
    "prefect deployment run": "Completed",
}

# Inline code that begins like a command and is none: a pattern of it, and what it is.
NAMES = {
    r"csr (\S+ seed \S+|\.\.\.)": "the name of an MLflow run",
    r"git lfs \S+": "an extension of Git that need not be here",
    r"python -c .*": "an option of Python itself",
    r"python -m lmms_eval": "a package of an environment of its own",
}

TABLES = (BEFORE, AFTER, SERVERS, RUN_ELSEWHERE, STAND_IN, SAYS)


def entry(table: dict, command: Command) -> str | None:
    """The key of `table` that fits the command best."""
    words = command.plain.split()
    fitting = [key for key in table if words[: len(key.split())] == key.split()]
    return max(fitting, key=len, default=None)
