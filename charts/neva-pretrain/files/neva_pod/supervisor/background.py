"""Work that may take long, or hang with a file system, beside a loop that must go on."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """A call in a thread of its own; nobody waits for one that hangs."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="background", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value.append(self._call())
        except BaseException as error:  # raised again where the result is asked for
            self._error = error

    @property
    def done(self) -> bool:
        """Whether the call has ended."""
        return not self._thread.is_alive()

    def wait(self, seconds: float) -> bool:
        """Wait for so long at most; return whether the call has ended."""
        self._thread.join(seconds)
        return self.done

    def result(self) -> T:
        """Return what the call returned, or raise what it raised; only once it is done."""
        if self._error:
            raise self._error
        return self._value[0]
