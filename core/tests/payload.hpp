// Messages whose every word says whose they are: a torn, foreign or half-changed one shows.
#pragma once

#include "support.hpp"

namespace psyne::test {

constexpr uint64_t kMutation = 0x9e3779b97f4a7c15;

/// The payload as 64-bit words: sender, number, changes so far, data …, sum.
inline uint64_t data_word(uint64_t sender, uint64_t number, uint64_t i) noexcept {
    uint64_t x = (sender << 48 ^ number) + i * 0xd1342543de82ef95;
    x ^= x >> 29;
    x *= 0xbf58476d1ce4e5b9;
    return x ^ x >> 32;
}
inline void fill(std::byte* slot, uint64_t words, uint64_t sender, uint64_t number) noexcept {
    auto* w = reinterpret_cast<uint64_t*>(slot);
    w[0] = sender, w[1] = number, w[2] = 0;
    uint64_t sum = sender + number;
    for (uint64_t i = 3; i + 1 < words; ++i) sum += w[i] = data_word(sender, number, i);
    w[words - 1] = sum;
}
/// A mutating stage's work: changes each data word and the sum.
inline void mutate(std::byte* slot, uint64_t words) noexcept {
    auto* w = reinterpret_cast<uint64_t*>(slot);
    w[2] += 1;
    for (uint64_t i = 3; i + 1 < words; ++i) {
        w[i] += kMutation;
        w[words - 1] += kMutation;
    }
}
inline void verify(const std::byte* slot, uint64_t words, uint64_t changes) {
    const auto* w = reinterpret_cast<const uint64_t*>(slot);
    CHECK_EQ(w[2], changes);
    uint64_t sum = w[0] + w[1];
    for (uint64_t i = 3; i + 1 < words; ++i) {
        if (w[i] != data_word(w[0], w[1], i) + changes * kMutation)
            check::fail("torn: word " + std::to_string(i) + " of message " + std::to_string(w[1]));
        sum += w[i];
    }
    CHECK_EQ(w[words - 1], sum);
}

inline bool long_run() {
    const char* s = std::getenv("PSYNE_STRESS");
    return s && std::string(s) == "long";
}

using Random = std::minstd_rand;
inline uint64_t pick(Random& random, uint64_t n) { return random() / 7 % n; }

}  // namespace psyne::test
