"""docs/placement.md shows what the planner says."""

import re
import shlex

import pytest

from orchestrator.__main__ import parser
from orchestrator.operate import plan
from tests.docs.test_docs import ROOT

PAGE = (ROOT / "docs" / "placement.md").read_text("utf-8")
SHOWN = re.findall(r"^```\n\$ python -m orchestrator (.+)\n((?:.*\n)*?)```", PAGE, re.MULTILINE)


def test_there_are_eight_machines() -> None:
    assert len(SHOWN) == 8


@pytest.mark.parametrize(("command", "output"), SHOWN, ids=[command for command, _ in SHOWN])
def test_the_page_shows_what_the_command_prints(command: str, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.run(parser().parse_args(shlex.split(command))) == 0
    assert capsys.readouterr().out == output
