"""What is looked for in a log. One table: the order of its rules is the order in which they are tried."""

import re

from neva_pod.monitor.records import Kind

HYDRA = "Error executing job with overrides"
"""What Hydra says before the exception that ended the training."""
WRAPPER = "in DataLoader worker process"
"""What an exception says that stands for another one, whose traceback follows."""
HEADER = "Traceback (most recent call last)"
"""What a traceback begins with; the exception is its first line that is not indented."""
BAR = re.compile(
    rb"Epoch (\d{1,9}): *(?:: *)?(?:\d{1,3}%\|[^|]{0,400}\| *)?(\d{1,12})(?:/(?:(\d{1,12})|\?))?(?:it)? "
    rb"\[-?(\d{1,9}(?::\d\d){1,2})(?:<[\d:?-]{1,20})?(?:, *([\d.]{1,20})(s/it|it/s))?"
)
"""Where a bar begins, up to its metrics."""
FIELD = re.compile(
    rb", ?(reduced_train_loss|global_step|consumed_samples|train_step_timing in s)="
    rb"([-+]?(?:\d{1,40}(?:\.\d{0,40})?(?:e[-+]?\d{1,3})?|(?:nan|inf)(?:\.0{0,2})?))(?=[,\]])"
)
"""A metric that is whole, as tqdm writes it and Lightning pads it: ``nan.0``, ``inf.0``, ``-inf.``."""
OTHER_FIELDS = re.compile(rb"(?:, ?[^=,\[\]|]{1,200}=[^,\[\]|]{0,200})*\]")
NEXT = re.compile(rb"Training epoch \d|Epoch \d{1,9}[:,]")
PRINTER = re.compile(rb"Training epoch (\d{1,9}), iteration (\d{1,12})/(\d{1,12}) \| ([^\[\]\r\n]{1,2000})")
NUMBER = re.compile(rb"[-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|nan|inf)")
LAST_NUMBER = re.compile(rb"[-+]?(?:\d{1,12}|\d+\.\d{0,12}(?:[eE][-+]?\d{1,3})?|nan|inf)(?![\d.:/-])")
ANSI = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,999}(?:\x07|\x1b\\)|[()][A-B0-2]|[@-Z\\-_])")
NEEDLES = (
    b"rror|xception|heckpoint|global step |GLOBAL_RANK|processes registered|local_rank:|Trainer|found NaN|"
    b"operation timeout|imed out|failed to connect|No space left|Traceback (most|SIG|Duplicate GPU|found Inf|"
    b"Unexpected result|ssert|encountered|uda failure|Xid|XID|_STATUS_|fallen off|GPU is lost|device handle|illed|"
    b"oom-kill|exitcode|exited unexpectedly|annot allocate memory|version mismatch|/dev/shm|hared memory|bad_alloc|"
    b"already completed|Failures:|Root Cause|CUDA_|ORRECTABLE|NVML|NCCL WARN|compatible with"
).split(b"|")
"""Every rule's line holds one of these; finding them runs at GB/s, a regular expression of them does not."""
RULES: tuple[tuple[Kind, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        (Kind.RANK, r"[Ii]nitializing distributed: GLOBAL_RANK: (?P<rank>\d{1,6}), MEMBER: \d{1,6}/(?P<value>\d{1,6})"),
        (Kind.REGISTERED, r"processes registered\. Starting with (?P<value>\d{1,6}) processes"),
        (Kind.FAILED_RANK, r"^\W*rank\s*: (?P<rank>\d{1,6}) \(local_rank: \d+\)"),
        (Kind.SAVED, r"global step (?P<value>\d{1,9}): .{1,200}saving model to"),
        (Kind.NOT_SAVED, r"global step (?P<value>\d{1,9}): .{1,200} was not in top|could not find the monitored key"),
        (Kind.SAVED, r"Global Checkpoint Save : Rank: \d+ : Iteration: (?P<value>\d{1,9})"),
        (Kind.SAVED, r"Successfully saved checkpoint from iteration\s+(?P<value>\d{1,9})"),
        (
            Kind.RESTORED,
            r"(?:Restoring states|Restored all states|[Rr]esuming(?: training)?) from (?:the"
            r" )?checkpoint\b"
            r"(?:.{0,300}?step=(?P<value>\d{1,9}))?",
        ),
        (Kind.FINISHED, r"Trainer\.fit` stopped: `max_(?:steps=(?P<value>\d{1,9})|epochs=\d+)` reached"),
        (
            Kind.FINISHED_BEFORE,
            r"(?:step=(?P<value>\d{1,9}).{0,200})?indicating that the last training run has already completed",
        ),
        (Kind.TIME_LIMIT, r"Time limit reached\..{0,200}Signaling Trainer to stop|Trainer\.fit` stopped: `max_time"),
        (Kind.NAN, r"found (?:NaN|Inf) in local grad norm|Unexpected result (?:nan|-?inf)\b"),
        (Kind.HOST_OOM, r"DefaultCPUAllocator|\bOOMKilled\b|\boom-kill|[Oo]ut of memory: Killed process"),
        (
            Kind.GPU_OOM,
            r"OutOfMemoryError|CUDA out of memory|(?:CUDA [Ee]rror|[Cc]uda failure)\W.{0,10}out of memory"
            r"|cuda runtime error \(2\)|CUDA_ERROR_OUT_OF_MEMORY|(?<!`)cudaErrorMemoryAllocation"
            r"|CUBLAS_STATUS_ALLOC_FAILED",
        ),
        (
            Kind.DRIVER_MISMATCH,
            r"[Ff]orward compatibility was attempted|unsupported display driver|[Dd]river/library version mismatch"
            r"|driver version is insufficient|NVIDIA driver on your system is too old|unsupported toolchain"
            r"|CUDA_ERROR_(?:COMPAT_NOT_SUPPORTED|SYSTEM_DRIVER_MISMATCH|UNSUPPORTED_PTX)"
            r"|(?<!`)cudaError(?:CompatNotSupported|SystemDriverMismatch|UnsupportedPtx|InsufficientDriver)"
            r"|NVMLError_LibRmVersionMismatch",
        ),
        (
            Kind.WRONG_IMAGE,
            r"no kernel image is available|kernel image is invalid|invalid device function"
            r"|CUDA_ERROR_(?:NO_BINARY_FOR_GPU|INVALID_IMAGE|INVALID_PTX)"
            r"|(?<!`)cudaError(?:NoKernelImage|InvalidKernelImage|InvalidDeviceFunction|InvalidPtx)"
            r"|is not compatible with the current PyTorch installation",
        ),
        (
            Kind.TOO_FEW_GPUS,
            r"invalid device ordinal|CUDA_ERROR_INVALID_DEVICE|(?<!`)cudaErrorInvalidDevice\b",
        ),
        (
            Kind.GPU_FAULT,
            r"(?i:uncorrectable (?:ECC|NVLink)(?! errors?\s{0,40}[:=] {0,9}0\b))|[Cc]ontained ECC|fallen off the bus"
            r"|GPU is lost|Unable to determine the device handle for|system not yet initialized|busy or unavailable"
            r"|a hardware error|hardware stack error|Failed to initialize NVML|NVMLError_(?:Unknown|GpuIsLost|Driver)"
            r"|No CUDA GPUs are available|no CUDA-capable device is detected|Found no NVIDIA driver"
            r"|CUDA unknown error|(?:CUDA (?:driver )?[Ee]rror|[Cc]uda failure)\W.{0,10}unknown error"
            r"|cuda runtime error \((?:30|39|46|214|220|226|714|802|999)\)"
            r"|CUDA_ERROR_(?:ECC|NVLINK|CONTAINED|HARDWARE|DEVICE_UNAVAILABLE|SYSTEM_NOT_READY|NO_DEVICE|UNKNOWN)"
            r"|(?<!`)cudaError(?:ECC|Nvlink|Contained|Hardware|DevicesUnavailable|SystemNotReady|NoDevice|Unknown)"
            r"|Xid \([^)]{1,60}\): (?!(?:13|31|32|43|45)\b)\d|\bX(?:id|ID)(?: error)?:? (?!(?:13|31|32|43|45)\b)\d",
        ),
        (
            Kind.DEVICE_ASSERT,
            r"device-side assert(?!ions)|thread: \[\d+,\d+,\d+\] Assertion|CUDA_ERROR_ASSERT|(?<!`)cudaErrorAssert",
        ),
        (
            Kind.CUDA_ERROR,
            r"CUDA (?:driver )?[Ee]rror\b|\bcu(?:BLAS|DNN|FFT|SOLVER)(?:Lt)? [Ee]rror|cuda runtime error \(\d"
            r"|(?:CUBLAS|CUDNN|CUFFT|CUSOLVER)_STATUS_[A-Z_]{0,30}(?:FAILED|ERROR|INITIALIZED)"
            r"|(?:illegal memory access|misaligned address|illegal instruction) was encountered"
            r"|CUDA_ERROR_(?:ILLEGAL|MISALIGNED|LAUNCH|INVALID_ADDRESS_SPACE|INVALID_PC|EXTERNAL)"
            r"|(?<!`)cudaError(?:Illegal|Misaligned|Launch|InvalidAddressSpace|InvalidPc|External)"
            r"|unspecified launch failure|the launch timed out|Unexpected error from cudaGetDeviceCount"
            r"|Xid \([^)]{1,60}\): \d|\bX(?:id|ID)(?: error)?:? \d",
        ),
        (Kind.DUPLICATE_GPU, r"Duplicate GPU detected"),
        (Kind.NCCL_TIMEOUT, r"Watchdog caught collective operation timeout|NCCL operations have failed or timed out"),
        (
            Kind.MISSING_RANKS,
            r"\d{1,6}/(?P<value>\d{1,6}) clients joined"
            r"|Timed out initializing process group in store based barrier",
        ),
        (
            Kind.SHARED_MEMORY,
            r"shared memory.{0,200}No space left on device|posix_fallocate.{0,200}No space left"
            r"|(?:unable to write to file|shared memory object) </torch|creating shared memory segment"
            r"|failed to extend /dev/shm|out of shared memory|allocate shared memory|signal: Bus error|\(SIGBUS\)"
            r"|exitcode\s*: -7\b|Fatal Python error: Bus error|Bus error \(core dumped\)",
        ),
        (
            Kind.NETWORK_FAULT,
            r"NET/IB.{0,60}\bGot completion\b|mlx5: .{1,100}: got completion with error"
            r"|Got async fatal event|async event ?: ?(?:device fatal|local catastrophic)"
            r"|ibv_modify_qp(?:\(\))? failed|ibv_(?:poll_cq|post_send|post_recv)(?:\(\))? failed"
            r"|NET/OFI Request.{0,200}completed with error",
        ),
        (Kind.PORT_EVENT, r"Got (?:non-fatal )?async event ?: ?port error"),
        (Kind.RDMA_REFUSED, r"\bibv_\w{1,40}(?:\(\))? failed"),
        (
            Kind.NCCL_ERROR,
            r"NCCL [Ee]rror|nccl(?:(?:System|Internal|Remote|UnhandledCuda)Error|Invalid(?:Usage|Argument))"
            r"|unhandled (?:system|cuda) error|remote process exited or there was a network error"
            r"|NCCL WARN .{0,200}(?:Connection closed by remote peer|Connect to .{1,100} failed|Call to connect.{0,200}"
            r" failed)",
        ),
        (
            Kind.RENDEZVOUS,
            r"RendezvousConnectionError|RendezvousTimeoutError|DistStoreError|DistNetworkError"
            r"|gaierror|\[E.{0,100}\[c10d\]",
        ),
        (Kind.RENDEZVOUS_RETRY, r"\[W.{0,100}\[c10d\].{0,200}(?:failed to connect|not known|name resolution)"),
        (Kind.DISK_FULL, r"No space left on device|Disk quota exceeded"),
        (
            Kind.HOST_OOM,
            r"\(SIGKILL\)|exitcode\s*: -9\b|killed by signal: Killed|DataLoader worker .{0,200}exited unexpectedly"
            r"|^.{0,200}\bKilled\s+(?:torchrun|python)|\bbad_alloc\b|^(?:[\w.]{1,100}\.)?_?(?:Array)?MemoryError\b"
            r"|\[Errno 12\]|unable to mmap .{0,300}Cannot allocate memory",
        ),
        (Kind.TERMINATED, r"[Rr]eceived (?:Signals\.)?(?:SIGTERM|15\b)|got signal: 15\b"),
        (Kind.CRASH, rf"ChildFailedError|{HYDRA}"),
        (
            Kind.SIGNAL,
            r"Signal \d{1,2} \(SIG(?!TERM|INT)[A-Z]+\) received|Fatal Python error|killed by signal: (?!Terminated)"
            r"|(?:Segmentation fault|Aborted) \(core dumped\)|exitcode\s*: -(?!15\b|2\b)\d",
        ),
        (Kind.TRACEBACK, re.escape(HEADER)),
        (Kind.TRACEBACK, r"^[\w.]{1,100}(?:Error|Exception)\b"),
    )
)
RANK = re.compile(r"^\s*(\d{1,6}): |\[(?:rank|default)[: ]{0,2}(\d{1,6})\]|\b[Rr]ank:? (\d{1,6})\b")
PREFIX = re.compile(
    r"^(?:\s*(?:\d{1,6}: |\[[^\]]{1,80}\]:? ?|\d{4}-\d\d-\d\d[T ][\d:.,]{5,20}(?:Z|[-+]\d\d:?\d\d)? ))+"
)
RAISED = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*[a-z]\w*(?::\s|:?$)")
