"""TextBrewer's GeneralDistiller.

As documented (its SST-2 notebook): every row padded to the full length, fp32, the teacher asked in every step, a
checkpoint and a validation every epoch. Best: bf16 around both models (the library has none of its own but Apex),
padding per batch, rows of like length together, eager attention, the fused AdamW, and the teacher's outputs computed
once and fed to the distiller, as its documentation describes under "Feed Cached Values".

TextBrewer's KD loss is a cross-entropy without temperature^2, so its weight carries that factor here: the gradient
is then that of every other system. Its notebook takes AdamW from transformers, where it no longer is; torch's is
the same.
"""

from pathlib import Path
from typing import Any

import torch
from shared import (
    Stopwatch,
    Task,
    accuracy,
    ask_teacher_once,
    autocast_forward,
    begin,
    finish,
    load_models,
    load_rows,
    with_teacher_logits,
)
from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
from torch.utils.data import DataLoader, RandomSampler
from transformers import DataCollatorWithPadding, default_data_collator, get_linear_schedule_with_warmup
from transformers.trainer_pt_utils import LengthGroupedSampler


def main() -> None:
    task, result_file, watch = begin()
    output = Path(task.output)
    with watch.phase("load"):
        tokenizer, teacher, student = load_models(task)
        if task.is_bf16:
            autocast_forward(teacher)
            autocast_forward(student)
        watch.time_teacher(teacher)
        padding = False if task.is_best else "max_length"
        rows = {split: load_rows(task, split, tokenizer, padding=padding) for split in ("train", "validation", "test")}
        collate = DataCollatorWithPadding(tokenizer) if task.is_best else default_data_collator
        held_out = {
            split: DataLoader(rows[split], batch_size=task.batch_size, collate_fn=collate)
            for split in ("validation", "test")
        }
    if task.is_best:
        with watch.phase("teacher pass"):
            ask_teacher_once(teacher, rows["train"], collate)
        collate = _with_cache(collate)
    sampler = _sampler(task, rows["train"])
    loader = DataLoader(rows["train"], sampler=sampler, batch_size=task.batch_size, collate_fn=collate)
    scores: dict[int, float] = {}
    with watch.phase("training"):
        _train(task, teacher, student, loader, held_out["validation"], scores, watch)
        best = max(scores, key=lambda step: scores[step])
        student.load_state_dict(torch.load(output / f"gs{best}.pkl"))
    with watch.phase("evaluation"):
        test_accuracy = accuracy(student, held_out["test"])
    with watch.phase("export"):
        student.save_pretrained(output / "student")
        tokenizer.save_pretrained(output / "student")
    finish(result_file, watch, test_accuracy)


def _train(
    task: Task,
    teacher: torch.nn.Module,
    student: torch.nn.Module,
    loader: DataLoader,
    validation: DataLoader,
    scores: dict[int, float],
    watch: Stopwatch,
) -> None:
    def adaptor(_: Any, outputs: Any) -> dict[str, Any]:
        # Cached outputs of the teacher come as a plain dictionary and have no loss.
        if isinstance(outputs, dict) and "loss" not in outputs:
            return {"logits": outputs["logits"]}
        return {"logits": outputs.logits, "losses": outputs.loss}

    def after_epoch(model: torch.nn.Module, step: int) -> None:
        scores[step] = accuracy(model, validation)
        watch.interrupt_steps()

    rows = len(loader.dataset)
    distiller = GeneralDistiller(
        train_config=TrainingConfig(device=task.device, output_dir=task.output),
        distill_config=DistillationConfig(
            temperature=task.temperature,
            kd_loss_weight=task.alpha * task.temperature**2,
            hard_label_weight=1 - task.alpha,
        ),
        model_T=teacher,
        model_S=student,
        adaptor_T=adaptor,
        adaptor_S=adaptor,
    )
    with distiller:
        distiller.train(
            torch.optim.AdamW(
                student.parameters(), lr=task.learning_rate, weight_decay=task.weight_decay, fused=task.is_best
            ),
            loader,
            num_epochs=task.epochs,
            scheduler_class=get_linear_schedule_with_warmup,
            scheduler_args={
                "num_warmup_steps": task.count_warmup_steps(rows),
                "num_training_steps": task.count_steps(rows),
            },
            max_grad_norm=1.0,
            callback=after_epoch,
        )


def _sampler(task: Task, rows: list[dict[str, Any]]) -> Any:
    if not task.is_best:
        return RandomSampler(rows)
    return LengthGroupedSampler(task.batch_size, lengths=[len(row["input_ids"]) for row in rows])


def _with_cache(collate: Any) -> Any:
    collate_both = with_teacher_logits(collate)

    def collate_with_cache(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate_both(rows)
        logits = batch.pop("teacher_logits")
        return {"student": batch, "teacher": batch, "teacher_cache": {"logits": logits}}

    return collate_with_cache


if __name__ == "__main__":
    main()
