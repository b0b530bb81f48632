"""Datasets of the HuggingFace Hub, from a server of our own that answers as the Hub does."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from retro.common.errors import DataError
from retro.corpus.hub import local_path, local_path_if_there

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "en/train/0.jsonl": b'{"text": "one two"}\n{"text": "three"}\n',
    "en/train/1.jsonl": b'{"text": "four"}\n',
    "en/test/0.jsonl": b'{"text": "held out"}\n',
    "de/train/0.jsonl": '{"text": "fünf"}\n'.encode(),
}


class _Hub(BaseHTTPRequestHandler):
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        api, resolved = "/api/datasets/org/name", f"/datasets/org/name/resolve/{COMMIT}/"
        if path == f"{api}/revision/refs%2Fconvert%2Fparquet" or path == f"{api}/revision/main":
            self._send(json.dumps({"id": "org/name", "sha": COMMIT, "siblings": []}).encode(), body=body)
        elif path == f"{api}/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in FILES.items()
            ]
            self._send(json.dumps(tree).encode(), body=body)
        elif path.startswith(resolved) and path.removeprefix(resolved) in FILES:
            self._send(FILES[path.removeprefix(resolved)], body=body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, content: bytes, *, body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Not in the tests' output."""


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    """The server's address, and what it was asked for."""
    handler = type("Hub", (_Hub,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler.asked  # type: ignore[attr-defined]
        server.shutdown()


def corpus(folder: Path, endpoint: str, path: str, *settings: str) -> subprocess.CompletedProcess[str]:
    """`retro corpus` on one source; the Hub's client reads the address when it is imported."""
    source = f"corpus.sources=[{{name: a, path: '{path}'}}]"
    words = ["corpus", f"run_dir={folder}/run", source, "corpus.split=[1, 0, 0]", *settings]
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "cache")}
    command = [sys.executable, "-m", "retro", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def test_one_part_of_a_dataset_is_fetched_once_and_read_like_any_folder(
    tmp_path: Path, hub: tuple[str, list[str]]
) -> None:
    endpoint, asked = hub
    tokens = "corpus.tokenizer.vocab_size=300"
    done = corpus(tmp_path, endpoint, "hf://datasets/org/name@~parquet/en/train", tokens)
    assert done.returncode == 0, done.stderr
    assert f"hf://datasets/org/name@~parquet/en/train is at commit {COMMIT}" in done.stderr
    names = (tmp_path / "run/1_corpus/a.documents.jsonl").read_text().splitlines()
    assert [json.loads(name)["id"] for name in names] == ["0.jsonl:1", "0.jsonl:2", "1.jsonl:1"]
    assert not [path for path in asked if path.endswith(("en/test/0.jsonl", "de/train/0.jsonl"))]
    # A finished corpus looks at what is there, and asks nobody.
    asked.clear()
    again = corpus(tmp_path, endpoint, "hf://datasets/org/name@~parquet/en/train", tokens)
    assert (again.returncode, asked) == (0, [])
    assert "gone" not in again.stderr


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("hf://datasets/org/other/en", "hf://datasets/org/other/en: the HuggingFace Hub does not give it ("),
        ("hf://datasets/org/name/fr", "hf://datasets/org/name/fr: the dataset has no 'fr'. https://huggingface.co/"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(
    tmp_path: Path, hub: tuple[str, list[str]], path: str, words: str
) -> None:
    done = corpus(tmp_path, hub[0], path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_network_it_is_said_what_to_do(tmp_path: Path) -> None:
    done = corpus(tmp_path, "http://127.0.0.1:9", "hf://datasets/org/name/en")
    assert done.returncode == 2
    assert "or download the dataset elsewhere and give its folder" in done.stderr


@pytest.mark.parametrize("name", ["hf://datasets/org/name", "hf://org/name/x", "hf://datasets/org/name/../../x"])
def test_what_is_no_part_of_a_dataset_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="is not part of a dataset: needed is hf://datasets/ORG/NAME"):
        local_path(Path(name))


def test_a_part_that_was_never_fetched_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert local_path_if_there(Path("hf://datasets/org/name/en")) is None


@pytest.mark.parametrize("address", ["s3://bucket/texts", "https://example.org/a.jsonl"])
def test_other_addresses_are_not_taken_for_missing_files(address: str) -> None:
    with pytest.raises(DataError, match=f"{address}: is an address; sources are read from this machine"):
        local_path(Path(address))
