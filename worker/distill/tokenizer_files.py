"""What a teacher's tokenizer files must not say. Torch-free: teachers are held against it when they are added, too.

transformers hands what stands in them to the tokenizer's constructor, and some of its arguments are files to read: a
teacher could make any file of the worker its list of words, and the student would carry it out.
"""

import json
from pathlib import Path
from typing import Any

SETTINGS = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"

# By which a tokenizer gets its words elsewhere than from the files beside it.
_WORDS = frozenset(
    {
        "vocab",
        "entity_vocab",
        "merges",
        "init_inputs",
        "gguf_file",
        "tokenizer_object",
        "fast_tokenizer_files",
    }
)
_FILES = ("_file", "_files", "_spm")
# Older releases of transformers wrote down where they had read; newer ones take the files beside it, or none.
_NOTES = frozenset({"special_tokens_map_file", "tokenizer_file", "full_tokenizer_file"})
_LISTS_OF_TOKENS = frozenset({"additional_special_tokens", "extra_special_tokens"})
_NOTHING: tuple[Any, ...] = (None, "", [], {})

# Those of transformers that the tokenizers library has no part in, or that are not one tokenizer.
_SLOW = frozenset(
    {
        "AutoTokenizer",
        "BartphoTokenizer",
        "BertGenerationTokenizer",
        "BertJapaneseTokenizer",
        "BertTokenizerLegacy",
        "BertweetTokenizer",
        "BioGptTokenizer",
        "BlenderbotSmallTokenizer",
        "ByT5Tokenizer",
        "CTRLTokenizer",
        "CanineTokenizer",
        "ClvpTokenizer",
        "CpmAntTokenizer",
        "CpmTokenizer",
        "DiaTokenizer",
        "EsmTokenizer",
        "FSMTTokenizer",
        "FastSpeech2ConformerTokenizer",
        "FlaubertTokenizer",
        "GPTNeoXJapaneseTokenizer",
        "GPTSw3Tokenizer",
        "M2M100Tokenizer",
        "MarianTokenizer",
        "MgpstrTokenizer",
        "MistralCommonTokenizer",
        "MyT5Tokenizer",
        "PLBartTokenizer",
        "PerceiverTokenizer",
        "PhobertTokenizer",
        "Pop2PianoTokenizer",
        "PreTrainedTokenizerBase",
        "ProphetNetTokenizer",
        "RagTokenizer",
        "RoCBertTokenizer",
        "SiglipTokenizer",
        "Speech2TextTokenizer",
        "SpeechT5Tokenizer",
        "TapasTokenizer",
        "VitsTokenizer",
        "Wav2Vec2CTCTokenizer",
        "Wav2Vec2PhonemeCTCTokenizer",
        "XLMTokenizer",
    }
)


def named_class(folder: Path) -> str | None:
    """The class that transformers makes of the folder's tokenizer; None where the files leave it to the family."""
    name = _read(folder / SETTINGS).get("tokenizer_class") or _read(folder / "config.json").get("tokenizer_class")
    return str(name) if name else None


def is_fast(class_name: str) -> bool:
    """Whether a tokenizer class of that name is one of the tokenizers library, as far as its name tells."""
    return "Tokenizer" in class_name and class_name.removesuffix("Fast") not in _SLOW


def find_foreign_entry(folder: Path) -> str | None:
    """Two sentences on an entry of the folder's files that points its tokenizer elsewhere; None where none does."""
    for name, value in _read(folder / SETTINGS).items():
        points_elsewhere = name in _WORDS or (name.endswith(_FILES) and name not in _NOTES)
        if points_elsewhere and value not in _NOTHING:
            return (
                f"{SETTINGS} sets {name!r} to {str(value)[:60]!r}, by which a tokenizer reads other words than those "
                "of tokenizer.json or vocab.txt beside it. Remove that entry."
            )
    for name in _read(folder / SPECIAL_TOKENS):
        if not name.endswith("_token") and name not in _LISTS_OF_TOKENS:
            return (
                f"{SPECIAL_TOKENS} sets {name[:60]!r}; it names special tokens, such as pad_token, and nothing else. "
                "Remove that entry."
            )
    return None


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes()) if path.exists() else {}
