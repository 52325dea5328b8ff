"""The method: Calibrated Self-Rewarding (arXiv 2405.14622) for VLMs. Pure: no prefect, mlflow or dvc."""

import os

# TRL reports each trainer it makes to the Hugging Face hub unless told not to; read when huggingface_hub is imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
