"""What programs of ours are started with: the engine, and whatever else is a process of its own."""

import os
from collections.abc import Mapping
from pathlib import Path

import worker

# The keys of the database, the store and the collector of traces among them: none of these programs asks any of them.
_PRIVATE_PREFIXES = ("STILLHOUSE_", "AWS_", "GOOGLE_", "AZURE_", "HF_TOKEN", "HUGGING_FACE_", "OTEL_", "PG")


def own_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """`inherited` without secrets and settings, in which `python -m` finds this package."""
    environment = {name: value for name, value in inherited.items() if not name.startswith(_PRIVATE_PREFIXES)}
    source = str(Path(worker.__file__).resolve().parent.parent)
    return environment | {
        # Our package, and not whatever a run folder might hold under the same name.
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [source, inherited.get("PYTHONPATH")])),
    }
