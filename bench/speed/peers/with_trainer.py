"""A `transformers.Trainer` whose loss asks a teacher: what most people write.

As documented: padding by the default collator with a tokenizer (per batch), fp32, validation and a checkpoint every
epoch, the best one loaded at the end; the loss asks the teacher in validation too, as in transformers' own guide to
distillation. Best: bf16, rows of like length together, eager attention, no teacher in validation, and its logits of the
training rows asked for once and kept as a column of them.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from shared import Stopwatch, Task, ask_teacher_once, begin, finish, load_models, load_rows, with_teacher_logits
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments


class DistillationTrainer(Trainer):
    def __init__(self, *arguments: Any, teacher: torch.nn.Module, task: Task, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.teacher = teacher
        self.task = task

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        teacher_logits = inputs.pop("teacher_logits", None)
        outputs = model(**inputs)
        if self.task.is_best and not model.training:
            return (outputs.loss, outputs) if return_outputs else outputs.loss
        if teacher_logits is None:
            with torch.no_grad():
                teacher_logits = self.teacher(**inputs).logits
        temperature, alpha = self.task.temperature, self.task.alpha
        divergence = functional.kl_div(
            functional.log_softmax(outputs.logits.float() / temperature, dim=-1),
            functional.softmax(teacher_logits / temperature, dim=-1),
            reduction="batchmean",
        )
        loss = (1 - alpha) * outputs.loss + alpha * temperature**2 * divergence
        return (loss, outputs) if return_outputs else loss


class EvaluationIsNoStep(TrainerCallback):
    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.watch.interrupt_steps()


def main() -> None:
    task, result_file, watch = begin()
    with watch.phase("load"):
        tokenizer, teacher, student = load_models(task)
        watch.time_teacher(teacher)
        rows = {split: load_rows(task, split, tokenizer) for split in ("train", "validation", "test")}
        collate = DataCollatorWithPadding(tokenizer)
    if task.is_best:
        with watch.phase("teacher pass"), torch.autocast(task.device, torch.bfloat16, enabled=task.is_bf16):
            ask_teacher_once(teacher, rows["train"], collate)
    with watch.phase("load"):
        trainer = DistillationTrainer(
            model=student,
            args=_arguments(task, len(rows["train"])),
            train_dataset=rows["train"],
            eval_dataset=rows["validation"],
            data_collator=with_teacher_logits(collate),
            compute_metrics=lambda predicted: {
                "accuracy": float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())
            },
            callbacks=[EvaluationIsNoStep(watch)],
            teacher=teacher,
            task=task,
        )
    with watch.phase("training"):
        trainer.train()
    with watch.phase("evaluation"):
        test = trainer.evaluate(rows["test"])
    with watch.phase("export"):
        trainer.save_model(str(Path(task.output) / "student"))
        tokenizer.save_pretrained(Path(task.output) / "student")
    finish(result_file, watch, test["eval_accuracy"])


def _arguments(task: Task, rows: int) -> TrainingArguments:
    best: dict[str, Any] = {}
    if task.is_best:
        # The column with the teacher's logits is none that the model takes.
        best = {"bf16": task.is_bf16, "train_sampling_strategy": "group_by_length", "remove_unused_columns": False}
    return TrainingArguments(
        output_dir=str(Path(task.output) / "checkpoints"),
        num_train_epochs=task.epochs,
        per_device_train_batch_size=task.batch_size,
        per_device_eval_batch_size=task.batch_size,
        learning_rate=task.learning_rate,
        warmup_steps=task.count_warmup_steps(rows),
        weight_decay=task.weight_decay,
        lr_scheduler_type="linear",
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        seed=task.seed,
        report_to="none",
        use_cpu=task.device == "cpu",
        **best,
    )


if __name__ == "__main__":
    main()
