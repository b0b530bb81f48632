"""The example in a model card: Python that can be run as it stands, from within the folder."""

from __future__ import annotations

from retro.export.tokenizer import CopiedTokenizer

_OPEN = {
    "tokenizer.json": (
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "encode, decode = partial(tokenizer.encode, add_special_tokens=False), tokenizer.decode",
    ),
    "tokenizer.model": (
        "from sentencepiece import SentencePieceProcessor\nfrom transformers import AutoModelForCausalLM",
        'tokenizer = SentencePieceProcessor(model_file=f"{folder}/tokenizer.model")',
        "encode, decode = tokenizer.encode, tokenizer.decode",
    ),
}
_PLAIN = """
{imports}

folder = "."  # where this file lies
model = AutoModelForCausalLM.from_pretrained(folder{options})
{tokenizer}
{encode}

ids = torch.tensor([encode("The river")])
text = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20)
print(decode(text[0].tolist()))
"""
_READING = """
{imports}

folder = "."  # where this file lies
model = AutoModelForCausalLM.from_pretrained(folder{options})
{tokenizer}
{encode}

passages = ["First passage to read.", "Second passage to read."]
prompt = encode("Question: What is there to read? Answer:")
chunk, width = model.config.chunk_length, model.config.retrieved_length

# Tokens read the passages of a chunk from its last token on, so the prompt is padded to end where a chunk ends.
pad = -len(prompt) % chunk
ids = torch.tensor([[0] * pad + prompt])
mask = torch.tensor([[0] * pad + [1] * len(prompt)])
neighbors = torch.zeros(1, len(passages), width, dtype=torch.long)
neighbor_mask = torch.zeros(1, len(passages), width, dtype=torch.bool)
for row, passage in enumerate(passages):
    tokens = encode(passage)[:width]
    neighbors[0, row, : len(tokens)] = torch.tensor(tokens)
    neighbor_mask[0, row, : len(tokens)] = True

given = {{"attention_mask": mask, "neighbors": neighbors, "neighbor_mask": neighbor_mask}}
answer = model.generate(ids, max_new_tokens=20, **given)
print(decode(answer[0, ids.size(1) :].tolist()))
"""


def example(tokenizer: CopiedTokenizer | None, *, reads: bool, own_code: bool) -> str:
    """A block of Python.

    Args:
        tokenizer: What lies in the folder; None gives an example on token ids.
        reads: Whether the model reads neighbors.
        own_code: Whether the folder brings its modelling file.
    """
    imports, opened, encode = "from transformers import AutoModelForCausalLM", "", ""
    if tokenizer is not None:
        imports, opened, encode = _OPEN[tokenizer.file]
    else:
        encode = "encode, decode = (lambda text: [1, 2, 3]), print  # the folder holds no tokenizer"
    ahead = "import torch\n" + imports
    if "partial(" in encode:
        ahead = "from functools import partial\n\n" + ahead
    filled = (_READING if reads else _PLAIN).format(
        imports=ahead,
        options=", trust_remote_code=True" if own_code else "",
        tokenizer=opened,
        encode=encode,
    )
    return f"```python{filled}```"
