// The launchers: each looks up the kernel of its arrays' types. Shapes, dtypes and layouts are
// checked before; `interleaved` says in which layout all images of a call are (images.cuh).
#pragma once

#include <cstdint>

#include "../../common/boxes.h"
#include "array.h"
#include "launch.h"

namespace wsdan::cuda {

// How maps are resized: to height x width, by this rule for their boxes.
struct Resize {
    int64_t height, width;
    BoxRule rule;
    bool align_corners;
};

// Maps (B,h,w) and what goes with them, as the type that they are computed in.
struct SeenMaps {
    Array maps;
    const void* dense;       // the maps' values, or null where shared memory has room for them
    const void* thresholds;  // (B,), or of boxes (B,T)
};

// Room for what a drop reads of its maps, in that type: (B,h,w) values, and (B,) cuts.
struct CutRoom {
    void* values;
    void* cuts;
};

// Which partner's box each image takes; boxes (B,4), partners (B,).
struct Chosen {
    const int32_t* boxes;
    const int64_t* partners;
};

// Whether a block has room for a map's values in shared memory.
bool has_room(const Launcher& launch, const Array& maps, const Resize& resize);

// -> boxes (B,count,4).
void attention_boxes(
    const Launcher& launch, const SeenMaps& maps, int count, const Resize& resize, double padding,
    int32_t* boxes
);

// images (B,C,H,W), boxes (B,4) -> crops (B,C,S,T).
void crop_resize(
    const Launcher& launch, const Array& images, const int32_t* boxes, bool align_corners,
    bool interleaved, const Array& crops
);

// grad_crops (B,C,S,T), boxes (B,4) -> grad_images (B,C,H,W).
void crop_resize_backward(
    const Launcher& launch, const Array& grad_crops, const int32_t* boxes, bool align_corners,
    bool interleaved, const Array& grad_images
);

// images (B,C,H,W) -> drops (B,C,H,W).
void attention_drop(
    const Launcher& launch, const Array& images, const SeenMaps& maps, const Resize& resize,
    const CutRoom& room, bool interleaved, const Array& drops
);

// The boxes of the crop's maps, the crops by them in the size of the images, and the drops; maps of
// one kind, not float64.
void attention_crop_drop(
    const Launcher& launch, const Array& images, const SeenMaps& crop_maps,
    const SeenMaps& drop_maps, const Resize& resize, double padding, const CutRoom& room,
    bool interleaved, const Array& crops, const Array& drops, int32_t* boxes
);

// images (B,C,H,W) -> swapped (B,C,H,W).
void attention_swap(
    const Launcher& launch, const Array& images, const Chosen& chosen, bool interleaved,
    const Array& swapped
);

// grad_swapped (B,C,H,W) -> grad_images (B,C,H,W).
void attention_swap_backward(
    const Launcher& launch, const Array& grad_swapped, const Chosen& chosen, bool interleaved,
    const Array& grad_images
);

}  // namespace wsdan::cuda
