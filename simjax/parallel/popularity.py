"""How often the gates of a mixture of experts choose each expert.

A popularity gives, for each MoE layer, the probability with which a token chooses each expert, its k experts all different. The paper's
gate policies are popularities like the others:

- uniform, random: every expert alike; each token draws for itself.
- balanced: no draws; each rank gets its even share of the pairs of tokens and experts, on as many experts as there are pairs for.
- round_robin: no draws; the pairs take the experts in turn, k for each token.
- zipf: the r-th most popular expert is chosen in proportion to r^-exponent; which expert that is differs from layer to layer.
- dirichlet: the popularities of each layer are a draw from a symmetric Dirichlet distribution; a small concentration is a large imbalance.
- a CSV file of counted choices (`expert,count` or `layer,expert,count`), the paper's custom policy.

Orders and draws of layers are those of a fixed seed: a popularity is a fact about a model and its requests, not an event of a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simjax.errors import SimjaxError, closest

EVEN = ("uniform", "random")
WITHOUT_DRAWS = ("balanced", "round_robin")
KINDS = (*EVEN, *WITHOUT_DRAWS, "zipf", "dirichlet")
MEASURED = "measured"
_SEED = 0
_NEWTON_STEPS = 40
_HIGHEST = 1.0 - 1e-9  # an expert that every token chooses


@dataclass(frozen=True)
class Popularity:
    """A popularity of experts.

    Attributes:
        kind: one of `KINDS`, or `MEASURED`.
        exponent: exponent of zipf.
        concentration: concentration of dirichlet.
        counts: choices counted of each expert, a row for each layer; of `MEASURED` only.
        power: every weight is taken to this power: above 1 popular experts are more so, and 0 makes all alike.
        source: file that they come from.

    Raises:
        SimjaxError: there is no such kind, or a parameter is out of range.
    """

    kind: str = "uniform"
    exponent: float = 1.0
    concentration: float = 1.0
    counts: tuple[tuple[float, ...], ...] = ()
    power: float = 1.0
    source: str = ""

    def __post_init__(self) -> None:
        if self.kind not in (*KINDS, MEASURED):
            raise SimjaxError(f"cluster.expert_popularity={self.kind}: neither a kind ({closest(self.kind, list(KINDS))}) nor a .csv file")
        if not 0.0 <= self.exponent <= 10.0:
            raise SimjaxError(f"cluster.expert_zipf_exponent={self.exponent}: it must lie in [0, 10]")
        if not 1e-2 <= self.concentration <= 1e6:
            raise SimjaxError(f"cluster.expert_concentration={self.concentration}: it must lie in [0.01, 1e6]")

    @property
    def even(self) -> bool:
        """Whether all experts are alike and every token draws for itself."""
        return self.kind in EVEN

    @property
    def varies(self) -> bool:
        """Whether it changes with its power: its experts are not alike, and tokens draw among them."""
        return not self.even and self.kind not in WITHOUT_DRAWS

    @property
    def words(self) -> str:
        """The popularity for messages."""
        parameter = {"zipf": f" of exponent {self.exponent:g}", "dirichlet": f" of concentration {self.concentration:g}"}
        return self.source or f"{self.kind} popularity{parameter.get(self.kind, '')}"

    def check(self, experts: int) -> None:
        """Check that a file is about a model with so many experts.

        Raises:
            SimjaxError: it is about another number of experts.
        """
        if self.counts and len(self.counts[0]) != experts:
            raise SimjaxError(f"{self.source}: it counts {len(self.counts[0])} experts, the model has {experts}")

    def chosen(self, experts: int, experts_per_token: int, layers: int, xp: Any = np) -> Any:
        """Probability that a token chooses an expert, f[L, E], each row with sum `experts_per_token`; L is 1 where layers are alike.

        Differentiable in `exponent` where xp is jax.numpy.
        """
        self.check(experts)
        if self.even or self.kind in WITHOUT_DRAWS:
            return xp.full((1, experts), experts_per_token / experts)
        if self.kind == MEASURED:
            counts = xp.asarray(self.counts) ** self.power
            return _capped(counts / counts.sum(axis=1, keepdims=True), experts_per_token, xp)
        rng = np.random.default_rng(_SEED)
        if self.kind == "dirichlet":
            weights = np.maximum(rng.dirichlet(np.full(experts, self.concentration), layers), 1e-12) ** self.power
        else:
            ranks = np.stack([rng.permutation(experts) + 1.0 for _ in range(layers)])
            weights = xp.exp(-self.exponent * self.power * np.log(ranks))
        return _without_replacement(weights / weights.sum(axis=1, keepdims=True), experts_per_token, xp)


def _without_replacement(weights: Any, draws: int, xp: Any) -> Any:
    """Probability that each item is among `draws` different ones drawn one after another in proportion to its weight, f[L, E].

    By Rosén's order sampling: an item comes before time t with probability 1 - exp(-w t), where t is such that `draws` of them do. Exact
    for equal weights and for many items.
    """
    time = float(draws) * xp.ones((weights.shape[0], 1))
    for _ in range(_NEWTON_STEPS):  # from below, of a function that rises ever more slowly: no step goes beyond the root
        left = xp.exp(-weights * time)
        time = time + (draws - (1.0 - left).sum(axis=1, keepdims=True)) / xp.maximum((weights * left).sum(axis=1, keepdims=True), 1e-300)
        time = xp.minimum(time, 1e9 * draws)
    return xp.clip(1.0 - xp.exp(-weights * time), 0.0, _HIGHEST)


def _capped(shares: Any, draws: int, xp: Any) -> Any:
    """Shares of the choices as probabilities with sum `draws`; what would be above 1 goes to the others."""
    chosen = draws * shares
    for _ in range(shares.shape[1]):
        full = chosen >= _HIGHEST
        rest = xp.where(full, 0.0, chosen)
        wanted = draws - xp.sum(full, axis=1, keepdims=True) * _HIGHEST
        scaled = rest * (wanted / xp.maximum(rest.sum(axis=1, keepdims=True), 1e-300))
        chosen = xp.where(full, _HIGHEST, scaled)
        if not bool(xp.any(chosen > _HIGHEST)):
            break
    return xp.minimum(chosen, _HIGHEST)


def read_popularity(path: Path) -> Popularity:
    """The popularity that a CSV file counts: `expert,count`, or `layer,expert,count` with the same experts in every layer.

    Raises:
        SimjaxError: the file is missing or malformed.
    """
    import pandas as pd  # here: --help needs none

    try:
        table = pd.read_csv(path)
    except OSError as error:
        raise SimjaxError(f"cluster.expert_popularity={path}: cannot read it: {error.strerror}") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise SimjaxError(f"{path}: not a CSV table ({str(error).strip().splitlines()[-1]})") from None
    for column in ("expert", "count"):
        if column not in table:
            raise SimjaxError(f"{path}:1: column {column!r} is missing; it needs expert,count or layer,expert,count")
    if "layer" not in table:
        table["layer"] = 0
    for column in ("layer", "expert", "count"):
        numbers = np.asarray(pd.to_numeric(table[column], errors="coerce"), float)
        good = np.isfinite(numbers) & (numbers >= 0) & ((numbers == np.floor(numbers)) | (column == "count"))
        if not good.all():
            line = int(np.argmin(good)) + 2
            raise SimjaxError(f"{path}:{line}: {column} must be a number that is not negative, found {table[column].iloc[line - 2]}")
    if table.duplicated(["layer", "expert"]).any():
        line = int(np.argmax(table.duplicated(["layer", "expert"]))) + 2
        raise SimjaxError(f"{path}:{line}: the expert is counted twice")
    counts = table.pivot(index="layer", columns="expert", values="count")
    if list(counts.columns) != list(range(len(counts.columns))) or counts.isna().any(axis=None):
        raise SimjaxError(f"{path}: every layer needs a count for each expert from 0 on")
    idle = [layer for layer, total in counts.sum(axis=1).items() if total <= 0]
    if idle:
        raise SimjaxError(f"{path}: layer {idle[0]} has no choices")
    return Popularity(MEASURED, counts=tuple(map(tuple, counts.to_numpy(float).tolist())), source=str(path))
