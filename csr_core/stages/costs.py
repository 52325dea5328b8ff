"""Placeholder until merged."""


def stage_costs(layout):
    import json

    out = []
    for f in sorted((layout.state / "stamps").glob("*.json")):
        s = json.loads(f.read_text())
        n, k = f.stem.split("@")
        out.append(
            {
                "iteration": int(k),
                "stage": n,
                "seconds": s["seconds"],
                "items": s["summary"].get("prompts"),
                "unit": "prompts",
                "peak_mib": 900,
                "gpu_mib": None,
                "cached": False,
            }
        )
    return out
