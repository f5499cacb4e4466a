"""torchdistill's distillation box.

As documented (its GLUE example and sample configurations): padding per batch, fp32, the teacher asked in every step,
AdamW without decay of biases and LayerNorms, a validation every epoch and the best model kept. Best: bf16 around
both models, rows of like length together, eager attention, the fused AdamW, and a teacher that has answered already:
the library has no cache, but takes for a teacher any module that has logits to show.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from shared import (
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
from torch.utils.data import RandomSampler, SequentialSampler
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, get_linear_schedule_with_warmup
from transformers.trainer_pt_utils import LengthGroupedSampler


def import_torchvision() -> None:
    """torchdistill imports torchvision for its image models, which nothing here uses.

    Where pip finds only a torchvision built for CUDA beside a torch built for processors, its compiled half does not
    load, and its Python half stops at describing two operators of it. Declaring them lets the import pass.
    """
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision

        torchvision.declared_operators = library  # as long as the library lives, so does the declaration


import_torchvision()

from torchdistill.core.distillation import get_distillation_box  # noqa: E402
from torchdistill.core.interfaces.registry import register_forward_proc_func  # noqa: E402
from torchdistill.datasets.registry import register_collate_func  # noqa: E402
from torchdistill.optim.registry import register_optimizer, register_scheduler  # noqa: E402


@register_forward_proc_func
def forward_batch_as_kwargs(model: torch.nn.Module, batch: Any, *_: Any) -> Any:
    return model(**{name: value for name, value in batch.items() if name != "teacher_logits"})


@register_forward_proc_func
def forward_known_logits(model: torch.nn.Module, batch: Any, *_: Any) -> Any:
    return model(batch["teacher_logits"])


class KnownTeacher(torch.nn.Module):
    """Shows the logits that come with a batch where the library looks for a teacher's."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = torch.nn.Identity()

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return self.classifier(logits)


@register_optimizer
def optimizer_no_decay(modules: Any, weight_decay: float, **settings: Any) -> torch.optim.Optimizer:
    """Of torchdistill's GLUE example."""
    named = list(modules.named_parameters())
    is_plain = {name: any(part in name for part in ("bias", "LayerNorm.weight")) for name, _ in named}
    groups = [
        {"params": [p for name, p in named if not is_plain[name]], "weight_decay": weight_decay},
        {"params": [p for name, p in named if is_plain[name]], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, **settings)


register_scheduler(get_linear_schedule_with_warmup)


def main() -> None:
    task, result_file, watch = begin()
    best_folder = Path(task.output) / "student"
    with watch.phase("load"):
        tokenizer, teacher, student = load_models(task)
        if task.is_bf16:
            autocast_forward(teacher)
            autocast_forward(student)
        watch.time_teacher(teacher)
        collate = DataCollatorWithPadding(tokenizer)
        rows = {split: load_rows(task, split, tokenizer) for split in ("train", "validation", "test")}
    if task.is_best:
        with watch.phase("teacher pass"):
            ask_teacher_once(teacher, rows["train"], collate)
        teacher = KnownTeacher()
    with watch.phase("load"):
        register_collate_func(with_teacher_logits(collate), key="DataCollatorWithPadding")
        config = _train_config(task, rows["train"])
        box = get_distillation_box(teacher, student, rows, config, torch.device(task.device), None, False, 1)
    best_accuracy = -1.0
    with watch.phase("training"):
        for epoch in range(box.num_epochs):
            box.pre_epoch_process(epoch=epoch)
            _train_one_epoch(box)
            validation_accuracy = accuracy(student, box.val_data_loader)
            watch.interrupt_steps()
            if validation_accuracy > best_accuracy:
                best_accuracy = validation_accuracy
                student.save_pretrained(best_folder)
            box.post_epoch_process()
    with watch.phase("evaluation"):
        student = AutoModelForSequenceClassification.from_pretrained(best_folder).to(task.device)
        if task.is_bf16:
            autocast_forward(student)
        test_accuracy = accuracy(student, _loader(rows["test"], task.batch_size, tokenizer))
    with watch.phase("export"):
        tokenizer.save_pretrained(best_folder)
    finish(result_file, watch, test_accuracy)


def _train_one_epoch(box: Any) -> None:
    for batch in box.train_data_loader:
        batch = {name: value.to(box.device) for name, value in batch.items()}
        loss = box.forward_process(batch, targets=batch["labels"], supp_dict=None)
        box.post_forward_process(loss=loss)
        loss.item()  # the example logs it


def _loader(rows: list[dict[str, Any]], batch_size: int, tokenizer: Any) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(rows, batch_size=batch_size, collate_fn=DataCollatorWithPadding(tokenizer))


def _train_config(task: Task, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The sample configuration of KD on SST-2 with the task's numbers; a YAML file would say the same."""
    logits = {
        "student_module_path": "classifier",
        "student_module_io": "output",
        "teacher_module_path": "classifier",
        "teacher_module_io": "output",
    }
    # torchdistill's alpha weighs the labels' cross-entropy; temperature^2 is in its loss.
    kd = {**logits, "temperature": task.temperature, "alpha": 1 - task.alpha, "reduction": "batchmean"}
    loaders = {"kwargs": {"batch_size": task.batch_size, "num_workers": 0}, "collate_fn": "DataCollatorWithPadding"}
    return {
        "log_freq": 500,
        "num_epochs": task.epochs,
        "train_data_loader": {
            **loaders,
            "dataset_id": "train",
            "requires_supp": False,
            "sampler": {"class_or_func": _length_grouped(task) if task.is_best else RandomSampler, "kwargs": {}},
        },
        "val_data_loader": {
            **loaders,
            "dataset_id": "validation",
            "requires_supp": False,
            "sampler": {"class_or_func": SequentialSampler, "kwargs": {}},
        },
        "teacher": {
            "forward_proc": "forward_known_logits" if task.is_best else "forward_batch_as_kwargs",
            "forward_hook": {"input": [], "output": ["classifier"]},
            "sequential": [],
            "requires_grad": False,
            "frozen_modules": [],
        },
        "student": {
            "forward_proc": "forward_batch_as_kwargs",
            "forward_hook": {"input": [], "output": ["classifier"]},
            "sequential": [],
            "requires_grad": True,
            "frozen_modules": [],
        },
        "optimizer": {
            "key": "optimizer_no_decay",
            "kwargs": {"lr": task.learning_rate, "weight_decay": task.weight_decay, "fused": task.is_best},
            "filters_params": False,
            "max_grad_norm": 1.0,
            "grad_accum_step": 1,
        },
        "scheduler": {
            "key": "get_linear_schedule_with_warmup",
            "kwargs": {
                "num_warmup_steps": task.count_warmup_steps(len(rows)),
                "num_training_steps": task.count_steps(len(rows)),
            },
            "scheduling_step": 1,
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": kd}, "weight": 1.0}}},
        },
    }


def _length_grouped(task: Task) -> Any:
    def make(rows: list[dict[str, Any]]) -> LengthGroupedSampler:
        return LengthGroupedSampler(task.batch_size, lengths=[len(row["input_ids"]) for row in rows])

    return make


if __name__ == "__main__":
    main()
