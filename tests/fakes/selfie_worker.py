"""A fake selfie worker: it keeps the forms that it was sent and answers with a set analysis."""

import asyncio
import base64
import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from python_multipart.multipart import parse_options_header

from core.http.disconnect import ClientDisconnected, until_disconnect
from core.http.form import Field, read_form
from core.json.canonical import messages_sha256

FIELDS = ("messages", "schema", "sampling", "repair", "portrait")
PORTRAIT = b"\xff\xd8\xff\xe0 a portrait"
FACE = {"found": True, "quality_score": 0.8}


class SelfieWorker:
    """`held` keeps its answers back while it is cleared; `status` other than 200 is a refusal."""

    def __init__(self) -> None:
        self.status = 200
        self.held = asyncio.Event()
        self.held.set()
        self.tamper = False
        self.running = self.left = 0
        self.received: list[dict[str, bytes]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: dict[str, Any] = {
            "features": {"expression": {"value": "smiling", "confidence": 0.9, "source": "small"}},
            "face": FACE,
            "image": {"width": 64, "height": 64},
            "apparent_age": "adult",
            "vision_model": None,
            "warnings": [],
            "portrait": None,
        }

    def app(self) -> FastAPI:
        api = FastAPI()
        api.post("/v1/profile/analyze")(self._analyze)
        return api

    async def _analyze(self, request: Request) -> Response:
        kind = request.headers["content-type"]
        assert parse_options_header(kind)[0] == b"multipart/form-data"
        fields = {"image": Field(32 << 20, file=True), **{name: Field(1 << 20) for name in FIELDS}}
        form = {name: bytes(value) for name, value in (await read_form(kind, request.stream(), fields, 20)).items()}
        self.received.append(form)
        self.headers.append(dict(request.headers))
        self.running += 1
        try:
            with until_disconnect(request.receive):
                await self.held.wait()
        except ClientDisconnected:
            self.left += 1
            return Response(status_code=499)
        finally:
            self.running -= 1
        if self.status != 200:
            error = {"message": "set to fail", "type": "invalid_request_error", "param": "image", "code": "set_to_fail"}
            return JSONResponse({"error": error}, self.status)
        answer = dict(self.answer)
        if form.get("portrait") == b"true":
            answer["portrait"] = base64.b64encode(PORTRAIT).decode()
        messages = json.loads(form["messages"]) if "messages" in form else None
        if messages is not None and self.tamper:
            messages[-1]["content"] += "."
        headers = {} if messages is None else {"x-messages-sha256": messages_sha256(messages) or ""}
        return JSONResponse(answer, headers=headers)
