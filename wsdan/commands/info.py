"""wsdan info: versions, devices, and which backends can run."""

import argparse
import platform

HELP = "versions, devices, and which backends can run"


def add_options(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def run(options: dict) -> None:
    import torch
    import torchvision

    import wsdan_kernels

    print(f"wsdan {wsdan_kernels.__version__}")
    print(f"python {platform.python_version()}, torch {torch.__version__}, ", end="")
    print(f"torchvision {torchvision.__version__}")
    print(f"cpu: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"cuda: {', '.join(devices) if devices else 'no device'}")
    for device in ["cpu", "cuda"] if devices else ["cpu"]:
        print(wsdan_kernels.explain(device))
