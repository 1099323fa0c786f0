// One word says everything about one slot:
//
//   63            24 23  21 20   16 15      0
//  ┌────────────────┬──────┬───────┬─────────┐
//  │ lap            │ state│ flags │ owner   │     laps count from 1: zeroed memory is DONE(0)
//  └────────────────┴──────┴───────┴─────────┘
#pragma once

#include <cstdint>

namespace psyne {

enum class Ready : uint64_t { none, ready, skip };              // a ready word: written by the sender
enum class Ack : uint64_t { done, taken, passed, orphan };      // an ack word: written by one stage

inline constexpr uint64_t kDirty = 1u << 16;    // its mutating owner has begun to write
inline constexpr uint64_t kDrop = 1u << 17;     // taken out: later stages pass it on unseen
inline constexpr uint64_t kDeath = 1u << 18;    // owners that died on it: two bits
inline constexpr uint64_t kDeaths = 3u << 18;
inline constexpr uint64_t kMaxDeaths = 3;
inline constexpr uint64_t kMaxLap = (1ull << 40) - 1;

template <class State>
constexpr uint64_t word(uint64_t lap, State state, uint64_t owner = 0) noexcept {
    return lap << 24 | static_cast<uint64_t>(state) << 21 | owner;
}
constexpr uint64_t lap_of(uint64_t w) noexcept { return w >> 24; }
constexpr Ready ready_of(uint64_t w) noexcept { return static_cast<Ready>(w >> 21 & 7); }
constexpr Ack ack_of(uint64_t w) noexcept { return static_cast<Ack>(w >> 21 & 7); }
constexpr uint64_t owner_of(uint64_t w) noexcept { return w & 0xffff; }
constexpr uint64_t deaths_of(uint64_t w) noexcept { return (w & kDeaths) / kDeath; }

/// Who waits for a stage: one that only reads goes on at PASSED, one that writes needs DONE.
enum class Next { reads, writes };

/// Whether a stage whose ack word is `w` has let go the message of `lap`. Final once true.
constexpr bool let_go(uint64_t w, uint64_t lap, Next next) noexcept {
    if (lap_of(w) != lap) return lap_of(w) > lap;
    return ack_of(w) == Ack::done || (next == Next::reads && ack_of(w) == Ack::passed);
}

/// Where a sender or a receiver stands in a lane, without divisions.
struct Cursor {
    uint64_t position = 0;
    uint64_t slot = 0;
    uint64_t lap = 1;

    void advance(uint64_t capacity, uint64_t n = 1) noexcept {  // n stays within the lap
        position += n;
        slot += n;
        if (slot == capacity) {
            slot = 0;
            ++lap;
        }
    }
    static Cursor at(uint64_t position, uint64_t first, uint64_t capacity) noexcept {
        return {position, (position - first) % capacity, 1 + (position - first) / capacity};
    }
};

}  // namespace psyne
