// What an end counts about itself. Plain words: an end has one user at a time.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace psyne::python {

/// Bucket b counts times below 2^b ns and not below 2^(b-1).
struct Histogram {
    std::array<uint64_t, 48> buckets{};
    void add(uint64_t ns) noexcept {
        const auto b = static_cast<size_t>(std::bit_width(ns));
        ++buckets[b < buckets.size() ? b : buckets.size() - 1];
    }
};

struct Counts {
    uint64_t messages = 0;            // sent or received
    uint64_t missed = 0;              // lost by full="drop"
    uint64_t waits = 0;               // calls that had to wait
    uint64_t held_while_waiting = 0;  // of these with messages of one's own not ended
    uint64_t copied = 0;              // bytes that send(), send_many() and receive_into() copied
    Histogram wait, latency;
};

}  // namespace psyne::python
