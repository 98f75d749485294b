"""The state of a training run, folded from the events of its log. The time is passed in.

One file: steps, attempts and incidents are one state, and an event moves several of them at once.
"""

import math
from dataclasses import dataclass, field, replace
from statistics import median

from neva_pod.monitor.pace import LAG, Pace
from neva_pod.monitor.patterns import HEADER, HYDRA, WRAPPER
from neva_pod.monitor.records import Event, Incident, Kind, Notice, Point, RunSettings, Series, Speed, StepRecord


@dataclass
class _Bar:
    """Where the bar of this process and epoch stands.

    ``lead`` is the largest (steps completed - n) seen: the steps done before the bar began. A
    metric is never newer than the bar, so a record that would be further ahead contradicts it.
    """

    epoch: int
    lead: int


@dataclass
class Run:
    """A training run as its log shows it. Feed events in order; read the attributes at any time.

    A record that contradicts what came before (a jump, a step back) is believed only when the next
    one agrees with it, so a damaged line does not move the step. The very first record gives way to
    a second that disagrees.
    """

    settings: RunSettings = field(default_factory=RunSettings)
    step: int | None = None
    best_step: int = 0
    attempt: int = 1
    attempt_first_step: int | None = None
    lost_steps: int = 0
    loss: float | None = None
    series: Series = field(default_factory=Series)
    started_at: float | None = None
    last_event_at: float | None = None
    last_step_at: float | None = None
    nan_in_a_row: int = 0
    nan_total: int = 0
    nan_line: str = ""
    _nan_from: int = 0
    incidents: dict[Kind, Incident] = field(default_factory=dict)
    past: list[Incident] = field(default_factory=list)
    ranks: set[int] = field(default_factory=set)
    duplicate_rank: Notice | None = None
    world_size: int | None = None
    registered: Notice | None = None
    checkpoints: int = 0
    checkpoint_step: int | None = None
    checkpoint_at: float | None = None
    not_saved: Notice | None = None
    finished: str = ""
    finished_before: str = ""
    stopped: str = ""
    ended: str = ""
    failed: bool = False
    _bar: _Bar | None = None
    _doubted: tuple[StepRecord, int] | None = None
    _agreed: bool = False
    _fresh: bool = True
    _log_total: int | None = None
    _log_batch: int | None = None
    _samples: tuple[float, float] | None = None
    _restored: int | None = None
    _saves: bool = False
    longest_save: float = 0.0
    pace: Pace = field(default_factory=Pace)

    def update(self, events: list[Event], now: float) -> None:
        """Take events that were written at ``now`` (seconds of any one clock)."""
        if self.started_at is None:
            self.started_at = now
        for event in events:
            self.last_event_at = now
            if isinstance(event, StepRecord):
                self._step(event, now)
            else:
                self._notice(event, now)

    def end(self, reason: str, failed: bool = False) -> None:
        """Say that no more will come, why, and whether the job is known to have failed."""
        self.ended = reason
        self.failed = failed

    def new_process(self) -> None:
        """Say that the training process began again: a new container, or a log that shows it."""
        self.attempt += 1
        self._fresh = True
        self.attempt_first_step = None
        self.ranks.clear()
        self.duplicate_rank = None
        self.registered = None
        self.not_saved = None
        self.nan_in_a_row = 0
        self.finished = self.finished_before = self.stopped = ""
        self._restored = None
        self._saves = False
        self._retire_incidents()

    def _step(self, record: StepRecord, now: float) -> None:
        done = self._completed(record)
        if self.step is None or self._follows(record, done):
            self._agreed = self.step is not None
            self._advance(record, done, now)
        elif self._fresh and done <= self.step + record.n:
            self._begin_attempt(record, done, now)
        elif not self._agreed:
            self.step = self._bar = None
            self.series = Series()
            self._advance(record, done, now)
        elif self._doubted is not None and _continues(*self._doubted, record, done):
            if not self._believe(*self._doubted, now):
                self._doubted = (record, done)
                return
            self._bar = _Bar(record.epoch, done - record.n)
            self._advance(record, done, now)
        else:
            self._doubted = (record, done)
            return
        self._doubted = None

    def _believe(self, record: StepRecord, done: int, now: float) -> bool:
        """Take a doubted record that the next one confirms, unless it is old text shown again."""
        if done > (self.step or 0):
            self._bar = None
            self._advance(record, done, now)
            return True
        if self._is_old_text(record, done):
            return False
        self.new_process()
        self._begin_attempt(record, done, now)
        return True

    def _completed(self, record: StepRecord) -> int:
        """Return the steps completed: the logged 0-based number + 1, sharpened if it is rounded."""
        done = int(record.global_step) + 1
        if record.step_error:
            lead = self._bar.lead if self._bar and self._bar.epoch == record.epoch else 0
            by_bar = lead + record.n
            batch = self.global_batch_size
            exact = by_bar
            samples = record.consumed_samples
            if samples is not None and samples < math.inf and not record.samples_error and batch:
                exact = round(samples / batch)
            if abs(exact - done) <= record.step_error + 1:
                done = exact
        limit = self.settings.max_steps
        return limit if limit is not None and done == limit + 1 else done

    def _follows(self, record: StepRecord, done: int) -> bool:
        """Tell whether the record may come next: not a step back, not ahead of its bar."""
        step, bar = self.step, self._bar
        if step is None or bar is None:
            return True
        if done < step:
            return False
        lead = done - record.n
        if record.epoch == bar.epoch:
            return lead <= bar.lead
        return record.epoch > bar.epoch and step - LAG <= lead <= step + LAG

    def _is_old_text(self, record: StepRecord, done: int) -> bool:
        """Tell text shown again from a restart, whose bar begins anew, has another lead or an earlier clock."""
        bar = self._bar
        if bar is None or record.n <= LAG or not bar.lead - LAG <= done - record.n <= bar.lead:
            return False
        then = self.pace.elapsed_at(done)
        return then is None or record.elapsed is None or record.elapsed >= then / 2

    def _begin_attempt(self, record: StepRecord, done: int, now: float) -> None:
        self.lost_steps += max(0, (self.step or 0) - self._begun_at(record, done))
        self.step = self._bar = None
        self.pace.clear()
        self._advance(record, done, now)

    def _begun_at(self, record: StepRecord, done: int) -> int:
        """Return the step that a restart went back to: as restored, else by its bar.

        After a resume the bar begins anew or, with Lightning 2.4, goes on.
        """
        if self._restored is not None:
            return self._restored
        goes_on = record.n > LAG and done - record.n <= LAG
        return max(0, done - 1 if goes_on else done - record.n)

    def _advance(self, record: StepRecord, done: int, now: float) -> None:
        bar = self._bar
        if bar is None or bar.epoch != record.epoch:
            self._bar = _Bar(record.epoch, done - record.n)
        else:
            bar.lead = max(bar.lead, done - record.n)
        self._log_total = record.total or self._log_total
        self._log_batch = record.global_batch_size or self._log_batch
        if record.consumed_samples is not None and record.consumed_samples < math.inf:
            self._samples = (record.consumed_samples, record.samples_error)
        if self.step is not None and done <= self.step:
            return
        self.step = done
        self._fresh = False
        self.best_step = max(self.best_step, done)
        if self.attempt_first_step is None:
            self.attempt_first_step = done
            self.pace.begin(record)
        if self._saves and self.last_step_at is not None:
            self.longest_save = max(self.longest_save, now - self.last_step_at)
        self._saves = False
        self.last_step_at = now
        if self.incidents:
            self._retire_incidents()
        if record.loss is not None:
            self._loss(record.loss, done)
        seconds = self.pace.add(record, done)
        self.series.append(Point(done, record.loss, seconds, self.attempt))

    def _loss(self, loss: float, done: int) -> None:
        self.loss = loss
        if math.isfinite(loss):
            self.nan_in_a_row = 0
            return
        self.nan_total += 1
        if self.nan_in_a_row == 0:
            self._nan_from = done
            self.nan_line = f"step {done}: reduced_train_loss={loss}"
        self.nan_in_a_row = done - self._nan_from + 1

    def _notice(self, notice: Notice, now: float) -> None:
        kind = notice.kind
        if kind is Kind.RANK:
            self._rank(notice)
        elif kind is Kind.REGISTERED:
            self.registered = notice
            self.world_size = notice.value
        elif kind is Kind.SAVED:
            self.checkpoints += 1
            self.checkpoint_step = self.step if notice.value is None else notice.value
            self.checkpoint_at = now
            self.not_saved = None
            self._saves = True
        elif kind is Kind.NOT_SAVED:
            self.not_saved = notice
        elif kind is Kind.RESTORED:
            if not self._fresh:
                self.new_process()
            self._restored = notice.value if self._restored is None else self._restored
        elif kind is Kind.FINISHED:
            self.finished = notice.line
            self._reached(notice.value)
        elif kind is Kind.FINISHED_BEFORE:
            self.finished_before = notice.line
            self._reached(notice.value)
        elif kind is Kind.TIME_LIMIT:
            self.stopped = notice.line
        elif kind is Kind.FAILED_RANK:
            self._blame(notice)
        else:
            self._incident(notice)

    def _incident(self, notice: Notice) -> None:
        """Keep the first line of a kind as evidence; what ended the training outranks what was complained of before."""
        kind, line, rank = notice.kind, notice.line, notice.rank
        if kind is Kind.CRASH and kind not in self.incidents and HYDRA in line:
            self.incidents.pop(Kind.TRACEBACK, None)
        open_ = self.incidents.get(Kind.TRACEBACK)
        if open_ and HEADER in open_.line and notice.raised and kind is not Kind.TRACEBACK:
            del self.incidents[Kind.TRACEBACK]  # this line is its exception
        seen = self.incidents.get(kind)
        if seen is None:
            self.incidents[kind] = Incident(kind, line, rank, 1, self.step)
        elif HEADER in line:
            return
        elif line != seen.line and line.startswith(seen.line):  # the same exception, with more of its words
            self.incidents[kind] = replace(seen, line=line)
        elif HEADER in seen.line or WRAPPER in seen.line:
            self.incidents[kind] = replace(seen, line=line, rank=seen.rank if rank is None else rank)
        else:
            named = rank if seen.rank is None else seen.rank
            self.incidents[kind] = replace(seen, count=seen.count + 1, rank=named)

    def _reached(self, steps: int | None) -> None:
        """Take the trainer's word for how many steps are done, where no step of this process says it."""
        if steps is not None and self.attempt_first_step is None:
            self.step = max(self.step or 0, steps)
            self.best_step = max(self.best_step, self.step)
            self._log_total = self._log_total or steps

    def _rank(self, notice: Notice) -> None:
        rank, world_size = notice.rank, notice.value
        if rank is None or world_size is None or rank >= world_size:
            return
        again = rank in self.ranks
        if self.registered is not None or not self._fresh or (again and self.incidents):
            self.new_process()
        elif again:
            self.duplicate_rank = notice
        self.ranks.add(rank)
        self.world_size = world_size

    def _blame(self, notice: Notice) -> None:
        for kind, incident in self.incidents.items():
            if incident.rank is None:
                self.incidents[kind] = replace(incident, rank=notice.rank)

    def _retire_incidents(self) -> None:
        """Training went on, or began again: what the log complained about before is history."""
        room = 100 - len(self.past)
        self.past += list(self.incidents.values())[:room]
        self.incidents.clear()

    @property
    def restarts(self) -> int:
        """How often the training process began again."""
        return self.attempt - 1

    @property
    def max_steps(self) -> int | None:
        """trainer.max_steps: as set, else the bar's total, unless the run is already past it."""
        if self.settings.max_steps is not None:
            return self.settings.max_steps
        total = self._log_total
        return None if total is None or (self.step or 0) > total + 1 else total

    @property
    def completed(self) -> int | None:
        """Steps completed, never above max_steps: some versions show the full count at the end."""
        limit = self.max_steps
        return self.step if self.step is None or limit is None else min(self.step, limit)

    @property
    def global_batch_size(self) -> int | None:
        """Samples a step: as set, else as 2.x prints it."""
        return self.settings.global_batch_size or self._log_batch

    @property
    def is_finished(self) -> bool:
        """All steps are done, or the trainer says so."""
        limit = self.max_steps
        return bool(self.finished or self.finished_before) or (
            limit is not None and self.step is not None and self.step >= limit
        )

    @property
    def consumed_samples(self) -> tuple[int, bool] | None:
        """Samples seen, and whether that is approximate (the bar rounds to three digits)."""
        if self.completed is not None and self.global_batch_size is not None:
            return self.completed * self.global_batch_size, False
        if self._samples is None:
            return None
        return int(self._samples[0]), self._samples[1] > 0

    def speed(self) -> Speed | None:
        """Rates over the last steps of this attempt, or None before the first."""
        times = self.pace.times()
        if not times:
            return None
        middle = median(times)
        s = self.settings
        samples = self.global_batch_size / middle if self.global_batch_size else None
        per_gpu = samples / s.gpus if samples is not None and s.gpus else None
        return Speed(
            median=middle,
            p95=times[min(len(times) - 1, math.ceil(0.95 * len(times)) - 1)],
            samples=samples,
            samples_per_gpu=per_gpu,
            tokens=(samples * s.tokens_per_sample if samples is not None and s.tokens_per_sample else None),
            mfu=(per_gpu * s.flops_per_sample / s.peak_flops if per_gpu is not None and s.flops_per_sample else None),
            of_plan=s.planned_step_seconds / middle if s.planned_step_seconds else None,
        )

    @property
    def is_saving(self) -> bool:
        """A checkpoint was written after the last step: the next one waits for it."""
        return self._saves

    def seconds_left(self) -> float | None:
        """Time to max_steps at the pace of the bar's clock, saving included, else by step time."""
        limit, step, speed = self.max_steps, self.completed, self.speed()
        if limit is None or step is None:
            return None
        paces = [pace for pace in (speed.median if speed else None, self.pace.by_clock()) if pace is not None]
        return (limit - step) * max(paces) if paces else None


def _continues(first: StepRecord, first_done: int, record: StepRecord, done: int) -> bool:
    """Tell whether the second record may directly follow the first, in the same process."""
    if record.epoch == first.epoch:
        return record.n >= first.n and 0 <= done - first_done <= record.n - first.n + LAG
    return 0 <= done - first_done <= record.n + LAG
