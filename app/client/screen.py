"""What the commands show: finished steps, the job's progress, the table. A live bar on a terminal, lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from app.client.api import Json

# Without a terminal, one line per change of phase, and one now and then within a long phase.
LINE_EVERY_SECONDS = 30.0

# In the others the last loss is one of an earlier phase.
TRAINING_PHASES = ("teacher_tuning", "training", "baseline")


def make_console() -> Console:
    """A console that follows the terminal's width, and is wide enough for the table where there is none."""
    # What is printed are sentences, names and paths, in which no bracket is a colour's.
    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=110)


class Step:
    """The sentence of a step; the step may replace it once it knows more."""

    def __init__(self, text: str) -> None:
        self.text = text


@contextmanager
def step(console: Console, text: str) -> Iterator[Step]:
    """Show that a step runs, then that it is done and how long it took."""
    current = Step(text)
    started_at = time.monotonic()
    if console.is_terminal:
        with console.status(Text(text)):
            yield current
    else:
        yield current
    done(console, current.text, seconds=time.monotonic() - started_at)


def done(console: Console, text: str, *, seconds: float = 0.0) -> None:
    """A finished step, and how long it took when that is worth saying."""
    line = Text("✓ ", style="green").append(text, style="default")
    if seconds >= 0.5:
        line.append(f"  {seconds:.1f} s", style="dim")
    console.print(line, soft_wrap=True)


def warn(console: Console, text: str) -> None:
    """What the server noticed and put up with."""
    console.print(Text("! ", style="yellow").append(text, style="default"), soft_wrap=True)


def describe_dataset(dataset: Json) -> str:
    """What a worker found in the files of a dataset that is ready."""
    rows = ", ".join(f"{rows:,} {split}" for split, rows in dataset["rows"].items() if rows)
    return f"Dataset {dataset['id']}: {len(dataset['labels'])} labels, {rows} rows"


def describe_teacher(teacher: Json) -> str:
    """What a worker found in the files of a teacher that is ready."""
    return (
        f"Teacher {teacher['id']}: {teacher['name']}, {teacher['family']}, {teacher['layers']} layers, "
        f"{teacher['parameters'] / 1e6:.1f} M parameters"
    )


class JobView:
    """The progress of one job: `show` it whenever it was read."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("  {task.description}", justify="left"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("queued", total=1.0, numbers="")
        self._seen = ""
        self._shown_at = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def show(self, job: Json) -> None:
        if self._console.is_terminal:
            self._bar.update(
                self._task, completed=job["progress"] or 0.0, description=_phase(job), numbers=_numbers(job)
            )
            return
        state = _phase(job)
        now = time.monotonic()
        if state != self._seen or (now - self._shown_at >= LINE_EVERY_SECONDS and not job["terminal"]):
            self._seen = state
            self._shown_at = now
            self._console.print(f"  {state:<34} {job['progress'] or 0.0:>4.0%}  {_numbers(job)}".rstrip())


def _phase(job: Json) -> str:
    if job["status"] != "running":
        return str(job["status"])
    phase = str(job["phase"] or "starting").replace("_", " ")
    if job["round"] is None:
        return phase
    # The teacher is tuned in passes over the rows; a student is trained in the rounds of its method.
    unit = "epoch" if job["phase"] == "teacher_tuning" else "round"
    return f"{phase}, {unit} {job['round']} of {job['rounds']}"


def _numbers(job: Json) -> str:
    parts = []
    loss = (job["metrics"] or {}).get("loss")
    if loss is not None and job["phase"] in TRAINING_PHASES and not job["terminal"]:
        parts.append(f"loss {loss:.3f}")
    if job["eta_seconds"] is not None and not job["terminal"]:
        minutes, seconds = divmod(round(job["eta_seconds"]), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    return "  ".join(parts)


def results_table(result: Json, *, layers: dict[str, int | None], main_method: str) -> Table:
    """Teacher, student and baselines of a finished job, side by side."""
    split = "test" if result["student"]["test"] else "validation"
    table = Table(title=f"On the {split} set", title_justify="left")
    table.add_column("model")
    for heading in ("accuracy", "retention", "parameters", "size", "latency p50"):
        table.add_column(heading, justify="right")
    rows = [
        (_sized("teacher", layers), result["teacher"]),
        (f"{_sized('student', layers)}, {_title(main_method)}", result["student"]),
        *(
            (f"{_sized('student', layers)}, {_title(method)}", numbers)
            for method, numbers in result["baselines"].items()
        ),
    ]
    for name, numbers in rows:
        retention = numbers.get("retention")
        latency = numbers.get("latency_ms")
        table.add_row(
            name,
            f"{numbers[split]['accuracy']:.2%}",
            "" if retention is None else f"{retention:.2%}",
            f"{numbers['parameters'] / 1e6:.1f} M",
            f"{numbers['size_bytes'] / 1e6:.1f} MB",
            "" if latency is None else f"{latency['p50']:.1f} ms",
        )
    return table


def describe_leads(result: Json) -> list[str]:
    """Of each model beside the student, by how much the student's accuracy is above its; none of a job whose engine did
    not measure that yet."""
    sentences = []
    for name, lead in result["student"].get("ahead_of", {}).items():
        sentence = (
            f"Student less {'teacher' if name == 'teacher' else _title(name)}: {_points(lead['accuracy'])} points of "
            f"accuracy (95 % interval {_points(lead['low'])} to {_points(lead['high'])})"
        )
        if lead["low"] <= 0 <= lead["high"]:
            sentence += ", which may be chance"
        sentences.append(sentence)
    return sentences


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"


def _sized(model: str, layers: dict[str, int | None]) -> str:
    return model if layers[model] is None else f"{model}, {layers[model]} layers"


def _title(method: str) -> str:
    return {"sage": "SAGE", "kd": "plain distillation", "fine_tune": "fine-tuned alone"}.get(method, method)
