from pathlib import Path
import pytest
from csr_core.policy import load_policy
from tests.families import checks
from tests.families.checkpoints import FAMILIES, save
from tests.families.world import settings_for

@pytest.mark.parametrize("family", list(FAMILIES))
def test_family(family: str, tmp_path: Path) -> None:
    checkpoint = save(family, tmp_path / "checkpoint")
    settings = settings_for(tmp_path, checkpoint, "finetune.learning_rate=1e-2", "finetune.epochs=12", "finetune.batch_size=8")
    checks.greedy_is_stock_greedy(load_policy(settings.model))
    checks.only_the_picture_tells(settings, tmp_path)
    checks.the_stages_run(checkpoint, tmp_path / "run")
