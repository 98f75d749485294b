"""The commands neva-values and neva-monitor."""

import gc

gc.set_threshold(100_000)  # starting makes many objects and no garbage: looking for it took a tenth of a short run
