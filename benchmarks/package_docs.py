"""The docstrings of installed packages, and of other versions of them, as one text to pretrain on.

    pip install --target runs/pandas_2 --no-deps pandas==2.0.3
    python -m benchmarks.package_docs runs/science.jsonl pandas runs/pandas_2/pandas numpy scipy sklearn

Names mean packages of the running Python, paths the folders of packages. Nothing of them is imported.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from retro.quickstart.docstrings import installed_package, write_docstrings


def main() -> None:
    """Write the file, and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("packages", nargs="+")
    parser.add_argument("--min-words", type=int, default=60)
    asked = parser.parse_args()
    folders = [Path(one) if "/" in one else installed_package(one) for one in asked.packages]
    counts = write_docstrings(asked.out, folders, min_words=asked.min_words)
    print(", ".join(f"{value:,} {name}" for name, value in asdict(counts).items()))


if __name__ == "__main__":
    main()
