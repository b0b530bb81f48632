"""What a Faiss factory string says, as far as the size and the speed of an index depend on it.

`OPQ64_128,IVF4194304_HNSW32,PQ64` reads: rotate each vector and keep 128 values of it, deal the vectors out over
4,194,304 lists whose centroids are found by an HNSW graph, and keep 64 bytes of each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from retro.common.errors import ConfigError

SETTING = "--index"
_THOUSANDS = {"": 1, "k": 1 << 10, "M": 1 << 20}
_GRAPH_DEFAULT = 32
_SCALAR_BITS = {"4": 4, "6": 6, "8": 8, "fp16": 16, "bf16": 16}

_TRANSFORM = re.compile(r"(?P<kind>OPQ(?P<subspaces>\d+)(_(?P<out>\d+))?|(PCAR?|RR)(?P<kept>\d+)|L2norm)$")
_COARSE = re.compile(r"IVF(?P<lists>\d+)(?P<unit>[kM]?)(?P<graph>_HNSW(?P<links>\d*))?$")
_GRAPH = re.compile(r"HNSW(?P<links>\d*)$")
_CODE = re.compile(r"(?P<flat>Flat)$|SQ(?P<scalar>4|6|8|fp16|bf16)$|PQ(?P<subspaces>\d+)(x(?P<bits>\d+))?(np)?$|(?P<rabitq>RaBitQ)(?P<rabits>\d)?$")  # fmt: skip  # noqa: E501
_REFINE = re.compile(r"RFlat$|Refine\((?P<code>[^()]+)\)$")


@dataclass(frozen=True)
class Code:
    """What is kept of a vector."""

    kind: str
    """flat, scalar, product or rabitq."""
    bits: int
    """Of one value (flat 32, scalar), of one subspace (product), of one value (rabitq)."""
    subspaces: int = 0
    """Of a product quantizer."""


FLAT = Code("flat", 32)


@dataclass(frozen=True)
class Transform:
    """A step before the index proper."""

    kind: str
    """OPQ, PCA, PCAR, RR or L2norm."""
    out: int
    """Values it leaves of a vector; 0 leaves as many as came."""


@dataclass(frozen=True, kw_only=True)
class FaissString:
    """A factory string, taken apart."""

    text: str
    transforms: tuple[Transform, ...]
    lists: int
    """Inverted lists; 0 without."""
    coarse_links: int
    """Links of a node (M) in the HNSW graph over the centroids; 0: centroids are compared one by one."""
    links: int
    """Links of a node in an HNSW graph over all vectors; 0 without."""
    code: Code
    refine: Code | None
    """What is kept beside the code to rank again what was found."""

    def inner_dimension(self, dimension: int) -> int:
        """Values of a vector after the transforms."""
        for step in self.transforms:
            dimension = step.out or dimension
        return dimension

    def with_lists(self, lists: int) -> FaissString:
        """The same over another number of lists, with a rotation that needs no training: what a benchmark builds."""
        steps = tuple(replace(step, kind="RR") if step.kind == "OPQ" else step for step in self.transforms)
        return replace(self, lists=min(self.lists, lists), transforms=steps)

    def factory(self, dimension: int) -> str:
        """A string that Faiss reads, for vectors of that dimension."""
        parts, width = [], dimension
        for step in self.transforms:
            width = step.out or width
            subspaces = f"{self.code.subspaces or 1}_" if step.kind == "OPQ" else ""
            parts.append("L2norm" if step.kind == "L2norm" else f"{step.kind}{subspaces}{width}")
        if self.lists:
            parts.append(f"IVF{self.lists}" + (f"_HNSW{self.coarse_links}" if self.coarse_links else ""))
        if self.links:
            parts.append(f"HNSW{self.links}")
        parts.append(_code_name(self.code))
        if self.refine:
            parts.append(f"Refine({_code_name(self.refine)})")
        return ",".join(parts)


def parse(text: str) -> FaissString:
    """Take a factory string apart.

    Raises:
        ConfigError: It has a part whose size is not known here; the part is named.
    """
    parts = text.split(",")
    nothing = next((part for part in parts if re.search(r"(?<!\d)0+(?!\d)", part)), None)
    if nothing is not None:
        raise _unknown(text, nothing)
    transforms = []
    while parts and (match := _TRANSFORM.match(parts[0])):
        transforms.append(_transform(match))
        parts.pop(0)
    lists = coarse_links = links = 0
    if parts and (match := _COARSE.match(parts[0])):
        lists = int(match["lists"]) * _THOUSANDS[match["unit"]]
        coarse_links = int(match["links"] or _GRAPH_DEFAULT) if match["graph"] else 0
        parts.pop(0)
    elif parts and (match := _GRAPH.match(parts[0])):
        links = int(match["links"] or _GRAPH_DEFAULT)
        parts = parts[1:] or ["Flat"]
    code = _read_code(text, parts.pop(0) if parts else "")
    refine = _read_refine(text, parts.pop(0)) if parts else None
    if parts:
        raise _unknown(text, ",".join(parts))
    return FaissString(
        text=text, transforms=tuple(transforms), lists=lists, coarse_links=coarse_links, links=links, code=code,
        refine=refine,
    )  # fmt: skip


def _transform(match: re.Match[str]) -> Transform:
    if match["subspaces"]:
        return Transform("OPQ", int(match["out"] or 0))
    if match["kept"]:
        return Transform(match["kind"].rstrip("0123456789"), int(match["kept"]))
    return Transform("L2norm", 0)


def _read_code(text: str, part: str) -> Code:
    match = _CODE.match(part)
    if match is None:
        raise _unknown(text, part)
    if match["scalar"]:
        return Code("scalar", _SCALAR_BITS[match["scalar"]])
    if match["subspaces"]:
        return Code("product", int(match["bits"] or 8), int(match["subspaces"]))
    return Code("rabitq", int(match["rabits"] or 1)) if match["rabitq"] else FLAT


def _read_refine(text: str, part: str) -> Code:
    match = _REFINE.match(part)
    if match is None:
        raise _unknown(text, part)
    return _read_code(text, match["code"]) if match["code"] else FLAT


def _code_name(code: Code) -> str:
    if code.kind == "scalar":
        return f"SQ{code.bits}" if code.bits < 16 else "SQfp16"
    if code.kind == "product":
        return f"PQ{code.subspaces}" + (f"x{code.bits}" if code.bits != 8 else "")
    return "Flat" if code.kind == "flat" else f"RaBitQ{code.bits if code.bits > 1 else ''}"


def _unknown(text: str, part: str) -> ConfigError:
    found = f"the part {part!r}" if part else "a string that ends too early"
    known = "OPQm_d PCAd RRd L2norm | IVFn IVFn_HNSWm HNSWm | Flat SQ8 SQ4 SQfp16 PQm PQmx4 RaBitQ | RFlat Refine(…)"
    need = f"needs parts of known size, in this order: {known}; found {found}"
    if part.endswith("fs"):
        need += " (fast-scan codes are padded in each list: plan without fs)"
    return ConfigError(SETTING, text, need)
