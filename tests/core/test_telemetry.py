"""No library of a service keeps an id of the machine, or tells anybody of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

IMPORT = "import onnxruntime"


def files_left(code: str, home: Path) -> set[str]:
    """What a program writes into an empty home."""
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("ORT_DISABLE_TELEMETRY", "CI"):  # by either the library is quiet without being told
        environment.pop(name, None)
    subprocess.run((sys.executable, "-c", code), env=environment, check=True)
    return {str(file.relative_to(home)) for file in home.rglob("*") if file.is_file()}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the library keeps its id in another place")
def test_onnx_runtime_keeps_no_id_of_the_machine(tmp_path: Path) -> None:
    assert files_left(f"from core import telemetry; telemetry.off(); {IMPORT}", tmp_path / "off") == set()
    assert files_left(IMPORT, tmp_path / "on"), "it would without being told"


@pytest.mark.parametrize("module", ["vision", "image"])
def test_a_service_says_so_before_it_loads_a_model(module: str, tmp_path: Path) -> None:
    """Its entry point is run up to where it would serve."""
    code = (
        f"import sys, core.http.serving, {module}.__main__ as entry\n"
        "entry.serve = lambda *_: None\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "entry.main([])\n"
        "import os, onnxruntime\n"
        "assert os.environ['DO_NOT_TRACK'] == '1'\n"
    )
    left = files_left(code, tmp_path / "home")
    assert not any("Microsoft" in file or file == ".ses" for file in left), left
