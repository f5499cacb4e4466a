"""Which files of a model folder or repository make a teacher, by name alone: decided before anything is read."""

from collections.abc import Iterable

from app.domain.quoting import quote_all

CONFIG = "config.json"
WHOLE_WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
WEIGHTS_SUFFIX = ".safetensors"
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class NoTeacherFiles(Exception):
    """What should be there is not: `code` for programs, `message` for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def files_of_teacher(names: Iterable[str], *, place: str) -> list[str]:
    """The teacher's files among `names` (relative paths); `place` says where they are, for messages.

    Only these are ever copied, sent or downloaded: configuration, safetensors, tokenizer. No code, no pickles. Raises
    NoTeacherFiles where they make no teacher.
    """
    top = sorted(name for name in names if "/" not in name)
    if CONFIG not in top:
        raise NoTeacherFiles(
            "teacher_files_missing",
            f"{place} has no {CONFIG}; it has {quote_all(top) or 'no files'}. "
            "A teacher is a folder as `save_pretrained` writes it: config.json, model.safetensors, tokenizer files.",
        )
    chosen = [CONFIG, *_weights(top, place)]
    tokenizer = [name for name in TOKENIZER_FILES if name in top]
    if not {"tokenizer.json", "vocab.txt"} & set(tokenizer):
        raise NoTeacherFiles(
            "teacher_files_missing",
            f"{place} has neither tokenizer.json nor vocab.txt. "
            "Save the model's tokenizer beside it with `tokenizer.save_pretrained`.",
        )
    return chosen + tokenizer


def _weights(top: list[str], place: str) -> list[str]:
    if WHOLE_WEIGHTS in top:
        return [WHOLE_WEIGHTS]
    parts = [name for name in top if name.startswith("model-") and name.endswith(WEIGHTS_SUFFIX)]
    if WEIGHTS_INDEX in top and parts:
        return [WEIGHTS_INDEX, *parts]
    if pickles := [name for name in top if name.endswith(_PICKLES)]:
        raise NoTeacherFiles(
            "teacher_weights_not_safetensors",
            f"{place} has its weights only as pickles ({quote_all(pickles)}), which can run code when they are "
            "read. Load the model where you trust it and save it with `save_pretrained`, which writes "
            "model.safetensors; many repositories have such a revision.",
        )
    raise NoTeacherFiles(
        "teacher_files_missing",
        f"{place} has no {WHOLE_WEIGHTS}; it has {quote_all(top)}. "
        "Save the model with `save_pretrained` and give that folder.",
    )
