"""The liveness probe of the training container: exits with 1 once the supervisor has stopped moving.

It stands alone, since kubelet runs it by its path. The file lies in /dev/shm, which is memory and the pod's own: no
file system can stall it.
"""

import os
import sys
import time
from collections.abc import Mapping

LIMIT_SECONDS = 60.0


def path(environment: Mapping[str, str] = os.environ) -> str:
    """Return the file that the supervisor touches."""
    return f"/dev/shm/neva-alive-{environment.get('POD_NAME', 'pod')}"  # noqa: S108 - the pod's own memory


def main() -> int:
    """Judge the file; before the supervisor has made it, the launch script's own limits hold."""
    try:
        age = time.time() - os.stat(path()).st_mtime
    except FileNotFoundError:
        return 0
    if age > LIMIT_SECONDS:
        print(f"the supervisor has not moved for {age:.0f} s")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
