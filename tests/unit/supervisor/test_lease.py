"""K01: one writer of a results folder: real processes, real files, and a model of every interleaving."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from neva_pod.supervisor.lease import (
    Files,
    HeldError,
    Holder,
    Identity,
    Lease,
    LeaseError,
    Times,
    first_living,
    living,
    take,
)

POD_CODE = Path(__file__).parents[3] / "charts" / "neva-pretrain" / "files"
ME = Identity("team-a", "neva", "neva-master-0", "uid-1", "node-1", "abc123")
OTHER = Identity("team-b", "neva", "neva-master-0", "uid-2", "node-2", "def456")
QUICK = Times(renew=0.05, ttl=0.3)
"""For leases whose holders are gone: nothing must keep up with it."""


class Process:
    """A holder in a process of its own."""

    def __init__(self, pod: str, namespace: str = "team-a", release: str = "neva", times: Times = QUICK) -> None:
        script = Path(__file__).with_name("lease_holder.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), pod, namespace, release, str(times.renew), str(times.ttl)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
            env={**os.environ, "PYTHONPATH": str(POD_CODE)},
        )

    def tell(self, words: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(words + "\n")

    def answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def ask(self, words: str) -> str:
        self.tell(words)
        return self.answer()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def make(*arguments: Any, **options: Any) -> Process:
        started.append(Process(*arguments, **options))
        return started[-1]

    yield make
    for process in started:
        process.end()


def leave(folder: Path, identity: Identity = OTHER, age: float = 3600.0) -> Path:
    """Leave a lease whose holder is gone."""
    lease = take(str(folder), identity, print, times=QUICK)
    path = Path(Files(str(folder)).file(lease.generation))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def names(folder: Path) -> list[str]:
    """Return what is in a lease folder."""
    return sorted(path.name for path in (folder / "lease").iterdir())


@pytest.mark.slow
def test_of_many_processes_one_wins(tmp_path: Path, start: Callable[..., Process]) -> None:
    """30 rounds of six: in fresh folders, after a dead holder, after a release."""
    times = Times(renew=0.1, ttl=60.0)  # the winner renews in time on a loaded machine, too
    pods = [start(f"pod-{i}", namespace=f"team-{i % 2}", times=times) for i in range(6)]
    for number in range(30):
        folder = tmp_path / str(number)
        folder.mkdir()
        if number % 3 == 1:
            leave(folder)
        elif number % 3 == 2:
            take(str(folder), OTHER, print).release()
        for pod in pods:
            pod.tell(f"take {folder}")
        answers = [pod.answer() for pod in pods]
        won = [pod for pod, answer in zip(pods, answers, strict=True) if answer.startswith("won")]
        assert len(won) == 1, answers
        assert all(answer.startswith(("won", "held")) for answer in answers), answers
        holder = living(str(folder))
        assert holder
        assert holder.identity
        assert holder.identity.pod == f"pod-{pods.index(won[0])}"
        assert won[0].ask("drop" if number % 2 else "release") in ("dropped", "released")
        assert [name for name in names(folder) if name.startswith(".")] == []


def test_a_second_run_is_refused_with_who_and_since_when(tmp_path: Path, start: Callable[..., Process]) -> None:
    times = Times(renew=0.1, ttl=60.0)
    assert start("neva-master-0", times=times).ask(f"take {tmp_path}") == "won 1"
    for identity in (OTHER, ME):  # of another namespace, and this pod's own earlier self
        with pytest.raises(HeldError) as held:
            take(str(tmp_path), identity, print, times=times)
        words = str(held.value)
        assert words.startswith(f"{tmp_path}: got the lease of pod neva-master-0 (namespace team-a, release neva, ")
        assert "node node-1, values abc123, since 20" in words
        assert "Z, renewed 0 s ago); must have one writer; " in words
        assert "helm uninstall neva --namespace team-a" in words


def test_two_releases_with_the_same_run(tmp_path: Path, start: Callable[..., Process]) -> None:
    times = Times(renew=0.1, ttl=60.0)
    one, two = start("a", release="one", times=times), start("b", release="two", times=times)
    assert one.ask(f"take {tmp_path}") == "won 1"
    assert "release one, " in two.ask(f"take {tmp_path}")
    assert one.ask("release") == "released"
    assert two.ask(f"take {tmp_path}") == "won 2"


def test_a_killed_holder_is_followed_once_its_lease_is_stale(tmp_path: Path, start: Callable[..., Process]) -> None:
    dead = start("dead", times=Times(renew=0.05, ttl=60.0))
    assert dead.ask(f"take {tmp_path}") == "won 1"
    dead.end()
    said: list[str] = []
    began = time.monotonic()
    lease = take(str(tmp_path), ME, said.append, times=Times(renew=0.1, ttl=1.0))
    assert time.monotonic() - began > 0.2
    assert lease.generation == 2
    assert "waiting until it is renewed or 1 s old" in said[0]
    assert "taking over the lease of pod dead" in said[1]
    assert names(tmp_path) == ["000000000002.json"]


def test_a_paused_holder_learns_that_it_was_superseded(tmp_path: Path, start: Callable[..., Process]) -> None:
    paused = start("paused", times=Times(renew=0.05, ttl=60.0))
    assert paused.ask(f"take {tmp_path}") == "won 1"
    paused.signal(signal.SIGSTOP)
    lease = take(str(tmp_path), ME, print, times=QUICK)
    paused.signal(signal.SIGCONT)
    words = paused.answer()
    assert words.startswith(f"lost {tmp_path}/lease: got the lease of pod neva-master-0 (namespace team-a, ")
    assert "which took over; must hold the newest lease" in words
    assert lease.renew() is None


def test_a_released_lease_is_taken_at_once(tmp_path: Path) -> None:
    take(str(tmp_path), OTHER, print).release()
    assert living(str(tmp_path)) is None
    assert take(str(tmp_path), ME, print, sleep=_never).generation == 2
    content = json.loads((tmp_path / "lease" / "000000000002.json").read_text())
    assert (content["namespace"], content["pod_uid"], content["released"]) == ("team-a", "uid-1", False)


def _never(seconds: float) -> None:
    raise AssertionError(f"slept {seconds} s")


def test_a_lost_lease_is_not_released(tmp_path: Path) -> None:
    first = take(str(tmp_path), OTHER, print)
    second = take(str(tmp_path), ME, print, times=QUICK)
    first.release()
    assert names(tmp_path) == ["000000000002.json"]
    assert first.renew() == first.renew()
    assert second.renew() is None


def test_a_removed_lease_ends_the_run(tmp_path: Path) -> None:
    lease = take(str(tmp_path), ME, print)
    (tmp_path / "lease" / "000000000001.json").unlink()
    words = lease.renew()
    assert words
    assert "got no file 000000000001.json; must hold the lease that this run took" in words
    other = take(str(tmp_path / "b"), ME, print)
    (tmp_path / "b").rename(tmp_path / "c")
    assert "got no file" in (other.renew() or "")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"namespace": 1}', b"\xff\xfe", b'{"released": true}', b"[" * 100_000, None, "fifo"],
)
def test_a_garbled_lease_lives_until_it_is_stale(tmp_path: Path, content: bytes | str | None) -> None:
    folder = tmp_path / "lease"
    folder.mkdir()
    path = folder / "000000000007.json"
    if content is None:
        path.mkdir()
    elif isinstance(content, str):
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    (folder / "notes.txt").touch()
    (folder / "000000000008.json.bak").touch()
    said: list[str] = []
    assert "unreadable" in str(living(str(tmp_path)))
    assert take(str(tmp_path), ME, said.append, times=QUICK).generation == 8
    assert "found an unreadable lease, generation 7 (renewed 0 s ago); waiting" in said[0]


def test_a_garbled_lease_that_is_renewed_is_refused(tmp_path: Path) -> None:
    path = leave(tmp_path, age=0.0)
    path.write_text("?")
    with pytest.raises(HeldError, match="find the run that renews it and end it, or"):
        take(str(tmp_path), ME, print, sleep=lambda _: os.utime(path))


def test_an_old_time_alone_is_not_stale(tmp_path: Path) -> None:
    """The clocks of two nodes of GPFS may differ by an hour."""
    path = leave(tmp_path)
    hour = time.time() - 3600
    looks: list[float] = []

    def renew(seconds: float) -> None:
        looks.append(seconds)
        if sum(looks) >= 10:
            os.utime(path, (hour + 10, hour + 10))

    with pytest.raises(HeldError):
        take(str(tmp_path), ME, print, sleep=renew)
    os.utime(path, (time.time() + 7200, time.time() + 7200))
    assert take(str(tmp_path), ME, print, times=QUICK).generation == 2, "nor is one of the future alive"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LeaseError, match=r"file/lease: got Not a directory as uid \d+; must be writable"):
        take(str(tmp_path / "file"), ME, print)


class Late(Files):
    """A claim that is held up while two others come and go, so that its generation is free again."""

    def claim(self, generation: int, content: Callable[[int], str]) -> bool:
        if generation == 2 and not self.newest():
            take(str(Path(self.path).parent), OTHER, print, times=QUICK).release()
            self.last = take(str(Path(self.path).parent), OTHER, print)
        return super().claim(generation, content)

    def newest(self) -> bool:
        return self.generations()[-1] > 2


def test_a_claim_that_comes_late_is_lost(tmp_path: Path) -> None:
    path = leave(tmp_path)
    files = Late(str(tmp_path))

    def renew(_: float) -> None:
        if files.newest():
            assert names(tmp_path) == ["000000000003.json"]
            files.last.renew()

    with pytest.raises(HeldError):
        take(str(tmp_path), ME, print, sleep=renew, files=files)
    assert not path.exists()


class Failing(Files):
    """A file system that fails one call; where there are no hard links, one that has none."""

    def __init__(self, results: str, error: int, *calls: str) -> None:
        super().__init__(results)
        self.error, self.calls = error, calls

    def _may(self, call: str) -> None:
        if call in self.calls:
            raise OSError(self.error, os.strerror(self.error))

    def now(self) -> int:
        self._may("now")
        return super().now()

    def touch(self, generation: int) -> None:
        self._may("touch")
        super().touch(generation)

    def rewrite(self, generation: int, content: str) -> None:
        self._may("rewrite")
        super().rewrite(generation, content)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.ESTALE])
def test_a_renewal_that_fails_is_said_once_and_tried_again(tmp_path: Path, error: int) -> None:
    said: list[str] = []
    files = Failing(str(tmp_path), error)
    lease = take(str(tmp_path), ME, said.append, files=files)
    files.calls = ("touch", "now", "rewrite")
    assert [lease.renew() for _ in range(3)] == [None] * 3
    assert said == [f"{tmp_path}/lease: the lease cannot be renewed ({os.strerror(error)}); trying again"]
    files.calls = ()
    assert lease.renew() is None
    assert said[1:] == [f"{tmp_path}/lease: the lease is renewed again"]
    files.calls = ("touch", "now", "rewrite")
    lease.release()
    assert said[-1].endswith(f"the lease cannot be released ({os.strerror(error)}); it expires")
    take(str(tmp_path), OTHER, print, times=QUICK)
    assert "which took over" in (lease.renew() or ""), "a full or read-only file system does not hide it"


def test_a_full_folder_is_still_renewed(tmp_path: Path) -> None:
    files = Failing(str(tmp_path), errno.ENOSPC)
    lease = take(str(tmp_path), ME, print, files=files)
    path = Path(files.file(1))
    os.utime(path, (1, 1))
    files.calls = ("now",)
    assert lease.renew() is None
    assert path.stat().st_mtime > 1


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", link)
    assert take(str(tmp_path), ME, print).generation == 1
    assert not Files(str(tmp_path)).claim(1, lambda _: "x")
    assert names(tmp_path) == ["000000000001.json"]
    assert living(str(tmp_path))


def test_an_answer_of_nfs_that_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link is there, and the repeated request says that it was."""
    linked = os.link

    def link(*paths: Any) -> None:
        linked(*paths)
        raise FileExistsError(errno.EEXIST, "exists")

    monkeypatch.setattr(os, "link", link)
    assert take(str(tmp_path), ME, print).generation == 1


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    path = leave(tmp_path)
    old, new = path.with_name(".probe-old"), path.with_name(".lease-new")
    for file in (old, new):
        file.touch()
    os.utime(old, (1, 1))
    take(str(tmp_path), ME, print, times=Times(renew=0.05, ttl=60.0))
    assert (old.exists(), new.exists(), path.exists()) == (False, True, False)


def test_others_ask_through_a_read_only_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No clock is there; a living holder shows itself by its renewals."""
    runs = [str(tmp_path / name) for name in ("a", "b", "c", "none")]
    for folder in runs[:3]:
        leave(Path(folder))
    take(runs[2], ME, print, times=QUICK).release()

    def refuse(_: Files) -> int:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(Files, "now", refuse)
    slept: list[float] = []
    assert first_living(runs, sleep=slept.append) is None
    assert sum(slept) == 60
    path = Path(runs[1]) / "lease" / "000000000001.json"
    found = first_living(runs, sleep=lambda _: os.utime(path))
    assert found
    assert "the lease of pod neva-master-0 (namespace team-b, release neva" in str(found)
    assert first_living(runs, lambda holder: holder.identity == ME, sleep=_never) is None


def test_others_ask_where_it_can_be_written(tmp_path: Path) -> None:
    assert living(str(tmp_path / "none"), sleep=_never) is None
    path = leave(tmp_path, age=30.0)
    found = living(str(tmp_path), sleep=_never)
    assert found
    assert str(found).endswith("renewed 30 s ago)")
    os.utime(path, (1, 1))
    slept: list[float] = []
    assert living(str(tmp_path), sleep=slept.append) is None
    assert sum(slept) == 20


SHORT = Times(renew=10, ttl=4)
"""For the model, in which a holder may be paused for any time: a lease is stale after two looks."""


class Stopped(BaseException):
    """The schedule is at its end."""


class World:
    """A file system in memory whose every call is one step of the actor that the schedule names."""

    def __init__(self) -> None:
        self.files: dict[int, tuple[str, int]] = {}
        self.clock = self.steps = 0
        self.main, self.ended = threading.Semaphore(0), False
        self.actors: list[Actor] = []
        self.wrong: list[str] = []
        self.seen: set[str] = set()

    def believers(self, without: "Actor") -> list["Actor"]:
        return [actor for actor in self.actors if actor is not without and actor.lease]


class Actor(Files):
    """Takes the lease, holds it for some renewals, then releases it, dies, or holds on."""

    def __init__(self, world: World, name: str, rounds: int, at_end: str) -> None:
        super().__init__(name)
        self.world, self.name, self.rounds, self.at_end = world, name, rounds, at_end
        self.mine = threading.Semaphore(0)
        self.lease: Lease | None = None
        self.looked = self.claimed_look = self.touched = self.taken = 0
        self.confirmed = -1
        self.thread = threading.Thread(target=self.live, daemon=True)

    def step(self) -> None:
        """Hand over to the schedule."""
        self.world.main.release()
        self.mine.acquire()
        if self.world.ended:
            raise Stopped
        self.world.steps += 1

    def make(self) -> None:
        self.step()

    def now(self) -> int:
        return self.world.clock

    def generations(self) -> list[int]:
        self.step()
        return sorted(self.world.files)

    def read(self, generation: int) -> tuple[bytes, int]:
        self.step()
        self.looked = self.world.steps
        if generation not in self.world.files:
            raise FileNotFoundError(errno.ENOENT, "gone")
        content, renewed = self.world.files[generation]
        return content.encode(), renewed

    def claim(self, generation: int, content: Callable[[int], str]) -> bool:
        self.claimed_look = self.looked
        self.step()
        return self.write(generation, content(self.world.clock)) if generation not in self.world.files else False

    def write(self, generation: int, content: str) -> bool:
        self.world.clock += 1
        self.world.files[generation] = (content, self.world.clock)
        return True

    def touch(self, generation: int) -> None:
        self.step()
        if generation not in self.world.files:
            raise FileNotFoundError(errno.ENOENT, "gone")
        self.touched = self.world.steps
        self.write(generation, self.world.files[generation][0])

    def rewrite(self, generation: int, content: str) -> None:
        self.step()
        self.write(generation, content)

    def remove(self, generation: int) -> None:
        self.step()
        self.world.files.pop(generation, None)

    def clear(self, before: int) -> None:
        pass

    def sleep(self, seconds: float) -> None:
        self.step()
        self.world.clock += int(seconds * 1e9)

    def live(self) -> None:
        self.mine.acquire()
        try:
            while not self.world.ended:
                self.once()
        except Stopped:
            pass
        except Exception as error:
            self.world.wrong.append(f"{self.name}: {error!r}")
        self.world.main.release()

    def once(self) -> None:
        world = self.world
        identity = Identity("n", "r", self.name, "u", "h", "v")
        try:
            lease = take("model", identity, lambda _: None, self.sleep, times=SHORT, files=self)
        except HeldError:
            world.seen.add("held")
            self.sleep(1)
            return
        self.taken, self.confirmed, self.lease = world.steps, -1, lease
        if lease.generation > 1:
            world.seen.add("followed")
        for other in world.believers(without=self):
            older = other.lease and other.lease.generation < lease.generation
            if older and other.confirmed > self.claimed_look:
                world.wrong.append(f"{self.name} took over {other.name}, which has renewed since")
        for _ in range(self.rounds):
            self.sleep(10)
            began = world.steps
            if lease.renew():
                self.lease = None
                world.seen.add("superseded")
                return
            self.confirmed = self.touched
            for other in world.believers(without=self):
                newer = other.lease and other.lease.generation >= lease.generation
                if newer and (other.taken <= began or self.touched > other.claimed_look):
                    world.wrong.append(f"{self.name} renewed beside {other.name}")
        self.lease = None
        if self.at_end == "release":
            lease.release()
            world.seen.add("released")


def play(schedule: list[tuple[int, int]]) -> World:
    """Run three actors by turns: so many steps of one, then of the next."""
    world = World()
    world.actors = [Actor(world, "a", 3, "release"), Actor(world, "b", 2, "die"), Actor(world, "c", 9, "die")]
    for actor in world.actors:
        actor.thread.start()
    for index, steps in schedule:
        for _ in range(steps):
            if world.wrong:
                break
            world.actors[index].mine.release()
            world.main.acquire()
    world.ended = True
    for actor in world.actors:
        actor.mine.release()
        actor.thread.join(120)
    return world


@pytest.mark.slow
@examples(max_examples=250, deadline=None)
@given(schedule=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 16)), min_size=20, max_size=60))
def test_two_never_hold_it_after_both_have_renewed(schedule: list[tuple[int, int]]) -> None:
    """Any interleaving of three runs' single calls to the file system, with pauses of any length between them."""
    assert play(schedule).wrong == []


def test_the_model_reaches_every_case() -> None:
    """Else it would prove nothing."""
    turns = [(0, 60), (1, 80), (2, 80), (0, 9), (1, 200), (2, 30), (1, 300), (0, 300), (2, 300), (1, 30), (0, 60)]
    world = play([*turns, *((turn % 3, 4) for turn in range(100)), *turns])
    assert world.wrong == []
    assert world.seen == {"held", "followed", "superseded", "released"}


def test_the_newest_lease_is_never_removed(tmp_path: Path) -> None:
    for number in range(1, 5):
        assert take(str(tmp_path), ME, print, times=QUICK).generation == number
        assert names(tmp_path) == [f"{number:012}.json"]


def test_a_holder_in_words() -> None:
    assert str(Holder(3, None, "?", False, 0, None)) == "an unreadable lease, generation 3"
    assert "renewed 4 s ago" in str(Holder(3, ME, "?", False, 0, 4.4))
