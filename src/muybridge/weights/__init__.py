"""Checkpoints: one safetensors file with its card; and the state dicts of others, made ours."""
