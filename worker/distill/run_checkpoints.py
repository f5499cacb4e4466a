"""When a run's checkpoints are written and what they say of it: how far it is, and with what it began."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from worker.distill.arms import STUDENT
from worker.distill.checkpoint import ArmState, RunState, TeacherPassState, save_checkpoint
from worker.distill.config import CheckpointConfig
from worker.distill.coordinates import Coordinates
from worker.distill.device import differing
from worker.distill.errors import InvalidJob, Stopped
from worker.distill.events import EventLog
from worker.distill.run_folder import CHECKPOINTS
from worker.distill.stopwatch import Stopwatch
from worker.distill.train import ArmResult

_TOKENS = "tokens"  # the input that the dataset's tokens are


class RunCheckpoints:
    """The checkpoints of one run in `folder`; `resumed` is the one that it goes on from, None where it begins."""

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig,
        resumed: RunState | None,
        *,
        is_deterministic: bool,
        environment: dict[str, Any],
        inputs: dict[str, str],
        coordinates: Coordinates,
        events: EventLog,
        watch: Stopwatch,
        stop_requested: Callable[[], bool],
    ) -> None:
        self._folder = folder
        self._config = config
        self._resumed = resumed  # until it is announced
        self._is_deterministic = is_deterministic
        self._environment = environment
        self._inputs = inputs
        self._inexact_by: list[str] = []
        self._coordinates = coordinates
        self._events = events
        self._watch = watch
        self._stop_requested = stop_requested
        self._last_saved = time.monotonic()
        self._last_number = resumed.number if resumed else -1
        self._steps_before = resumed.steps_before if resumed else 0
        self._begun = resumed.begun() if resumed else {}
        self._teacher_pass = resumed.teacher_pass if resumed else None  # until it is taken
        # Work by part that is over before the arms: who goes on is as far as that.
        self.preparation: dict[str, float] = resumed.preparation if resumed else {}
        self.finished: dict[str, dict[str, Any]] = resumed.finished if resumed else {}  # arm -> its record
        self.finished_weights: dict[str, dict[str, torch.Tensor]] = resumed.finished_weights if resumed else {}

    def goes_on_with(self, input_name: str, sha256: str) -> None:
        """What the run reads from here on, which is held against what it began with."""
        self._inputs[input_name] = sha256

    def goes_on_with_tokens(self, sha256: str) -> None:
        """As `goes_on_with`, of the dataset's tokens. Raises InvalidJob where the run began with others: what it has
        learnt of a word would go to another one. Of a release that did not record them they are taken as they are."""
        resumed = self._resumed
        if resumed is not None and resumed.inputs.get(_TOKENS, sha256) != sha256:
            began, here = (environment["libraries"] for environment in (resumed.environment, self._environment))
            versions = [
                f"{name} {began[name]} there and {here[name]} here"
                for name in ("transformers", "tokenizers")
                if began.get(name, here[name]) != here[name]
            ]
            told = f" ({', '.join(versions)})" if versions else ""
            raise InvalidJob(
                f"the teacher's tokenizer makes other tokens of the dataset here than where this run began{told}: its "
                'checkpoint is of other words. Retry the job with {"from_start": true}, or finish it with the release '
                "that began it."
            )
        self.goes_on_with(_TOKENS, sha256)

    def began_with(self, input_name: str) -> bool:
        """Whether the checkpoint that is not announced yet has read an input of that name."""
        return self._resumed is not None and input_name in self._resumed.inputs

    def has_begun(self, arm: str) -> bool:
        """Whether the arm is under way, and nobody has taken it yet."""
        return arm in self._begun

    def take(self, arm: str) -> ArmState | None:
        """Where the arm goes on, if it was begun: from here on it says so itself."""
        return self._begun.pop(arm, None)

    def take_teacher_pass(self) -> TeacherPassState | None:
        """Where the teacher's pass over the rows goes on, if it was begun: from here on it says so itself."""
        taken, self._teacher_pass = self._teacher_pass, None
        return taken

    def announce_resume(self) -> None:
        """Say, once it is known with what this run goes on, whether it will end with the same bits."""
        resumed, self._resumed = self._resumed, None
        if resumed is None:
            return
        differs = differing(resumed.environment, self._environment)
        differs += [name for name, value in self._inputs.items() if resumed.inputs.get(name, value) != value]
        # A run that once went on under other conditions is exact no more, also where it goes on under its own again.
        differs = self._inexact_by = list(dict.fromkeys([*resumed.inexact_by, *differs]))
        self._events.emit("resumed", step=resumed.number, exact_resume=self._is_deterministic and not differs)
        if differs:
            self._events.emit(
                "warning",
                code="inexact_resume",
                message=f"this run goes on, or went on before, where {', '.join(differs)} differ from where it began: "
                "it will end well, but not with the same bits as an undisturbed run.",
            )

    def finish(self, arm: str, result: ArmResult) -> None:
        """The arm is done: what it made is in the checkpoints from here on."""
        self.count_steps(result)
        self.finished[arm] = result.record
        self.finished_weights[arm] = result.best_weights
        self._save(None, None, _round_facts(arm, result.record["rounds"], result.record["best_round"] - 1))

    def count_steps(self, result: ArmResult) -> None:
        """Those of an arm that is done: a checkpoint's number tells the steps of all."""
        self._steps_before += result.record["steps"]

    def at_safe_point(self, arm: str, state: Callable[[], ArmState], *, is_round_end: bool, is_saved: bool) -> None:
        """`train.SafePoint` of the arm. Nothing is stopped but where all of it is saved."""
        if not (is_saved or is_round_end or self._is_due()):
            return
        if not is_saved:
            arm_state = state()
            facts = _round_facts(arm, arm_state.position.rounds_done, arm_state.position.best_round)
            self._save(arm, arm_state, facts if is_round_end else {"arm": arm})
        if self._stop_requested():
            raise Stopped

    def at_safe_point_of_pass(self, state: Callable[[], TeacherPassState]) -> None:
        """The same between two batches of the teacher's pass."""
        if not self._is_due():
            return
        self._save(None, None, {"arm": None}, teacher_pass=state())
        if self._stop_requested():
            raise Stopped

    def _is_due(self) -> bool:
        return self._stop_requested() or time.monotonic() - self._last_saved >= self._config.every_seconds

    def _save(
        self,
        arm: str | None,
        state: ArmState | None,
        facts: dict[str, Any],
        *,
        teacher_pass: TeacherPassState | None = None,
    ) -> None:
        """Write a checkpoint and announce it with `facts`: what was just trained, and how good it is."""
        steps = self._steps_before + (state.position.step if state else 0)
        # The newest checkpoint has the highest number, also where an arm ends right after a timed one.
        self._last_number = max(steps, self._last_number + 1)
        # A checkpoint not yet held against what this run goes on with is not to be forgotten.
        resumed = self._resumed
        checkpoint = RunState(
            number=self._last_number,
            steps_before=self._steps_before,
            environment=resumed.environment if resumed else self._environment,
            inputs=resumed.inputs if resumed else self._inputs,
            inexact_by=resumed.inexact_by if resumed else self._inexact_by,
            coordinates=self._coordinates.value,
            finished=self.finished,
            finished_weights=self.finished_weights,
            arm=arm,
            arm_state=state,
            waiting=self._begun,
            teacher_pass=teacher_pass or self._teacher_pass,
            preparation=self.preparation,
        )
        began = time.monotonic()
        with self._watch.on("checkpoints"):
            folder = save_checkpoint(self._folder, checkpoint, keep=self._config.keep)
        self._last_saved = time.monotonic()
        facts = {"path": f"{CHECKPOINTS}/{folder.name}", "seconds": self._last_saved - began, **facts}
        self._events.emit("checkpoint", step=checkpoint.number, **facts)


def _round_facts(arm: str, rounds: list[dict[str, Any]], best_round: int) -> dict[str, Any]:
    """What a checkpoint at the end of an arm's newest round holds; `best_round` counts from 0."""
    newest = rounds[-1] if rounds else None
    if newest is None or arm != STUDENT:
        return {"arm": arm, "round": newest["round"] if newest else None}
    return {
        "arm": arm,
        "round": newest["round"],
        "validation_accuracy": newest["accuracy"],
        "is_best": newest["round"] == best_round + 1,
    }
