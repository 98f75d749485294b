"""Real inputs for the tests of preflight and prepare: tars, checkpoints, tokenizers, images."""

import copy
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import sentencepiece
import yaml
from PIL import Image

from neva_pod.inputs.megatron import Model
from neva_pod.inputs.tokenizer import extra_tokens
from neva_pod.preflight.registry import Context, Level
from neva_pod.preflight.run import CheckResult, run_check, select
from neva_pod.settings import Settings as PodSettings
from neva_pretrain.model import catalog, hydra

FILES = Path(__file__).parents[2] / "charts" / "neva-pretrain" / "files"
DATA = Path(__file__).parents[1] / "data" / "checkpoints"

ARCHITECTURE = {
    "numLayers": 2,
    "hiddenSize": 8,
    "ffnHiddenSize": 32,
    "numAttentionHeads": 4,
    "numQueryGroups": 4,
    "vocabSize": 68,
    "numExperts": 1,
}
CONFIG = {
    "mcore_gpt": True,
    "num_layers": 2,
    "hidden_size": 8,
    "ffn_hidden_size": 32,
    "num_attention_heads": 4,
    "num_query_groups": None,
    "sequence_parallel": False,
}
MODEL = Model.of({**CONFIG, "normalization": "rmsnorm"}, "CONFIG", gated=True)
VISION = {
    "architectures": ["CLIPModel", "CLIPVisionModel"],
    "imageSize": 336,
    "patchSize": 14,
    "hiddenSize": 16,
}

Files = dict[str, bytes]


def config_yaml(**changes: Any) -> bytes:
    return yaml.safe_dump({**CONFIG, **changes}).encode()


def legacy(tensor: int, pipeline: int = 1, rank: bytes | None = None, **config: Any) -> Files:
    """Return the files of a legacy checkpoint; that of TP 1 and PP 1 is what torch 2.3 wrote."""
    real = (DATA / "mcore-rank.ckpt").read_bytes()
    files = {"model_config.yaml": config_yaml(**config), "abc_tokenizer.model": b"x"}
    for t in range(tensor):
        for p in range(pipeline):
            if (tensor, pipeline) == (1, 1):
                folder = ""
            elif pipeline == 1:
                folder = f"mp_rank_{t:02}/"
            else:
                folder = f"tp_rank_{t:02}_pp_rank_{p:03}/"
            own = torch_file(MODEL.of_rank(128, tensor, pipeline, p)) if folder else real
            files[f"{folder}model_weights.ckpt"] = own if rank is None else rank
    return files


def torch_file(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """Return a zip with the pickle that torch.save writes of tensors, and no data."""
    pickle = b"\x80\x02}("
    for name, sizes in shapes.items():
        numbers = b"".join(b"J" + size.to_bytes(4, "little") for size in sizes)
        pickle += b"X" + (6 + len(name)).to_bytes(4, "little") + b"model." + name.encode()
        pickle += b"ctorch._utils\n_rebuild_tensor_v2\n(NK\0(" + numbers + b"t)tR"
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("archive/data.pkl", pickle + b"u.")
    return made.getvalue()


def zarr(rows: int = 64, **config: Any) -> Files:
    """Return the files of a distributed checkpoint in zarr."""
    files = {
        "model_config.yaml": config_yaml(**config),
        "model_weights/metadata.json": b'{"sharded_backend": "zarr", "sharded_backend_version": 1}',
        "model_weights/common.pt": torch_file({}),
    }
    for name, sizes in MODEL.whole(rows).items():
        array = {"shape": sizes, "chunks": sizes, "dtype": "bfloat16", "compressor": None, "zarr_format": 2}
        files[f"model_weights/model.{name}/.zarray"] = json.dumps(array).encode()
        files[f"model_weights/model.{name}/{'.'.join('0' * len(sizes))}"] = bytes(2 * prod(sizes))
    return files


def torch_dist(**config: Any) -> Files:
    """Return the files of a distributed checkpoint in torch_dist, as prepare makes it with torch."""
    weights = {f"model_weights/{file.name}": file.read_bytes() for file in (DATA / "converted").iterdir()}
    return {"model_config.yaml": config_yaml(**config), **weights}


def safetensors(shapes: Mapping[str, tuple[int, ...]], kind: str = "BF16") -> bytes:
    """Return a safetensors file of zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + prod(shape) * (2 if kind == "BF16" else 1)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


def llama_config(**changes: Any) -> dict[str, Any]:
    """Return config.json of a Llama of ARCHITECTURE."""
    return {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 8,
        "intermediate_size": 32,
        "num_attention_heads": 4,
        "vocab_size": 60,
        **changes,
    }


def llama_shapes(layers: int = 2, hidden: int = 8, ffn: int = 32, keys: int = 8) -> dict[str, tuple[int, ...]]:
    """Return the tensors of that Llama, as the hub has them."""
    rows = {"q": hidden, "k": keys, "v": keys, "o": hidden}
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (60, hidden), "lm_head.weight": (60, hidden)}
    for i in range(layers):
        prefix = f"model.layers.{i}"
        found |= {f"{prefix}.self_attn.{n}_proj.weight": (r, hidden) for n, r in rows.items()}
        found |= {f"{prefix}.mlp.{n}_proj.weight": (ffn, hidden) for n in ("gate", "up")}
        found[f"{prefix}.mlp.down_proj.weight"] = (hidden, ffn)
        found |= {f"{prefix}.{n}_layernorm.weight": (hidden,) for n in ("input", "post_attention")}
    return {**found, "model.norm.weight": (hidden,)}


def hub_llama() -> Files:
    """Return the files of that Llama's repository, without its tokenizer."""
    return {"config.json": json.dumps(llama_config()).encode(), "model.safetensors": safetensors(llama_shapes())}


def write_saved(*paths: Path) -> None:
    """Write saved checkpoints: of a training on two ranks as torch_dist, or one file where the name ends in .ckpt."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".ckpt":
            shutil.copy(DATA / "mcore-rank.ckpt", path)
        else:
            shutil.copytree(DATA / "saved", path)


def write_tar(path: Path, files: Files, format_: int = tarfile.GNU_FORMAT, mode: str = "w:") -> Path:
    """Write files as NeMo does: a tar of a folder named `.`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=format_) as tar:  # type: ignore[call-overload]
        folder = tarfile.TarInfo(".")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_folder(path: Path, files: Files) -> Path:
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return path


@cache
def tokenizer(vocabulary: int = 60) -> bytes:
    """Train a real sentencepiece model."""
    model = io.BytesIO()
    text = [f"the quick brown fox {i} jumps over the lazy dog number {i * 7}" for i in range(200)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=model,
        vocab_size=vocabulary,
        model_type="bpe",
        minloglevel=2,
    )
    return model.getvalue()


def with_pieces(model: bytes, tokens: list[str], kind: int) -> bytes:
    """Append pieces with the generated protobuf classes, as NeMo's script does."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    for token in tokens:
        proto.pieces.append(proto.SentencePiece(piece=token, score=0.0, type=kind))
    return bytes(proto.SerializeToString())


def extended(count: int = 8, kind: int = 4) -> bytes:
    return with_pieces(tokenizer(), extra_tokens(count), kind)


def image_bytes(kind: str = "JPEG", side: int = 16, seed: int = 0) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), (seed % 256, 2 * seed % 256, 3 * seed % 256)).save(out, kind)
    return out.getvalue()


def write_dataset(folder: Path, count: int = 20) -> list[dict[str, Any]]:
    """Write a dataset of LLaVA-Pretrain's form: images in folders of 10."""
    samples = []
    for i in range(count):
        name = f"{i // 10:05}/{i:09}.jpg"
        file = folder / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image_bytes(seed=i))
        samples.append(sample(i, name))
    (folder / "blip.json").write_text(json.dumps(samples))
    return samples


def sample(number: int, image: str) -> dict[str, Any]:
    return {
        "id": f"{number:09}",
        "image": image,
        "conversations": [
            {"from": "human", "value": "Describe it.\n<image>"},
            {"from": "gpt", "value": f"number {number}"},
        ],
    }


def write_vision(folder: Path, **changes: Any) -> Path:
    """Write a CLIP folder as on the hub."""
    config = {
        "architectures": ["CLIPModel"],
        "vision_config": {"image_size": 336, "patch_size": 14, "hidden_size": 16},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    (folder / "preprocessor_config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"weights")
    return folder


def world(tmp: Path) -> dict[str, Any]:
    """Make a right set of inputs and return its settings."""
    write_dataset(tmp / "data")
    write_folder(tmp / "llm", legacy(1, rank=(DATA / "mcore-rank.ckpt").read_bytes()))
    (tmp / "tokenizer.model").write_bytes(extended())
    write_vision(tmp / "clip")
    (tmp / "results").mkdir(exist_ok=True)
    return {
        "run": {"id": "r"},
        "model": {
            "name": "tiny",
            "modelType": "llama_2",
            "projector": "mlp2x_gelu",
            "checkpointPath": str(tmp / "llm"),
            "checkpointFormat": "auto",
            "tokenizerPath": str(tmp / "tokenizer.model"),
            "tokenizerLibrary": "sentencepiece",
            "extraTokens": 8,
            "visionEncoderPath": str(tmp / "clip"),
        },
        "architecture": dict(ARCHITECTURE),
        "llm": hydra.llm({}, catalog.get("llama2_7b_chat")),
        "vision": copy.deepcopy(VISION),
        "training": {
            "nodes": 1,
            "gpusPerNode": 8,
            "tensorParallelSize": 1,
            "pipelineParallelSize": 1,
            "microBatchSize": 1,
            "globalBatchSize": 8,
            "maxSteps": 100,
        },
        "data": {
            "annotations": str(tmp / "data" / "blip.json"),
            "images": str(tmp / "data" / "images"),
            "workers": 1,
        },
        "results": {
            "path": str(tmp / "results" / "r"),
            "logDir": str(tmp / "results" / "r" / "results"),
            "checkpointsDir": str(tmp / "results" / "r" / "results" / "checkpoints"),
        },
        "resume": "auto",
        "readOnly": [],
        "rdma": False,
        "hf": {"online": False, "home": str(tmp / "hf")},
        "preflight": {"sample": 1000, "decode": "sample", "skip": ["gpus"]},
    }


def run(settings: dict[str, Any], *names: str) -> dict[str, CheckResult]:
    """Run checks and return their results by name."""
    level = Level.FULL
    started = Context(PodSettings(settings))
    skip = settings["preflight"].get("skip", [])
    chosen = select(level, names, [] if names else skip)
    return {c.name: run_check(c, started) for c in chosen}


def problems(settings: dict[str, Any], name: str, status: str = "failed") -> list[str]:
    """Return messages and fixes of one check's findings of a status."""
    findings = run(settings, name)[name].findings
    return [f"{f.message} | {f.fix}" for f in findings if f.outcome == status]
