"""The artifact: a folder that loads with plain transformers, and says what it is and how it came to be."""

import copy
import gzip
import hashlib
import json
import platform
import tarfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch

MANIFEST = "manifest.json"
# Measured, so unlike between two equal runs: left out of content_sha256.
_MEASURED_FILES = {"metrics.json", "README.md", MANIFEST}
_LIBRARIES = ("torch", "transformers", "safetensors", "numpy", "umap-learn", "faiss-cpu")


def write_artifact(
    folder: Path,
    *,
    student: torch.nn.Module,
    tokenizer: Any,
    job: Mapping[str, Any],
    result: dict[str, Any],
    records: Mapping[str, Any],
) -> str:
    """Write the student (a plain model on the processor) into `folder`; returns its content_sha256.

    The tokenizer goes with it, cutting where the job's training and every measurement did.

    `result` is the run's summary (see loop.py), `records` what each arm did. The hash covers weights,
    config, tokenizer and quality metrics: two equal runs have it in common.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cast(Any, student).save_pretrained(folder)
    shipped = copy.deepcopy(tokenizer)
    shipped.model_max_length = job["training"]["max_length"]
    shipped.save_pretrained(folder)
    _name_for_older_readers(folder / "tokenizer_config.json")
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes for its owner's eyes only
    files = {file.name: sha256_of(file) for file in sorted(folder.iterdir()) if file.name not in _MEASURED_FILES}
    content = hashlib.sha256(
        json.dumps({"files": files, "quality": _quality(result)}, sort_keys=True).encode()
    ).hexdigest()
    _write_json(folder / "metrics.json", result | {"content_sha256": content})
    (folder / "README.md").write_text(_model_card(job, result), encoding="utf-8")
    listed = sorted(file for file in folder.iterdir() if file.name != MANIFEST)
    manifest = {
        "content_sha256": content,
        "files": [{"path": file.name, "size_bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in listed],
        "teacher_sha256": job["teacher"]["sha256"],
        "dataset_sha256": job["dataset"]["sha256"],
        "job": {name: value for name, value in job.items() if name not in ("teacher", "dataset")},
        "arms": records,
        "libraries": {name: version(name) for name in _LIBRARIES},
        "python": platform.python_version(),
        "hardware": result["hardware"],
    }
    _write_json(folder / MANIFEST, manifest)
    return content


def pack(folder: Path, archive: Path) -> None:
    """`folder` as a .tar.gz whose bytes depend on its files alone: sorted names, no times, no owners.

    Stored, not compressed: weights give way by a twelfth, and that took longer than training a small student on a GPU.
    """
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for file in sorted(folder.iterdir()):
            entry = tar.gettarinfo(file, arcname=f"student/{file.name}")
            entry.mtime, entry.mode = 0, 0o644
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            with file.open("rb") as content:
                tar.addfile(entry, content)


def _name_for_older_readers(settings: Path) -> None:
    """The class TokenizersBackend under the name that it had before transformers 5, which 5 takes for the same."""
    values = json.loads(settings.read_text(encoding="utf-8"))
    if values["tokenizer_class"] == "TokenizersBackend":
        values["tokenizer_class"] = "PreTrainedTokenizerFast"
        text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        settings.write_text(text, encoding="utf-8")


def _quality(result: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the summary that two equal runs share."""
    models = {"teacher": result["teacher"], "student": result["student"], **result["baselines"]}
    names = ("validation", "test", "parameters", "agreement", "retention")
    return {model: {name: numbers[name] for name in names} for model, numbers in models.items()}


def _model_card(job: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    split = "test" if result["student"]["test"] else "validation"
    methods = " + ".join(method["type"] for method in (job["method"], *job["combine"]))
    leads = {name: _lead(lead) for name, lead in result["student"]["ahead_of"].items()}
    rows = [("teacher", result["teacher"], leads["teacher"]), (f"**{methods} student**", result["student"], "")]
    rows += [(f"baseline: {name}", numbers, leads[name]) for name, numbers in result["baselines"].items()]
    table = "\n".join(
        f"| {name} | {numbers[split]['accuracy']:.4f} | {lead} | {numbers[split]['macro_f1']:.4f} | "
        f"{numbers[split]['calibration_error']:.3f} | {numbers['parameters']:,} | {numbers['latency_ms']['p50']:.1f} |"
        for name, numbers, lead in rows
    )
    return f"""---
library_name: transformers
pipeline_tag: text-classification
---

# A distilled text classifier

{result["student"]["parameters"]:,} parameters, distilled by Stillhouse with method `{methods}` from a
teacher of {result["teacher"]["parameters"]:,}. It answers with one of {len(result["labels"])} labels.

```python
from transformers import pipeline

pipeline("text-classification", model="student")("a text", truncation=True)
```

Or step by step, to the name of the likeliest label:

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("student")
tokenizer = AutoTokenizer.from_pretrained("student")
logits = model(**tokenizer("a text", truncation=True, return_tensors="pt")).logits
label = model.config.id2label[int(logits[0].argmax())]
```

| model | accuracy ({split}) | student less it | macro F1 | calibration error | parameters | latency p50 (ms) |
|---|---|---|---|---|---|---|
{table}

In brackets the 95 % interval of that difference over all such rows, paired; another seed would move it too.
Latency: one text at a time on {result["hardware"]}, {result["threads"]} threads, tokenisation included.
Texts longer than {job["training"]["max_length"]} tokens were cut, in training and for these numbers;
`truncation=True` cuts them there too. Made and tested with transformers {version("transformers")}; 5 or newer loads it.
The student inherits the teacher's and the dataset's errors and terms of use.
`manifest.json` holds the whole configuration and every hash.
"""


def _lead(lead: Mapping[str, float]) -> str:
    return f"{lead['accuracy']:+.4f} ({lead['low']:+.4f} to {lead['high']:+.4f})"


def sha256_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
