#!/usr/bin/env python3
"""Makes what a NeVa pretraining run is given: tokenizer, vision encoder, language model, dataset.

Reads ``settings.json`` (the chart renders it): where a run looks for its inputs, and under
``prepare`` where they come from. Each step leaves its final name only by a rename of something
whole, takes up what a killed run left, and does nothing where the final name is there and right.
A step that fails never hides what the others have to say.

    prepare.py --settings /etc/neva/settings.json [--only tokenizer,vision,llm,dataset]

A source is an absolute path, or an id of the Hugging Face hub (HF_ENDPOINT, HF_TOKEN and HF_HOME as
its client reads them). Exit codes: 0 all is there, 1 a step failed, 2 wrong usage or settings.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from preflight import as_nemo, layout_problems, llm_problems, sample_findings, vision_problems
from preflight_inputs import (
    CONFIG,
    USER_DEFINED,
    Checkpoint,
    Finding,
    ProblemError,
    Progress,
    Settings,
    Status,
    TarStore,
    UsageError,
    denied,
    extra_tokens,
    gib,
    huggingface_vocabulary,
    inside,
    is_lfs_pointer,
    load_settings,
    piece_problems,
    pieces,
    read_checkpoint,
    read_json,
    read_pieces,
    show,
    some,
)
from preflight_samples import images_of

STEPS: dict[str, Callable[[Settings], str]] = {}


def step(function: Callable[[Settings], str]) -> Callable[[Settings], str]:
    """Register a step under its function's name, cheap ones first."""
    STEPS[function.__name__] = function
    return function


def say(message: str) -> None:
    """Print a line that a log shows at once."""
    print(f"prepare: {show(message)}", flush=True)


def stop_at(findings: Iterable[Finding]) -> None:
    """Stop the step at the first failed finding."""
    for finding in findings:
        if finding.status is Status.FAILED:
            raise ProblemError(finding.message, finding.fix)


# Files that appear whole or not at all


def beside(final: str, role: str) -> str:
    """Return a hidden name beside the final one, on its file system; the same after a restart."""
    folder, name = os.path.split(os.path.normpath(final))
    return os.path.join(folder, f".{name}.{role}")


def publish(temporary: str, final: str) -> None:
    """Give something whole its final name, for good."""
    if os.path.isdir(temporary):
        os.sync()
    else:
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
    os.rename(temporary, final)
    folder = os.open(os.path.dirname(final), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def begin(settings: Settings, name: str, *finals: str) -> str:
    """Return a step's work folder; what a killed run with other settings left there is removed."""
    for final in finals:
        make_parent(final)
    work = beside(finals[0], "work")
    keys = (
        f"prepare.{name}",
        "model",
        "training.tensorParallelSize",
        "training.pipelineParallelSize",
    )
    record, now = os.path.join(work, "settings.json"), json.dumps([settings.find(k) for k in keys])
    if not os.path.exists(record) or open_text(record) != now:
        for place in (work, *(beside(final, "partial") for final in finals)):
            remove(place)
        os.makedirs(work)
        with open(record + ".partial", "w", encoding="utf-8") as file:
            file.write(now)
        publish(record + ".partial", record)
    return work


def already(final: str) -> str:
    """Say that nothing is to do; clean up after a run that was killed at its very end."""
    remove(beside(final, "work"))
    return f"already there: {final}"


def open_text(path: str) -> str:
    """Return a text file's content."""
    with open(path, encoding="utf-8") as file:
        return file.read()


def make_parent(path: str) -> None:
    """Make the folder that a path lies in."""
    os.makedirs(os.path.dirname(os.path.normpath(path)), exist_ok=True)


def remove(path: str) -> None:
    """Remove a temporary file or folder."""
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def need_space(folder: str, needed: int) -> None:
    """Refuse what would fill the file system."""
    space = os.statvfs(folder)
    free = space.f_bavail * space.f_frsize
    if free < needed:
        raise ProblemError(f"{show(folder)} has {gib(free)} free, {gib(needed)} are needed", "make room first")


# Sources


def source_of(settings: Settings, name: str) -> str:
    """Return where a step's input comes from."""
    source = settings.text(f"prepare.{name}.source", "")
    if not source:
        raise ProblemError(f"prepare.{name}.source: is empty; must be an absolute path or a hub id", "name one")
    if not source.startswith("/") and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        raise ProblemError(
            f"prepare.{name}.source: got {show(source)}; must be an absolute path or a hub id",
            "begin a path with /",
        )
    return source


def download(settings: Settings, name: str, folder: str, wanted: Callable[[Sequence[str]], Sequence[str]]) -> str:
    """Download files of a hub repository into a folder; return the folder.

    A second call continues a file where the first one was killed, and asks for nothing twice.
    """
    try:
        from huggingface_hub import HfApi, hf_hub_download
    except ImportError:
        raise ProblemError("huggingface_hub is not installed", "use the NeMo image, or name a local source") from None
    repository = source_of(settings, name)
    kind = "dataset" if name == "dataset" else "model"
    revision = settings.text(f"prepare.{name}.revision", "") or "main"
    say(f"{name}: {kind} {repository} at {revision}")
    try:
        there = HfApi().list_repo_files(repository, repo_type=kind, revision=revision)
        chosen = wanted(there)
        for number, file in enumerate(chosen, 1):
            say(f"{name}: file {number} of {len(chosen)}: {file}")
            hf_hub_download(repository, file, repo_type=kind, revision=revision, local_dir=folder)
    except ProblemError:
        raise
    except Exception as error:  # the client raises its own, its HTTP library's and OSErrors
        raise ProblemError(
            f"{repository} at {revision}: {type(error).__name__}: {error}".split("\n")[0],
            "check id, revision, HF_ENDPOINT, the token's Secret (gated models) and the network, "
            "or name a local source",
        ) from None
    return folder


def model_files(there: Sequence[str]) -> list[str]:
    """Choose a model's files: one kind of weights, configuration, tokenizer; no other formats."""
    top = [n for n in there if "/" not in n]
    weights = [n for n in top if n.endswith(".safetensors")]
    weights = weights or [n for n in top if re.fullmatch(r"pytorch_model.*\.bin", n)]
    return [*(n for n in top if n.endswith((".json", ".model"))), *weights]


def named(*names: str) -> Callable[[Sequence[str]], list[str]]:
    """Return a chooser of these files, which must be there."""

    def choose(there: Sequence[str]) -> list[str]:
        missing = [n for n in names if n not in there]
        if missing:
            raise ProblemError(f"the repository has no {some(missing)}", "name another repository")
        return list(names)

    return choose


# Tokenizer


def with_extra_tokens(model: bytes, count: int) -> bytes:
    """Append <extra_id_0..> as USER_DEFINED pieces, as add_special_tokens_to_sentencepiece.py does.

    A field appended to a protobuf message is appended to its list, so the rest of the file stays
    byte for byte what it was.
    """
    out = bytearray(model)
    for token in extra_tokens(count):
        text = token.encode()
        piece = bytes([0x0A, len(text)]) + text + b"\x15\0\0\0\0" + bytes([0x18, USER_DEFINED])
        out += bytes([0x0A, len(piece)]) + piece
    return bytes(out)


@step
def tokenizer(settings: Settings) -> str:
    """Make the tokenizer with NeVa's media tokens (E07)."""
    final = settings.text("model.tokenizerPath")
    if settings.text("model.tokenizerLibrary") == "huggingface":
        return _huggingface_tokenizer(settings, final)
    count = settings.integer("model.extraTokens")
    if os.path.exists(final):
        stop_at(piece_problems(final, read_pieces(final), count))
        return already(final)
    work = begin(settings, "tokenizer", final)
    origin = _tokenizer_source(settings, work, "tokenizer.model")
    found = read_pieces(origin)
    with open(origin, "rb") as file:
        model = file.read()
    if {t for t, _ in found} & set(extra_tokens(count)):
        stop_at(piece_problems(origin, found, count))
    else:
        model = with_extra_tokens(model, count)
    stop_at(piece_problems(final, pieces(model), count))
    temporary = beside(final, "partial")
    with open(temporary, "wb") as file:
        file.write(model)
    publish(temporary, final)
    remove(work)
    return f"made {final}: {len(pieces(model))} pieces, the last {count} added"


def _tokenizer_source(settings: Settings, work: str, *names: str) -> str:
    """Return the path of the tokenizer file, or of the folder with all the files named."""
    name = "tokenizer" if settings.text("prepare.tokenizer.source", "") else "llm"
    source = source_of(settings, name)
    if not source.startswith("/"):
        source = download(settings, name, os.path.join(work, "download"), named(*names))
    if len(names) > 1 or os.path.isfile(source):
        return source
    return os.path.join(source, names[0])


HUGGINGFACE_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def _huggingface_tokenizer(settings: Settings, final: str) -> str:
    if os.path.exists(final):
        huggingface_vocabulary(final)
        return already(final)
    work, temporary = begin(settings, "tokenizer", final), beside(final, "partial")
    origin = _tokenizer_source(settings, work, *HUGGINGFACE_TOKENIZER)
    huggingface_vocabulary(origin)
    copy_files(origin, temporary, [n for n in HUGGINGFACE_TOKENIZER if _exists(origin, n)])
    publish(temporary, final)
    remove(work)
    return f"made {final}"


def _exists(folder: str, name: str) -> bool:
    return os.path.exists(os.path.join(folder, name))


def copy_files(origin: str, target: str, names: Iterable[str]) -> None:
    """Copy files into a fresh folder."""
    remove(target)
    os.makedirs(target)
    for name in names:
        shutil.copyfile(os.path.join(origin, name), os.path.join(target, name))


# Vision encoder


@step
def vision(settings: Settings) -> str:
    """Copy or download the vision encoder, and check it as preflight does (D14)."""
    final, wanted = settings.text("model.visionEncoderPath"), settings.mapping("vision")
    if not final.startswith("/"):
        raise ProblemError(
            f"model.visionEncoderPath: got the hub id {show(final)}; must be an absolute path",
            "name the folder to make; the hub id is prepare.vision.source",
        )
    if os.path.exists(final):
        stop_at(vision_problems(final, wanted))
        return already(final)
    work, temporary = begin(settings, "vision", final), beside(final, "partial")
    origin = source_of(settings, "vision")
    if not origin.startswith("/"):
        origin = download(settings, "vision", os.path.join(work, "download"), model_files)
    stop_at(vision_problems(origin, wanted))
    copy_files(origin, temporary, model_files(os.listdir(origin)))
    publish(temporary, final)
    remove(work)
    return f"made {final}"


# Language model

CONVERTERS = {
    "llama_2": "convert_llama_hf_to_nemo.py",
    "llama_3": "convert_llama_hf_to_nemo.py",
    "mistral": "convert_mistral_7b_hf_to_nemo.py",
    "mixtral": "convert_mixtral_hf_to_nemo.py",
}
"""Scripts of NeMo r2.0.0rc1's scripts/checkpoint_converters, by model_type."""

HUGGINGFACE_NAMES = {
    "numLayers": "num_hidden_layers",
    "hiddenSize": "hidden_size",
    "ffnHiddenSize": "intermediate_size",
    "numAttentionHeads": "num_attention_heads",
    "numQueryGroups": "num_key_value_heads",
    "numExperts": "num_local_experts",
}


@step
def llm(settings: Settings) -> str:
    """Make the NeMo checkpoint for this job's TP and PP."""
    final = settings.text("model.checkpointPath")
    if os.path.exists(final):
        found = read_checkpoint(final)
        stop_at(layout_problems(settings, found))
        return f"{already(final)}, {found}"
    source = source_of(settings, "llm")
    is_nemo = os.path.isfile(source) or _exists(source, CONFIG)
    if not is_nemo:
        _converter(settings)
        if source.startswith("/"):
            stop_at(huggingface_problems(settings, source))
    work = begin(settings, "llm", final)
    if not source.startswith("/"):
        source = download(settings, "llm", os.path.join(work, "download"), model_files)
        stop_at(huggingface_problems(settings, source))
    checkpoint = read_checkpoint(source) if is_nemo else _convert(settings, source, work)
    checkpoint = _repartition(settings, checkpoint, source, work)
    _finish(settings, checkpoint, final)
    remove(work)
    return f"made {final}: {checkpoint}"


def huggingface_problems(settings: Settings, source: str) -> Iterator[Finding]:
    """Check a Hugging Face folder before hours are spent on its conversion."""
    names = ["config.json"]
    if settings.text("model.tokenizerLibrary") == "sentencepiece":
        names.append("tokenizer.model")  # E01: without it the converter takes another branch
    for name in names:
        path = os.path.join(source, name)
        if not os.path.exists(path):
            yield Finding(
                Status.FAILED,
                f"{show(source)}: has no {name}; NeMo's converter needs it",
                "name a local folder with the model's whole repository",
            )
        elif is_lfs_pointer(path):
            yield _pointer(path)
    yield from _huggingface_weights(source)
    config = read_json(os.path.join(source, "config.json"))
    unset = {"num_key_value_heads": config.get("num_attention_heads"), "num_local_experts": 1}
    wrong = []
    yield from llm_problems(as_nemo(config), settings, f"{show(source)}/config.json, in NeMo's names")
    for key, name in HUGGINGFACE_NAMES.items():
        wanted, value = settings.find(f"architecture.{key}"), config.get(name, unset.get(name))
        if wanted is not None and value != wanted:
            wrong.append(f"{name} is {value}, must be {wanted}")
    if wrong:  # E05
        yield Finding(
            Status.FAILED,
            f"{show(source)}/config.json: {'; '.join(wrong)}",
            "name the source of this model, or the model of this source (model.name)",
        )


def _huggingface_weights(source: str) -> Iterator[Finding]:
    files = [n for n in model_files(os.listdir(source)) if n.endswith((".safetensors", ".bin"))]
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if _exists(source, index) and (not files or files[0].endswith(index.split(".")[1])):
            files = sorted(set(read_json(os.path.join(source, index))["weight_map"].values()))
    missing = [n for n in files if not _exists(source, n)]
    if missing or not files:
        yield Finding(
            Status.FAILED,
            f"{show(source)}: weights are missing: {some(missing) or 'no *.safetensors, no *.bin'}",
            "copy the repository again",
        )
    for name in files:
        if name not in missing and is_lfs_pointer(os.path.join(source, name)):
            yield _pointer(os.path.join(source, name))


def _pointer(path: str) -> Finding:
    return Finding(
        Status.FAILED,
        f"{show(path)} is a git LFS pointer, not the file",
        "run git lfs pull, or copy it again",
    )


def _converter(settings: Settings) -> str:
    kind = settings.text("model.modelType")
    if kind == "mistral" and settings.integer("architecture.numExperts", 1) > 1:
        kind = "mixtral"
    if kind not in CONVERTERS:
        raise ProblemError(
            f"prepare.llm: NeMo 24.07 has no converter for model type {kind}",
            "name a .nemo file or its unpacked folder in prepare.llm.source",
        )
    nemo = settings.text("prepare.nemoPath", "/opt/NeMo")
    return os.path.join(nemo, "scripts", "checkpoint_converters", CONVERTERS[kind])


def _convert(settings: Settings, source: str, work: str) -> Checkpoint:
    """Convert to .nemo; a finished conversion of a killed run is taken up."""
    script, done = _converter(settings), os.path.join(work, "converted.nemo")
    if not os.path.exists(done):
        temporary = os.path.join(work, "converting.nemo")
        remove(temporary)
        precision = settings.text("prepare.llm.precision", "bf16")
        call(
            [
                *(sys.executable, script),
                *("--input_name_or_path", source),
                *("--output_path", temporary),
                *("--precision", precision),
            ]
        )
        read_checkpoint(temporary)
        publish(temporary, done)
    return read_checkpoint(done)


def _repartition(settings: Settings, found: Checkpoint, source: str, work: str) -> Checkpoint:
    """Split a legacy checkpoint for this TP and PP; a distributed one loads at any (E03)."""
    tensor = settings.integer("training.tensorParallelSize")
    pipeline = settings.integer("training.pipelineParallelSize", 1)
    if found.distributed:
        say("llm: distributed, loads at any TP and PP: not repartitioned")
        return found
    if (found.tensor_parallel, found.pipeline_parallel) == (tensor, pipeline):
        return found
    done = os.path.join(work, "repartitioned.nemo")
    if not os.path.exists(done):
        temporary = os.path.join(work, "repartitioning.nemo")
        remove(temporary)
        script = ("examples", "nlp", "language_modeling", "megatron_change_num_partitions.py")
        options = {
            "model_file": _without_sequence_parallel(found, work),
            "target_file": temporary,
            "tensor_model_parallel_size": found.tensor_parallel,
            "target_tensor_model_parallel_size": tensor,
            "pipeline_model_parallel_size": found.pipeline_parallel,
            "target_pipeline_model_parallel_size": pipeline,
            "precision": settings.text("prepare.llm.precision", "bf16"),
        }
        if _exists(source, "tokenizer.model"):  # the model's own: a .nemo file has it inside
            options["tokenizer_model_path"] = os.path.join(source, "tokenizer.model")
        command = [
            sys.executable,
            os.path.join(settings.text("prepare.nemoPath", "/opt/NeMo"), *script),
        ]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        if found.pipeline_parallel == pipeline == 1:
            command.append("--tp_conversion_only")
        call(command)
        stop_at(layout_problems(settings, read_checkpoint(temporary)))
        publish(temporary, done)
    return read_checkpoint(done)


def _without_sequence_parallel(found: Checkpoint, work: str) -> str:
    """Return a .nemo file whose config has sequence_parallel false, or the script throws (E06)."""
    if found.is_file and not (found.config or {}).get("sequence_parallel"):
        return found.path
    folder, packed = os.path.join(work, "extracted"), os.path.join(work, "serial.nemo")
    if found.is_file:
        unpack(found.path, folder)
    else:
        shutil.copytree(found.path, folder, dirs_exist_ok=True)
    config = os.path.join(folder, CONFIG)
    text = re.sub(r"(?m)^sequence_parallel:.*$", "sequence_parallel: false", open_text(config))
    with open(config, "w", encoding="utf-8") as file:
        file.write(text)
    with tarfile.open(packed, "w:") as tar:
        tar.add(folder, arcname=".")
    return packed


def _finish(settings: Settings, checkpoint: Checkpoint, final: str) -> None:
    """Give the checkpoint its final name: unpacked, unless a file is wanted (D11)."""
    temporary = beside(final, "partial")
    if not checkpoint.is_file:
        shutil.copytree(checkpoint.path, temporary, dirs_exist_ok=True)
    elif settings.flag("prepare.llm.unpack", True):
        unpack(checkpoint.path, temporary)
    elif os.path.dirname(checkpoint.path) == beside(final, "work"):
        temporary = checkpoint.path
    else:
        shutil.copyfile(checkpoint.path, temporary)
    publish(temporary, final)


def unpack(path: str, folder: str) -> None:
    """Unpack a .nemo file; files that are there in full are left."""
    store = TarStore(path)
    os.makedirs(folder, exist_ok=True)
    there = sum(os.path.getsize(f) for n in store.sizes if os.path.exists(f := f"{folder}/{n}"))
    need_space(folder, sum(store.sizes.values()) - there)
    for name, size in store.sizes.items():
        if not inside(name):
            raise ProblemError(f"{show(path)}: member {show(name)} lies outside of it", "do not use this file")
        target = os.path.join(folder, name)
        if os.path.exists(target) and os.path.getsize(target) == size:
            continue
        make_parent(target)
        with store.open(name) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, 2**22)


def call(command: Sequence[str]) -> None:
    """Run one of NeMo's scripts; its words go to the log."""
    say("runs " + " ".join(map(show, command[1:])))
    if not os.path.exists(command[1]):
        raise ProblemError(f"{show(command[1])}: not there", "use the NeMo 24.07 image, or set prepare.nemoPath")
    code = subprocess.run(command, check=False).returncode
    if code:
        killed = " (killed: out of memory?)" if code == -9 else ""
        raise ProblemError(
            f"{os.path.basename(command[1])} ended with {code}{killed}",
            "see its lines above; raise the memory of the prepare Job if it was killed",
        )


# Dataset


@step
def dataset(settings: Settings) -> str:
    """Get the JSON and the images; only images.zip, never single downloads (F01)."""
    annotations, images = settings.text("data.annotations"), settings.text("data.images")
    if os.path.exists(annotations) and os.path.exists(images):
        return f"{already(annotations)}, {images}"
    work = begin(settings, "dataset", annotations, images)
    names = (
        settings.text("prepare.dataset.annotationsFile", "blip_laion_cc_sbu_558k.json"),
        settings.text("prepare.dataset.archiveFile", "images.zip"),
    )
    folder = source_of(settings, "dataset")
    if not folder.startswith("/"):
        folder = download(settings, "dataset", os.path.join(work, "download"), named(*names))
    origin, archive = (os.path.join(folder, n) for n in names)
    wanted = wanted_images(origin, settings)
    if not os.path.exists(images):
        temporary = beside(images, "partial")
        unzip(archive, wanted, temporary)
        publish(temporary, images)
    temporary = beside(annotations, "partial")
    shutil.copyfile(origin, temporary)
    publish(temporary, annotations)
    remove(work)
    return f"made {annotations} and {images}: {len(wanted)} images"


def wanted_images(path: str, settings: Settings) -> list[str]:
    """Return the images that a JSON of samples names, once the samples are what the run can take (F04, N03)."""
    samples = read_json(path)
    if not isinstance(samples, list) or not all(isinstance(s, Mapping) for s in samples):
        raise ProblemError(f"{show(path)}: must be a JSON list of samples", "name the right file")
    bad = next((f for f in sample_findings(settings, samples) if f.status is Status.FAILED), None)
    if bad:
        raise ProblemError(f"{show(path)}: {bad.message}", "download the JSON again")
    return list(dict.fromkeys(i for s in samples for i in images_of(s)))


def unzip(path: str, wanted: Sequence[str], folder: str) -> None:
    """Unzip the images named; everything is checked before the first one is written (F03)."""
    with open_zip(path) as archive:
        members = _zip_members(path, archive, wanted)
        os.makedirs(folder, exist_ok=True)
        need_space(folder, sum(m.file_size for m in members.values()) - _size_below(folder))
        for place in sorted({os.path.dirname(n) for n in wanted}):
            os.makedirs(os.path.join(folder, place), exist_ok=True)
        progress, names = Progress(), list(members)
        with ThreadPoolExecutor(8) as pool:
            for start in range(0, len(names), 1000):
                batch = names[start : start + 1000]
                for _ in pool.map(lambda n: _unzip_one(archive, members[n], folder, n), batch):
                    pass
                progress.step("prepare: dataset: unzip", start + len(batch), len(names))
        progress.clear()


def open_zip(path: str) -> zipfile.ZipFile:
    """Open a zip that is whole; say what another file is (F03)."""
    again = "download or copy it again"
    try:
        with open(path, "rb") as file:
            head = file.read(4)
        if is_lfs_pointer(path):
            raise ProblemError(f"{show(path)} is a git LFS pointer, not the file", again)
        if head != b"PK\x03\x04":
            raise ProblemError(f"{show(path)} is not a zip: begins with {head!r}", again)
        archive = zipfile.ZipFile(path)
    except OSError as error:
        found = denied(path, error)
        raise ProblemError(found.message, found.fix) from None
    except zipfile.BadZipFile as error:
        size = os.path.getsize(path)
        raise ProblemError(f"{show(path)}: {error}: truncated at {size} bytes?", again) from None
    return archive


def _zip_members(path: str, archive: zipfile.ZipFile, wanted: Sequence[str]) -> dict[str, zipfile.ZipInfo]:
    """Find each image in the zip, at its top or below one folder; nothing else is unpacked."""
    there = {m.filename: m for m in archive.infolist()}
    outside = [n for n in wanted if not inside(n)]
    if outside:
        raise ProblemError(f"images {some(outside)} lie outside the folder", "do not use this JSON")
    tops = {n.split("/")[0] + "/" for n in there if "/" in n}
    first = wanted[0] if wanted else ""
    prefix = next((p for p in ("", *sorted(tops)) if p + first in there), "")
    missing = [n for n in wanted if prefix + n not in there]
    if missing:  # F01, F02
        raise ProblemError(
            f"{show(path)}: {len(missing)} of {len(wanted)} images of the JSON are not in it: {some(missing)}",
            "use JSON and images.zip of one release (liuhaotian/LLaVA-Pretrain)",
        )
    return {n: there[prefix + n] for n in wanted}


def _unzip_one(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: str, name: str) -> None:
    target = os.path.join(folder, name)
    if os.path.exists(target) and os.path.getsize(target) == member.file_size:
        return
    try:
        content = archive.read(member)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise ProblemError(f"image {show(name)}: {error}", "download the zip again") from None
    with open(target, "wb") as file:
        file.write(content)


def _size_below(folder: str) -> int:
    return sum(os.path.getsize(f"{p}/{n}") for p, _, names in os.walk(folder) for n in names)


# Running


def run(settings: Settings, only: Sequence[str]) -> int:
    """Run the enabled steps; return the number of failed ones."""
    unknown = [n for n in only if n not in STEPS]
    if unknown:
        raise UsageError(f"--only: got {some(unknown)}; must be of {', '.join(STEPS)}")
    failed = 0
    for name, function in STEPS.items():
        if (only and name not in only) or not settings.flag(f"prepare.{name}.enabled", False):
            continue
        try:
            say(f"{name}: {function(settings)}")
        except ProblemError as problem:
            failed += 1
            say(f"{name}: ERROR: {problem.finding.message}")
            say(f"{name}: fix: {problem.finding.fix}")
        except OSError as error:
            failed += 1
            say(f"{name}: ERROR: {denied(str(error.filename or ''), error).message}")
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    made = argparse.ArgumentParser(prog="prepare.py", description=(__doc__ or "").split("\n")[0])
    made.add_argument("--settings", required=True, help="settings.json as the chart renders it")
    made.add_argument("--only", default="", metavar="A,B", help=f"of {', '.join(STEPS)}")
    options = made.parse_args(arguments)
    try:
        settings = load_settings(options.settings)
        # A fresh scratch volume is empty, and tempfile would fall back to the root disk.
        for name in ("TMPDIR", "HOME"):
            if os.environ.get(name):
                os.makedirs(os.environ[name], exist_ok=True)
        return 1 if run(settings, [n for n in options.only.split(",") if n]) else 0
    except UsageError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
