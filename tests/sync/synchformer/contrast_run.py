"""What `test_synchformer_training` starts: `contrast_run.py FOLDER` leaves the gradients of the contrast of
eight segments, of one process and as the mean of two.
"""

import os
import sys
from pathlib import Path

import torch
from torch import distributed, multiprocessing, nn

from latentsync.sync.synchformer.contrast import contrastive_loss


def gradients(rows, temperature):
    """Of the layers of both streams and of the temperature, for `rows` of the batch."""
    torch.manual_seed(0)
    seen, heard = torch.randn(8, 6), torch.randn(8, 5)
    layers = nn.ModuleDict({"vision": nn.Linear(6, 4), "sound": nn.Linear(5, 4)})
    scale = nn.Parameter(torch.tensor(temperature))
    features = [
        nn.functional.normalize(layers[name](inputs[rows]), dim=-1)
        for name, inputs in (("vision", seen), ("sound", heard))
    ]
    contrastive_loss(*features, scale, gathered=True).backward()
    found = {name: parameter.grad for name, parameter in layers.named_parameters()}
    return {**found, "temperature": scale.grad}


def one_of_two(rank, folder, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    found = gradients(slice(4 * rank, 4 * rank + 4), 0.3)
    for gradient in found.values():  # as DistributedDataParallel does
        distributed.all_reduce(gradient)
        gradient /= 2
    if rank == 0:
        torch.save(found, folder / "gradients-2.pt")
    distributed.destroy_process_group()


def main(folder):
    torch.save(gradients(slice(None), 0.3), folder / "gradients-1.pt")
    port = 20_000 + os.getpid() % 20_000
    multiprocessing.spawn(one_of_two, (folder, port), nprocs=2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
