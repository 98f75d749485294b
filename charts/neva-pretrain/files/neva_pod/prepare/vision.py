"""The vision encoder."""

import os

from neva_pod.preflight.checks.vision import vision_problems
from neva_pod.prepare.errors import reading, stop_at
from neva_pod.prepare.hub import fetched, model_files
from neva_pod.prepare.publish import beside, copy_files, publish
from neva_pod.prepare.steps import Step
from neva_pod.settings import Settings


def _check(settings: Settings) -> str:
    return _checked(settings, settings.text("model.visionEncoderPath"))


def _checked(settings: Settings, folder: str) -> str:
    """Check a folder as preflight does."""
    with reading(folder):
        stop_at(vision_problems(folder, settings.mapping("vision")))
    return folder


def _make(settings: Settings, work: str) -> str:
    """Copy or download the vision encoder."""
    final, origin = settings.text("model.visionEncoderPath"), fetched(settings, "vision", work, model_files)
    _checked(settings, origin)
    copy_files("vision", origin, beside(final, "partial"), model_files(os.listdir(origin)))
    publish(beside(final, "partial"), final)
    return f"made {final}"


VISION = Step(_check, lambda _: model_files, _make)
