"""Makes the supervisor's clocks run faster in tests, before anyone takes their values."""

import contextlib
import os
import sys

sys.path.insert(0, os.environ.get("NEVA_CONFIG_DIR", ""))
with contextlib.suppress(ImportError):
    from neva_pod.supervisor import alive, control, lease, torchrun

    control.BEAT_SECONDS, control.SILENCE_SECONDS = 0.5, 20.0
    torchrun.FROZEN_SECONDS, torchrun.STACK_SECONDS, torchrun.LOOK_SECONDS = 3.0, 1.0, 0.5
    lease.RENEW_SECONDS, lease.TTL_SECONDS = 1.0, 15.0
    alive.LIMIT_SECONDS = 20.0
sys.path.pop(0)
