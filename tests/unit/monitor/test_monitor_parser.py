"""The parser: every sample of the field, and everything that can happen to a line."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neva_pod.monitor.notices import MAX_EVIDENCE
from neva_pod.monitor.parser import MAX_LINE, MAX_RECORD, LogParser
from neva_pod.monitor.records import Kind, Notice, StepRecord
from tests.unit.monitor.nemo_logs import (
    REGISTERED,
    SAMPLES,
    SOURCE_DOCUMENT,
    bar,
    drawn,
    padded,
    parse,
    ranks,
    steps,
)


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ("S1", StepRecord(0, 795, 77225, 794, 0, 3.09, 41.36, 1.63e6, 5000, 9 * 3600 + 478, None)),
        ("S2", StepRecord(0, 2, 128, 1, 0, 10.6, 23.7, 256, 0, 47, None)),
        ("S3", StepRecord(0, 58, 128, 56, 0, 6.82, 74.4, 1.19e5, 500, 4445, None)),
        ("S4", StepRecord(0, 2000, 2000, 2000, 5, 0.139, 68.7, 2.56e5, 500, 156294, None)),
        ("S5", StepRecord(0, 2000, 603000, 2000, 5, 2.6, 1.9, 1.28e6, 5000, 3797, None)),
        ("S6", StepRecord(0, 6024, 10000, 6023, 0, 0.0252, 2.59, 96384, 0, 16014, None)),
        ("S7", StepRecord(1, 1, None, 1, 0, 0.674, 3.37, 128, 0, 4, None)),
        ("S8", StepRecord(0, 200, 4000, 199, 0, 10.85, 1.085, 4800, 0, None, 24)),
        ("S9", StepRecord(0, 122, 150, 121, 0, 1.288, 0.03163, 122, 0, None, 1)),
    ],
)
def test_samples(sample: str, expected: StepRecord) -> None:
    """S1 to S9: one step each, whatever is glued around it."""
    assert steps(SAMPLES[sample]) == [expected]


def test_s4_glued_text_is_no_checkpoint() -> None:
    """S4: "Removing checkpoint" is not a saved one."""
    assert len(parse(SAMPLES["S4"])) == 1


def test_s8_message_after_the_last_number() -> None:
    """S8: the message that is glued to a 2.x line is read as one."""
    assert parse(SAMPLES["S8"])[1:] == [
        Notice(Kind.NOT_SAVED, "Epoch 0, global step 199: 'val_loss' was not in top 10", None, 199)
    ]


def test_s10_benign_error() -> None:
    """S10, D07: multi-node without SLURM is harmless, though NeMo calls it an error."""
    assert parse(SAMPLES["S10"] + "\n") == []


def test_source_document() -> None:
    """The line of the source document: global_step is not the bar's position."""
    (step,) = steps(SOURCE_DOCUMENT)
    assert (step.n, step.total, step.global_step) == (54, 2170, 2169)
    assert (step.consumed_samples, step.samples_error) == (2.22e6, 5000)


def test_l01_lossy_numbers() -> None:
    """L01: 2e+3 is step 2000 within 5, not 2; samples are marked approximate."""
    (step,) = steps(SAMPLES["S4"])
    assert (step.global_step, step.step_error, step.samples_error) == (2000, 5, 500)


def test_l02_no_total() -> None:
    """L02: no total, v_num that is no number, extra fields, glued tail."""
    (step,) = steps(SAMPLES["S7"])
    assert (step.total, step.n, step.loss) == (None, 1, 0.674)


def test_l03_validation_residue() -> None:
    """L03: 51it of the validation bar is no step."""
    assert [s.n for s in steps(SAMPLES["S5"])] == [2000]


def test_l04_no_newlines() -> None:
    """L04: records apart by carriage return and cursor code only; repeats say nothing new."""
    text = "".join("\x1b[A" + 50 * bar(n) for n in range(100))
    found = [s.global_step for s in steps(text)]
    assert list(dict.fromkeys(found)) == list(range(100))
    assert len(found) <= 200


@pytest.mark.slow
def test_l04_endless_line_in_bounded_memory() -> None:
    """L04: 50 MB without any line end wait in less than one chunk, and lose no step."""
    parser = LogParser()
    found = []
    for start in range(0, 50 * 900, 900):
        records = (bar(n, total=50000).strip("\r") + "x" * 1000 for n in range(start, start + 900))
        found += parser.feed("".join(records).encode())
        assert len(parser._rest) <= MAX_LINE
    found += parser.close()
    assert [e.n for e in found if isinstance(e, StepRecord)] == list(range(1, 50 * 900 + 1))


def test_endless_garbage_is_not_kept() -> None:
    """A line that never ends and holds nothing is let go."""
    parser = LogParser()
    for _ in range(64):
        assert parser.feed(b"\x00\xff" * 32768) == []
        assert len(parser._rest) <= MAX_LINE + MAX_RECORD


def test_l05_both_generations_in_one_stream() -> None:
    """L05: 2.x counts from 0 and its last number is total - 1."""
    found = steps(SAMPLES["S8"] + "\n" + SAMPLES["S3"] + "\n")
    assert [(s.n, s.total) for s in found] == [(200, 4000), (58, 128)]


@pytest.mark.parametrize("prefix", ["2: ", " 0: ", "[rank0]: ", "[default0]:", "[p] [t] [INFO] "])
@pytest.mark.parametrize("sample", ["S3", "S8"])
def test_l06_prefixes(prefix: str, sample: str) -> None:
    """L06: srun's, torchrun's and log collectors' prefixes."""
    assert steps(prefix + SAMPLES[sample]) == steps(SAMPLES[sample])


@pytest.mark.parametrize("prefix", ["2: ", "[rank2]: ", "[default2]:", "[rank: 2] "])
def test_l06_traceback_has_its_rank(prefix: str) -> None:
    """L06: a prefixed Traceback is reported with its rank."""
    (notice,) = parse(f"{prefix}Traceback (most recent call last):\n")
    assert isinstance(notice, Notice)
    assert (notice.kind, notice.rank) == (Kind.TRACEBACK, 2)


def test_l07_step_time_from_the_bar() -> None:
    """L07: 1.x has no train_step_timing: s/it, and it/s for fast steps; hours pass 24."""
    assert steps(SAMPLES["S1"])[0].seconds == 41.36
    fast = SAMPLES["S1"].replace("41.36s/it", "4.00it/s")
    assert steps(fast)[0].seconds == 0.25
    assert steps(SAMPLES["S1"])[0].elapsed == 32878


def test_l08_lag_is_kept_as_logged() -> None:
    """L08: bars 57, 58, 59 with global_step 56, 56, 58; run.py counts them once."""
    text = bar(56, n=57) + bar(56, n=58) + bar(58, n=59)
    assert [(s.n, s.global_step) for s in steps(text)] == [(57, 56), (58, 56), (59, 58)]


def test_l09_nan() -> None:
    """L09: NaN as a loss, and the line of the check that kills a rank."""
    assert math.isnan(steps(bar(3, loss=math.nan))[0].loss or 0)
    (notice,) = parse(
        "[rank13]: RuntimeError: Rank 13, Unexpected result nan "
        "(message='found NaN in local grad norm for bucket #0')\n"
    )
    assert isinstance(notice, Notice)
    assert (notice.kind, notice.rank) == (Kind.NAN, 13)


NOTICES = [
    (Kind.RANK, "Initializing distributed: GLOBAL_RANK: 3, MEMBER: 4/16", 3, 16),
    (Kind.REGISTERED, "All distributed processes registered. Starting with 16 processes", None, 16),
    (Kind.FAILED_RANK, "  rank      : 5 (local_rank: 5)", 5, None),
    (
        Kind.SAVED,
        "Epoch 0, global step 217: 'step' reached 217.00000 (best 217.00000), saving model to '/r/c.ckpt' as top 2",
        None,
        217,
    ),
    (
        Kind.SAVED,
        "[NeMo I 2025-04-11 14:48:45 nemo_logging:393] Global Checkpoint Save : Rank: 0 : "
        "Iteration: 50 : Start time: 1744408121.151s : Save duration: 4.389s",
        0,
        50,
    ),
    (Kind.SAVED, "Successfully saved checkpoint from iteration      24 to /ckpt", None, 24),
    (Kind.NOT_SAVED, "Epoch 3, global step 99: 'val_loss' was not in top 10", None, 99),
    (
        Kind.NOT_SAVED,
        "`ModelCheckpoint(monitor='val_loss')` could not find the monitored key in the metrics",
        None,
        None,
    ),
    (
        Kind.RESTORED,
        "Restoring states from the checkpoint path at /r/neva--step=868-last.ckpt",
        None,
        868,
    ),
    (Kind.FINISHED, "`Trainer.fit` stopped: `max_steps=2170` reached.", None, 2170),
    (
        Kind.TIME_LIMIT,
        "Time limit reached. Elapsed time is 3:50:00. Signaling Trainer to stop.",
        None,
        None,
    ),
    (
        Kind.GPU_OOM,
        "[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        1,
        None,
    ),
    (
        Kind.NCCL_TIMEOUT,
        "[rank1]:[E1218 20:27:21.433063423 ProcessGroupNCCL.cpp:629] [Rank 1] Watchdog caught "
        "collective operation timeout: WorkNCCL(SeqNum=1) ran for 600081 milliseconds",
        1,
        None,
    ),
    (Kind.NCCL_ERROR, "NCCL error in: NCCLUtils.hpp:275, unhandled system error", None, None),
    (
        Kind.DUPLICATE_GPU,
        "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000",
        1,
        None,
    ),
    (
        Kind.MISSING_RANKS,
        "torch.distributed.DistStoreError: Timed out after 1801 seconds waiting for clients. 14/16 clients joined.",
        None,
        16,
    ),
    (Kind.RENDEZVOUS, "socket.gaierror: [Errno -2] Name or service not known", None, None),
    (
        Kind.RENDEZVOUS_RETRY,
        "[W socket.cpp:601] [c10d] The client socket has failed to connect to [neva]:23456",
        None,
        None,
    ),
    (
        Kind.SHARED_MEMORY,
        "error creating shared memory segment /dev/shm/nccl-x: No space left on device",
        None,
        None,
    ),
    (Kind.DISK_FULL, "OSError: [Errno 28] No space left on device", None, None),
    (Kind.DISK_FULL, "OSError: [Errno 122] Disk quota exceeded: '/r/x.ckpt'", None, None),
    (Kind.HOST_OOM, "traceback : Signal 9 (SIGKILL) received by PID 77", None, None),
    (Kind.HOST_OOM, "failed (exitcode: -9) local_rank: 0 (pid: 77) of binary: python3", None, None),
    (Kind.TERMINATED, "Received Signals.SIGTERM death signal, shutting down workers", None, None),
    (
        Kind.CRASH,
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
        None,
        None,
    ),
    (Kind.TRACEBACK, "ValueError: x", None, None),
]


@pytest.mark.parametrize(("kind", "line", "rank", "value"), NOTICES)
def test_notices(kind: Kind, line: str, rank: int | None, value: int | None) -> None:
    """One line each of what the judgements rest on, also with a collector's prefix."""
    for text in (line, f"[pod-1] [2025-01-01 00:00:00] [INFO] {line}", f"\x1b[31m{line}\x1b[0m"):
        (notice,) = parse(text + "\n")
        assert isinstance(notice, Notice)
        assert (notice.kind, notice.rank, notice.value) == (kind, rank, value)
        assert "\x1b" not in notice.line


@pytest.mark.parametrize(
    "line",
    [
        "[NeMo W 2024-01-01 00:00:00 nemo_logging:349] Apex not found. Using the torch one.",
        "Epoch 0, global step 199",
        "[W1] [c10d] The hostname of the client socket cannot be retrieved. err=-3",
        "Sending process 512 closing signal SIGTERM",
        "loss=nan, found no NaN here",
        "",
    ],
)
def test_other_lines_say_nothing(line: str) -> None:
    """Warnings, and lines that only resemble an alarm."""
    assert parse(line + "\n") == []


def test_evidence_is_short_and_shows_the_reason() -> None:
    """A long line is cut around what was found."""
    (notice,) = parse("x" * 50_000 + " CUDA out of memory. OutOfMemoryError " + "y" * 50_000)
    assert isinstance(notice, Notice)
    assert len(notice.line) <= MAX_EVIDENCE
    assert "out of memory" in notice.line


def test_invalid_utf8_and_ansi_inside_a_record() -> None:
    """Broken bytes in the drawing and colours between fields do no harm."""
    text = bar(4).encode().replace("█".encode(), b"\xe2\x96").replace(b" | ", b"\xff| ")
    coloured = text.replace(b", global", b", \x1b[1mglobal").replace(b"Epoch", b"\x1b[0mEpoch")
    assert [s.global_step for s in steps(coloured)] == [4]


@pytest.mark.parametrize("sample", ["S1", "S3", "S4", "S7", "S8", "S9"])
def test_truncated_lines_never_give_another_step(sample: str) -> None:
    """A line that is cut anywhere gives its own step or none, also with the next one glued on."""
    whole = SAMPLES[sample]
    (expected,) = steps(whole)
    after = SAMPLES["S6"].removeprefix("\x1b[A\r")
    for cut in range(len(whole)):
        for tail in ("", "\n", "\r", after):
            found = {s.global_step for s in steps(whole[:cut] + tail)}
            assert found <= {expected.global_step, 6023}


def test_a_line_of_another_format_glued_to_a_bar_hides_neither() -> None:
    glued = SAMPLES["S3"] + SAMPLES["S8"]
    assert steps(glued) == steps(SAMPLES["S3"]) + steps(SAMPLES["S8"])


@pytest.mark.slow
@given(st.lists(st.integers(1, 400), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_any_cut_of_the_stream_gives_the_same(cuts: list[int], rng: random.Random) -> None:
    """The events do not depend on where the stream is cut."""
    lines = [*(s + "\n" for s in SAMPLES.values()), *(bar(n) for n in range(5))]
    lines += [ranks(2), REGISTERED.format(2), *(line + "\n" for _, line, _, _ in NOTICES[6:12])]
    rng.shuffle(lines)
    data = "".join(lines).encode()
    parser = LogParser()
    events = []
    at = 0
    for size in cuts:
        events += parser.feed(data[at : at + size])
        at += size
    events += parser.feed(data[at:]) + parser.close()
    assert [e for e in events if isinstance(e, StepRecord)] == steps(data)
    assert [e.kind for e in events if isinstance(e, Notice)] == [e.kind for e in parse(data) if isinstance(e, Notice)]


@pytest.mark.parametrize(("value", "text"), [(2000.0, "2e+3"), (2169.0, "2169.0"), (56.0, "56.00"), (0.54, "0.540")])
def test_the_writer_of_these_tests_rounds_as_lightning_does(value: float, text: str) -> None:
    """What the tests generate is what the samples show."""
    assert padded(value) == text


NUMBERS = st.floats(-1e300, 1e300) | st.sampled_from([math.nan, math.inf, -math.inf, 1e-5, 2e-5, -0.0, 1e22, 123456.0])
NAMES = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="=,") | st.just(" "), min_size=1)
OTHERS = st.dictionaries(NAMES.map(str.strip).filter(bool), NUMBERS | st.integers(), max_size=4)
"""Whatever else is logged: in any script, with spaces and brackets in the name."""


def text_of(value: float | int | str) -> str:
    """Write a metric as Lightning does: floats are padded, whole numbers and strings are not."""
    return padded(value) if isinstance(value, float) else str(value)


def is_about(read: float | None, logged: float) -> bool:
    """Tell whether the number is the one that was logged, in three digits."""
    assert read is not None
    return (math.isnan(read) and math.isnan(logged)) or read == logged or math.isclose(read, logged, rel_tol=6e-3)


@pytest.mark.slow
@settings(deadline=None)
@given(NUMBERS, st.integers(0, 10**6), NUMBERS, NUMBERS, OTHERS, OTHERS)
def test_x01_whatever_the_bar_prints_is_read(
    loss: float, step: int, samples: float, seconds: float, before: dict[str, float], after: dict[str, float]
) -> None:
    """X01: padded NaN and infinity, signs, exponents, other metrics: no step is lost, no number is another."""
    metrics = {
        **before,
        "reduced_train_loss": loss,
        "global_step": float(step),
        "consumed_samples": samples,
        "train_step_timing in s": seconds,
        **{name: value for name, value in after.items() if name not in before},
    }
    (found,) = steps(drawn(step + 1, 10**7, {name: text_of(value) for name, value in metrics.items()}))
    assert is_about(found.loss, loss)
    assert is_about(found.consumed_samples, samples)
    assert is_about(found.seconds, seconds)
    assert abs(found.global_step - step) <= found.step_error
    assert (found.n, found.total, found.elapsed) == (step + 1, 10**7, 13)


@pytest.mark.parametrize("total", [None, 3])
def test_x01_a_bar_without_total_or_past_it(total: int | None) -> None:
    """X01: tqdm shows a question mark; a string among the metrics, an unknown rate."""
    fields = {"v_num": "", "note": "tensor(2.5)", "reduced_train_loss": "nan.0", "global_step": "4.000"}
    text = drawn(5, total, fields)
    (step,) = steps(text)
    assert (step.n, step.total, step.global_step, math.isnan(step.loss or 0)) == (5, None, 4, True)
    assert [s.n for s in steps(text.replace("<?", "<?, ?it/s"))] == [5]


def cut_bars() -> list[tuple[str, set[float]]]:
    """Return a bar that is cut anywhere, and what its step may then be: the one, or none."""
    whole = bar(123, loss=6.79, seconds=1.23).strip("\r")
    known = whole.index("global_step=123.0,") + len("global_step=123.0,")
    return [(whole[:at], {123.0} if at >= known else set()) for at in range(len(whole) + 1)]


@pytest.mark.parametrize("between", ["", "\r", "\n", "[rank1]: ", "\x1b[A\x1b[K", "\x1b(B\x1b[m"])
def test_x02_a_bar_cut_off_by_the_next(between: str) -> None:
    """X02: both steps are read where the cut one's field is whole, and no number is half of one."""
    after = bar(124, loss=5.5).strip("\r")
    for text, own in cut_bars():
        found = steps(text + between + after)
        assert {s.global_step for s in found} == own | {124.0}
        assert {s.loss for s in found} <= {6.79, 5.5}
        assert {s.seconds for s in found} <= {None, 1.23, 0.54}
        assert {s.consumed_samples for s in found} <= {None, 31744.0, 32000.0}


def test_x02_as_it_was_seen() -> None:
    text = (
        "Epoch 0:   2%|2         | 2/100 [00:10<08:10, reduced_train_loss=2.100, global_step=1.000, throughput=19.00, "
        "Epoch 0:   3%|3         | 3/100 [00:15<08:05, reduced_train_loss=2.000, global_step=2.000, throughput=19.00]"
    )
    assert [(s.n, s.global_step, s.loss) for s in steps(text)] == [(2, 1, 2.1), (3, 2, 2.0)]


@pytest.mark.parametrize("at", ["reduced_train_loss=6.7", "global_step=12", "consumed_samples=317", "in s=1."])
def test_x02_another_rank_writes_into_a_number(at: str) -> None:
    """X02: half a number is none; what the other rank says is heard."""
    whole = bar(123, loss=6.79, seconds=1.23)
    cut = whole.index(at) + len(at)
    for other in ("[rank3]: RuntimeError: CUDA error: unspecified launch failure", "ValueError: x"):
        text = whole[:cut] + other + whole[cut:]
        found = parse(text)
        assert {s.global_step for s in found if isinstance(s, StepRecord)} <= {123}
        assert {s.loss for s in found if isinstance(s, StepRecord)} <= {None, 6.79}
        assert {s.seconds for s in found if isinstance(s, StepRecord)} <= {None, 1.23}
        if "CUDA" in other:
            assert [n.rank for n in found if isinstance(n, Notice)] == [3]


@pytest.mark.parametrize("glued", ["2025-01-01 00:00:00 [INFO] x", "24", "Training epoch 0, iteration 7/9 | x: 1", "."])
def test_x02_the_last_number_of_a_2x_line(glued: str) -> None:
    """X02: nothing closes it; what is glued to it must not become part of it."""
    found = steps(SAMPLES["S9"].replace(" | val_loss: 4.106", "") + glued)
    assert [(s.global_step, s.seconds) for s in found] == [(121, None)]


def test_x02_two_2x_lines_without_a_line_end() -> None:
    second = SAMPLES["S9"].replace("121", "122")
    for text, seconds in ((SAMPLES["S9"], 0.03163), (SAMPLES["S9"].partition(" | train_step")[0], None)):
        found = steps(text + second)
        assert [(s.global_step, s.seconds) for s in found] == [(121, seconds), (122, 0.03163)]


KINDS = [
    (Kind.GPU_FAULT, "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus.", None),
    (Kind.GPU_FAULT, "[rank5]: RuntimeError: CUDA error: uncorrectable NVLink error detected during the execution", 5),
    (Kind.GPU_FAULT, "node NCCL WARN Cuda failure 214 'uncorrectable ECC error encountered'", None),
    (Kind.GPU_FAULT, "Unable to determine the device handle for GPU0000:3B:00.0: GPU is lost.", None),
    (Kind.GPU_FAULT, "RuntimeError: CUDA error: system not yet initialized", None),
    (Kind.CUDA_ERROR, "NVRM: Xid (PCI:0000:3b:00): 31, pid=1234, name=python, Ch 00000008, MMU Fault", None),
    (Kind.CUDA_ERROR, "[rank1]: RuntimeError: CUDA error: an illegal memory access was encountered", 1),
    (Kind.CUDA_ERROR, "[default2]:RuntimeError: CUDA error: misaligned address", 2),
    (Kind.CUDA_ERROR, "x NCCL WARN Cuda failure 'unspecified launch failure'", None),
    (Kind.CUDA_ERROR, "RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", None),
    (Kind.CUDA_ERROR, "RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`", None),
    (Kind.CUDA_ERROR, "RuntimeError: /te/gemm.cu:279: cuBLAS Error: the GPU program failed to execute", None),
    (Kind.DEVICE_ASSERT, "Indexing.cu:1289: f: block: [3,0,0], thread: [32,0,0] Assertion `i < n` failed.", None),
    (Kind.DEVICE_ASSERT, "[rank0]: RuntimeError: CUDA error: device-side assert triggered", 0),
    (Kind.GPU_OOM, "RuntimeError: CUDA error: out of memory", None),
    (Kind.GPU_OOM, "x:1:2 [0] NCCL WARN Cuda failure 'out of memory'", None),
    (Kind.NCCL_ERROR, "NCCL error: unhandled system error, NCCL version 2.21.5", None),
    (Kind.GPU_FAULT, "cuInit: CUDA_ERROR_ECC_UNCORRECTABLE", None),
    (Kind.GPU_FAULT, "[rank3]: Uncorrectable ECC error", 3),
    (Kind.GPU_FAULT, "GPU 3: UNCORRECTABLE ECC ERROR", None),
    (Kind.GPU_FAULT, "[default2]:Failed to initialize NVML: Unknown Error", 2),
    (Kind.GPU_FAULT, "pynvml.nvml.NVMLError_GpuIsLost: GPU is lost", None),
    (Kind.GPU_FAULT, "RuntimeError: cuda runtime error (999) : unknown error at x.cpp:50", None),
    (Kind.GPU_FAULT, "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment", None),
    (Kind.GPU_FAULT, "[rank1]: RuntimeError: CUDA error: unknown error", 1),
    (Kind.GPU_FAULT, "x:1:2 [0] NCCL WARN Cuda failure 999 'unknown error'", None),
    (Kind.GPU_FAULT, "cupy_backends.cuda.api.runtime.CUDARuntimeError: cudaErrorNvlinkUncorrectable: x", None),
    (Kind.GPU_FAULT, "RuntimeError: Found no NVIDIA driver on your system.", None),
    (Kind.DRIVER_MISMATCH, "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 804: forward compatibility "
     "was attempted on non supported HW", None),
    (Kind.DRIVER_MISMATCH, "[[Forward compatibility was attempted on non supported HW "
     "(CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE) cuInit()=804]]", None),
    (Kind.DRIVER_MISMATCH, "Error 803: system has unsupported display driver / cuda driver combination", None),
    (Kind.DRIVER_MISMATCH, "Failed to initialize NVML: Driver/library version mismatch", None),
    (Kind.DRIVER_MISMATCH, "CUDA error: CUDA driver version is insufficient for CUDA runtime version", None),
    (Kind.DRIVER_MISMATCH, "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).", None),
    (Kind.DRIVER_MISMATCH, "CUDA error: the provided PTX was compiled with an unsupported toolchain.", None),
    (Kind.WRONG_IMAGE, "[rank0]: RuntimeError: CUDA error: no kernel image is available for execution on the device",
     0),
    (Kind.WRONG_IMAGE, "RuntimeError: CUDA error: device kernel image is invalid", None),
    (Kind.WRONG_IMAGE, "cuModuleLoadData: CUDA_ERROR_NO_BINARY_FOR_GPU", None),
    (Kind.TOO_FEW_GPUS, "[rank7]: RuntimeError: CUDA error: invalid device ordinal", 7),
    (Kind.TOO_FEW_GPUS, "RuntimeError: cuda runtime error (101) : invalid device ordinal at x.cpp:50", None),
    (Kind.GPU_OOM, "RuntimeError: cuda runtime error (2) : out of memory at x.cu:58", None),
    (Kind.CUDA_ERROR, "triton: CUDA_ERROR_ILLEGAL_ADDRESS", None),
    (Kind.NETWORK_FAULT, "n:206:512 [3] NCCL WARN NET/IB : Got completion from peer 10.0.0.1<43532> with status=12 "
     "opcode=0 len=0 vendor err 129 (Recv)", None),
    (Kind.NETWORK_FAULT, "n:206:512 [3] NCCL WARN NET/IB : Got completion with error 12, opcode 1, len 0", None),
    (Kind.NETWORK_FAULT, "n:206:512 [3] NCCL WARN Call to ibv_modify_qp failed with error Connection timed out", None),
    (Kind.NETWORK_FAULT, "n:206:512 [3] NCCL WARN NET/IB : mlx5_0:1 Got async fatal event: device fatal", None),
    (Kind.NETWORK_FAULT, "mlx5: gpu-0003: got completion with error:", None),
    (Kind.PORT_EVENT, "n:206:512 [3] NCCL WARN NET/IB : mlx5_3:1 Got async event : port error", None),
    (Kind.PORT_EVENT, "n:206:512 [3] NCCL WARN NET/IB : mlx5_3:1 Got non-fatal async event: port error(10)", None),
    (Kind.RDMA_REFUSED, "n:206:512 [3] NCCL WARN Call to ibv_reg_mr failed", None),
    (Kind.RDMA_REFUSED, "NCCL WARN Call to ibv_create_cq failed with error Cannot allocate memory", None),
    (Kind.NCCL_ERROR, "x.cpp:1, unhandled system error (run with NCCL_DEBUG=INFO for details)", None),
    (Kind.NCCL_ERROR, "x, remote process exited or there was a network error, NCCL version 2.21.5", None),
    (Kind.NCCL_ERROR, "n:1:2 [3] NCCL WARN socketProgress: Connection closed by remote peer n2<4321>", None),
    (Kind.NCCL_ERROR, "n:1:2 [3] NCCL WARN socketStartConnect: Connect to 10.0.0.1<34567> failed : No route", None),
    (Kind.SHARED_MEMORY, "RuntimeError: unable to write to file </torch_12_34_0>: No space left on device (28)", None),
    (Kind.SHARED_MEMORY, "RuntimeError: DataLoader worker (pid 7) is killed by signal: Bus error. It is x", None),
    (Kind.SHARED_MEMORY, "  traceback : Signal 7 (SIGBUS) received by PID 77", None),
    (Kind.SHARED_MEMORY, "x NCCL WARN Error while creating shared memory segment /dev/shm/nccl-x (size 9)", None),
    (Kind.HOST_OOM, "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed.", None),
    (Kind.HOST_OOM, "RuntimeError: DataLoader worker (pid(s) 7, 8) exited unexpectedly", None),
    (Kind.HOST_OOM, "Memory cgroup out of memory: Killed process 7 (python)", None),
    (Kind.HOST_OOM, "/launch.sh: line 99:   123 Killed                  torchrun x.py", None),
    (Kind.HOST_OOM, "OSError: [Errno 12] Cannot allocate memory", None),
    (Kind.SIGNAL, "  traceback : Signal 11 (SIGSEGV) received by PID 77", None),
    (Kind.SIGNAL, "Fatal Python error: Segmentation fault", None),
    (Kind.FINISHED_BEFORE, "ValueError: Found /r/n--step=20-end indicating that the last training run has already "
     "completed.", None),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "line", "rank"), KINDS)
def test_n09_what_ends_a_process(kind: Kind, line: str, rank: int | None) -> None:
    """N09: a broken GPU, a full /dev/shm, the host's memory: each is told from the others."""
    for text in (line, f"2026-11-25T10:00:00.123456789Z {line}"):
        (notice,) = parse(text + "\n")
        assert isinstance(notice, Notice)
        assert (notice.kind, notice.rank) == (kind, rank)


@pytest.mark.parametrize(
    "line",
    [
        "CUDA kernel errors might be asynchronously reported at some other API call",
        "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.",
        "[NeMo W 2024-01-01 00:00:00 x:1] assertions are off",
        "Sending process 512 closing signal SIGTERM",
        "root cause analysis of illegal values encountered: none",
        "[NeMo I 2024-01-01 00:00:00 x:1] shared memory is 64G",
        "Search for `cudaErrorIllegalAddress' in https://docs.nvidia.com/cuda/cuda-runtime-api/ for more information.",
        "Uncorrectable ECC errors : 0",
        "NOTE: CUDA Forward Compatibility mode ENABLED. Using CUDA 12.5 driver version 555.42.06 with kernel 535",
        "n:1:2 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [1]mlx5_1:1/IB [RO]; OOB eth0:10.0.0.1<0>",
        "n:1:2 [0] NCCL WARN NET/IB : mlx5_0:1 Got async event : GID table change",
    ],
)
def test_n09_what_only_resembles_it(line: str) -> None:
    assert parse(line + "\n") == []
