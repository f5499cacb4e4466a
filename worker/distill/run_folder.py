"""What the engine and whoever starts it both name: the entries of a run folder, and what its environment tells.

Torch-free: the worker imports these without loading the engine.
"""

JOB = "job.json"  # with the paths of teacher and dataset
CHECKPOINTS = "checkpoints"  # a folder each
CACHE = "cache"  # {kind}/{key}/, what other jobs left and what this one adds
EVENTS = "events.jsonl"
ARTIFACT = "artifact"  # the student and all that is told of it
ARCHIVE = "artifact.tar.gz"  # of that folder

# 1: standard input is a pipe that the parent holds, and the engine leaves when it closes.
PARENT_PIPE = "STILLHOUSE_ENGINE_PARENT_PIPE"
# On what it computes: `auto`, `cpu` or `cuda`.
DEVICE = "STILLHOUSE_ENGINE_DEVICE"
# JSON: the ids under which a worker runs it, for the first line of its log.
LOG_CONTEXT = "STILLHOUSE_ENGINE_LOG_CONTEXT"
