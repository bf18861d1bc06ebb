"""The paper's findings, rerun on the miniature: what is trained (`stages`), in which order (`jobs`), what it shows (`claims`)."""

import sys
from pathlib import Path

DATA = str(Path(__file__).resolve().parent.parent.parent / "data")
if DATA not in sys.path:
    sys.path.append(DATA)  # the package `miniature`, whose world is trained on
