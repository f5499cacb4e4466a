"""The report: what docs/benchmarks.md shows."""

from datetime import UTC, datetime

from app.schemas.methods.sage import Sage
from bench.report import cells
from bench.sage.measure import Job, Pair
from bench.setting import made_by

# The parts of a run that only a guided method has; labelling is the teacher's work on what they made.
SELECTION = ("scoring", "projection", "synthesis")


def report(pairs: list[Pair], precision: str) -> list[str]:
    first = pairs[0]
    times = ", ".join(f"{datetime.fromtimestamp(pair.started_at, UTC):%Y-%m-%d %H:%M}" for pair in pairs)
    loads = ", ".join(f"{pair.load_before:.1f}" for pair in pairs)
    return [
        "Two jobs of one size, one after the other, on one teacher, dataset and budget: SAGE with the job spec's "
        f"defaults ({made_by(Sage())}), and plain distillation, which finds the teacher's outputs where the first "
        "job left them and makes no pass of its own. Each a process of its own; a job is the time from launch to exit. "
        "*Selection* is what the training waits for: scoring, pooling the rows and waiting for their projection, "
        "neighbours and draw. The projection itself is fitted beside the teacher's pass and the warm-up, on one thread "
        "of low priority: what it takes from the warm-up is in SAGE's training, what it takes from the teacher's pass "
        "is left out of the last ratio with that pass. "
        f"Computed in {precision} on {first.machine['processor']}, {first.machine['cores']} cores; begun {times} UTC, "
        f"load average before {loads}.",
        "",
        "| training rows | presented | SAGE | of it teacher's pass | training | scoring | projection | synthesis | "
        "selection, share of the job | labelling | plain KD | SAGE less its teacher's pass, over plain KD |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(time_row(pair) for pair in pairs),
        "",
        "Memory is the most that was resident at a time, of the engine and of the projection's process beside it; "
        "mapped files count in both. *Beyond loading* is the time from launch to the first training step, less "
        "loading models and data and less the teacher's pass.",
        "",
        "| training rows | memory, plain KD | SAGE, engine | with projection | over plain KD | first step after | of "
        "it loading | teacher's pass | beyond loading | selection per 1,000 presented rows |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(memory_row(pair) for pair in pairs),
    ]


def time_row(pair: Pair) -> str:
    sage, parts = pair.sage, pair.sage.parts
    return cells(
        f"{pair.rows:,}",
        f"{pair.presented:,}",
        f"{sage.seconds:.1f} s",
        f"{parts['teacher_outputs']:.1f} s",
        f"{parts['training']:.1f} s",
        *(f"{parts.get(part, 0.0):.1f} s" for part in SELECTION),
        f"{100 * selection_seconds(sage) / sage.seconds:.1f} %",
        f"{parts.get('labelling', 0.0):.1f} s",
        f"{pair.kd.seconds:.1f} s",
        f"{sage.seconds_without_teacher / pair.kd.seconds_without_teacher:.2f}",
    )


def memory_row(pair: Pair) -> str:
    sage, kd = pair.sage, pair.kd
    loading, teacher = sage.parts["loading"], sage.parts["teacher_outputs"]
    return cells(
        f"{pair.rows:,}",
        f"{kd.engine_bytes / 1e9:.2f} GB",
        f"{sage.engine_bytes / 1e9:.2f} GB",
        f"{sage.total_bytes / 1e9:.2f} GB",
        f"{max(sage.engine_bytes, sage.total_bytes) / kd.engine_bytes:.2f}",
        f"{sage.seconds_to_training:.1f} s",
        f"{loading:.1f} s",
        f"{teacher:.1f} s",
        f"{sage.seconds_to_training - loading - teacher:.1f} s",
        f"{1_000 * selection_seconds(sage) / pair.presented * 1_000:.0f} ms",
    )


def selection_seconds(job: Job) -> float:
    return sum(job.parts.get(part, 0.0) for part in SELECTION)
