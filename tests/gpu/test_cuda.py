"""The CUDA kernels against the reference: on a GPU, or without one in tests/gpu/emulator.

In the emulator every launch is also watched for races, barriers that not all threads reach and
shared memory out of bounds; `make sanitize` runs these tests under AddressSanitizer instead.
"""

import itertools
import re

import golden
import parity
import pytest
import torch
import view_parity
from emulator import build, install
from parity import DEVICE, DTYPES, EMULATED, OPS, STRIDES, as_tuple, far_apart, values
from view_parity import check

import wsdan_kernels as wk
from wsdan_kernels import backends
from wsdan_kernels.ops import KERNELS
from wsdan_kernels.testing import CASES

if EMULATED and build.missing() is not None:
    pytest.skip(f"no GPU, and {build.missing()} for the emulator", allow_module_level=True)

pytestmark = pytest.mark.slow
WHERE = DEVICE["cuda"]
CUDA_CASES = [case for case in CASES if "cuda" in KERNELS[case.op]]
CASES_BY_DTYPE = [
    (case, dtype)
    for case in CUDA_CASES
    for dtype in DTYPES
    if dtype in (KERNELS[case.op]["cuda"].dtypes or DTYPES)
]
IMAGE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
emulated = pytest.mark.skipif(not EMULATED, reason="steers the emulator")
each_case = pytest.mark.parametrize("case", CUDA_CASES, ids=str)
each_case_and_dtype = pytest.mark.parametrize(("case", "dtype"), CASES_BY_DTYPE, ids=str)
each_image_dtype = pytest.mark.parametrize("dtype", IMAGE_DTYPES, ids=str)
each_layout = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
each_rule = pytest.mark.parametrize("rule", ["paper", "guyuc"])


@pytest.fixture(scope="module", autouse=True)
def emulator():
    """The emulator's library, or None on a GPU."""
    if not EMULATED:
        yield None
        return
    with install.installed() as library:
        yield library


def results(case, inputs, backend="cuda"):
    """Outputs and gradients, on the CPU."""
    inputs = {name: value.detach().to(DEVICE.get(backend, "cpu")) for name, value in inputs.items()}
    found = parity.outcomes(case.run, inputs, case.differentiable, backend)
    return [value.cpu() for value in found]


def test_these_operators_have_kernels():
    names = {case.op for case in CUDA_CASES}
    views = {"crop_resize", "attention_swap", "attention_drop", "attention_crop_drop"}
    assert names == {"attention_boxes", *views}
    assert backends.available()["cuda"] is None
    for op in names:
        for dtype in (*IMAGE_DTYPES, torch.float64 if op == "attention_boxes" else torch.uint8):
            assert backends.why_not(op, "cuda", WHERE, dtype) is None


@each_case_and_dtype
def test_equals_the_reference(case, dtype):
    for shape in case.shapes:
        for batch in (shape[0], 0):
            inputs = case.inputs((batch, *shape[1:]), dtype)
            check(case.run, inputs, case.differentiable, "cuda")


@pytest.mark.parametrize("strides", STRIDES)
@each_case_and_dtype
def test_layouts(case, dtype, strides):
    shape = {3: (3, 7, 8), 5: (2, 5, 4, 9, 16)}[len(case.shapes[0])]
    inputs = {name: value.detach() for name, value in case.inputs(shape, dtype).items()}
    found = check(case.run, inputs, case.differentiable, "cuda", strides, upstream_strides=strides)
    for value in found:
        assert value.is_contiguous() or (value.dim() == 4 and strides == "channels_last")


@pytest.mark.parametrize("size", [(513, 513), (1, 513), (513, 2), (127, 251), (64, 96)])
@each_layout
@pytest.mark.slow
def test_large_and_narrow_images(size, layout):
    targets = ((97, 64),) if size == (513, 513) else ((97, 64), (1, 1), None)
    view_parity.check_images("cuda", size, layout, targets)


def test_boxes_out_of_the_image_reversed_and_beyond_32_bits():
    view_parity.check_odd_boxes("cuda")


@each_rule
@each_layout
@each_image_dtype
def test_unusable_maps_leave_the_image_bit_for_bit(dtype, layout, rule):
    view_parity.check_unusable_maps("cuda", dtype, layout, rule)


@each_layout
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_not_finite(value, layout):
    view_parity.check_nonfinite_images("cuda", value, layout)


@each_layout
@pytest.mark.parametrize("dtype", [*IMAGE_DTYPES, torch.uint8], ids=str)
def test_float64_maps_of_other_images(dtype, layout):
    """attention_crop_drop takes the kernels of each there; the masks are those of float64."""
    images = (100 * values((3, 3, 40, 48)).abs()).to(dtype).contiguous(memory_format=layout)
    maps = values((3, 6, 7), torch.float64, 1)
    thresholds = torch.tensor([0.2, 0.4, 0.7], dtype=torch.float64)
    drops = view_parity.check_drop("cuda", images, maps, thresholds, "paper")
    images, maps, thresholds = (value.to(WHERE) for value in (images, maps, thresholds))
    crops, dropped, boxes = OPS.attention_crop_drop(
        images, maps.flip(1), maps, thresholds, thresholds, 0.1, "paper", True, "cuda"
    )
    assert torch.equal(dropped.cpu(), drops)
    assert torch.equal(crops, wk.crop_resize(images, boxes, backend="cuda"))
    options = {"threshold": thresholds, "padding": 0.1, "backend": "cuda"}
    assert torch.equal(boxes, wk.attention_boxes(maps.flip(1), (40, 48), **options))


@each_rule
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.slow
def test_boxes(dtype, rule):
    """Exact at the sizes of real images; at small ones torch rounds in another way."""
    thresholds = torch.tensor([[0.0, 0.1, 0.35, 0.5, 0.9]]).expand(3, -1)
    thresholds = thresholds.double() if dtype == torch.float64 else thresholds
    sizes = [(1, 1, 5, 9), (4, 7, 33, 31), (9, 1, 66, 65), (26, 26, 224, 224), (13, 40, 97, 301)]
    for seed, (h, w, height, width) in enumerate(sizes):
        for align_corners in (True, False):
            maps = values((3, h, w), dtype, seed)
            maps[1] = maps[1].relu()
            maps[2] = 0 if seed % 2 else maps[2].abs()
            options = ((height, width), (0.0, 0.1, 0.33)[seed % 3], rule, align_corners)
            found = view_parity.check_boxes("cuda", maps, thresholds, *options)
            if height > 65:
                size, *rest = options
                truth = OPS.attention_boxes(maps, thresholds, *size, *rest, "reference")
                assert torch.equal(found, truth)


@pytest.mark.parametrize("size", [(300, 310), (40, 5000)])
@pytest.mark.slow
def test_maps_larger_than_shared_memory(size):
    maps = values((2, *size), seed=3).relu()
    thresholds = torch.tensor([[0.5, 0.9], [0.3, 0.99]])
    for rule in ("paper", "guyuc"):
        view_parity.check_boxes("cuda", maps, thresholds, (65, 70), 0.05, rule)
        images = values((2, 3, 65, 70), seed=4)
        view_parity.check_drop("cuda", images, maps, thresholds[:, 0], rule)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [((110, 111), torch.float32), ((160, 160), torch.float32), ((160, 160), torch.float64)],
    ids=str,
)
def test_maps_in_more_shared_memory_than_a_kernel_has_by_default(size, dtype):
    """Of 48 to 227 KB, for which the launcher asks."""
    maps = values((2, *size), dtype, seed=3).relu()
    thresholds = torch.tensor([[0.5, 0.9], [0.3, 0.99]], dtype=dtype)
    view_parity.check_boxes("cuda", maps, thresholds, (65, 70), 0.05, "paper")
    images = values((2, 3, 65, 70), seed=4)
    view_parity.check_drop("cuda", images, maps, thresholds[:, 0], "paper")


def test_several_thresholds_are_each_alone():
    maps = values((3, 9, 7)).abs().to(WHERE)
    thresholds = tuple(i / 40 for i in range(40))
    options = {"padding": 0.1, "backend": "cuda"}
    boxes = wk.attention_boxes(maps, (50, 60), threshold=thresholds, **options)
    assert boxes.shape == (3, 40, 4)
    for i in (0, 17, 39):
        single = wk.attention_boxes(maps, (50, 60), threshold=thresholds[i], **options)
        assert torch.equal(boxes[:, i], single)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@each_layout
@pytest.mark.parametrize("dtype", [*IMAGE_DTYPES, torch.uint8], ids=str)
@pytest.mark.slow
def test_rows_of_whole_chunks_and_others(dtype, layout, channels):
    view_parity.check_rows("cuda", dtype, layout, channels)


@pytest.mark.parametrize("map_dtype", DTYPES, ids=str)
def test_maps_and_images_of_different_dtypes(map_dtype):
    for dtype in (torch.float32, torch.uint8):
        view_parity.check_rows("cuda", dtype, torch.contiguous_format, 3, map_dtype)


@pytest.mark.parametrize("name", [name for name in golden.FILES if "crop_drop" in name])
def test_golden_views(name):
    golden.check_views(name, "cuda", WHERE)


@pytest.mark.parametrize("name", [name for name in golden.FILES if "refine" in name])
def test_golden_refine(name):
    golden.check_refined_boxes(golden.load(name), "cuda", WHERE)


@emulated
@each_case
def test_the_order_of_blocks_and_threads_does_not_matter(case, emulator):
    for shape in case.shapes[:1] + case.shapes[2:]:
        inputs = case.inputs(shape)
        expected = results(case, inputs)
        for seed in range(1, 4):
            with install.order(emulator, seed):
                found = results(case, inputs)
            assert all(map(torch.equal, found, expected))


@each_case
def test_the_same_bits_every_time(case):
    inputs = case.inputs(case.shapes[0])
    assert all(map(torch.equal, results(case, inputs), results(case, inputs)))


@each_case_and_dtype
def test_every_element_is_written(case, dtype):
    """What a kernel allocates is NaN, or the largest integer, before it runs."""
    runs = []
    for filled in (False, True):
        with parity.deterministic(filled):
            runs.append([results(case, case.inputs(shape, dtype)) for shape in case.shapes])
    expected, found = runs
    for first, second in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        assert torch.equal(first, second)


@each_case
def test_no_input_is_written(case):
    inputs = case.inputs(case.shapes[0])
    given = {name: value.detach().clone().to(WHERE) for name, value in inputs.items()}
    parity.outcomes(case.run, given, case.differentiable, "cuda")
    for name, value in inputs.items():
        assert torch.equal(given[name].cpu(), value)


@pytest.mark.parametrize(("axis", "stride"), [(0, 2**31 + 64), (1, 2**30 + 16)])
@parity.room_far_apart()
def test_offsets_beyond_32_bits(axis, stride):
    """More than 2^31 elements from end to end; untouched memory costs nothing, but on a GPU."""
    images = values((2, 3, 5, 8), torch.bfloat16).to(WHERE)
    boxes = torch.tensor([[1, 1, 7, 5], [0, 0, 8, 4]], device=WHERE)
    maps = values((2, 3, 4), seed=1).abs().to(WHERE)

    def views(images):
        images = images.detach().requires_grad_()
        crop = wk.crop_resize(images, boxes, (4, 6), backend="cuda")
        drop = wk.attention_drop(images, maps, threshold=0.4, backend="cuda")
        thresholds = torch.full((2,), 0.4, device=WHERE)
        both = OPS.attention_crop_drop(
            images, maps.flip(1), maps, thresholds, thresholds, 0.1, "paper", True, "cuda"
        )
        return [value.detach() for value in (crop, drop, *both)]

    expected = views(images)
    assert all(map(torch.equal, views(far_apart(images, axis, stride)), expected))
    if axis == 0:
        maps = maps.bfloat16()
        near, far = (
            wk.attention_boxes(value, (20, 30), threshold=0.5, padding=0.1, backend="cuda")
            for value in (maps, far_apart(maps, axis, stride))
        )
        assert torch.equal(near, far)


def test_gradients_of_other_layouts():
    """The upstream gradient may be expanded, as that of a sum is."""
    for strides in STRIDES:
        for case in CUDA_CASES:
            if case.differentiable:
                inputs = case.inputs(case.shapes[0])
                check(case.run, inputs, case.differentiable, "cuda", upstream_strides=strides)


@emulated
def test_the_number_of_launches(emulator):
    """Two for the pair of views, boxes included; one for all boxes."""
    maps, images = values((4, 7, 7)).abs(), values((4, 3, 40, 50))

    def count(function, *arguments, **options):
        before = install.launches(emulator)
        function(*arguments, **options, backend="cuda")
        return install.launches(emulator) - before

    options = {"padding": 0.1, "threshold": (0.1, 0.5, 0.6)}
    assert count(wk.attention_boxes, maps, (40, 50), **options) == 1
    limits = {"crop_threshold": 0.5, "drop_threshold": 0.3}
    assert count(wk.attention_crop_drop, images, maps, maps.flip(1), **limits) == 2


@emulated
@each_case
def test_tensors_of_another_gpu_than_the_current_one(case, emulator):
    """The emulator refuses a launch whose stream is not of the current device."""
    inputs = case.inputs(case.shapes[0])
    expected = results(case, inputs)
    with install.tensors_on(emulator, 1):
        found = results(case, inputs)
        assert emulator.emulator_current_device() == 0
    assert all(map(torch.equal, found, expected))


@emulated
@each_case
def test_a_launch_that_fails_names_the_operator_and_the_shape(case, emulator):
    inputs = {name: value.detach() for name, value in case.inputs(case.shapes[0]).items()}
    first = "maps" if case.op == "attention_boxes" else "images"
    shape = tuple(inputs[first].shape)
    text = f"{case.op}: a kernel did not launch for {shape}: "
    with install.failing(emulator), pytest.raises(RuntimeError, match=re.escape(text)):
        case.run(inputs, "cuda")


def test_traces_as_one_graph():
    case = next(case for case in CUDA_CASES if case.op == "attention_crop_drop")
    torch._dynamo.reset()
    inputs = {name: value.detach().to(WHERE) for name, value in case.inputs(case.shapes[0]).items()}
    compiled = torch.compile(
        lambda values: as_tuple(case.run(values, "cuda")), fullgraph=True, backend="aot_eager"
    )
    assert all(map(torch.equal, compiled(inputs), as_tuple(case.run(inputs, "cuda"))))
