"""The rules that hold for the whole house: who may import whom, what stays light, and what is not written at all."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "retro"
MODULES = sorted(PACKAGE.rglob("*.py"))
SHELL_SCRIPTS = sorted(path for folder in (".ci", "tools", "docker") for path in (ROOT / folder).rglob("*.sh"))
HEAVY = ("torch", "megatron", "faiss", "h5py", "sentence_transformers", "transformers")

# What the modules of a room may import from other rooms: a whole room, or one module of it. Between stages that is
# the reader, because files are the interface.
READERS = {"common", "tokenizers", "corpus.reader", "db.reader", "db.versions"}
TRAINED = {"common", "tokenizers", "mcore", "model", "training"}
MAY_IMPORT: dict[str, set[str]] = {
    "common": set(),
    "tokenizers": {"common"},
    "qa": {"common", "tokenizers"},
    "corpus": {"common", "tokenizers"},
    "db": {"common", "corpus.reader"},
    "index": READERS | {"report.figures"},
    "neighbors": READERS | {"index"},
    "updates": {"common", "tokenizers", "corpus", "db", "index"},
    "mcore": {"common"},
    "model": {"common", "tokenizers", "mcore"},
    "training": {"common", "tokenizers", "mcore", "model", "corpus.reader"},
    "planning": {
        "common",
        "model",
        "training.adapters",
        "training.config",
        "training.layout",
        "db.schema",
        "index.config",
        "index.index_choice",
        "index.faiss_loader",
    },
    "pretrain": READERS | TRAINED | {"neighbors", "index"},
    "sft": READERS | TRAINED | {"qa", "neighbors.reader", "index", "pretrain"},
    "generate": READERS | TRAINED | {"qa", "neighbors.reader", "index"},
    "lm_eval": READERS | TRAINED | {"qa", "index", "generate"},
    "serve": READERS | TRAINED | {"qa", "neighbors.reader", "index", "generate"},
    "teacher": {
        *("common", "tokenizers", "qa", "generate", "training.checkpoint", "training.config"),
        *("training.model_tokenizer", "run"),
    },
    "report": {"common", "qa"},
    "evaluate": {"common", "qa", "report"},
    "interop": TRAINED | {"qa", "corpus", "db", "report"},
}
# These see every room: the command line, the run as a whole, and what looks at it from outside.
ABOVE_ALL = {
    "__main__",
    "analysis",
    "api",
    "cli",
    "init",
    "quickstart",
    "run",
    "sweep",
}
MAY_IMPORT_RECIPES = {"recipes", "cli", "run"}

# Where every kind of error of a library, and only of that library, becomes one of ours; each says so in a comment.
BROAD_EXCEPT = {
    "retro/__main__.py": "one of several processes ends without Python's winding up, whatever it ends for",
    "retro/interop/nvidia_project.py": "HuggingFace tokenizers raise a bare Exception for a bad vocabulary",
    "retro/model/convert/gguf_tokenizer.py": "HuggingFace tokenizers raise a bare Exception for a bad vocabulary",
    "retro/tokenizers/tokenizer.py": "HuggingFace tokenizers raise a bare Exception for a bad file",
    "retro/tokenizers/conventions.py": "HuggingFace tokenizers raise a bare Exception for a bad file",
    "retro/tokenizers/chat_template.py": "a template's expressions raise whatever Python raises; and as above",
    "retro/corpus/pystdlib_collect.py": "a module of the standard library may fail in any way when it is imported",
    "retro/common/pretrained.py": "transformers raises nearly everything for a bad model folder",
    "retro/serve/scheduler.py": "whatever a model, an index or a tokenizer raises in a step must become an answer",
    "retro/common/registry.py": "a package of others may fail in any way when it is imported",
    "retro/common/cache.py": "the hub client raises its own, httpx's and the system's errors",
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file's syntax tree. All rules share it, since parsing is most of the time that they take."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Every module that a file imports, at its top or within a function; `from a import b` gives `a.b`."""
    names = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively, which hides the room"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


@cache
def calls_of(path: Path) -> frozenset[str]:
    """What a file calls, as it is written: `print`, `sys.stdout.write`."""
    return frozenset(ast.unparse(node.func) for node in nodes_of(path) if isinstance(node, ast.Call))


def neighbors_of(path: Path) -> set[str]:
    """The modules of other rooms that a file imports, as `room.module`."""
    parts = (name.split(".") for name in imports_of(path))
    return {".".join(part[1:3]) for part in parts if part[0] == "retro" and part[1:2] != [room_of(path)]}


def wrong_imports(path: Path) -> set[str]:
    """What a file imports from rooms that its own room may not see."""
    room, others = room_of(path), neighbors_of(path) - {"__version__"}
    if room not in MAY_IMPORT_RECIPES and any(name.split(".")[0] == "recipes" for name in others):
        return {"recipes"}
    if room in ABOVE_ALL | {"__init__", "recipes"}:
        return set()
    assert room in MAY_IMPORT, f"{room} is a new room: say in MAY_IMPORT what it may import"
    allowed = MAY_IMPORT[room]
    return {name for name in others if name not in allowed and name.split(".")[0] not in allowed}


def test_imports_point_down_the_road() -> None:
    wrong = {str(path.relative_to(ROOT)): names for path in MODULES if (names := wrong_imports(path))}
    assert wrong == {}


def test_only_mcore_imports_megatron() -> None:
    users = {room_of(path) for path in MODULES for name in imports_of(path) if name.split(".")[0] == "megatron"}
    assert users == {"mcore"}


def loaded_after(statement: str, *more: str) -> set[str]:
    """The heavy packages, and `more`, that are loaded in a new interpreter after `statement`."""
    names = (*HEAVY, *more)
    code = f"{statement}\nimport sys\nprint(*(name for name in {names!r} if name in sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stderr.splitlines()[-1].split()) if done.stderr.strip() else set()


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import retro") == set()


def test_the_types_of_the_package_are_seen_by_those_who_import_it() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_no_config_loads_anything_heavy() -> None:
    configs = [path.relative_to(ROOT).with_suffix("") for path in MODULES if path.name == "config.py"]
    assert len(configs) > 8
    names = [".".join(path.parts) for path in configs]
    assert loaded_after(f"import {', '.join(names)}") == set()


def test_the_command_line_answers_without_loading_anything_heavy() -> None:
    assert loaded_after("import retro.cli.main", "pydantic", "psutil") == set()


NEVER = {"torch", "megatron", "transformers", "sentence_transformers", "matplotlib", "scipy", "pandas", "faiss"}
LIGHT = {
    "--help": NEVER | {"pydantic", "numpy"},
    "config show": NEVER | {"numpy"},
    "status RUN": NEVER | {"numpy", "h5py"},
    "doctor": NEVER - {"faiss"},
    "corpus SETTINGS": NEVER,
    "db SETTINGS": NEVER,
    "db versions SETTINGS": NEVER,
    "index SETTINGS": NEVER - {"faiss"},
    "neighbors SETTINGS": NEVER - {"faiss"},
    "inspect SETTINGS": NEVER - {"faiss"},
    "plan SETTINGS": NEVER,
    "verify RUN": NEVER,
    "convert ABSENT OUT": NEVER | {"numpy"},
    "merge-lora ABSENT OUT": NEVER | {"numpy"},
    "export ABSENT OUT": NEVER | {"numpy"},
    "export-lora ABSENT OUT": NEVER | {"numpy"},
    "import-lora ABSENT ABSENT OUT": NEVER | {"numpy"},
}
"""What commands never load, since they need none of it: each costs tenths of a second, or seconds."""


def command_line(*words: str) -> str:
    """A statement that runs a command, and continues after it, refused or not."""
    return (
        f"from retro.cli.main import app\nfrom retro.common.errors import RetroError\n"
        f"try: app({list(words)!r}, standalone_mode=False)\nexcept (SystemExit, RetroError) as end: print(end)"
    )


@pytest.mark.parametrize("words", LIGHT)
def test_what_needs_no_model_loads_none(words: str, tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text("".join(f'{{"text": "words of document {n}"}}\n' for n in range(60)))
    sources = f"corpus.sources=[{{name: a, path: {tmp_path}/text.jsonl}}]"
    settings = [f"run_dir={tmp_path}/run", sources, "corpus.tokenizer.vocab_size=300", "index.embedder.kind=hashing"]
    before = {"neighbors": ("corpus", "db", "index"), "inspect": ("corpus", "db", "index", "neighbors")}
    if words.endswith(("RUN", "SETTINGS")) and not words.startswith("plan"):
        for stage in before.get(words.split()[0], ("corpus", "db")):
            assert loaded_after(command_line(stage, *settings), *NEVER - {"faiss"}).isdisjoint(NEVER - {"faiss"})
    meant = {"RUN": [f"{tmp_path}/run"], "SETTINGS": settings, "ABSENT": ["absent"], "OUT": [f"{tmp_path}/out"]}
    asked = [each for word in words.split() for each in meant.get(word, [word])]
    assert loaded_after(command_line(*asked), *LIGHT[words]).isdisjoint(LIGHT[words])


def test_no_package_lies_below_tools() -> None:
    # A tools/retro/__init__.py would be a second package named retro.
    assert list((ROOT / "tools").rglob("__init__.py")) == []


@pytest.mark.parametrize("path", [*SHELL_SCRIPTS, ROOT / ".ci" / "run"], ids=lambda path: str(path.relative_to(ROOT)))
def test_shell_scripts_are_whole_and_stop_at_the_first_error(path: Path) -> None:
    checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines[1].startswith("# "), "the header says what the script makes"
    assert "set -euo pipefail" in lines


def catches_everything(path: Path) -> bool:
    """Whether a file has a bare except, or one of Exception or BaseException; one that raises again is none."""
    handlers = [node for node in nodes_of(path) if isinstance(node, ast.ExceptHandler)]
    return any(_is_broad(handler.type) and not _raises(handler) for handler in handlers)


def _raises(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def _is_broad(caught: ast.expr | None) -> bool:
    kinds = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    names = {kind.id if isinstance(kind, ast.Name) else None if kind is None else "" for kind in kinds}
    return bool(names & {None, "Exception", "BaseException"})


def test_errors_are_caught_by_name() -> None:
    broad = {path.relative_to(ROOT).as_posix() for path in MODULES if catches_everything(path)}
    assert broad == set(BROAD_EXCEPT)


def test_nothing_is_unpickled() -> None:
    # A pickle runs what it names. Ours are read as plain data (retro/common/plain_pickle.py).
    found = {path.relative_to(ROOT).as_posix(): names for path in MODULES if (names := unpickles(path))}
    assert found == {}


def unpickles(path: Path) -> set[str]:
    """Calls of a file that may follow a pickle: readers of pickles, of torch's and numpy's, and torch's checkpoints."""
    keywords = {node.arg for node in nodes_of(path) if isinstance(node, ast.keyword)}
    readers = {
        *("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "FileSystemReader", "marshal.loads"),
        *("dist_checkpointing.load", "joblib.load", "shelve.open", "dill.load", "torch.hub.load"),
    }
    return (readers & calls_of(path)) | ({"allow_pickle"} & keywords)


def test_one_module_alone_prints() -> None:
    # It shows users' texts as they are: none is parsed as markup, none steers the terminal.
    printing = {path.relative_to(ROOT).as_posix() for path in MODULES if prints(path)}
    assert printing == {"retro/common/progress.py", "retro/common/terminal.py"}


def prints(path: Path) -> bool:
    """Whether a file imports a library for terminals, calls print or echo, or writes to a standard stream."""
    libraries = {name.split(".")[0] for name in imports_of(path)} & {"rich", "tqdm", "click", "curses"}
    writing = {"print", "pprint", "typer.echo", "typer.secho"} | {
        f"sys.{stream}.{verb}" for stream in ("stdout", "stderr") for verb in ("write", "writelines", "buffer.write")
    }
    return bool(libraries or calls_of(path) & writing)


def test_a_module_that_the_package_speaks_of_exists() -> None:
    # In docstrings, comments and pages beside the code. The last two are files of other toolkits.
    texts = [*MODULES, *PACKAGE.rglob("*.md"), *PACKAGE.rglob("*.yaml")]
    known = {
        path.name for folder in ("retro", "tests", "benchmarks", "tools") for path in (ROOT / folder).rglob("*.py")
    }
    known |= {"modeling_retro.py", "version.py"}
    spoken_of = {path: set(re.findall(r"\w+\.py\b", path.read_text(encoding="utf-8"))) for path in texts}
    stale = {path.relative_to(ROOT).as_posix(): names - known for path, names in spoken_of.items() if names - known}
    assert stale == {}


def test_every_stage_room_has_tests() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and not path.name.startswith("_")}
    tested = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert rooms - tested == set()
