"""Rows of the benchmark: what each round measured, and the goals."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Figure = Literal["x chain", "x floor", "requests/s", "CPU us", "p50 ms", "p99 ms"]


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for one figure of a row."""

    figure: Figure
    bound: float

    @property
    def at_least(self) -> bool:
        """Whether a higher figure is better."""
        return self.figure in ("x chain", "x floor", "requests/s")

    def met(self, found: float) -> bool:
        """Returns whether a figure meets it."""
        return found >= self.bound if self.at_least else found <= self.bound

    def __str__(self) -> str:
        return f"{self.figure} {'>=' if self.at_least else '<='} {self.bound:g}"


def goals(durability: str) -> Mapping[str, tuple[Goal, ...]]:
    """Returns each row's goals; ``README.md`` has the reasons. At ``disk`` each stage waits for the disk once."""
    disk = durability == "disk"
    return {
        "submit_many": (Goal("x chain", 80), Goal("x floor", 0.45), Goal("CPU us", 120 if disk else 100)),
        "coroutines-256": (Goal("x chain", 60),),
        "coroutines-64": (Goal("x chain", 35),),
        "http-64": (Goal("x chain", 15), Goal("p50 ms", 25)),
        "http-batch-64": (Goal("x chain", 40),),
        "http-cached-64": (Goal("requests/s", 4000),),
        "light-20/s": (Goal("p50 ms", 7),) if disk else (Goal("p50 ms", 4), Goal("p99 ms", 15)),
        "half-load": (Goal("p50 ms", 15),),
    }


@dataclass(slots=True)
class Row:
    """Rounds of one way of sending."""

    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)

    def add(self, requests: int, seconds: float, cpu_s: float, latencies_ms: list[float]) -> None:
        """Adds one round."""
        self.rates.append(requests / seconds)
        self.cpu_us.append(cpu_s / requests * 1e6)
        self.latencies_ms += latencies_ms

    def _over(self, other: "Row") -> float:
        """Returns the rate over another row's, by rounds: the machine's speed changes between them."""
        return statistics.median(own / its for own, its in zip(self.rates, other.rates, strict=True))

    def document(self, name: str, chain: "Row", floor: "Row", asked: tuple[Goal, ...], *, void: bool) -> dict[str, Any]:
        """Returns medians and ranges. While the chain is too slow, a goal that compares with it is void."""
        of_chain, of_floor = self._over(chain), self._over(floor)
        cuts = statistics.quantiles(self.latencies_ms, n=100) if len(self.latencies_ms) > 1 else None
        p50, p99 = (cuts[49], cuts[98]) if cuts else (None, None)
        found: dict[Figure, float | None] = {
            "x chain": of_chain,
            "x floor": of_floor,
            "requests/s": statistics.median(self.rates),
            "CPU us": statistics.median(self.cpu_us),
            "p50 ms": p50,
            "p99 ms": p99,
        }
        return {
            "name": name,
            "requests_per_s": round(statistics.median(self.rates), 1),
            "requests_per_s_range": [round(min(self.rates), 1), round(max(self.rates), 1)],
            "cpu_us_per_request": round(statistics.median(self.cpu_us), 1),
            "latency_ms": {"p50": p50 and round(p50, 2), "p99": p99 and round(p99, 2)},
            "ratio_to_chain": round(of_chain, 2),
            "share_of_floor": round(of_floor, 3),
            "goals": [
                {
                    "goal": str(goal),
                    "met": None if value is None or (void and goal.figure == "x chain") else goal.met(value),
                }
                for goal in asked
                for value in (found[goal.figure],)
            ],
        }
