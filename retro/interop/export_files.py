"""What an exported folder holds beside its weights: the tokenizer, and the code that transformers runs.

The canonical weight names, the reference and `causal_lm.py` are joined: module docstrings and imports go, the imports
that are left come first, and everything else is copied to the letter. One name changes: what reads a `ModelShape` here
reads the folder's `RetroConfig` there, which has the same attributes.
"""

from __future__ import annotations

import ast
import logging
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from retro import __version__
from retro.common.errors import ArtifactError, DataError
from retro.common.files import write_plain_json
from retro.model.config import ModelShape
from retro.tokenizers.chat_template import ChatTemplate
from retro.tokenizers.conventions import Conventions
from retro.tokenizers.sentencepiece_bpe import bpe_tokenizer, inexact, read_vocabulary
from retro.tokenizers.tokenizer import (
    FILE_NAMES,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    conventions_of,
    load_tokenizer,
    tokenizer_files,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CopiedTokenizer:
    """What a folder's tokenizer is."""

    file: str
    """tokenizer.json or tokenizer.model."""
    eod: int
    """Id that ends a document, and an answer."""
    opens_in_transformers: bool
    """Whether AutoTokenizer gives the ids that the model was trained on."""
    ends: tuple[int, ...]
    """All ids that end an answer."""
    conventions: Conventions = field(default_factory=Conventions)
    """What the folder that the tokenizer came from says."""

    @property
    def pad(self) -> int:
        """Id that fills a batch."""
        return self.conventions.ids.get("pad_token", self.eod)


def copy_tokenizer(directory: Path, shape: ModelShape, out: Path) -> CopiedTokenizer:
    """Copy the tokenizer in `directory` into `out`.

    Raises:
        ArtifactError: It is missing, damaged, or not the one that the model was trained with.
    """
    tokenizer = load_tokenizer(directory)
    if shape.tokenizer and tokenizer.fingerprint != shape.tokenizer:
        problem = f"is tokenizer {tokenizer.fingerprint}, the checkpoint was trained with {shape.tokenizer}"
        raise ArtifactError(directory, problem, "Name the run it was trained in with --run")
    file = FILE_NAMES["huggingface" if isinstance(tokenizer, HuggingFaceTokenizer) else "sentencepiece"]
    for one in tokenizer_files(directory):
        shutil.copyfile(one, out / one.name)
    known = conventions_of(tokenizer)
    same = False
    if isinstance(tokenizer, HuggingFaceTokenizer) or (
        isinstance(tokenizer, SentencePieceTokenizer) and _write_as_huggingface(directory / file, out)
    ):
        same, end = True, str(tokenizer.piece(tokenizer.eod))
        write_plain_json(out / "tokenizer_config.json", _for_transformers(end, known))
    if known.chat_template:
        (out / "chat_template.jinja").write_text(known.chat_template, encoding="utf-8")
    return CopiedTokenizer(
        file=file,
        eod=tokenizer.eod,
        opens_in_transformers=same,
        ends=tuple(dict.fromkeys((tokenizer.eod, *known.ends, *_turn_end(tokenizer)))),
        conventions=known,
    )


def _turn_end(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The token with which the chat template ends a turn, where there is one that works."""
    if not (isinstance(tokenizer, HuggingFaceTokenizer) and tokenizer.conventions.chat_template):
        return ()
    try:
        return (ChatTemplate(tokenizer).turn_end,)
    except DataError as error:
        log.warning("export: %s", error)
        return ()


def _write_as_huggingface(model: Path, out: Path) -> bool:
    """Write a SentencePiece model as a tokenizer.json, if that is sure to give the same ids; tell whether it did."""
    vocabulary = read_vocabulary(model)
    reason = "it is not BPE, or changes characters" if vocabulary is None else inexact(vocabulary)
    if vocabulary is None or reason is not None:
        log.warning(
            "export: no tokenizer_config.json: AutoTokenizer might give other ids than %s, as %s", model, reason
        )
        return False
    bpe_tokenizer(vocabulary).save(str(out / FILE_NAMES["huggingface"]))
    return True


def _for_transformers(end: str, known: Conventions) -> dict[str, object]:
    """Settings under which AutoTokenizer, called with add_special_tokens=False, gives the ids of our own tokenizer.

    With a chat template, which writes special tokens, a text that spells one is that token in transformers.
    """
    named = {name: text for name, text in known.tokens.items() if name != "eos_token"}
    length = {} if known.model_max_length is None else {"model_max_length": known.model_max_length}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end,
        "pad_token": end,
        **named,
        **length,
        "padding_side": "left",
        "model_input_names": ["input_ids", "attention_mask"],
        # A text that spells the name of a special token is text.
        "split_special_tokens": not known.chat_template,
        "clean_up_tokenization_spaces": False,
    }


MODELING = "modeling_retro.py"
_PARTS = (("retro.model", "weight_names.py"), ("retro.model", "reference.py"), ("retro.interop", "causal_lm.py"))
_OURS = ("retro", "__future__")
_HEAD = '''"""Retro for transformers, in plain torch. Written by instruct-retro {version}; change it there."""

from __future__ import annotations

{imports}
'''


def modeling_source() -> str:
    """The text of `modeling_retro.py`."""
    sources = [resources.files(room).joinpath(name).read_text(encoding="utf-8") for room, name in _PARTS]
    bodies = [_body(source).replace("ModelShape", "RetroConfig") for source in sources]
    head = _HEAD.format(version=__version__, imports=_foreign_imports("\n".join(sources)))
    return head + "\n\n" + "\n\n\n".join(bodies) + "\n"


def _foreign_imports(source: str) -> str:
    """The imports of other packages, each module once, as lines: the standard library first."""
    whole: set[str] = set()
    parts: dict[str, set[str]] = defaultdict(set)
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            whole |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] not in _OURS:
            parts[node.module] |= {alias.name for alias in node.names}
    lines = [f"import {name}" for name in sorted(whole)]
    lines += [f"from {module} import {', '.join(_in_order(names))}" for module, names in sorted(parts.items())]
    ours, foreign = ([line for line in lines if _is_foreign(line) == wanted] for wanted in (False, True))
    return "\n".join([*ours, "", *foreign])


def _in_order(names: Iterable[str]) -> list[str]:
    """Classes first, then by letters: as ruff wants imports."""
    return sorted(names, key=lambda name: (not name[0].isupper(), name.casefold()))


def _is_foreign(line: str) -> bool:
    return line.split()[1].split(".")[0] not in sys.stdlib_module_names


def _body(source: str) -> str:
    """The text without its docstring and imports; comments stay."""
    lines = source.splitlines()
    tree = ast.parse(source).body
    dropped: list[ast.stmt] = [node for node in tree if isinstance(node, ast.Import | ast.ImportFrom)]
    if ast.get_docstring(ast.parse(source)) is not None:
        dropped.append(tree[0])
    gone = {number for node in dropped for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    kept = [line for number, line in enumerate(lines, start=1) if number not in gone]
    # Where imports were, more blank lines are left than two.
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(kept)).strip("\n")
