"""The method: Calibrated Self-Rewarding (arXiv 2405.14622) for VLMs. Pure: no prefect, mlflow or dvc."""
