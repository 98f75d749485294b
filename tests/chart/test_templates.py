"""How templates are written: in the columns of the rest, in files that a reader finds, with named arguments."""

import re

from tests.chart import helm

FILES = [file for file in sorted((helm.CHART / "templates").rglob("*")) if file.is_file()]


def test_lines_are_short() -> None:
    long = {
        f"{file.name}:{number}"
        for file in FILES
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if len(line) > 120
    }
    assert long == set()


def test_files_are_short() -> None:
    assert [file.name for file in FILES if len(file.read_text("utf-8").splitlines()) > 300] == []


def test_arguments_have_names() -> None:
    assert [file.name for file in FILES if re.search(r"\bindex \. [0-9]", file.read_text("utf-8"))] == []


def test_each_define_is_used_and_each_used_one_is_there() -> None:
    text = "\n".join(file.read_text("utf-8") for file in FILES)
    made = re.findall(r'define "neva-pretrain\.(\w+)"', text)
    used = set(re.findall(r'"(?:neva-pretrain\.)?(\w+)"', re.sub(r'define "[^"]*"', "", text)))
    assert len(made) == len(set(made))
    assert set(made) - used == set()
    assert set(re.findall(r'include "neva-pretrain\.(\w+)"', text)) <= set(made)
