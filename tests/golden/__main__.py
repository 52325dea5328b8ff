"""`python -m tests.golden DIR`: cases and mismatches of each kind; ends with 1 on any mismatch."""

import argparse
from pathlib import Path

from tests.golden.compare import compare


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("folder", type=Path, help="golden data, laid out as ../shared/data/golden")
    folder = parser.parse_args().folder
    if not folder.is_dir():
        parser.error(f"{folder} is not a folder")
    tally = compare(folder)
    print(tally.table())
    return 1 if tally.mismatches or not tally.cases else 0


raise SystemExit(main())
