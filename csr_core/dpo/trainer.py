"""TRL's trainer where several processes train together. Imports trl."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, RandomSampler, Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import DPOTrainer

from csr_core.dpo.ranks import Rounds


class RanksTrainer(DPOTrainer):
    """Deals out to the ranks what one process would see, in the order it would see it."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        args, rows = self.args, self.train_dataset
        size, ranks = args.per_device_train_batch_size, args.world_size
        sampler: Sampler[int] = RandomSampler(rows)
        if args.train_sampling_strategy == "group_by_length":
            update = size * args.gradient_accumulation_steps * ranks
            sampler = LengthGroupedSampler(update, lengths=rows[args.length_column_name])
        loader = DataLoader(
            rows,
            batch_sampler=Rounds(sampler, size, ranks),
            collate_fn=self.data_collator,
            pin_memory=args.dataloader_pin_memory,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared
