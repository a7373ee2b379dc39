"""The studio's pipelines: each is one function that reads like its description."""
