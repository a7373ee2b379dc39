"""What the pipelines are asked for in tests: each by its route, and a message that is too long."""

STORIES = {
    "chat1to1": ("/v1/chat/1to1/imagegen", "/v1/chat/1to1/expand"),
    "shorts": ("/v1/chat/shorts/generate", "/v1/chat/shorts/expand"),
    "scenes": ("/v1/chat/scenes/generate", "/v1/chat/scenes/expand"),
}
OWN_PROMPT = ("/v1/chat/private/imagegen", "/v1/imagegen")
LONG = (
    "Hello you, I had such a long day with so many meetings and no lunch at all, anyway could you please draw a red"
    " sailboat on a calm lake at dusk for me, that would be lovely"
)
