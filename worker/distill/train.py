"""Training one arm (the teacher's tuning, the student, a baseline) to the end of its budget.

One loop for all of them: what is learnt is the objective's matter, from which rows the strategy's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from worker.distill import seed as seeds
from worker.distill.batches import collate
from worker.distill.checkpoint import ArmPosition, ArmState
from worker.distill.data import Split
from worker.distill.device import Compute
from worker.distill.errors import NanLoss
from worker.distill.evaluate import Quality, measure_quality
from worker.distill.events import EventLog
from worker.distill.network import Network
from worker.distill.networks import put_weights
from worker.distill.objectives import Answers, Objective
from worker.distill.order import arrange
from worker.distill.parameterisation import Parameterisation
from worker.distill.predict import predict_logits, rows_not_finite
from worker.distill.progress import Progress, training_work
from worker.distill.rows import Predictions
from worker.distill.stopwatch import Stopwatch
from worker.distill.strategies.base import DataStrategy, RoundPlan, StrategyContext

_LOG_EVERY_STEPS = 10


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to the learning rate, then linear decay to zero over the arm's steps."""

    learning_rate: float
    warmup_ratio: float
    weight_decay: float
    batch_size: int

    def rate_at(self, step: int, total_steps: int) -> float:
        warm_up = max(1, math.ceil(self.warmup_ratio * total_steps))
        if step < warm_up:
            return self.learning_rate * (step + 1) / warm_up
        return self.learning_rate * (total_steps - step) / max(1, total_steps - warm_up)


@dataclass(frozen=True)
class Arm:
    """One model to be trained, and by what."""

    name: str
    phase: str  # what the run is said to do meanwhile
    seed: int
    epochs: float
    objective: Objective
    strategy: DataStrategy
    parameterisation: Callable[[], Parameterisation] | None
    schedule: Schedule
    layers: int  # for the progress: what one row costs
    trains_words: bool  # its own vectors of the words that occur, or the table as it is


@dataclass(frozen=True)
class ArmContext:
    """What the run lends an arm."""

    split: Split
    validation: Split
    teacher: Predictions | None  # of the training split
    vectors: np.ndarray | None  # (rows, width) pooled, of the training split, where a strategy may synthesise
    compute: Compute
    events: EventLog
    progress: Progress
    work_of_questions: list[float]  # by round: what it asks before it trains, in the progress's unit
    strategy: StrategyContext
    watch: Stopwatch
    at_safe_point: "SafePoint"


class SafePoint(Protocol):
    """Called between two steps, and between two batches of a validation or of a choice of new rows: may write a
    checkpoint of `state()`, unless that `is_saved` already, and may raise Stopped."""

    def __call__(self, state: Callable[[], ArmState], *, is_round_end: bool, is_saved: bool) -> None: ...


@dataclass(frozen=True)
class ArmResult:
    best_weights: dict[str, torch.Tensor]
    record: dict[str, Any]  # steps, rows presented, best round, rounds


class ArmTraining:
    """An arm under way. `run` goes to the end, calling `at_safe_point` after every step and round, and between the
    batches of a validation and of a choice of new rows."""

    def __init__(self, arm: Arm, network: Network, context: ArmContext, resumed: ArmState | None) -> None:
        self.arm = arm
        self.network = network
        self.context = context
        word_rows = np.unique(context.split.ids) if arm.trains_words else None
        parameterisation = None if arm.parameterisation is None else arm.parameterisation()
        rows = context.strategy.rows
        known = None if context.teacher is None else context.teacher.of(rows)
        labels, has_label = context.split.labels[rows], context.split.has_label[rows]
        if known is not None:
            labels = np.where(has_label, labels, known.logits.argmax(1))
        arm.objective.begin(known, labels)
        beside = arm.objective.trained_beside()
        for parameter in beside.values():
            parameter.data = parameter.data.to(context.compute.device)
        network.begin_training(arm.schedule.weight_decay, word_rows, parameterisation, beside)
        self.round_sizes = arm.strategy.round_sizes(arm.epochs, len(context.split))
        self.total_steps = sum(math.ceil(size / arm.schedule.batch_size) for size in self.round_sizes)
        self.position = ArmPosition(
            round=0,
            batch_in_round=0,
            step=0,
            rows_presented=0,
            best_round=-1,
            best_accuracy=-1.0,
            best_loss=math.inf,
            rounds_without_gain=0,
            window_loss_sum=0.0,
            window_steps=0,
            strategy=arm.strategy.state_dict(),
            objective=arm.objective.state_dict(),
            rounds_done=[],
        )
        self.plan: RoundPlan | None = None
        self.best_weights: dict[str, torch.Tensor] = {}
        # Losses stay on the device between log points: reading one makes the processor wait for it.
        self._window_losses: list[torch.Tensor] = []
        self._saved_at: tuple[int, int, int] | None = None  # the place of the newest checkpoint
        context.strategy.choice.call_at_safe_points(self._reach_safe_point)
        if resumed is not None:
            self._restore(resumed)

    def run(self) -> ArmResult:
        while self.position.round < len(self.round_sizes):
            if self.plan is None:
                self.plan = self._plan_round()
                if self.plan is None:
                    break
            self._train_round(self.plan)
            self._finish_round(self.plan)
        self.context.progress.complete(self.arm.name)
        return ArmResult(self.best_weights, self._record())

    def state(self) -> ArmState:
        """Everything needed to go on from here; raises NanLoss rather than hand out a broken model."""
        self._read_window()
        self._saved_at = self._place()
        self.position.objective = self.arm.objective.state_dict()
        # A finite loss can still make weights that are not: the step after it would show, too late.
        weights = self.network.trained_weights()
        if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
            raise self._not_a_number("some weights", self.position.step)
        return ArmState(
            position=self.position,
            weights=weights,
            best_weights=self.best_weights,
            optimizer=self.network.optimizer_state(),
            plan=self.plan,
            choice=self.context.strategy.choice.state(),
        )

    def _plan_round(self) -> RoundPlan | None:
        number = self.position.round
        self._enter_round()
        with self.context.watch.on("synthesis"):  # the neighbours, the draw, the inversion: what has no part of its own
            plan = self.arm.strategy.plan_round(
                number, self.round_sizes[number], self.position.rounds_without_gain, self.context.strategy
            )
        self.position.strategy = self.arm.strategy.state_dict()
        self.context.strategy.choice.forget()
        if plan is None:
            self.context.events.emit("round", arm=self.arm.name, round=number + 1, stopped_early=True)
        return plan

    def _train_round(self, plan: RoundPlan) -> None:
        context, arm = self.context, self.arm
        self._enter_round()
        batches = self._batches(plan)
        while self.position.batch_in_round < len(batches):
            rows = batches[self.position.batch_in_round]
            self._step(rows, plan)
            self.position.batch_in_round += 1
            loss = None
            if self.position.step % _LOG_EVERY_STEPS == 0 or self.position.step == self.total_steps:
                loss = self._log_window()
            context.progress.advance(arm.name, training_work(arm.layers, len(rows)), loss)
            self._reach_safe_point()

    def _enter_round(self) -> None:
        self.context.progress.enter(self.arm.phase, self.position.round + 1, len(self.round_sizes))

    def _batches(self, plan: RoundPlan) -> list[np.ndarray]:
        split = self.context.split
        text_rows = plan.rows.copy()
        if plan.synthetic is not None:
            is_synthetic = text_rows >= len(split)
            text_rows[is_synthetic] = plan.synthetic.anchors[text_rows[is_synthetic] - len(split)]
        generator = seeds.generator(self.arm.seed, self.arm.name, "batches", self.position.round)
        return arrange(plan.rows, split.lengths[text_rows], self.arm.schedule.batch_size, generator)

    def _step(self, rows: np.ndarray, plan: RoundPlan) -> None:
        context, position = self.context, self.position
        batch = collate(
            rows,
            context.split,
            context.compute.device,
            teacher=context.teacher,
            synthetic=plan.synthetic,
            vectors=context.vectors,
            lists_words=self.arm.trains_words,
        )
        outputs = self.network.training_outputs(
            batch, seeds.derive(self.arm.seed, self.arm.name, "dropout", position.step)
        )
        answers = Answers(
            student=outputs.logits,
            teacher=batch.teacher_logits,
            labels=batch.labels,
            has_label=batch.has_label,
            is_real=batch.is_real,
            student_features=outputs.features,
            teacher_features=batch.teacher_features,
        )
        loss = self.arm.objective(answers).mean()
        loss.backward()
        self.network.step(self.arm.schedule.rate_at(position.step, self.total_steps))
        self._window_losses.append(loss.detach())
        position.step += 1
        position.rows_presented += len(rows)
        self.arm.objective.after_step(position.step, self.total_steps)

    def _read_window(self) -> None:
        """Fold the losses on the device into the position; raises NanLoss if one is not a number."""
        if not self._window_losses:
            return
        losses = torch.stack(self._window_losses).double().tolist()
        self._window_losses.clear()
        for offset, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise self._not_a_number(f"the loss ({loss})", self.position.step - len(losses) + offset + 1)
            self.position.window_loss_sum += loss
        self.position.window_steps += len(losses)

    def _not_a_number(self, what: str, step: int) -> NanLoss:
        return NanLoss(
            f"{what} of {self.arm.name} stopped being finite at step {step} of {self.total_steps}, with learning rate "
            f"{self.arm.schedule.learning_rate:g}: lower the learning rate (a tenth is a good next try), or set "
            "training.precision to fp32."
        )

    def _log_window(self) -> float:
        """The mean training loss since the last log point."""
        self._read_window()
        position = self.position
        loss = position.window_loss_sum / position.window_steps
        position.window_loss_sum, position.window_steps = 0.0, 0
        self.context.events.metric(f"{self.arm.name}/train_loss", position.step, loss)
        return loss

    def _finish_round(self, plan: RoundPlan) -> None:
        self._read_window()
        position, context = self.position, self.context
        with context.watch.on("validating"):
            quality = self._validate()
        context.events.metric(f"{self.arm.name}/validation_accuracy", position.step, quality.accuracy)
        context.events.metric(f"{self.arm.name}/validation_loss", position.step, quality.loss)
        better_loss = quality.loss < position.best_loss
        if quality.accuracy > position.best_accuracy or (quality.accuracy == position.best_accuracy and better_loss):
            position.best_round, position.best_accuracy = position.round, quality.accuracy
            position.best_loss, position.rounds_without_gain = quality.loss, 0
            self.best_weights = self.network.trained_weights()
        else:
            position.rounds_without_gain += 1
        facts = plan.facts | self.arm.objective.facts()
        if len(context.strategy.rows) < len(context.split):
            facts["kept_rows"] = float(len(context.strategy.rows))
        record = {"round": position.round + 1, "step": position.step, **quality.as_dict(), **facts}
        position.rounds_done.append(record)
        context.events.emit("round", arm=self.arm.name, **record)
        for name, value in facts.items():
            context.events.metric(f"{self.arm.name}/{name}", position.step, value)
        position.round += 1
        position.batch_in_round = 0
        self.plan = None
        # The end of the last round is the end of the arm, which is saved in other ways.
        self._reach_safe_point(is_round_end=position.round < len(self.round_sizes))

    def _validate(self) -> Quality:
        """A stop may come between its batches: the round still has its plan then, all batches of it done, and a resume
        validates at once."""
        validation = self.context.validation
        logits = predict_logits(
            self.network, validation, self.context.compute.device, after_batch=lambda _: self._reach_safe_point()
        )
        if len(rows_not_finite(logits)):
            raise self._not_a_number("the validation logits", self.position.step)
        return measure_quality(logits, validation.labels)

    def _reach_safe_point(self, *, is_round_end: bool = False) -> None:
        self.context.at_safe_point(self.state, is_round_end=is_round_end, is_saved=self._place() == self._saved_at)

    def _place(self) -> tuple[int, int, int]:
        """Round, step, and where in the choice of the round's new rows."""
        return self.position.round, self.position.step, self.context.strategy.choice.changes

    def _record(self) -> dict[str, Any]:
        position = self.position
        return {
            "steps": position.step,
            "rows_presented": position.rows_presented,
            "best_round": position.best_round + 1,
            "rounds": position.rounds_done,
        }

    def _restore(self, resumed: ArmState) -> None:
        self.position = resumed.position
        if resumed.choice is not None:
            self.context.strategy.choice.go_on_from(resumed.choice)
            resumed.choice = None  # as large as the logits of all candidates, and whoever resumed lives on
        self._saved_at = self._place()
        self.best_weights = resumed.best_weights
        self.plan = resumed.plan
        self.arm.strategy.load_state_dict(resumed.position.strategy)
        self.arm.objective.load_state_dict(resumed.position.objective)
        asked = self.context.work_of_questions[: resumed.position.round + (resumed.plan is not None)]
        done = training_work(self.arm.layers, resumed.position.rows_presented) + sum(asked)
        self.context.progress.restore(self.arm.name, done + self.context.strategy.choice.work)
        put_weights(self.network, resumed.weights)
        self.network.load_optimizer_state(resumed.optimizer)
