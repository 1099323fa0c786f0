// How the messages of one type lie in a slot: what a link must know of types, and all that it knows.
//
//   rows      `bytes` bytes                                 travel as they lie
//   columns   field f of slot s: payload + capacity · offset(f) + s · bytes(f)     travel field after field
//   shaped    elements, and dimensions at the end of the    travel one by one: dimensions, then the elements that
//             room that the message has                     are in use
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include <psyne/slab.hpp>

namespace psyne::net {

struct MessageShape {
    static constexpr uint32_t kMostDims = 8;
    static constexpr size_t kMostColumns = 512;
    static constexpr uint64_t kMostBytes = 1ull << 48;

    uint64_t variant = 0;  // VariantHdr word, where a channel has several types; its number is the place in the list
    uint64_t bytes = 0;    // of a message; of the elements of a shaped one, at most
    struct Column {
        uint64_t offset = 0, bytes = 0;  // of all fields before, of this one
    };
    std::vector<Column> columns = {};
    bool shaped = false;
    uint32_t ndim = 0;     // shaped
    uint64_t element = 1;  // shaped: bytes of one

    uint64_t dims_bytes() const noexcept { return shaped ? 8 * uint64_t{ndim} : 0; }
    /// Bytes on the wire of the largest message.
    uint64_t most() const noexcept { return dims_bytes() + bytes; }

    /// Bytes of the elements that these dimensions say; false when they are not within `given` bytes of room.
    bool elements(const uint64_t* dims, uint64_t given, uint64_t& total) const noexcept {
        uint64_t reach = total = element;  // as if no axis were empty, as numpy counts
        for (uint32_t i = 0; i < ndim; ++i) {
            if (__builtin_mul_overflow(reach, std::max<uint64_t>(dims[i], 1), &reach)) return false;
            total *= dims[i];
        }
        return reach <= kMostBytes && total <= std::min(bytes, given - std::min(given, dims_bytes()));
    }
    /// Where the dimensions of a message lie that has `given` bytes of room.
    std::byte* dims_at(std::byte* data, uint64_t given) const noexcept { return data + given - dims_bytes(); }

    std::byte* column(const Slab& slab, size_t f, uint64_t slot) const noexcept {
        return slab.payload + slab.capacity * columns[f].offset + slot * columns[f].bytes;
    }
};

/// When the messages of a slab were sent: by the clock of their first sender, where it is on another host.
inline const Atomic64* clock_of(const Slab& slab) noexcept { return slab.remote ? slab.remote : slab.stamps; }

/// The types of a channel, in their order. Throws Errc::invalid for shapes that cannot be.
class MessageShapes {
public:
    explicit MessageShapes(std::vector<MessageShape> shapes) : shapes_(std::move(shapes)) {
        if (shapes_.empty()) fail(Errc::invalid, "a link needs the shapes of its messages; got none");
        for (const MessageShape& s : shapes_) {
            uint64_t sum = 0;
            for (const MessageShape::Column& c : s.columns) {
                if (c.bytes > s.bytes || c.offset != sum) fail(Errc::invalid, "columns of a message shape have gaps");
                sum += c.bytes;
            }
            if (s.bytes > MessageShape::kMostBytes || s.ndim > MessageShape::kMostDims || s.element == 0 ||
                s.columns.size() > MessageShape::kMostColumns ||
                (!s.columns.empty() && (sum != s.bytes || s.shaped || shapes_.size() > 1)))
                fail(Errc::invalid, "a message shape of " + std::to_string(s.bytes) + " bytes, " + std::to_string(s.ndim) +
                                        " dimensions and " + std::to_string(s.columns.size()) + " columns cannot be");
            most_ = std::max(most_, s.most());
        }
    }
    /// Null: no type has this word.
    const MessageShape* find(uint64_t variant) const noexcept {
        const uint64_t type = variant & 0xffff;
        return type < shapes_.size() && shapes_[type].variant == variant ? &shapes_[type] : nullptr;
    }
    /// Bytes on the wire of the largest message of all.
    uint64_t most() const noexcept { return most_; }

private:
    std::vector<MessageShape> shapes_;
    uint64_t most_ = 0;
};

}  // namespace psyne::net
