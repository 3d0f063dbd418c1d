// The operators of torch: they check tensors, copy what a kernel cannot read as it is, find room
// for what kernels hand on, and call the launchers on the tensors' device and its current stream.
// nvcc hands a .cpp file to the host's compiler alone.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/shim_utils.h>

#include <optional>
#include <string>

#include "../torch/tensors.h"
#include "launch/launchers.h"

namespace wsdan {
namespace {

Type type_of(const Tensor& tensor, const char* op) {
    switch (tensor.scalar_type()) {
        case ScalarType::Byte:
            return Type::uint8;
        case ScalarType::Half:
            return Type::float16;
        case ScalarType::BFloat16:
            return Type::bfloat16;
        case ScalarType::Float:
            return Type::float32;
        case ScalarType::Double:
            return Type::float64;
        default:
            STD_TORCH_CHECK(false, op, ": no kernel for this dtype");
    }
}

Array array_of(const Tensor& tensor, void* data, const char* op) {
    STD_TORCH_CHECK(tensor.dim() <= 4, op, ": a tensor of more than four axes");
    Array array{data, type_of(tensor, op), static_cast<int>(tensor.dim()), {}, {}};
    for (int axis = 0; axis < array.dim; ++axis) {
        array.sizes[axis] = tensor.size(axis);
        array.strides[axis] = tensor.stride(axis);
    }
    return array;
}

cudaStream_t stream_of(const Tensor& tensor) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    return static_cast<cudaStream_t>(stream);
}

// What one call of an operator launches, on the device and the current stream of its first tensor.
class Call {
public:
    Call(const char* op, const Tensor& first)
        : launch(
              op, array_of(first, /*data=*/nullptr, op), first.get_device_index(), stream_of(first)
          ),
          guard_(first.get_device_index()) {}

    // What the kernels read.
    Array read(const Tensor& tensor) const {
        return array_of(tensor, const_cast<void*>(tensor.const_data_ptr()), launch.op());
    }

    // What they fill.
    Array filled(const Tensor& tensor) const {
        return array_of(tensor, tensor.mutable_data_ptr(), launch.op());
    }

    const Launcher launch;

private:
    torch::stable::accelerator::DeviceGuard guard_;
};

// As the type that maps are computed in, dense.
Tensor computed(const Tensor& tensor, const Tensor& maps) {
    return maps.scalar_type() == ScalarType::Double ? dense_as<double>(tensor)
                                                    : dense_as<float>(tensor);
}

// Maps and their thresholds as the kernels take them, and the copies that those point to.
class MapCopies {
public:
    MapCopies(
        const Call& call, const Tensor& maps, const Tensor& thresholds, const cuda::Resize& resize
    )
        : maps_(call.read(maps)), thresholds_(computed(thresholds, maps)) {
        if (!cuda::has_room(call.launch, maps_, resize))
            dense_ = computed(maps, maps);
    }

    cuda::SeenMaps get() const {
        return {maps_, dense_ ? dense_->const_data_ptr() : nullptr, thresholds_.const_data_ptr()};
    }

private:
    Array maps_;
    Tensor thresholds_;
    std::optional<Tensor> dense_;
};

// What a drop's kernels hand on: as values as maps has, and one for each of them.
class CutTensors {
public:
    explicit CutTensors(const Tensor& maps)
        : values_(room(maps, maps.numel())), cuts_(room(maps, maps.size(0))) {}

    cuda::CutRoom get() const {
        return {values_.mutable_data_ptr(), cuts_.mutable_data_ptr()};
    }

private:
    static Tensor room(const Tensor& maps, int64_t size) {
        const bool wide = maps.scalar_type() == ScalarType::Double;
        return torch::stable::new_empty(
            maps, {size}, wide ? ScalarType::Double : ScalarType::Float
        );
    }

    Tensor values_, cuts_;
};

// Boxes and partners of an exchange, checked.
class ChosenTensors {
public:
    ChosenTensors(const Tensor& boxes, const Tensor& partners, const Tensor& images)
        : boxes_(checked_boxes(boxes, images)), partners_(torch::stable::contiguous(partners)) {
        STD_TORCH_CHECK(
            partners.scalar_type() == ScalarType::Long && partners.dim() == 1 &&
                partners.size(0) == images.size(0),
            "attention_swap: partners must be (B,) int64, and B that of the images"
        );
    }

    cuda::Chosen get() const {
        return {data_of<const int32_t>(boxes_), data_of<const int64_t>(partners_)};
    }

private:
    Tensor boxes_, partners_;
};

// maps (B,h,w), thresholds (B,T) or (B,) -> boxes (B,T,4) or (B,4) int32. The shapes are checked in
// Python.
void attention_boxes(
    const Tensor& maps, const Tensor& thresholds, int64_t height, int64_t width, double padding,
    const std::string& rule, bool align_corners, Tensor boxes
) {
    STD_TORCH_CHECK(
        maps.dim() == 3 && maps.size(0) == thresholds.size(0),
        "attention_boxes: maps (B,h,w) and thresholds (B,T) differ in B"
    );
    const Call call("attention_boxes", maps);
    const cuda::Resize resize{height, width, box_rule(rule), align_corners};
    const MapCopies seen(call, maps, thresholds, resize);
    const int count = static_cast<int>(thresholds.dim() == 1 ? 1 : thresholds.size(1));
    cuda::attention_boxes(call.launch, seen.get(), count, resize, padding, data_of<int32_t>(boxes));
}

// images (B,C,H,W), boxes (B,4) int32 -> crops (B,C,S,T).
void crop_resize(
    const Tensor& images, const Tensor& boxes, int64_t /*height*/, int64_t /*width*/,
    bool align_corners, Tensor crops
) {
    const Call call("crop_resize", images);
    const Tensor x = laid_out_as(images, crops), corners = checked_boxes(boxes, images);
    cuda::crop_resize(
        call.launch, call.read(x), data_of<const int32_t>(corners), align_corners,
        !is_planar(crops), call.filled(crops)
    );
}

// grad_crops (B,C,S,T), boxes (B,4) int32 -> grad_images (B,C,H,W).
void crop_resize_backward(
    const Tensor& grad_crops, const Tensor& boxes, int64_t /*height*/, int64_t /*width*/,
    bool align_corners, Tensor grad_images
) {
    const Call call("crop_resize_backward", grad_crops);
    const Tensor x = laid_out_as(grad_crops, grad_images);
    const Tensor corners = checked_boxes(boxes, grad_crops);
    cuda::crop_resize_backward(
        call.launch, call.read(x), data_of<const int32_t>(corners), align_corners,
        !is_planar(grad_images), call.filled(grad_images)
    );
}

// images (B,C,H,W), maps (B,h,w), thresholds (B,) -> drops (B,C,H,W).
void attention_drop(
    const Tensor& images, const Tensor& maps, const Tensor& thresholds, const std::string& rule,
    bool align_corners, Tensor drops
) {
    check_batches(images, maps, thresholds, "attention_drop");
    const Call call("attention_drop", images);
    const Tensor x = laid_out_as(images, drops);
    const cuda::Resize resize{images.size(2), images.size(3), box_rule(rule), align_corners};
    const MapCopies seen(call, maps, thresholds, resize);
    const CutTensors cuts(maps);
    cuda::attention_drop(
        call.launch, call.read(x), seen.get(), resize, cuts.get(), !is_planar(drops),
        call.filled(drops)
    );
}

bool same_kind(const Tensor& a, const Tensor& b) {
    return a.scalar_type() == b.scalar_type() && a.size(1) == b.size(1) && a.size(2) == b.size(2);
}

// The boxes of the crop's maps, crop_resize by them to the size of the images, and attention_drop.
void attention_crop_drop(
    const Tensor& images, const Tensor& crop_maps, const Tensor& drop_maps,
    const Tensor& crop_thresholds, const Tensor& drop_thresholds, double padding,
    const std::string& rule, bool align_corners, Tensor crops, Tensor drops, Tensor boxes
) {
    constexpr const char* op = "attention_crop_drop";
    const int64_t height = images.size(2), width = images.size(3);
    check_batches(images, crop_maps, crop_thresholds, op);
    check_batches(images, drop_maps, drop_thresholds, op);
    if (!same_kind(crop_maps, drop_maps) || crop_maps.scalar_type() == ScalarType::Double) {
        // Rare: not worth kernels of their own.
        attention_boxes(
            crop_maps, crop_thresholds, height, width, padding, rule, align_corners, boxes
        );
        crop_resize(images, boxes, height, width, /*align_corners=*/true, crops);
        attention_drop(images, drop_maps, drop_thresholds, rule, align_corners, drops);
        return;
    }
    const Call call(op, images);
    const Tensor x = laid_out_as(images, crops);
    const cuda::Resize resize{height, width, box_rule(rule), align_corners};
    const MapCopies crop(call, crop_maps, crop_thresholds, resize);
    const MapCopies drop(call, drop_maps, drop_thresholds, resize);
    const CutTensors cuts(drop_maps);
    cuda::attention_crop_drop(
        call.launch, call.read(x), crop.get(), drop.get(), resize, padding, cuts.get(),
        !is_planar(crops), call.filled(crops), call.filled(drops), data_of<int32_t>(boxes)
    );
}

// images (B,C,H,W), boxes (B,4) int32, partners (B,) int64 -> swapped (B,C,H,W).
void attention_swap(
    const Tensor& images, const Tensor& boxes, const Tensor& partners, Tensor swapped
) {
    const Call call("attention_swap", images);
    const Tensor x = laid_out_as(images, swapped);
    const ChosenTensors chosen(boxes, partners, images);
    cuda::attention_swap(
        call.launch, call.read(x), chosen.get(), !is_planar(swapped), call.filled(swapped)
    );
}

// grad_swapped (B,C,H,W), boxes (B,4) int32, partners (B,) int64 -> grad_images (B,C,H,W).
void attention_swap_backward(
    const Tensor& grad_swapped, const Tensor& boxes, const Tensor& partners, Tensor grad_images
) {
    const Call call("attention_swap_backward", grad_swapped);
    const Tensor x = laid_out_as(grad_swapped, grad_images);
    const ChosenTensors chosen(boxes, partners, grad_swapped);
    cuda::attention_swap_backward(
        call.launch, call.read(x), chosen.get(), !is_planar(grad_images), call.filled(grad_images)
    );
}

STABLE_TORCH_LIBRARY_IMPL(wsdan_native, CUDA, library) {
    library.impl("attention_boxes", TORCH_BOX(&attention_boxes));
    library.impl("crop_resize", TORCH_BOX(&crop_resize));
    library.impl("crop_resize_backward", TORCH_BOX(&crop_resize_backward));
    library.impl("attention_drop", TORCH_BOX(&attention_drop));
    library.impl("attention_crop_drop", TORCH_BOX(&attention_crop_drop));
    library.impl("attention_swap", TORCH_BOX(&attention_swap));
    library.impl("attention_swap_backward", TORCH_BOX(&attention_swap_backward));
}

}  // namespace
}  // namespace wsdan
