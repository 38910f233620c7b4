"""The model server: prepares the weights, starts vLLM, keeps it alive, loads adapters."""
