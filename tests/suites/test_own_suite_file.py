"""A suite file of a user is checked whole before anything starts; errors name file, row and key."""

from pathlib import Path

import pytest

from dbbench.errors import UserError
from dbbench.planning.build import make_plan
from dbbench.planning.request import make_request
from dbbench.suites.suite import load_suite


def plan(path: Path, text: str) -> None:
    path.write_text(f'extends = "mini"\n{text}')
    out = str(path.parent / "out")
    make_plan(make_request(path, device="cpu", subjects="dog", methods=["good"], out=out), "cpu")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("stepz = 3", r'my.toml, \[methods.bad\]: unknown setting "stepz"; did you mean "steps"'),
        ("steps = 0", r"my.toml, \[methods.bad\]: steps = 0: input should be greater"),
        ("refrences = 2", r'my.toml, \[methods.bad\]: .* "refrences"; did you mean "references"'),
        ("[train]\nstep = 2", r'my.toml, \[train\]: unknown setting "step"; did you mean "steps"'),
    ],
)
def test_a_row_that_does_not_run_is_checked_too(tmp_path: Path, row: str, message: str) -> None:
    good = '[methods.good]\nbase = "dreambooth"\n[methods.bad]\nbase = "dreambooth"\n'
    with pytest.raises(UserError, match=message):
        plan(tmp_path / "my.toml", good + row)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "name"), [("my.toml", "my-mini"), ("my own suite (2).toml", "my-own-suite-2-mini")]
)
def test_a_file_without_a_name_has_its_stem(tmp_path: Path, file: str, name: str) -> None:
    (tmp_path / file).write_text('extends = "mini"\n')
    assert load_suite(tmp_path / file).name == name
    (tmp_path / file).write_text('extends = "mini"\nname = "own"\n')
    assert load_suite(tmp_path / file).name == "own-mini"
