"""Train a small classifier in two processes, with AttnMixup across the mini-batches of both. Runs on a CPU.

Start it with `torchrun --nproc-per-node 2 docs/examples/distributed_loop.py`.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from attnmixup import AttnMixup
from attnmixup.integrations.loop import MixedModel

dist.init_process_group("gloo")  # "nccl" on GPUs
rank, ranks = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)  # the same classes and the same initial weights on every rank
centres = torch.randn(4, 20)
encoder = nn.Sequential(nn.Linear(20, 32), nn.Tanh())
model = MixedModel(encoder, nn.Linear(32, 4), AttnMixup(dim=32, global_batch=True))
parallel = DistributedDataParallel(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)

torch.manual_seed(1 + rank)  # different samples on every rank
for _ in range(60):
    labels = torch.randint(4, (16,))
    loss = parallel(centres[labels] + 1.5 * torch.randn(16, 20), labels).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

labels = torch.randint(4, (100,))
with torch.no_grad():
    predicted = model.eval()(centres[labels] + 1.5 * torch.randn(100, 20)).logits.argmax(1)
accuracy = (predicted == labels).float().mean()
dist.all_reduce(accuracy)
if rank == 0:
    print(f"test accuracy {accuracy / ranks:.2f}")
dist.destroy_process_group()
