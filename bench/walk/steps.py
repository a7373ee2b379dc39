"""What a new user types, in the order of the pages; what is put in the place of names; what is not run, and why."""

from dataclasses import dataclass

PYTHON = ".venv/bin/python"
ORCHESTRATOR = f"{PYTHON} -m orchestrator"
CURL = "curl -s http://127.0.0.1:8000"
CHAT = f"{CURL}/v1/chat/completions"


@dataclass(frozen=True)
class Step:
    """A command whose text on the pages begins with `begins`. `run` is run instead where names stand in the text;
    `note` says what was put for them. `ends` is the exit status that is right, and `says` is printed."""

    begins: str
    says: str = ""
    run: str = ""
    note: str = ""
    ends: int = 0


ASKED_BY_SDK = """
import openai
asked = [{"role": "user", "content": "Say hello."}]
print(openai.OpenAI().chat.completions.create(model="gpt-4o-mini", max_tokens=8, messages=asked).model)
"""
BACKGROUND = (
    f"""{CURL}/v1/chat/1to1/imagegen -H "Authorization: Bearer $(cat data/keys/local_api_key)" """
    """-H 'Content-Type: application/json' -d '{"message": "A red apple.", "background": true}' """
    """| python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])' >job"""
)
OTHER = (
    f"({PYTHON} -m tests.fakes.fake_engine --model any --served-model-name other --port $OTHER_PORT >other.log 2>&1 &)"
)
THERE = "a job of this walk"
POD = "HOST=127.0.0.1 PORT=$POD_PORT DATA_DIR=$PWD/pod WAN_WORKER_API_KEY=$(cat data/keys/worker_key)"
POD_NOTE = "the selfie worker, on this machine: a rented pod was not at hand"

STEPS = (
    Step("make doctor", "Nothing stands in the way"),
    Step(f"{CHAT} \\\n-H", '"content"'),
    Step(CHAT.replace("-s", "-sN"), "data: [DONE]"),
    Step(CHAT.replace("-s", "-si"), "x-prompt-release: chat_conversation@"),
    Step(f"{CURL}/v1/chat/1to1/imagegen", "."),
    Step(
        "pip install openai", "installed", f"{PYTHON} -c 'import openai; print(\"installed\")'", "it is there already"
    ),
    Step(
        f"{ORCHESTRATOR} keys create my-app", "sk-", f"{ORCHESTRATOR} keys create my-app --scopes chat,images | tee key"
    ),
    Step(f"{ORCHESTRATOR} keys create --help", "--requests"),
    Step(f"{ORCHESTRATOR} aliases set gpt-4o-mini qwen_instruct", "gpt-4o-mini"),
    Step("export OPENAI_BASE_URL", run=f"export OPENAI_BASE_URL={CURL[8:]}/v1", note="kept for the next line"),
    Step(
        "export OPENAI_API_KEY",
        "smollm2",
        f"export OPENAI_BASE_URL={CURL[8:]}/v1 OPENAI_API_KEY=$(sed -n 's/^secret: //p' key);"
        f" {PYTHON} -c '{ASKED_BY_SDK}'",
        "the key that was made; then the SDK asks for `gpt-4o-mini`",
    ),
    Step(f"{PYTHON} -m prompts pull", "chat_conversation", f"{PYTHON} -m prompts pull my-prompts"),
    Step(
        "",
        run='python3 -c \'from pathlib import Path; f = next(Path("my-prompts/chat_conversation").glob("*system*"));'
        ' f.write_text("Be brief. " + f.read_text())\'',
    ),
    Step(f"{PYTHON} -m prompts check", "chat_conversation: fine", f"{PYTHON} -m prompts check my-prompts"),
    Step(
        f"{PYTHON} -m prompts diff", "chat_conversation: changed here", f"{PYTHON} -m prompts diff my-prompts", ends=1
    ),
    Step(f"{PYTHON} -m prompts push", "chat_conversation", f"{PYTHON} -m prompts push my-prompts"),
    Step(CHAT.replace("-s", "-si"), "x-prompt-release: chat_conversation@2"),
    Step("curl -s -X POST http://127.0.0.1:8000/v1/prompts/chat_conversation/labels", "chat_conversation"),
    Step(CHAT.replace("-s", "-si"), "x-prompt-release: chat_conversation@1"),
    Step(f"{PYTHON} -m prompts audit verify", "whole: "),
    Step("", run=OTHER),
    Step(
        f"{ORCHESTRATOR} workers add other",
        "engine:other",
        f"{ORCHESTRATOR} workers add other http://127.0.0.1:$OTHER_PORT/v1",
        "a stand-in's address",
    ),
    Step(f"{ORCHESTRATOR} workers list", "engine:other", f"sleep 4; {ORCHESTRATOR} workers list"),
    Step(f"{ORCHESTRATOR} workers drain", "drained", f"{ORCHESTRATOR} workers drain engine:other", "`engine:other`"),
    Step("compose/pod.sh chat", "starts", f"ORCHESTRATOR_URL={CURL[8:]} {POD} compose/pod.sh selfie", POD_NOTE),
    Step("compose/pod.sh SERVICE", "starts", f"ORCHESTRATOR_URL={CURL[8:]} {POD} compose/pod.sh selfie", POD_NOTE),
    Step("", run=f"{POD} compose/pod.sh selfie stop"),
    Step(f"{CURL}/v1/profile/analyze", '"found":true'),
    Step("", run=BACKGROUND),
    Step(f"{ORCHESTRATOR} jobs watch", "done", f"{ORCHESTRATOR} jobs watch $(cat job)", THERE),
    Step(f"{ORCHESTRATOR} jobs list", "id", f"{ORCHESTRATOR} jobs list --state running"),
    Step(f"{ORCHESTRATOR} jobs cancel", "completed", f"{ORCHESTRATOR} jobs cancel $(cat job)", THERE),
    Step(
        f"{ORCHESTRATOR} keys rotate", "secret", f"{ORCHESTRATOR} keys rotate $(sed -n 's/^id: //p' key)", "a key's id"
    ),
    Step(
        f"{ORCHESTRATOR} keys revoke", run=f"{ORCHESTRATOR} keys revoke $(sed -n 's/^id: //p' key)", note="a key's id"
    ),
    Step(f"{ORCHESTRATOR} settings", "PORT="),
    Step(f"{PYTHON} -m image inspect", '"marks"', f"{PYTHON} -m image inspect apple.png", "`apple.png` of README"),
    Step(f"{ORCHESTRATOR} backup", "files"),
    Step(
        f"DATA_DIR=/srv/soundstage {ORCHESTRATOR} restore",
        "files",
        f"DATA_DIR=$PWD/restored {ORCHESTRATOR} restore studio-2026-11-21.tar",
        "another folder",
    ),
    Step("git log --oneline HEAD..origin/main"),
    Step("git pull", "up to date"),
    Step("cp compose/.env.example compose/.env"),
    Step("make docs", "", "make docs && git diff --exit-code docs compose"),
)

NOT_RUN = {
    "docker ": "no Docker engine here",
    "kubectl ": "no Kubernetes cluster here",
    "compose/pod.sh": "a rented pod was not at hand; the test suite runs its keeper and its dry runs",
    "ORCHESTRATOR_URL=… ": "a rented pod was not at hand; run as the selfie worker on this machine",
    "export ORCHESTRATOR_URL": "it stands for another machine's address",
    "export WAN_WORKER_API_KEY": "it stands for a key",
    f"{PYTHON} -m bench.": "it measures, for minutes to hours; what it found is in bench/results/",
    "make test": "run apart: it takes a quarter of an hour",
    "make check": "run apart: a part of `make test`",
    "make fuzz": "run apart: it searches for as long as one lets it",
    "make tiny-model": "it trains for hours",
    "$ make tiny-model": "it trains for hours",
    f"{PYTHON} -m prompts": "its commands are run",
    f"{PYTHON} -m llm": "`make up` runs it",
    f"{PYTHON} -m image": "`make up` runs it",
    f"{PYTHON} -m vision": "`make up` runs it",
    ORCHESTRATOR: "`make up` runs it",
}
