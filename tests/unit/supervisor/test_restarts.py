"""When a run is given up."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neva_pod.supervisor.restarts import Attempt, Restarts


def played(path: Path, attempts: list[tuple[int, int, bool]], job: str = "neva-1") -> list[Attempt]:
    """Attempts as (resumed from, came to, failed), each with a record that is read anew, as by a new master."""
    made = []
    for resumed, step, failed in attempts:
        restarts = Restarts(str(path), job)
        ended = restarts.end(restarts.begin(resumed), step, "why", failed)
        restarts.write(ended)
        made.append(ended)
    return made


@pytest.mark.parametrize(
    ("attempts", "failures"),
    [
        ([(0, 0, True)] * 3, [1, 2, 3]),
        ([(0, 17, True), (15, 17, True), (15, 17, True)], [1, 2, 3]),
        ([(0, 17, True), (15, 16, True), (15, 17, True)], [1, 2, 3]),
        ([(0, 17, True), (15, 18, True), (15, 18, True), (15, 19, True)], [1, 1, 2, 1]),
        ([(0, 17, True), (15, 17, True), (15, 20, False), (20, 20, True)], [1, 2, 0, 1]),
        ([(0, 17, True), (17, 17, False), (17, 17, True)], [1, 1, 2]),
        ([(0, 17, False), (17, 30, False)], [0, 0]),
    ],
)
def test_failures_in_a_row_without_progress(
    tmp_path: Path, attempts: list[tuple[int, int, bool]], failures: list[int]
) -> None:
    assert [a.failures for a in played(tmp_path / "restarts.jsonl", attempts)] == failures


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.booleans()), max_size=20))
def test_a_run_that_moves_is_never_given_up(moves: list[tuple[int, int, bool]]) -> None:
    """Whoever comes further than ever before is at its first failure at most."""
    restarts, best, count = Restarts("/nonexistent", "neva-1"), -1, 0
    for start, length, failed in moves:
        ended = restarts.end(restarts.begin(start), start + length, "", failed)
        count = (0 if ended.step > best else count) + failed
        assert ended.failures == count
        best = max(best, ended.step)


def test_another_attempt_of_the_user_counts_from_the_beginning(tmp_path: Path) -> None:
    """run.attempt makes another job; its attempts go on being numbered in the folder."""
    path = tmp_path / "restarts.jsonl"
    played(path, [(0, 17, True)] * 3)
    (ended,) = played(path, [(15, 17, True)], job="neva-2")
    assert (ended.number, ended.failures) == (4, 1)


@pytest.mark.parametrize(
    "damage", [b"\xff\xfe", b"{", b"[]\n", b'{"number": "1"}\n', b"null\n" * 3, b"\0" * 100, b"[" * 9999]
)
def test_a_damaged_record_is_passed_over(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "restarts.jsonl"
    played(path, [(0, 17, True)])
    path.write_bytes(path.read_bytes() + damage + b"\n")
    assert Restarts(str(path), "neva-1").begin(15).number == 2
    assert Restarts(str(tmp_path / "none"), "neva-1").begin(0).number == 1


def test_a_line_is_for_people_too(tmp_path: Path) -> None:
    path = tmp_path / "restarts.jsonl"
    played(path, [(0, 17, True)])
    (line,) = path.read_text().splitlines()
    fields = json.loads(line)
    assert fields["reason"] == "why"
    assert fields["ended"] >= fields["began"] > "2025"
