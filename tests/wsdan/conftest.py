"""The program's tests run on the CPU, also where there is a GPU: in this process and in others."""

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def no_gpu():
    """Else two ranks would share a GPU, and equal bits would hang on its libraries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(torch.cuda, "device_count", lambda: 0)
        yield
