"""When a sign becomes an alarm."""

from dataclasses import dataclass

from neva_pod.monitor.run import Run


@dataclass(frozen=True)
class Limits:
    """When a sign becomes an alarm.

    Attributes:
        nan_in_a_row: steps with nothing but NaN or infinite losses; a single one can pass (a skipped
            fp16 step).
        random_share: a loss above this share of ln(vocabulary) is no better than guessing.
        random_step: from which step on that counts.
        stall_steps: median step times without a new step.
        stall_lines: the same in lines of the log, where the bar is drawn every so many steps.
        stall_seconds: never call a stall before this.
        save_seconds: the same while a checkpoint is written, or twice the longest one so far.
        start_seconds: time before the first step, for loading and for DataLoader workers, which NeMo spawns
            and which import NeMo each: seen 190 s with 8 of them, 85 s with 2 (one H100, 16 cores).
        create_seconds: time in which a node creates a pod's containers: images of 20 GB are pulled and unpacked.
        slow_share: share of the planned speed below which the run is slow.
        slow_steps: steps before speed is judged ...
        slow_seconds: ... or this much training, if that is sooner (slow steps).
        slow_lines: step times that make a median: one of them may be that of a warm-up.
        checkpoint_share: checkpoint intervals without any checkpoint.

    """

    nan_in_a_row: int = 3
    random_share: float = 0.9
    random_step: int = 50
    stall_steps: float = 10
    stall_lines: float = 3
    stall_seconds: float = 300
    save_seconds: float = 900
    start_seconds: float = 2700
    create_seconds: float = 900
    slow_share: float = 0.8
    slow_steps: int = 20
    slow_seconds: float = 600
    slow_lines: int = 3
    checkpoint_share: float = 1.5

    def stall_after(self, run: Run) -> float:
        """Seconds without a new step that make a stall."""
        speed = run.speed()
        if run.attempt_first_step is None or speed is None:
            return self.start_seconds
        line = speed.median * run.pace.steps_a_line
        limit = max(self.stall_seconds, self.stall_steps * speed.median, self.stall_lines * line)
        return max(limit, self.save_seconds + line, 2 * run.longest_save) if run.is_saving else limit


DEFAULT_LIMITS = Limits()
