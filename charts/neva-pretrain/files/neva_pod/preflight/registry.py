"""What a check is, and what the checks of one run share."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar

from neva_pod.findings import Finding, NotPossibleError, ProblemError, show
from neva_pod.inputs.checkpoint import read_checkpoint
from neva_pod.inputs.files import read_json
from neva_pod.inputs.samples import images_of
from neva_pod.inputs.tokenizer import huggingface_vocabulary, read_pieces
from neva_pod.inputs.weights import Shape, weight_shapes
from neva_pod.progress import Progress
from neva_pod.settings import Settings


class Level(str, Enum):
    """Where a check runs: in every pod, or once for the run."""

    QUICK = "quick"
    FULL = "full"


@dataclass(frozen=True)
class Check:
    """One check: its cost, the failure it prevents, the settings without which it is skipped."""

    name: str
    level: Level
    cost: str
    prevents: str
    needs: tuple[str, ...]
    run: Callable[["Context"], Iterator[Finding]]


def check(
    level: Level, *needs: str, cost: str, prevents: str
) -> Callable[[Callable[["Context"], Iterator[Finding]]], Check]:
    """Make a check of a function check_NAME."""

    def made(function: Callable[["Context"], Iterator[Finding]]) -> Check:
        name = function.__name__.removeprefix("check_").replace("_", "-")
        return Check(name, level, cost, prevents, needs, function)

    return made


Made = TypeVar("Made")


class Once(Generic[Made]):
    """Something that several checks need: made once, its failure reported once."""

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self._made: list[Made] = []
        self._broken = False

    def __call__(self) -> Made:
        """Return it, made at the first call."""
        if self._broken:
            raise NotPossibleError("what it needs could not be read, see above")
        if not self._made:
            self._broken = True
            self._made.append(self._make())
            self._broken = False
        return self._made[0]


@dataclass
class Context:
    """What the checks of one run share."""

    settings: Settings
    progress: Progress = field(default_factory=Progress)
    patience: float = 300.0
    """Seconds without progress after which a check is abandoned: more than a file system's failover takes."""
    deadline: float = math.inf
    """When all checks must have ended, on the monotonic clock."""

    def __post_init__(self) -> None:
        self.samples = Once(lambda: _samples(self.settings.text("data.annotations")))
        self.checkpoint = Once(lambda: read_checkpoint(self.settings.text("model.checkpointPath")))
        self._shapes: dict[tuple[int, int], Once[dict[str, Shape]]] = {}
        self.pieces = Once(lambda: read_pieces(self.settings.text("model.tokenizerPath")))
        self.huggingface = Once(lambda: huggingface_vocabulary(self.settings.text("model.tokenizerPath")))

    def shapes(self, rank: tuple[int, int] = (0, 0)) -> dict[str, Shape]:
        """Names and shapes of a rank's tensors, read once; the first has all of a distributed checkpoint."""
        return self._shapes.setdefault(rank, Once(lambda: weight_shapes(self.checkpoint(), rank)))()

    @property
    def sentencepiece(self) -> bool:
        """Whether the tokenizer is a sentencepiece file."""
        return self.settings.text("model.tokenizerLibrary", "sentencepiece") == "sentencepiece"

    @property
    def image_names(self) -> list[str]:
        """Paths of all images inside the images folder, in the order of the samples."""
        return [i for s in self.samples() for i in images_of(s) if isinstance(i, str)]


def _samples(path: str) -> list[dict[str, Any]]:
    if not path.endswith(".json"):
        raise ProblemError(
            f"{show(path)}: must end with .json: NeMo reads .jsonl in another format (SteerLM), and no other file type",
            "convert or rename it, and set data.annotations",
        )
    data = read_json(path)
    if not isinstance(data, list) or not all(isinstance(s, dict) for s in data):
        raise ProblemError(f"{show(path)}: must be a JSON list of samples", "use blip_laion_cc_sbu_558k.json")
    if not data:
        raise ProblemError(f"{show(path)}: has no samples", "use blip_laion_cc_sbu_558k.json")
    return data
