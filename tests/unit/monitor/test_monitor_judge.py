"""The judgements: each from a log, with its evidence; and what is no alarm."""

import math
from typing import Any

import pytest

from neva_pod.monitor.judge import CODES, Judgement, Severity, Status, exit_code, judge, status
from neva_pod.monitor.limits import Limits
from neva_pod.monitor.records import RunSettings
from neva_pod.monitor.run import Run
from tests.unit.monitor.nemo_logs import HYDRA, REGISTERED, SAMPLES, TORCHRUN, bar, clock, parse, ranks, run_of

TRAINING = "".join(bar(n) for n in range(60))


def judgements(text: str, now: float = 1.0, **settings: Any) -> list[Judgement]:
    return judge(run_of(text, **settings), now)


def only(found: list[Judgement]) -> Judgement:
    (judgement,) = found
    return judgement


def test_healthy() -> None:
    """Nothing to say of a run that trains."""
    run = run_of(TRAINING, global_batch_size=256, gpus=8, planned_step_seconds=0.5)
    assert judge(run, 1.0) == []
    assert exit_code([]) == 0
    assert status(run, []) is Status.TRAINING


def test_starting() -> None:
    """Before the first step, also with the benign error of NeMo (D07)."""
    run = run_of(ranks(8) + REGISTERED.format(8) + SAMPLES["S10"] + "\n")
    assert status(run, judge(run, 1.0)) is Status.STARTING
    assert judge(run, 1.0) == []


@pytest.mark.parametrize("text", [bar(2169), TRAINING + "\n`Trainer.fit` stopped: `max_steps=60` reached.\n"])
def test_finished(text: str) -> None:
    """By the last step, or because the trainer says so; noise at the end is no failure."""
    found = only(judgements(text + "\n[rank1]: ValueError: at exit\n"))
    assert (found.code, found.level) == ("finished", Severity.OK)
    assert exit_code([found]) == 0


def test_l09_nan_in_a_row() -> None:
    """L09: as many as set, in a row; one that passes is no alarm."""
    text = TRAINING + bar(60, loss=math.nan) + bar(61, loss=math.nan)
    assert judgements(text) == []
    found = only(judgements(text + bar(62, loss=math.inf)))
    assert (found.code, found.level) == ("nan", Severity.FAILED)
    assert found.evidence == "step 61: reduced_train_loss=nan"
    assert "FAILED(nan)" in found.title
    run = run_of(text)
    assert [j.code for j in judge(run, 1.0, Limits(nan_in_a_row=2))] == ["nan"]


def test_l09_nan_crash_line() -> None:
    """L09: the line of one rank is enough."""
    found = only(judgements(TRAINING + "\n7: Unexpected result nan (message='found NaN in local grad norm')\n"))
    assert (found.code, found.level, found.rank) == ("nan", Severity.FAILED, 7)


def test_d12_random_loss() -> None:
    """D12: above 0.9 ln(vocabulary) from step 50 on; not before, and not below."""
    assert judgements("".join(bar(n, loss=10.4) for n in range(49))) == []
    found = only(judgements("".join(bar(n, loss=9.34) for n in range(50))))
    assert (found.code, found.level) == ("random-loss", Severity.WARNING)
    assert "9.34" in found.evidence
    assert "LLM weights" in found.cause
    assert judgements("".join(bar(n, loss=9.33) for n in range(50))) == []
    assert judgements("".join(bar(n, loss=10.4) for n in range(50)), vocab_size=128256) == []


def test_stalled() -> None:
    """No step for ten median steps, but never less than five minutes."""
    assert judgements(TRAINING, now=300.0) == []
    run = run_of(TRAINING)
    found = only(judge(run, 301.0))
    assert (found.code, found.level) == ("stalled", Severity.FAILED)
    assert status(run, [found]) is Status.STALLED
    slow = "".join(bar(n, seconds=60.0) for n in range(20))
    assert judgements(slow, now=599.0) == []
    assert only(judgements(slow, now=601.0)).code == "stalled"


def test_loading_may_take_long() -> None:
    """Before the first step, and again after a restart, the limit is that of loading."""
    assert judgements(ranks(8) + REGISTERED.format(8), now=2600.0) == []
    assert only(judgements(ranks(8) + REGISTERED.format(8), now=2800.0)).code == "stalled"
    assert judgements(TRAINING + "\n" + ranks(8), now=2600.0) == []


def test_slow() -> None:
    """Below 80 % of the planned speed, once enough steps are timed."""
    text = "".join(bar(n, seconds=2.0) for n in range(30))
    found = only(judgements(text, planned_step_seconds=1.24))
    assert (found.code, found.level, found.title) == ("slow", Severity.WARNING, "62% of planned speed")
    assert judgements(text, planned_step_seconds=1.61) == []
    few = "".join(bar(n, seconds=2.0) for n in range(10))
    assert judgements(few, planned_step_seconds=1.0) == []


FAILURES = [
    ("gpu-error", "NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.", None),
    ("gpu-error", "[rank4]: RuntimeError: CUDA error: an illegal memory access was encountered", 4),
    ("gpu-error", "[rank0]: RuntimeError: CUDA error: device-side assert triggered", 0),
    ("crash", "Fatal Python error: Segmentation fault", None),
    ("gpu-oom", "[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", 3),
    ("host-oom", "traceback : Signal 9 (SIGKILL) received by PID 77", None),
    ("nccl-timeout", "[Rank 5] Watchdog caught collective operation timeout: WorkNCCL(", 5),
    ("nccl-error", "RuntimeError: NCCL error in: ProcessGroupNCCL.cpp:1269, ncclSystemError", None),
    ("ranks", "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000", 1),
    ("ranks", "DistStoreError: Timed out after 61 seconds. 1/2 clients joined", None),
    ("rendezvous", "socket.gaierror: [Errno -2] Name or service not known", None),
    ("shared-memory", "DataLoader worker (pid 5) is killed by signal: Bus error.", None),
    ("disk-full", "OSError: [Errno 28] No space left on device", None),
    ("crash", "Error executing job with overrides: []", None),
]  # fmt: skip


@pytest.mark.parametrize(("code", "line", "rank"), FAILURES)
def test_failures(code: str, line: str, rank: int | None) -> None:
    """Each with its line as evidence, a cause and a next step; over once steps follow."""
    found = only(judgements(TRAINING + f"\n{line}\n"))
    assert (found.code, found.level, found.evidence, found.rank) == (code, Severity.FAILED, line, rank)
    assert found.cause
    assert found.action
    assert exit_code([found]) == 1
    assert judgements(TRAINING + f"\n{line}\n" + bar(60)) == []


def test_cause_before_consequence() -> None:
    """Of one crash's lines the most telling comes first."""
    text = (
        "[rank1]: Traceback (most recent call last):\n"
        "[rank1]: torch.OutOfMemoryError: CUDA out of memory.\n"
        "[rank0]: RuntimeError: NCCL error in: x, ncclRemoteError\n"
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n"
    )
    found = judgements(text)
    assert [j.code for j in found] == ["gpu-oom", "nccl-error", "crash"]
    assert found[-1].evidence.endswith("ChildFailedError:")


def test_an_exception_alone_is_a_warning_until_the_end() -> None:
    """A caught exception does no harm; one that ends the log did."""
    run = run_of("ModuleNotFoundError: No module named 'apex'\n")
    assert [(j.code, j.level) for j in judge(run, 1.0)] == [("crash", Severity.WARNING)]
    run.end("end of the input")
    assert ("crash", Severity.FAILED) in [(j.code, j.level) for j in judge(run, 1.0)]


def test_still_trying_is_a_warning() -> None:
    """Retries of the rendezvous are usual for a while."""
    line = "[W socket.cpp:601] [c10d] The client socket has failed to connect to [neva]:23456"
    found = only(judgements(line + "\n"))
    assert (found.code, found.level) == ("rendezvous", Severity.WARNING)


def test_duplicate_rank() -> None:
    """B04: the same node rank twice, seen in a log of all nodes."""
    found = only(judgements(ranks(2, of=4) + ranks(2, of=4)))
    assert (found.code, found.level, found.rank) == ("ranks", Severity.FAILED, 1)


def test_world_size_is_not_the_number_of_gpus() -> None:
    """Each node trains alone, or ranks are missing."""
    found = only(judgements(ranks(8) + REGISTERED.format(8), gpus=128))
    assert (found.code, found.level) == ("ranks", Severity.FAILED)
    assert "8 ranks" in found.title
    assert "128" in found.title


def test_checkpoint_not_saved() -> None:
    """D01: val_loss is monitored and never there; harmless once a checkpoint was saved."""
    line = "\nEpoch 0, global step 60: 'val_loss' was not in top 10\n"
    found = only(judgements(TRAINING + line))
    assert (found.code, found.level) == ("checkpoint", Severity.WARNING)
    saved = "\nEpoch 0, global step 50: 'step' reached 50 (best 50), saving model to '/r/x'\n"
    assert judgements(TRAINING + saved + line) == []


def test_no_checkpoint_in_time() -> None:
    """More than 1.5 intervals without one; off means off."""
    assert judgements(TRAINING, checkpoint_every=40) == []
    found = only(judgements(TRAINING, checkpoint_every=30))
    assert found.code == "checkpoint"
    assert "checkpoint.everyNSteps" in found.action
    assert "every_n_train_steps" not in found.action
    assert judgements(TRAINING, checkpoint_every=0) == []


def test_lost_progress() -> None:
    """D04: a restart that begins from scratch, until it is past where it was."""
    text = TRAINING + ranks(8) + REGISTERED.format(8)
    again = "".join(bar(n) for n in range(30))
    found = only(judgements(text + again))
    assert (found.code, found.level) == ("lost-progress", Severity.WARNING)
    assert "60 steps" in found.title
    assert judgements(text + "".join(bar(n) for n in range(61))) == []


def test_ends() -> None:
    """A log that stops before the last step, by time limit, by failure of the job."""
    limit = "Time limit reached. Elapsed time is 3:50:00. Signaling Trainer to stop.\n"
    assert only(judgements(TRAINING + "\n" + limit)).code == "ended-early"
    run = run_of(TRAINING)
    run.end("end of the input")
    assert [(j.code, j.level) for j in judge(run, 1e6)] == [("ended-early", Severity.WARNING)]
    assert status(run, judge(run, 1e6)) is Status.ENDED
    run.end("pytorchjob neva: Failed", failed=True)
    assert status(run, judge(run, 1e6)) is Status.FAILED


def test_terminated() -> None:
    """Told to stop: worth a look, not a failure of the training."""
    found = only(judgements(TRAINING + "\nReceived Signals.SIGTERM death signal, shutting down\n"))
    assert (found.code, found.level) == ("terminated", Severity.WARNING)
    assert exit_code([found]) == 3


def test_worst_first_and_only_known_codes() -> None:
    """Failures before warnings; every code is listed for scripts and metrics."""
    run = Run(RunSettings(planned_step_seconds=0.1))
    run.update(parse(TRAINING + "\nOSError: No space left on device\n"), 0.0)
    found = judge(run, 1.0)
    assert [j.level for j in found] == [Severity.FAILED, Severity.WARNING]
    assert {j.code for j in found} <= set(CODES)
    assert status(run, found) is Status.FAILED


def test_x01_padded_nan_is_judged() -> None:
    """X01: ``nan.0``, ``inf.0`` and ``-inf.`` are losses; the same in another metric is no alarm."""
    for bad in ("nan.0", "inf.0", "-inf."):
        text = "".join(bar(n).replace("loss=2.500", f"loss={bad}") for n in range(60, 63))
        assert bad in text
        assert only(judgements(TRAINING + text)).code == "nan"
        assert status(run_of(text), judgements(text)) is Status.FAILED
        other = "".join(bar(n).replace(", global_step", f", grad_norm={bad}, global_step") for n in range(60, 70))
        assert judgements(TRAINING + other) == []


def test_u09_slow_is_judged_by_steps_and_time() -> None:
    """U09: 136 steps with a line each ten; three slow steps a line each; but no two lines are enough."""
    lines = [bar(n, total=136, seconds=2.0) for n in range(9, 130, 10)]
    assert only(judgements("".join(lines), planned_step_seconds=1.0)).code == "slow"
    assert only(judgements("".join(lines[:3]), planned_step_seconds=1.0)).code == "slow"
    assert judgements("".join(lines[:2]), planned_step_seconds=1.0) == []
    long = "".join(bar(n, seconds=200.0) for n in range(3))
    assert only(judgements(long, planned_step_seconds=100.0)).code == "slow"


def test_u09_a_line_each_ten_steps_is_no_stall() -> None:
    """A line comes after ten slow steps only; three times that is a stall."""
    lines = "".join(bar(n, seconds=60.0) for n in range(9, 130, 10))
    assert judgements(lines, now=1799.0) == []
    assert only(judgements(lines, now=1801.0)).code == "stalled"


WATCHDOG = (
    "[rank5]:[E ProcessGroupNCCL.cpp:1414] [PG 0 Rank 5] Process group watchdog thread terminated with exception: {}"
)
ABORTED = TORCHRUN.format(code=-6, rank=5, signal="Signal 6 (SIGABRT) received by PID 206")


@pytest.mark.parametrize(
    "cause",
    [
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: unspecified launch failure",
        "CUDA error: uncorrectable NVLink error detected during the execution",
    ],
)
@pytest.mark.parametrize("after", ["", ABORTED])
def test_n09_a_broken_gpu(cause: str, after: str) -> None:
    """N09: the watchdog's line is the evidence, with rank and what to do, whatever comes after it."""
    said = WATCHDOG.format(cause)
    others = "[rank2]: torch.distributed.DistBackendError: NCCL error in: x, remote process exited\n" if after else ""
    found = judgements(f"{TRAINING}\n{said}\nterminate called\n  what():  {said}\n{others}{after}")
    assert (found[0].code, found[0].level, found[0].rank) == ("gpu-error", Severity.FAILED, 5)
    assert cause in found[0].evidence
    assert "scheduling.avoidNodes" in found[0].action
    assert {j.code for j in found[1:]} <= {"nccl-error", "crash"}


CHAIN = """KeyError: 'state_dict'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "x.py", line 1, in f
RuntimeError: cannot load"""


@pytest.mark.parametrize(
    ("raised", "evidence"),
    [
        ("ValueError: mbs", "ValueError: mbs"),
        (CHAIN, "KeyError: 'state_dict'"),
        ("omegaconf.errors.MissingMandatoryValue: Missing mandatory value: a", None),
        ("apex.Unsupported: no", None),
        (
            "RuntimeError: Error(s) in loading state_dict for M:\n\tMissing key(s): x",
            "RuntimeError: Error(s) in loading",
        ),
        ("AssertionError", None),
    ],
)
@pytest.mark.parametrize("rank", ["", "[rank3]: "])
def test_r07_the_exception_under_hydra(rank: str, raised: str, evidence: str | None) -> None:
    """R07: the first exception that ended the training, its rank, not what Hydra and torchrun say about it."""
    caught = "Traceback (most recent call last):\n  File\nModuleNotFoundError: No module named 'apex'\n"
    failed = "".join(f"{rank}{line}\n" for line in HYDRA.format(raised).splitlines())
    for end in ("", TORCHRUN.format(code=1, rank=3, signal="To enable traceback see: x")):
        found = only(judgements(caught + failed + end))
        assert (found.code, found.level) == ("crash", Severity.FAILED)
        assert (evidence or raised) in found.evidence
        assert found.rank == (3 if rank or end else None)


def test_r07_a_traceback_whose_exception_has_its_own_finding_is_no_second_one() -> None:
    text = TRAINING + "\n[rank3]: Traceback (most recent call last):\n[rank3]:   File x\n"
    found = only(judgements(text + "[rank3]: RuntimeError: NCCL error: unhandled system error\n"))
    assert (found.code, found.rank) == ("nccl-error", 3)


STOPPED = "`Trainer.fit` stopped: `max_steps=20` reached.\n"


def test_r08_a_rerun_of_a_finished_run() -> None:
    """R08: no step was left to do; NeMo's own refusal says the same, but the job failed with it."""
    restored = "Restoring states from the checkpoint path at /r/neva--step=20-last.ckpt\n"
    begun = ranks(8) + REGISTERED.format(8) + restored
    for text in (STOPPED, begun + STOPPED, bar(19, total=20) + "\n" + STOPPED + begun + STOPPED):
        run = run_of(text)
        found = only(judge(run, 1.0))
        assert (found.code, found.level, run.completed, run.max_steps) == ("finished", Severity.OK, 20, 20)
        assert found.title == "finished before: all 20 steps were already done, this start ran none"
    refused = "ValueError: Found /r/x--step=20-end indicating that the last training run has already completed."
    run = run_of(HYDRA.format(refused) + TORCHRUN.format(code=1, rank=0, signal="x"))
    run.end("pytorchjob neva: Failed", failed=True)
    found = only(judge(run, 1.0))
    assert (found.code, found.level, status(run, [found])) == ("finished", Severity.WARNING, Status.FINISHED)
    assert "finished before: all 20 steps" in found.title
    assert only(judgements(TRAINING + "\n" + STOPPED)).title == "finished: 60 steps"


def test_r10_start_of_workers_and_saves_are_no_stall() -> None:
    """R10: 190 s before a step are usual with 8 DataLoader workers; a save may take longer than a hang is given."""
    assert judgements(TRAINING, now=190.0) == []
    assert judge(run_of(ranks(8)), 190.0, Limits(stall_seconds=60)) == []
    saving = TRAINING + "\nEpoch 0, global step 60: 'step' reached 60 (best 60), saving model to '/r/x'\n"
    assert judgements(saving, now=890.0) == []
    assert only(judgements(saving, now=910.0)).code == "stalled"
    run = run_of(saving)
    run.update(parse(bar(60)), 800.0)
    assert judge(run, 1090.0) == []
    assert only(judge(run, 1110.0)).code == "stalled"
    run.update(parse("\nEpoch 0, global step 61: 'step' reached 61 (best 61), saving model to '/r/x'\n"), 810.0)
    assert judge(run, 2390.0) == []
    assert only(judge(run, 2410.0)).code == "stalled"


RAISED = [
    ("RuntimeError: Error(s) in loading state_dict for MCoreNevaModel:\n\tsize mismatch for embedding.weight", "size"),
    ("hydra.errors.InstantiationException: Error in call to target 'x':\nTypeError(\"unexpected keyword\")", "keyword"),
    (
        "FileNotFoundError: Caught FileNotFoundError in DataLoader worker process 3.\n"
        "Original Traceback (most recent call last):\n"
        '  File "fetch.py", line 58, in fetch\n'
        "FileNotFoundError: [Errno 2] No such file or directory: '/data/images/1.jpg'",
        "/data/images/1.jpg",
    ),
    ("AssertionError\n\nSet the environment variable", "AssertionError"),
]


@pytest.mark.parametrize(("raised", "said"), RAISED)
def test_r07_the_evidence_says_what_is_the_matter(raised: str, said: str) -> None:
    """R07: where the exception's own line only announces it, what follows is part of the evidence."""
    log = TRAINING + "\n" + HYDRA.format(raised) + TORCHRUN.format(code=1, rank=0, signal="x")
    found = only(judgements(log))
    assert (found.code, found.level) == ("crash", Severity.FAILED)
    assert said in found.evidence
    assert "nothing caught" in found.cause


def test_r07_a_signal_is_called_one() -> None:
    """R07: a process that died of a signal left no exception to look for."""
    found = only(judgements(TRAINING + "\n" + TORCHRUN.format(code=-11, rank=3, signal="Signal 11 (SIGSEGV) received")))
    assert (found.code, found.title, found.rank) == ("crash", "a process died from a signal", 3)


def test_r07_stopped_by_sigterm_is_no_exception() -> None:
    """R07: torchrun raises when it is told to stop."""
    text = (
        "\nReceived Signals.SIGTERM death signal, shutting down workers\n"
        "Traceback (most recent call last):\n"
        '  File "/usr/local/bin/torchrun", line 33, in <module>\n'
        "torch.distributed.elastic.multiprocessing.api.SignalException: Process 140 got signal: 15\n"
    )
    assert only(judgements(TRAINING + text)).code == "terminated"


@pytest.mark.parametrize(("seconds", "every"), [(60.0, 20), (20.0, 50), (30.0, 68), (2.0, 1)])
def test_u09_the_wait_for_the_second_line_is_no_stall(seconds: float, every: int) -> None:
    """U09: the first line tells how many steps are between lines; a hang is found after three of them."""
    run = run_of("")
    run.update(parse(bar(every - 1, total=136, seconds=seconds)), 0.0)
    assert judge(run, 1.5 * every * seconds) == []
    assert only(judge(run, max(301.0, 3.5 * every * seconds, 11 * seconds))).code == "stalled"


def test_u09_a_bar_that_goes_on_does_not_hide_a_hang() -> None:
    """U09: after a resume its count is high from the first line on; its clock is not."""
    text = bar(2000, n=2001, seconds=0.54).replace(clock(20 + 2001 * 0.54), "00:25")
    run = run_of(text)
    assert only(judge(run, 301.0)).code == "stalled"


def test_u09_nan_is_counted_in_steps() -> None:
    """U09, X01: two lines of NaN, ten steps apart, are more than three steps."""
    text = "".join(bar(n, loss=math.nan if n > 100 else 2.5) for n in range(9, 120, 10))
    found = only(judgements(text))
    assert (found.code, found.title) == ("nan", "FAILED(nan): loss is not finite for 11 steps")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("RuntimeError: CUDA error: Invalid access of peer GPU memory over nvlink or a hardware error", "gpu-error"),
        ("RuntimeError: CUDA error: hardware stack error", "gpu-error"),
        ("RuntimeError: No CUDA GPUs are available", "gpu-error"),
        ("RuntimeError: CUDA error: no CUDA-capable device is detected", "gpu-error"),
        ("nvmlInit_v2() failed: Driver/library version mismatch", "gpu-error"),
        ("NCCL WARN Error: failed to extend /dev/shm/nccl-s to 9637892 bytes", "shared-memory"),
        ("numpy.core._exceptions._ArrayMemoryError: Unable to allocate 12.0 GiB for an array", "host-oom"),
        ("RuntimeError: unable to mmap 13476831232 bytes from file </m>: Cannot allocate memory (12)", "host-oom"),
        ("RuntimeError: Timed out initializing process group in store based barrier on rank: 3, for key: k", "ranks"),
    ],
)
def test_n09_other_words_for_broken_hardware_and_memory(line: str, code: str) -> None:
    """N09: CUDA's other hardware errors are findings of their own; so is what else has a cause outside the code."""
    found = only(judgements(TRAINING + f"\n{line}\n"))
    assert (found.code, found.level, found.evidence) == (code, Severity.FAILED, line)


HEALTHY = [
    ("[rank0]: RuntimeError: CUDA error: no kernel image is available for execution on the device", "gpu-error",
     "image.tag"),
    ("[rank0]: RuntimeError: CUDA error: device kernel image is invalid", "gpu-error", "image.tag"),
    ("[rank0]: RuntimeError: CUDA error: invalid device ordinal", "ranks", "training.gpusPerNode"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "code", "action"), HEALTHY)
@pytest.mark.parametrize("after", ["", ABORTED])
def test_n09_a_healthy_gpu_is_not_blamed(line: str, code: str, action: str, after: str) -> None:
    """N09: an image for another GPU, or more ranks than GPUs: no node is to be avoided for it."""
    found = judgements(TRAINING + f"\n{line}\n{after}")
    assert (found[0].code, found[0].level, found[0].evidence, found[0].rank) == (code, Severity.FAILED, line, 0)
    assert action in found[0].action
    assert "healthy" in found[0].cause
    assert "avoidNodes" not in found[0].action
    assert {j.code for j in found[1:]} <= {"crash"}


@pytest.mark.parametrize(
    "line",
    [
        "CUDA_ERROR_ECC_UNCORRECTABLE",
        "Uncorrectable ECC error",
        "Failed to initialize NVML: Unknown Error",
        "cuda runtime error (999)",
        "CUDA unknown error",
    ],
)
def test_n09_a_broken_gpu_is_named_with_its_rank(line: str) -> None:
    """N09: a line without a rank has that of the process which torchrun names."""
    found = judgements(f"{TRAINING}\n{line}\n{ABORTED}")
    assert [(j.code, j.rank) for j in found] == [("gpu-error", 5), ("crash", 5)]
    assert found[0].evidence == line
    assert "scheduling.avoidNodes" in found[0].action
    assert "broken hardware" in found[0].cause


def test_n09_a_driver_that_does_not_match() -> None:
    """N09: no broken hardware: one node's driver, or an image for another one."""
    line = "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 804: forward compatibility was attempted"
    found = only(judgements(f"{TRAINING}\n{line}\n"))
    assert (found.code, found.level, found.evidence) == ("gpu-error", Severity.FAILED, line)
    assert "driver" in found.title
    assert "image.tag" in found.action


COMPLETION = (
    "neva-worker-1:206:512 [3] NCCL WARN NET/IB : Got completion from peer 10.0.0.1<43532> with status=12 opcode=0 "
    "len=0 vendor err 129"
)


@pytest.mark.parametrize("line", [COMPLETION, "x [3] NCCL WARN Call to ibv_modify_qp failed with error timed out"])
def test_n09_a_broken_link(line: str) -> None:
    """N09: before what it leads to; but a peer that died of something else is named first."""
    led_to = "[rank5]: DistBackendError: NCCL error in: x, remote process exited or there was a network error\n"
    text = f"{TRAINING}\n{line}\n{led_to}{ABORTED}"
    found = judgements(text)
    assert [(j.code, j.rank) for j in found] == [("network-error", 5), ("nccl-error", 5), ("crash", 5)]
    assert found[0].evidence == line
    assert "scheduling.avoidNodes" in found[0].action
    assert judgements(text + "[rank2]: torch.OutOfMemoryError: CUDA out of memory.\n")[0].code == "gpu-oom"


def test_n09_a_port_that_goes_down_is_a_warning() -> None:
    """N09: NCCL may go on; with a crash it is a failure."""
    line = "x [3] NCCL WARN NET/IB : mlx5_3:1 Got async event : port error"
    found = only(judgements(f"{TRAINING}\n{line}\n"))
    assert (found.code, found.level) == ("network-error", Severity.WARNING)
    assert judgements(f"{TRAINING}\n{line}\n{ABORTED}")[0].level is Severity.FAILED


def test_n09_rdma_that_the_pod_may_not_use() -> None:
    """N09: memory that cannot be registered is no broken link."""
    found = only(judgements(f"{TRAINING}\nx NCCL WARN Call to ibv_reg_mr failed with error Cannot allocate memory\n"))
    assert (found.code, found.level) == ("nccl-error", Severity.FAILED)
    assert "IPC_LOCK" in found.action
    assert "avoidNodes" not in found.action
