// What lies in a slot of a channel of several types: 8 bytes in a side column, next to nothing else.
//
//   63        32 31   24 23    16 15      0
//  ┌────────────┬───────┬────────┬─────────┐
//  │ flags      │ ndim  │ dtype  │ type    │     type: its place in the list that the schema has
//  └────────────┴───────┴────────┴─────────┘
#pragma once

#include <cstdint>

namespace psyne {

struct VariantHdr {
    uint16_t type = 0;
    uint8_t dtype = 0;  // a code for tools; 0: a record
    uint8_t ndim = 0;
    uint32_t flags = 0;

    static constexpr uint32_t kFortran = 1;  // the first index moves fastest
    static constexpr uint32_t kShaped = 2;   // dimensions lie behind the payload, 8 bytes each
    static constexpr uint32_t kText = 4;     // letters

    constexpr uint64_t word() const noexcept {
        return uint64_t{flags} << 32 | uint64_t{ndim} << 24 | uint64_t{dtype} << 16 | type;
    }
    static constexpr VariantHdr of(uint64_t w) noexcept {
        return {static_cast<uint16_t>(w), static_cast<uint8_t>(w >> 16), static_cast<uint8_t>(w >> 24),
                static_cast<uint32_t>(w >> 32)};
    }
};
static_assert(sizeof(VariantHdr) == 8 && VariantHdr::of(VariantHdr{3, 2, 1, 4}.word()).flags == 4);

}  // namespace psyne
