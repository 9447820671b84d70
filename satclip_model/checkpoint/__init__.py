"""Models on disk: our own format, the original's, and safetensors."""
