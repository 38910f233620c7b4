"""The HTTP API and the page. Imports no torch, transformers, peft or vllm."""
