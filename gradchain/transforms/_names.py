"""Names of parameters without what wrappers of models add to them."""

from __future__ import annotations

# torch.compile, FSDP, activation checkpointing, Lightning Fabric; they stand anywhere in a name
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
FIRST = "module"  # DistributedDataParallel, DataParallel, DeepSpeed, AveragedModel; in front of a name only


def bare(name: str) -> str:
    """The name as the model inside the wrappers has it, in whatever order they are nested."""
    *path, last = name.split(".")
    path = [word for word in path if word not in WRAPPERS]
    while path and path[0] == FIRST:
        path = path[1:]
    return ".".join([*path, last])
