"""Accuracy of the cost model against the calibration, and what a search costs at any size.

Run with ``python -m tests.bench.bench_planner``. Times are printed as ratios, never judged; what the command costs
as a process is in ``bench_generator``.
"""

from collections.abc import Callable, Iterable
from functools import partial
from statistics import median
from time import perf_counter

from neva_pretrain.model import catalog
from neva_pretrain.plan.memory import memory
from neva_pretrain.plan.search import SearchRequest, search
from tests.calibration import Run, runs


def accuracy() -> None:
    """Print mean and largest error of memory and of time."""
    measured = list(runs())
    alive = [run for run in measured if not run.ran_out_of_memory]
    timed = [run for run in alive if run.is_timed]
    print(f"{'':58}rows   mean    max")
    _row("memory, all rows", ((memory(r.setup).peak, r.peak_bytes) for r in alive))
    _row("time, all rows of the domain", map(_times, timed))
    for group in sorted({run.group for run in timed}):
        _row(f"  {group}", map(_times, (r for r in timed if r.group == group)))
    beyond = [r for r in measured if memory(r.setup).headroom(r.setup.gpu) < 0]
    lost = sum(run.ran_out_of_memory for run in measured)
    found = sum(run.ran_out_of_memory for run in beyond)
    print(f"out of memory: {found} of {lost} predicted; {len(beyond) - found} refused that just fit")
    print(f"not in the time domain: {len(measured) - len(timed)} of {len(measured)} rows")


def _times(run: Run) -> tuple[float, float]:
    return run.predicted_ms, run.ms


def _row(title: str, pairs: Iterable[tuple[float, float]]) -> None:
    errors = [abs(predicted / true - 1) for predicted, true in pairs]
    mean = sum(errors) / len(errors)
    print(f"{title:58}{len(errors):4}  {mean:5.1%}  {max(errors):5.1%}")


def search_cost() -> None:
    """Print the time of a search at 16,384 GPUs over that at 8."""
    model = catalog.get("llama2_7b_chat")
    small, large = (_seconds(partial(search, SearchRequest(model, gpus))) for gpus in (8, 16_384))
    print(f"search at 16,384 GPUs over 8 GPUs: {large / small:.2f} ({large * 1000:.1f} ms)")


def _seconds(work: Callable[[], object], times: int = 9) -> float:
    """Return the median time of a few tries."""

    def once() -> float:
        start = perf_counter()
        work()
        return perf_counter() - start

    return median(once() for _ in range(times))


if __name__ == "__main__":
    accuracy()
    search_cost()
