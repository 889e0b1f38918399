"""Data loading compared with the training step that consumes it: python benchmarks/data_loading.py.

Loading decodes, augments and resizes drawn faces to 224 x 224, and tokenizes the conversations of the mixture
0.75:0.25, in the main process and without the image cache. The training step is the one in `train_step.py`.
"""

import argparse
import tempfile
from time import perf_counter

import torch
from peer import our_model
from results import save

from explllm.data.datamodules import DrawnFaces
from explllm.data.transforms import Augment


def main() -> None:
    """Measure, print a table and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="epochs (default: 7)")
    options = parser.parse_args()
    model = our_model().train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad])
    seconds: dict[str, list[float]] = {"ours": [], "other": []}
    with tempfile.TemporaryDirectory() as folder:
        data = DrawnFaces(
            folder, train=56, val=7, test=7, batch_size=16, micro_batch_size=16, augment=Augment(), cache_megabytes=0
        )
        data.prepare_data()
        data.prepare_for(model)
        for _ in range(options.repeats + 1):
            start = perf_counter()
            batches = list(data.train_dataloader())
            seconds["ours"].append(1000 * (perf_counter() - start) / (16 * len(batches)))
            start = perf_counter()
            for batch in batches[:4]:
                loss = model(batch["pixel_values"], batch["input_ids"], None, batch["labels"], True).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            seconds["other"].append(1000 * (perf_counter() - start) / (16 * len(batches[:4])))
    without_warm_up = {side: samples[1:] for side, samples in seconds.items()}
    save(
        "data_loading",
        "Data loading vs. training step",
        "ms per conversation",
        "training step",
        {"0.75:0.25": without_warm_up},
    )


if __name__ == "__main__":
    main()
