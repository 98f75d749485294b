"""What preflight costs: a checkpoint of 10 GB by its headers, 10,000 images by name and by content.

Run with ``python -m tests.bench.bench_preflight``. Ratios and rates are printed, never judged; the
files of the checkpoint are sparse.
"""

import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from PIL import Image

from neva_pod.inputs.checkpoint import read_checkpoint
from neva_pod.inputs.tar import TarStore
from neva_pod.preflight.checks import CHECKS
from neva_pod.preflight.registry import Context
from neva_pod.preflight.run import run_check
from neva_pod.settings import Settings as PodSettings
from tests.unit.preflight_tools import config_yaml, sample

MEMBERS, SIZE = 1_000, 10 * 2**30
IMAGES, IN_A_FOLDER = 10_000, 850


def best(action: Callable[[], object], rounds: int = 5) -> float:
    """Return the shortest of some runs in seconds: the least disturbed one."""
    times = []
    for _ in range(rounds):
        started = perf_counter()
        action()
        times.append(perf_counter() - started)
    return min(times)


def write_checkpoint(path: Path) -> None:
    """Write a distributed checkpoint whose tensors are holes."""
    small = {
        "model_config.yaml": config_yaml(),
        "model_weights/metadata.json": b'{"sharded_backend": "torch_dist"}',
        "model_weights/.metadata": b"x",
    }
    count = MEMBERS - len(small)
    with path.open("wb") as file:
        for name, content in small.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            file.write(member.tobuf() + content + bytes(-len(content) % 512))
        for i in range(count):
            member = tarfile.TarInfo(f"./model_weights/__{i}_0.distcp")
            member.size = SIZE // count
            file.write(member.tobuf())
            file.seek(-(-member.size // 512) * 512, 1)
        file.write(bytes(10240))


def python_names(path: Path) -> list[str]:
    """List a tar as Python does."""
    with tarfile.open(path) as tar:
        return tar.getnames()


def photo() -> bytes:
    """Return a JPEG of the dataset's usual size, with as much detail as a photo has."""
    out = io.BytesIO()
    small = Image.effect_noise((84, 84), 60).convert("RGB")
    small.resize((336, 336)).save(out, "JPEG", quality=90)
    return out.getvalue()


def bench_checkpoint(folder: Path) -> None:
    """Compare judging a checkpoint with listing its headers."""
    path = folder / "large.nemo"
    write_checkpoint(path)
    judge = best(lambda: read_checkpoint(str(path)))
    gnu = best(lambda: subprocess.run(["tar", "-tf", path], stdout=subprocess.DEVNULL, check=True))
    python = best(lambda: python_names(path))
    listing = best(lambda: TarStore(str(path)))
    found = read_checkpoint(str(path))
    print(f"{found}: judged in {judge * 1e3:.1f} ms ({judge / gnu:.2f} x tar -tf)")
    print(f"  headers alone {listing * 1e3:.1f} ms; tar -tf {gnu * 1e3:.1f} ms")
    print(f"  Python's tarfile {python * 1e3:.1f} ms ({python / gnu:.2f} x tar -tf)")


def bench_images(folder: Path) -> None:
    """Print the rates of the checks of images."""
    samples = []
    contents = [photo() for _ in range(16)]
    for i in range(IMAGES):
        file = folder / "images" / f"{i // IN_A_FOLDER:05}" / f"{i:09}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(contents[i % len(contents)])
        samples.append(sample(i, str(file.relative_to(folder / "images"))))
    (folder / "blip.json").write_text(json.dumps(samples))
    for mode in ("sample", "all"):
        settings = {
            "data": {"annotations": str(folder / "blip.json"), "images": str(folder / "images")},
            "preflight": {"decode": mode},
        }
        run = Context(PodSettings(settings))
        for name in ("images", "decode"):
            result = run_check(CHECKS[name], run)
            print(f"decode={mode}: {name}: {result.findings[-1].message}")


def main() -> None:
    """Run both on a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        bench_checkpoint(Path(folder))
        bench_images(Path(folder))


if __name__ == "__main__":
    main()
