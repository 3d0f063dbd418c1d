"""The operators as functions: argument checks, choice of the backend, call of the op.

Alphabet: B batch, C feature channels, M attention maps, h w feature-map size, K = h*w, H W image
size, N classes, T thresholds. Equations: arXiv:1901.09891. Every function takes
backend="auto" | "reference" | "cpu" | "triton" | "cuda"; "auto" takes the fastest that can run
(see `wsdan_kernels.explain`), a backend asked for by name that cannot run raises
BackendUnavailableError with the reason.
"""

# ruff: noqa: F401  (imported to be public here)
from wsdan_kernels.functional.attending import (
    RULES,
    attention_boxes,
    attention_drop,
    attention_swap,
    crop_resize,
    sample_attention,
)
from wsdan_kernels.functional.centers import center_loss, update_centers_
from wsdan_kernels.functional.pooling import attend_and_pool, bilinear_attention_pool
