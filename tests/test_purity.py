"""Workers are pure: no prompt text may live in a worker's folder. This reads their source and fails if any does."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WORKERS = ("llm", "image", "vision")
SOURCE_FILES = {".py", ".pyc"}
DATA_FILES = {
    "llm/models.toml",  # the catalogue of models: ids, sources, arguments
    "training/tiny/things.txt",  # names of the things that the small image model is trained on
}

WEIGHTS = "image/models/zimage-tiny-icons/"  # the small image model as diffusers loads it, and its card

MANY_WORDS = 40
"""A text this long that is neither a docstring nor the help of an argument has no business in a worker."""

PROMPT_LIKE = re.compile(
    r"""\b(
        you\s+are\s+(a|an|the)\b | you\s+(must|should|will|write|always|never)\b | your\s+(task|role|job|answer|name)\b
      | (act|behave|respond|reply|answer)\s+(as|in|with|like|only)\b | as\s+an?\s+(ai|assistant|expert)\b
      | (do\s+not|don't|never)\s+(mention|reveal|say|include)\b | step\s+by\s+step\b
      | masterpiece | best\s+quality | highly\s+detailed | photorealistic | ultra\s*-?\s*realistic | sharp\s+focus
      | (worst|low)\s+quality | bad\s+anatomy | extra\s+(limbs|fingers) | blurry,
      | cinematic\s+light | \b[48]k\b.*\b(photo|render|image) | (describe|write|generate|draw)\s+(the|a|an|this)\s
    )""",
    re.IGNORECASE | re.VERBOSE,
)

ROLES = {"system", "assistant", "developer"}


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of every string a module holds but its docstrings; the fixed parts of f-strings included."""
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    } | {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


def messages(tree: ast.AST) -> Iterator[int]:
    """Lines where a message is written down: a dict whose `role` is a fixed system, assistant or developer.

    One whose content has not a single letter is no prompt: the chat template's probes are such.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            fixed = {
                key.value: value.value if isinstance(value, ast.Constant) else None
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant)
            }
            content = fixed.get("content", "")
            silent = isinstance(content, str) and content and not any(map(str.isalpha, content))
            if fixed.get("role") in ROLES and not silent:
                yield node.lineno


def complaints(source: str) -> list[str]:
    """What in a module reads like a prompt."""
    tree = ast.parse(source)
    found = [f"line {line}: a message with a fixed role" for line in messages(tree)]
    for line, text in texts(tree):
        if PROMPT_LIKE.search(text):
            found.append(f"line {line}: reads like a prompt: {text[:60]!r}")
        elif len(text.split()) >= MANY_WORDS:
            found.append(f"line {line}: a text of {len(text.split())} words: {text[:60]!r}")
    return found


@pytest.mark.parametrize("folder", WORKERS)
def test_a_worker_holds_no_prompt_text(folder: str) -> None:
    found = {str(file.relative_to(ROOT)): complaints(file.read_text("utf-8")) for file in (ROOT / folder).rglob("*.py")}
    # The fake engine repeats a message as an assistant: its role is the API's, its content the caller's.
    # The selfie worker shows a vision model its own answer again: so is that role, and the content is the model's.
    for name in ("tests/fakes/fake_engine.py", "vision/describe.py"):
        found[name] = [c for c in found.get(name, []) if "fixed role" not in c]
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("folder", WORKERS)
def test_a_worker_folder_holds_no_file_that_could_carry_a_prompt(folder: str) -> None:
    others = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and file.suffix not in SOURCE_FILES
    }
    assert {name for name in others - DATA_FILES if not name.startswith(WEIGHTS)} == set()


@pytest.mark.parametrize(
    "source",
    [
        'SYSTEM = "You are a helpful assistant."',
        'x = [{"role": "system", "content": text}]',
        'x = {"role": "system", "content": "Be kind."}',
        'prompt = prompt + ", masterpiece, best quality"',
        'prompt = f"{prompt}, highly detailed"',
        'NEGATIVE = "worst quality, bad anatomy"',
        'ask = "Describe the person in this picture as JSON."',
        "def f():\n    'doc'\n    return 'Answer only with the caption, please.'",
        f'TEXT = "{"word " * MANY_WORDS}"',
    ],
)
def test_the_check_finds_prompt_text(source: str) -> None:
    assert complaints(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""You are reading documentation."""',
        'raise ValueError("The model does not exist; this worker serves others.")',
        'role = "system"',
        'x = {"role": message["role"]}',
    ],
)
def test_the_check_leaves_ordinary_code_alone(source: str) -> None:
    assert not complaints(source)
