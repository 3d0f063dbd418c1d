// How a launcher of crop_resize_backward.cuh cuts images into tiles.
#pragma once

#include "../crop_resize_backward.cuh"

namespace wsdan {

// Of the images whose gradient is made.
template <typename S>
Tiles tiles_of(const Images<S>& images) {
    const int channels = images.pixel < kUncropChannels ? images.pixel : kUncropChannels;
    const int columns = kUncropThreads / channels;
    return {
        columns, channels, (images.width + columns - 1) / columns,
        (images.pixel + channels - 1) / channels, (images.height + kUncropRows - 1) / kUncropRows
    };
}

}  // namespace wsdan
