"""LiteLLM as a client of the gateway: `python chat_litellm.py BASE_URL KEY`, in LiteLLM's own environment.

It prints one line of JSON a check; nothing here is the studio's, so it runs where the studio is not installed.
"""

import json
import os
import sys

os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}

import litellm  # type: ignore[import-not-found,unused-ignore]
from pydantic import BaseModel, Field

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


class Age(BaseModel):
    age: int = Field(ge=0, le=120)


def say(check: str, **facts: object) -> None:
    sys.stdout.write(json.dumps({"check": check, **facts}) + "\n")


def main(base_url: str, key: str) -> None:
    asked = {"model": "openai/qwen_instruct", "api_base": base_url, "api_key": key, "temperature": 0, "max_tokens": 20}
    litellm.telemetry = False
    answer = litellm.completion(messages=QUESTION, **asked)
    say("answer", text=answer.choices[0].message.content, tokens=answer.usage.completion_tokens)

    chunks = list(litellm.completion(messages=QUESTION, stream=True, stream_options={"include_usage": True}, **asked))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    say(
        "stream",
        text=text,
        tokens=next(chunk.usage.completion_tokens for chunk in chunks if getattr(chunk, "usage", None)),
    )

    structured = litellm.completion(
        messages=[{"role": "user", "content": "How old is Ada?"}], response_format=Age, **asked
    )
    say("structured", keys=sorted(json.loads(structured.choices[0].message.content)))

    tool = {"type": "function", "function": {"name": "save_age", "strict": True, "parameters": Age.model_json_schema()}}
    choice = {"type": "function", "function": {"name": "save_age"}}
    called = litellm.completion(messages=QUESTION, tools=[tool], tool_choice=choice, **{**asked, "max_tokens": 60})
    say("tool", name=called.choices[0].message.tool_calls[0].function.name)

    text = litellm.text_completion(
        prompt="The capital of France is", **{**asked, "model": "text-completion-openai/qwen_base"}
    )
    say("completion", paris="Paris" in text.choices[0].text)

    for check, change, kind in (
        ("unknown model", {"model": "openai/nope"}, litellm.NotFoundError),
        ("unknown key", {"api_key": "wrong"}, litellm.AuthenticationError),
        ("wrong field", {"temperature": 9}, litellm.BadRequestError),
    ):
        try:
            litellm.completion(messages=QUESTION, num_retries=0, **{**asked, **change})
            say(check, raised=None)
        except kind as error:
            say(check, raised=type(error).__name__, status=error.status_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
