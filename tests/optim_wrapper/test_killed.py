"""The recipe for saving: a run that is killed at any moment leaves its last complete checkpoint, and goes on bit for bit."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training import identical

pytestmark = pytest.mark.slow

RECIPE = '''
import os
import torch


def save(path, **parts):
    """Write a checkpoint beside ``path``, bring it to the disk, and only then put it in its place, in one step."""
    with open(f"{path}.part", "wb") as file:
        torch.save(parts, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.part", path)
'''

TRAINING = """
import signal
import sys
import time
from pathlib import Path

import torch._dynamo  # as the first optimizer of a process would: once, and not in every fork
from torch import nn

from gradchain import presets

torch.set_num_threads(1)


def train(path, stop, saving=lambda: None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 64))
    optimizer = presets.ladam(lr=1e-3, c2=1e-3).optimizer(model.named_parameters())
    start, x = 0, torch.linspace(-1, 1, 640).reshape(10, 64)
    if Path(path).exists():
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        assert optimizer.load_state_dict(saved["optimizer"], strict=True).clean
        start = saved["step"]
    for step in range(start, stop):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        save(path, model=model.state_dict(), optimizer=optimizer.state_dict(), step=step + 1)
        saving()


def killed(path, wait):
    # a training process, killed this long after its first checkpoint
    ready, tell = os.pipe()
    process = os.fork()
    if process == 0:
        train(path, 1_000_000, lambda: os.write(tell, b"."))
        os._exit(1)
    os.close(tell)
    os.read(ready, 1)
    time.sleep(wait)
    os.kill(process, signal.SIGKILL)
    os.close(ready)
    return os.WTERMSIG(os.waitpid(process, 0)[1])


for line in sys.stdin:
    path, number = line.split()
    print(killed(path, float(number)) if "." in number else train(path, int(number)), flush=True)
"""


def test_twenty_kills_leave_a_checkpoint_each_time_and_change_no_bit(tmp_path):
    clock, path, straight = random.Random(0), tmp_path / "run.pt", tmp_path / "straight.pt"
    last = unfinished = 0
    environment, pipe = {**os.environ, "OMP_NUM_THREADS": "1"}, subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", RECIPE + TRAINING], stdin=pipe, stdout=pipe, text=True, env=environment
    ) as runs:

        def ask(*words):
            print(*words, file=runs.stdin, flush=True)
            return runs.stdout.readline().strip()

        for _ in range(20):
            assert ask(path, clock.uniform(0, 0.05)) == str(int(signal.SIGKILL))
            unfinished += Path(f"{path}.part").exists()
            step = torch.load(path, weights_only=True)["step"]
            assert step > last
            last = step
        for one in (path, straight):  # the broken run goes on, and one that was never broken
            assert ask(one, last + 2) == "None"
        runs.stdin.close()
    assert unfinished > 0  # some were killed while they wrote
    ours, theirs = (torch.load(one, weights_only=True) for one in (path, straight))
    assert ours["step"] == last + 2 and identical(ours, theirs)
