"""The chart's templates on many values in one run of helm: a case costs milliseconds instead of a process."""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.chart import helm

Values = dict[str, Any]


def violations(cases: Sequence[Values]) -> list[list[str]]:
    """The chart's sentences for complete values, each case on its own."""
    return [found or [] for found in evaluate(cases, '{{ include "neva-pretrain.violations" $root }}')]


def renders(cases: Sequence[Values]) -> list[str]:
    """All manifests of each case's complete values as one text, pods' scripts left out; else the ERROR sentences."""
    templates = helm.CHART / "templates"
    names = [file.relative_to(templates) for file in sorted(templates.rglob("*.yaml"))]
    paths = " ".join(f'"neva-pretrain/templates/{name.parent / f"_{name.name}"}"' for name in names)
    scripts = [file for pattern in ("*.py", "*.sh") for file in (helm.CHART / "files").rglob(pattern)]
    return evaluate(
        cases,
        '{{ $text := "" }}{{ range include "neva-pretrain.violations" $root | fromJsonArray }}'
        '{{ $text = printf "%sERROR: %s\\n" $text . }}{{ end }}{{ if not $text }}'
        '{{ $_ := set $root "Values" . }}'  # as given: the templates judge them, too
        f'{{{{ range list {paths} }}}}{{{{ $text = printf "%s\\n---\\n%s" $text (include . $root) }}}}{{{{ end }}}}'
        "{{ end }}{{ $text | toJson }}",
        {str(file.relative_to(helm.CHART)): "" for file in scripts},
    )


def evaluate(cases: Sequence[Values], template: str, files: Mapping[str, str] | None = None) -> list[Any]:
    """JSON that a template makes of each case; `$root` is a template's root, `files` replace the chart's own."""
    with tempfile.TemporaryDirectory() as folder:
        chart = Path(folder) / "chart"
        shutil.copytree(helm.CHART, chart, ignore=lambda _, names: [n for n in names if n == "values.schema.json"])
        for file in [file for file in (chart / "templates").rglob("*") if file.is_file() and file.suffix != ".tpl"]:
            file.rename(file.with_name(f"_{file.name}"))  # rendered where it is included, and only there
        for name, text in (files or {}).items():
            (chart / name).write_text(text)
        objects = ("Files", "Release", "Chart", "Capabilities", "Template")
        root = " ".join(f'"{name}" $.{name}' for name in objects)
        (chart / "templates" / "cases.yaml").write_text(
            "kind: Cases\ncases:\n"
            f'{{{{- range .Values.cases }}}}{{{{- $root := dict "Values" . {root} }}}}\n- {template}\n{{{{- end }}}}\n'
        )
        (chart / "values.yaml").write_text("{}")
        file = Path(folder) / "values.json"
        file.write_text(written({"cases": cases}), encoding="utf-8")
        command = [helm.tool("helm"), "template", "neva", str(chart), "-f", str(file)]
        done = subprocess.run(
            [*command, "--kube-version", helm.KUBERNETES],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = [line.removeprefix("- ") for line in done.stdout.splitlines() if line.startswith("- ")]
        assert len(lines) == len(cases), done.stdout
        return [json.loads(line) for line in lines]


def written(made: Values) -> str:
    """The text of a values file, quoted; what YAML would fold or refuse as it stands is escaped."""
    text = json.dumps(made, ensure_ascii=False)
    return re.sub("[\x7f-\xa0\u2028\u2029\ufeff]", lambda match: f"\\u{ord(match[0]):04x}", text)
