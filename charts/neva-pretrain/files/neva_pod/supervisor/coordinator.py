"""The master's part: brings the nodes together, starts attempts on all of them, and ends them together."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from neva_pod.findings import ProblemError, show, some
from neva_pod.inputs.saved import Recovery, step_of
from neva_pod.monitor.parser import LogParser
from neva_pod.supervisor import node as codes
from neva_pod.supervisor.background import Background
from neva_pod.supervisor.control import TELL_SECONDS, TICK_SECONDS
from neva_pod.supervisor.node import Node
from neva_pod.supervisor.peers import Lost, Peers, Trouble, Wrong
from neva_pod.supervisor.restarts import DONE, Attempt, Restarts
from neva_pod.supervisor.watch import NOT_FINITE_STEPS, StepWatch

STOP_SECONDS = 60.0
"""Seconds that nodes may take to end torchrun; a process that holds a GPU may take some to die."""
STACK_SECONDS = 15.0
"""Seconds that nodes may take to write their ranks' stacks."""
LAST_SECONDS = 10.0
"""Seconds that nodes may take to hear of the end."""
JUDGE_SECONDS = 1800.0
"""Seconds that the checkpoints may take to be judged: a file system may hang."""
WRITE_SECONDS = 10.0
"""Seconds that the record of attempts is waited for; nodes must hear from the master meanwhile."""
DOUBLINGS = 4
"""The limit of a step doubles so often at most while one step keeps on hanging."""


class Phase(Enum):
    """What the nodes are doing."""

    GATHER = "waiting for nodes"
    RECOVER = "judging checkpoints"
    RUN = "training"
    STACKS = "writing stacks"
    STOP = "stopping"
    END = "ended"


@dataclass(frozen=True)
class Ending:
    """Why an attempt ends, and what that means.

    Attributes:
        reason: for a person.
        failed: it counts; a pod that was told to go has saved first.
        final: exit code of the job, if no other attempt may follow.
        hang: the ranks are there but do not move: their stacks tell where.

    """

    reason: str
    failed: bool = True
    final: int | None = None
    hang: bool = False


@dataclass
class Running:
    """The attempt of the moment."""

    attempt: Attempt
    watch: StepWatch
    ending: Ending | None = None
    blind: bool = False
    """It was said that the log shows no step."""


class Coordinator:
    """Moves the whole job through its phases, by what the nodes say."""

    def __init__(
        self,
        node: Node,
        peers: Peers,
        restarts: Restarts,
        recover: Callable[[], Recovery | None],
        superseded: Callable[[], str | None],
        say: Callable[[str], None],
    ) -> None:
        """Prepare.

        Args:
            node: the master itself.
            peers: all nodes, the master's own agent too.
            restarts: the record of attempts.
            recover: judges the checkpoints before each attempt; runs beside the loop. None: nothing is resumed.
            superseded: asked often; a sentence once this job must not go on, since its lease is another's.
            say: tells the pod's log.

        """
        self._node, self._peers, self._restarts = node, peers, restarts
        self._recover, self._superseded, self._say = recover, superseded, say
        self._settings = node.settings
        self._phase, self._since, self._told = Phase.GATHER, time.monotonic(), time.monotonic()
        self._recovery: Background[Recovery | None] | None = None
        self._last: tuple[int, str] | None = None
        self._parted: set[int] = set()
        self._run: Running | None = None
        self._hangs, self._hung_at = 0, -1
        self._parser = LogParser()
        self._lock = threading.Lock()

    def read(self, data: bytes) -> None:
        """Take what rank 0's torchrun prints; called by another thread."""
        with self._lock:
            events = self._parser.feed(data)
            if self._run:
                self._run.watch.hear(data, time.monotonic())
                self._run.watch.read(events, time.monotonic())

    def serve(self) -> None:
        """Work until the run has ended and the nodes know."""
        while self._phase is not Phase.END or not self._all_know:
            for event in self._peers.hear(TICK_SECONDS):
                self._react(event)
            if self._phase is Phase.END:
                self._part()
            elif why := self._superseded():
                self._end(codes.WRONG, f"ERROR: {why}")
            else:
                self._decide()
        self._peers.close()

    def leave(self) -> None:
        """Record the attempt that this pod's own end cuts short; the next master goes on from there."""
        if self._run and self._phase in (Phase.RUN, Phase.STACKS, Phase.STOP):
            self._record_run(self._run, Ending("the master was told to go", failed=False))

    @property
    def _waited(self) -> float:
        """Seconds in this phase."""
        return time.monotonic() - self._since

    def _enter(self, phase: Phase) -> None:
        self._phase, self._since = phase, time.monotonic()

    def _react(self, event: Lost | Wrong | Trouble) -> None:
        running = self._run if self._phase is Phase.RUN else None
        if isinstance(event, Wrong):
            why = f"{event.peer.name}: {event.why}"
            if running:
                self._stop(running, Ending(why, final=codes.WRONG))
            elif self._phase is not Phase.END:
                self._end(codes.WRONG, f"ERROR: {why}")
        elif running and isinstance(event, Lost):
            self._stop(running, running.ending or Ending(event.why, failed=not event.peer.leaving))
        elif running:
            self._stop(running, Ending(f"{event.peer.name}: {event.why}", hang=True))

    def _decide(self) -> None:
        if self._phase is Phase.GATHER:
            self._gather()
        elif self._phase is Phase.RECOVER and self._recovery:
            self._await_recovery(self._recovery)
        elif self._run and self._phase is Phase.RUN:
            self._follow(self._run)
        elif self._phase is Phase.STACKS:
            if self._waited > STACK_SECONDS or all(p.stacked == p.told for p in self._peers.all):
                self._enter(Phase.STOP)
                self._peers.send("stop")
        elif self._run and self._phase is Phase.STOP:
            self._await_stop(self._run)

    def _gather(self) -> None:
        """Wait until all nodes are here; a pod that was lost may first have to find a node and pull the image."""
        missing = self._missing
        key, limit = "rendezvous.waitSeconds", self._node.wait
        if self._restarts.begun:
            key, limit = "restart.waitSeconds", self._node.wait_again
        if not missing:
            self._enter(Phase.RECOVER)
            self._recovery = Background(self._recover)
        elif self._waited > limit:
            self._end(
                codes.UNREACHABLE,
                f"ERROR: nodes {some(missing)} of {self._node.nodes}: not here after {self._waited:.0f} s (limit {key} "
                f"{limit:.0f}); see their pods: kubectl describe pod, kubectl logs",
            )
        elif time.monotonic() - self._told > TELL_SECONDS:
            self._told = time.monotonic()
            waited = f"{self._waited:.0f} of {limit:.0f} s"
            self._say(f"waiting for nodes {some(missing)} of {self._node.nodes}, {waited}")

    @property
    def _missing(self) -> list[str]:
        """Ranks of the nodes that cannot start now."""
        ready = {p.rank for p in self._peers.all if p.ended and not p.leaving}
        return [str(rank) for rank in range(self._node.nodes) if rank not in ready]

    def _await_recovery(self, recovery: Background[Recovery | None]) -> None:
        """Begin once the checkpoints are judged."""
        if not recovery.done:
            if self._waited > JUDGE_SECONDS:
                self._end(
                    codes.WRONG,
                    f"ERROR: {show(self._node.results)}: its checkpoints could not be judged within {self._waited:.0f} "
                    "s; must be readable; check the file system of storage.results",
                )
            return
        try:
            judged = recovery.result()
        except (ProblemError, OSError) as error:
            what = f"{error.finding.message}; {error.finding.fix}" if isinstance(error, ProblemError) else str(error)
            why = Ending(what)
            self._count(why, self._restarts.end(self._restarts.begin(0), None, why.reason, failed=True))
            return
        for line in judged.said if judged else ():
            self._say(line)
        resumed = (step_of(judged.resumes) or 0) if judged else 0
        if cut := self._restarts.cut:
            self._restarts.cut = None
            killed = Ending("the master was killed")
            self._say(killed.reason)
            self._count(killed, self._record(cut, resumed, killed))
        elif self._missing:  # it went meanwhile
            self._enter(Phase.GATHER)
        else:
            self._begin(resumed)

    def _begin(self, resumed: int) -> None:
        """Start an attempt on all nodes."""
        saves = self._settings.flag("checkpoint.enabled")
        watch = StepWatch(
            self._node.limits,
            save_every=self._settings.integer("checkpoint.everyNSteps", 0) if saves else 0,
            max_steps=self._node.max_steps,
            now=time.monotonic(),
            patience=2 ** min(self._hangs, DOUBLINGS),
        )
        attempt = self._restarts.begin(resumed, above=max(peer.attempt for peer in self._peers.all))
        self._write(lambda: self._restarts.announce(attempt))
        with self._lock:
            self._parser, self._run = LogParser(), Running(attempt, watch)
        for peer in self._peers.all:
            peer.told = attempt.number
        self._enter(Phase.RUN)
        self._peers.send("start", attempt=attempt.number)

    def _follow(self, run: Running) -> None:
        """See how the attempt is."""
        with self._lock:
            now = time.monotonic()
            trouble, lost, step = run.watch.trouble(now), run.watch.lost, run.watch.step or 0
            blind = run.watch.blind(now)
        if blind and not run.blind:
            run.blind = True
            self._say("no step in the log so far: until there is one, only silence counts as a hang")
        ended = [p for p in self._peers.all if p.ended]
        bad = [p for p in ended if p.code != 0]
        leaving = [p for p in self._peers.all if p.leaving]
        if leaving and run.ending is None:
            # Rank 0 saves at the end of its step, and all ranks then end by themselves.
            run.ending = Ending(f"{leaving[0].name} was told to go", failed=False)
            self._say(f"{run.ending.reason}: saving a checkpoint")
            self._peers.send("save")
        if bad:
            self._stop(run, run.ending or Ending(f"{bad[0].name}: torchrun ended with {bad[0].code}"))
        elif len(ended) == self._node.nodes:
            if run.ending is None or step >= self._node.max_steps:
                self._record_run(run, Ending(DONE, failed=False))
                self._end(codes.DONE, f"the run has ended, at step {step}" if step else "the run has ended")
            else:
                self._stop(run, run.ending)
        elif lost:
            self._stop(
                run,
                Ending(
                    f"the loss has not been a number for {NOT_FINITE_STEPS} steps, the last is {step}; lower "
                    "training.learningRate, and start with a new run.id or from a checkpoint before that",
                    final=codes.NOT_FINITE,
                ),
            )
        elif trouble:
            self._stop(run, run.ending or Ending(trouble, hang=True))

    def _stop(self, run: Running, ending: Ending) -> None:
        """End the attempt on all nodes; after a hang with the stacks of all ranks first."""
        run.ending = ending
        self._say(f"{ending.reason}; torchrun is stopped on all nodes")
        self._enter(Phase.STACKS if ending.hang else Phase.STOP)
        self._peers.send("stacks" if ending.hang else "stop")

    def _await_stop(self, run: Running) -> None:
        running = [p for p in self._peers.all if not p.ended]
        if running and self._waited < STOP_SECONDS:
            return
        for peer in running:
            self._peers.drop(peer)
        ending = run.ending or Ending("stopped")
        attempt = self._record_run(run, ending)
        self._count_hang(ending, attempt)
        self._count(ending, attempt)

    def _count(self, ending: Ending, attempt: Attempt) -> None:
        """Try again, unless that is of no use."""
        limit = self._settings.integer("restart.limit", 3)
        if ending.final is not None:
            self._end(ending.final, f"ERROR: {ending.reason}")
        elif ending.failed and not self._settings.flag("restart.enabled", True):
            self._end(codes.GAVE_UP, f"ERROR: {ending.reason}; restart.enabled is false: the job ends")
        elif ending.failed and attempt.failures >= limit:
            self._end(
                codes.GAVE_UP,
                f"ERROR: {ending.reason}; {attempt.failures} attempts in a row made no progress (restart.limit "
                f"{limit}); the last came from step {attempt.resumed} to {attempt.step}; see {show(self._node.logs)}, "
                "mend what they tell, and set run.attempt to the next number",
            )
        else:
            count = f": failure {attempt.failures} of {limit} in a row without progress" if ending.failed else ""
            self._say(f"restarting{count}")
            self._enter(Phase.GATHER)

    def _count_hang(self, ending: Ending, attempt: Attempt) -> None:
        """Be more patient with a step that hangs again: it may just be slow, such as the first one of an epoch."""
        again = ending.hang and self._hung_at == attempt.step
        self._hangs = self._hangs + 1 if again else int(ending.hang)
        self._hung_at = attempt.step if ending.hang else -1

    def _record_run(self, run: Running, ending: Ending) -> Attempt:
        with self._lock:
            step = run.watch.step
        return self._record(run.attempt, step, ending)

    def _record(self, attempt: Attempt, step: int | None, ending: Ending) -> Attempt:
        """Count the attempt, and write it down."""
        ended = self._restarts.end(attempt, step, ending.reason, ending.failed)
        self._write(lambda: self._restarts.write(ended))
        return ended

    def _write(self, call: Callable[[], None]) -> None:
        """Write to the results folder, which may be full, or hang."""
        work, problem = Background(call), ""
        try:
            if work.wait(WRITE_SECONDS):
                work.result()
            else:
                problem = f"no answer after {WRITE_SECONDS:.0f} s"
        except OSError as error:
            problem = error.strerror or str(error)
        if problem:
            self._say(f"the record of attempts cannot be written: {problem}")

    def _end(self, code: int, why: str) -> None:
        """Tell all nodes the end; their agents end what still runs."""
        self._say(why)
        self._enter(Phase.END)
        self._last = code, why
        self._part()

    def _part(self) -> None:
        """Tell those nodes the end that have not heard it, such as one that comes again just now."""
        code, why = self._last or (codes.GAVE_UP, "")
        for peer in self._peers.all:
            if not peer.parted:
                peer.parted = True
                self._parted.add(peer.rank)
                # The master's own agent shares this log.
                peer.channel.send("end", code=code, why="" if peer.rank == 0 else why)

    @property
    def _all_know(self) -> bool:
        """Whether all nodes have heard of the end, or have had the time to."""
        return self._waited > LAST_SECONDS or (not self._peers.all and len(self._parted) == self._node.nodes)
