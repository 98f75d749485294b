"""Python reads this first in every process of the stand-in container."""

import absent

absent.install()
