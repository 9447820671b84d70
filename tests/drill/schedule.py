"""What goes wrong in a trial, drawn from its seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.drill.mishaps import PLACES, Mishap
from tests.loopback import faults
from tests.loopback.faults import Fault

MAX_ATTEMPTS = 4
LONG_RUN = 3 * MAX_ATTEMPTS
"""Requests: more than the attempts at a file, so that a build gives up and must be started again."""
TELLING_STATUS = (408, 429, 500, 502, 503)


@dataclass(frozen=True)
class Schedule:
    """Everything that goes wrong in one trial; all of it ends.

    Attributes:
        faults: Path pattern and fault, in the order in which the server looks for one that is due.
        mishaps: What befalls each start of the build; later starts meet none.
        kills_s: Seconds after which each start of the build, or one of the Dask workers, is killed; None: never.
        token_lifetime_s: Of the tokens issued.
        on_dask: Whether the shards are built by two workers.
        reader: Which of the readers that exist, counted from 0.
    """

    seed: int
    faults: tuple[tuple[str, Fault], ...]
    mishaps: tuple[Mishap | None, ...]
    kills_s: tuple[float | None, ...]
    token_lifetime_s: float
    on_dask: bool
    reader: int

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: dask {self.on_dask}, reader {self.reader}, tokens live {self.token_lifetime_s} s"]
        lines += [f"  start {n}: {m}" for n, m in enumerate(self.mishaps) if m]
        lines += [f"  start {n}: killed after {s:.2f} s" for n, s in enumerate(self.kills_s) if s is not None]
        lines += [f"  {pattern}: {fault}" for pattern, fault in self.faults]
        return "\n".join(lines)


def draw_schedule(seed: int, file_patterns: Sequence[str]) -> Schedule:
    """The schedule of a seed; ``file_patterns`` are the files that faults may hit."""
    rng = random.Random(seed)
    scripted = [(rng.choice(file_patterns), _file_fault(rng)) for _ in range(rng.randint(8, 16))]
    scripted += [("/cog/*", _anywhere(rng, _file_fault(rng))) for _ in range(rng.randint(6, 12))]
    scripted += [("/sas/token/*", _token_fault(rng)) for _ in range(rng.randint(0, 2))]
    scripted += [(f"/stac{rng.choice(['', '*', '/search'])}", _stac_fault(rng)) for _ in range(rng.randint(1, 3))]
    rng.shuffle(scripted)
    on_dask = seed % 5 == 4
    starts = rng.randint(1, 3)
    kills_s: list[float | None] = []
    mishaps: list[Mishap | None] = []
    for _ in range(starts):
        is_killed = on_dask or rng.random() < 0.5
        kills_s.append(rng.uniform(0.1, 2.0) if is_killed else None)
        mishaps.append(None if is_killed else _mishap(rng))
    return Schedule(
        seed=seed,
        faults=tuple(scripted),
        mishaps=tuple(mishaps),
        kills_s=tuple(kills_s),
        token_lifetime_s=rng.choice([2700.0, 2700.0, 61.0, 30.0]),
        on_dask=on_dask,
        reader=seed,
    )


def _file_fault(rng: random.Random) -> Fault:
    times = LONG_RUN if rng.random() < 0.3 else rng.randint(1, 3)
    return rng.choice(
        [
            faults.status(rng.choice(TELLING_STATUS), times),
            faults.status(rng.choice(TELLING_STATUS), times),
            faults.status(429, min(times, 2), retry_after_s=rng.randint(0, 1)),
            faults.status(503, 1, retry_after_s=1),
            faults.status(403, min(times, 2)),
            faults.cut(times),
            faults.drop(times),
            faults.short(times),
            faults.other_range(times),
            faults.whole(times),
            faults.reset(times),
            faults.refuse(rng.uniform(0.05, 0.5)),
            faults.slow(rng.uniform(0.1, 0.6)),
            faults.dribble(rng.uniform(0.1, 0.6)),
            faults.revoke(),
        ]
    )


def _anywhere(rng: random.Random, fault: Fault) -> Fault:
    fault.skip = rng.randint(0, 400)
    return fault


def _token_fault(rng: random.Random) -> Fault:
    times = rng.randint(1, 3)
    return rng.choice(
        [faults.status(code, times) for code in (429, 500, 503, 504)] + [faults.slow(0.3), faults.reset()]
    )


def _stac_fault(rng: random.Random) -> Fault:
    times = rng.randint(1, 3)
    return rng.choice(
        [faults.status(code, times) for code in (408, 429, 500, 502, 503, 504)]
        + [faults.status(429, 1, retry_after_s=1), faults.slow(0.5), faults.reset(), faults.cut(), faults.drop()]
        + [faults.dribble(0.5), faults.refuse(0.3)]
    )


def _mishap(rng: random.Random) -> Mishap:
    place = rng.choice(PLACES)
    nth = rng.choice([1, 8, 60, 200]) if place == "file_size" else rng.randint(1, 12)
    return Mishap(place, nth, killed=rng.random() < 0.4)
