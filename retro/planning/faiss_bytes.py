"""Bytes of a Faiss index, from its factory string. Exact for everything but the links of HNSW graphs, whose levels are
drawn at random: of those, the mean. Checked against real indexes of Faiss 1.15."""

# In this file: n vectors of D values, d of them after the transforms, nlist lists, M links of a graph's node.

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from retro.common.errors import ConfigError
from retro.planning.faiss_string import SETTING, Code, FaissString

_TAG = 4
"""Every part begins with four letters."""
_HEADER = _TAG + 33
"""Dimension, vectors, whether trained, metric."""
_SIZE = 8
"""Length of an array."""
ID = 8
"""A vector's number in an inverted list."""


@dataclass(frozen=True, kw_only=True)
class IndexBytes:
    """Bytes by what they are for."""

    codes: int
    """Of all vectors."""
    ids: int
    """Of all vectors, in inverted lists."""
    refine: int
    """A second code of all vectors, to rank again."""
    graph: float
    """HNSW over all vectors."""
    centroids: int
    """Of the lists, full vectors, and the length of each list."""
    coarse_graph: float
    """HNSW over the centroids."""
    codebooks: int
    """Of quantizers and transforms."""
    headers: int

    @property
    def total(self) -> float:
        """The file; in memory it is as much."""
        return float(sum(getattr(self, part.name) for part in fields(self)))

    @property
    def resident(self) -> float:
        """What stays in memory when the inverted lists are mapped from the file; all of it without lists."""
        return self.total - (self.codes + self.ids if self.ids else 0)

    def per_vector(self, vectors: int) -> float:
        """Bytes that one more vector takes."""
        return (self.codes + self.ids + self.refine + self.graph) / vectors


def code_bytes(code: Code, dimension: int) -> int:
    """Bytes of one vector's code."""
    if code.kind == "product":
        return -(-code.subspaces * code.bits // 8)
    if code.kind != "rabitq":
        return -(-dimension * code.bits // 8)
    # One bit a value and two factors; with more bits also their two factors and an error bound.
    signs = -(-dimension // 8) + 8
    return signs if code.bits == 1 else signs + 12 + -(-dimension * (code.bits - 1) // 8)


def index_bytes(parsed: FaissString, dimension: int, vectors: int) -> IndexBytes:
    """Bytes of an index of `vectors` vectors of `dimension` values.

    Raises:
        ConfigError: The string does not fit the dimension.
    """
    inner = parsed.inner_dimension(dimension)
    _require_fit(parsed, dimension, inner)
    transforms, width = 0, dimension
    for step in parsed.transforms:
        transforms += _transform_bytes(step.kind, width, step.out or width)
        width = step.out or width
    headers = _HEADER + 4 if parsed.transforms else 0
    refine = 0
    if parsed.refine:
        # Faiss wraps all that comes before it, so the second code keeps the vector as it came, not as rotated.
        book = _codebook(parsed.refine, dimension)
        refine = vectors * code_bytes(parsed.refine, dimension)
        headers += _HEADER + 4 + _alone(parsed.refine, dimension) - book
        transforms += book
    centroids, coarse_graph, more = _coarse(parsed, inner)
    graph = 0.0
    if parsed.links:
        graph, fixed = _graph(parsed.links, vectors)
        more += fixed
    books = _codebook(parsed.code, inner)
    return IndexBytes(
        codes=vectors * code_bytes(parsed.code, inner), ids=vectors * ID if parsed.lists else 0, refine=refine,
        graph=graph, centroids=centroids, coarse_graph=coarse_graph, codebooks=books + transforms,
        headers=headers + more + (_in_lists(parsed.code) if parsed.lists else _alone(parsed.code, inner) - books),
    )  # fmt: skip


def _require_fit(parsed: FaissString, dimension: int, inner: int) -> None:
    widest = max((step.out for step in parsed.transforms), default=0)
    if widest > dimension:
        raise ConfigError(SETTING, parsed.text, f"needs vectors of {widest} values or more; they have {dimension}")
    for code, width in ((parsed.code, inner), (parsed.refine, dimension)):
        if code is not None and code.subspaces and width % code.subspaces:
            need = f"needs a number of subspaces that divides the {width} values of a vector, not {code.subspaces}"
            raise ConfigError(SETTING, parsed.text, need)


def _alone(code: Code, d: int) -> int:
    """An index of that code without vectors: header, codebook, and what belongs to its kind (RaBitQ: the mean)."""
    more = 8 if code.bits > 1 else 0
    own = {"flat": 0, "scalar": 28, "product": 24 + 8 + 9, "rabitq": 8 + 21 + more + 4 * d}
    return _HEADER + _SIZE + own[code.kind] + _codebook(code, d) + (_SIZE if code.kind == "scalar" else 0)


def _in_lists(code: Code) -> int:
    """What that kind of code adds to the header of inverted lists, codebook apart."""
    own = {"flat": 0, "scalar": 36 + 9, "product": 9 + 24 + 8, "rabitq": 30 + (8 if code.bits > 1 else 0)}
    return own[code.kind]


def _codebook(code: Code, d: int) -> int:
    if code.kind == "product":
        return d * (1 << code.bits) * 4
    if code.kind == "scalar" and code.bits < 16:
        return 2 * d * 4
    return 0


def _coarse(parsed: FaissString, d: int) -> tuple[int, float, int]:
    """Centroids with the lengths of lists, the graph over them, headers."""
    if not parsed.lists:
        return 0, 0.0, 0
    lists = parsed.lists
    own = _HEADER + 2 * _SIZE + 9
    flat = _HEADER + _SIZE
    stored_lists = _TAG + 2 * _SIZE + 4 + _SIZE
    graph, fixed = _graph(parsed.coarse_links, lists) if parsed.coarse_links else (0.0, 0)
    return lists * (4 * d + _SIZE), graph, own + flat + stored_lists + fixed


def _graph(links: int, nodes: int) -> tuple[float, int]:
    """Links of an HNSW graph of `nodes`, on average, and its fixed part.

    A node has 2 M links of 4 bytes at the lowest level; a share 1 / M^l of the nodes has M more at level l.
    Each node also has its level (4 bytes) and where its links begin (8).
    """
    each = 4 * (2 * links + links / (links - 1)) + 4 + 8
    probability, levels = 1 - 1 / links, 0
    while probability >= 1e-9:
        probability, levels = probability / links, levels + 1
    return each * nodes, _HEADER + 5 * _SIZE + 8 + 8 * levels + 4 * (levels + 1) + 20


def _transform_bytes(kind: str, before: int, after: int) -> int:
    if kind == "L2norm":
        return _TAG + 4 + 9
    matrix = _TAG + 1 + 2 * _SIZE + 4 * before * after + 9
    if kind in ("PCA", "PCAR"):
        # Mean, eigenvalues and the whole matrix of components are kept too, and the mean's image.
        matrix += 13 + 2 * (_SIZE + 4 * before) + _SIZE + 4 * before * before + 4 * after
    return matrix


def searched_bytes(parsed: FaissString, dimension: int, vectors: float, nprobe: int) -> float | None:
    """Bytes of codes that one query reads: those of `nprobe` lists of mean length, or all; None for a graph, whose
    path no formula gives."""
    if parsed.links:
        return None
    share = min(1.0, nprobe / parsed.lists) if parsed.lists else 1.0
    return share * vectors * code_bytes(parsed.code, parsed.inner_dimension(dimension))


def training_flops(parsed: FaissString, dimension: int, sample: float, iterations: int = 10) -> float:
    """FLOPs of clustering `sample` vectors: each is compared with every centroid in each of Faiss's 10 iterations.

    A graph over the centroids does not help here: while they move there is none. At most 256 vectors a centroid are
    used. Codebooks and OPQ are trained on a fixed small number of vectors and not counted.
    """
    used = min(sample, 256.0 * parsed.lists)
    return iterations * used * parsed.lists * 2.0 * parsed.inner_dimension(dimension)


def coarse_work(parsed: FaissString) -> float:
    """How the time to find a vector's lists grows: with their number, or with its logarithm over a graph."""
    return math.log2(max(parsed.lists, 2)) if parsed.coarse_links else float(parsed.lists)
