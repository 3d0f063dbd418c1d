// What a norm is at least where something is divided by it, as in torch's normalize.
#pragma once

namespace wsdan {

constexpr double kMinNorm = 1e-12;

}  // namespace wsdan
