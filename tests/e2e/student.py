"""What a user does with an artifact: fetch it, prove it, load it with plain transformers, use it."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import httpx

from tests.e2e import tiny

Json = dict[str, Any]


def download(http: httpx.Client, job_id: str) -> bytes:
    """The student's archive in three ranges, compared with the hash that the list announces."""
    listed = http.get(f"/jobs/{job_id}/artifacts").json()["data"]
    whole = next(artifact for artifact in listed if artifact["name"] == "student.tar.gz")
    path = f"/jobs/{job_id}/artifacts/student.tar.gz"
    size = whole["size_bytes"]
    content = b""
    for start, end in ((0, 999), (1000, size // 2), (size // 2 + 1, None)):
        response = http.get(path, headers={"Range": f"bytes={start}-{'' if end is None else end}"})
        assert response.status_code == httpx.codes.PARTIAL_CONTENT, response.text
        last = size - 1 if end is None else end
        assert response.headers["content-range"] == f"bytes {start}-{last}/{size}"
        content += response.content
    assert hashlib.sha256(content).hexdigest() == whole["sha256"]
    return content


def unpack(archive: bytes, folder: Path) -> Json:
    """The files of the archive in `folder`, each compared with its manifest, which is returned."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar.getmembers():
            content = tar.extractfile(member)
            assert content is not None, member.name
            assert member.name.startswith("student/")
            (folder / member.name.removeprefix("student/")).write_bytes(content.read())
    manifest: Json = json.loads((folder / "manifest.json").read_text())
    listed = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != "manifest.json"
    }
    assert found == listed
    return manifest


def accuracy(folder: Path, split: str) -> float:
    """The share of right answers, with nothing but transformers."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows = tiny.rows(split)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")
    with torch.inference_mode():
        answers = model(**inputs).logits.argmax(dim=-1)
    right = [model.config.id2label[int(answer)] == label for answer, (_, label) in zip(answers, rows, strict=True)]
    return sum(right) / len(right)
