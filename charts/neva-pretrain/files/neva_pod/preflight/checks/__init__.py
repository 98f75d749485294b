"""All checks, in the order in which they run."""

from neva_pod.preflight.checks import checkpoint, dataset, devices, images, node, resume, tokenizer, vision

ALL = (
    node.check_filesystem,
    node.check_read_only,
    node.check_access,
    node.check_results,
    node.check_unpack_space,
    node.check_hf_home,
    node.check_hub_id,
    node.check_shm,
    devices.check_gpus,
    devices.check_memlock,
    dataset.check_dataset,
    images.check_images,
    images.check_decode,
    checkpoint.check_checkpoint,
    checkpoint.check_weights,
    checkpoint.check_weight_files,
    tokenizer.check_tokenizer,
    tokenizer.check_vocabulary,
    vision.check_vision,
    resume.check_resume,
)

CHECKS = {check.name: check for check in ALL}

NODE = frozenset(("filesystem", "read-only", "results", "unpack-space", "hf-home", "shm", "gpus", "memlock"))
"""Checks of a pod's node and mounts: on another machine they say nothing about the run."""
