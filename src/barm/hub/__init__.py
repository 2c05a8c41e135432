"""Models on a hub: ``hf://owner/name`` is fetched and pushed through huggingface_hub."""
