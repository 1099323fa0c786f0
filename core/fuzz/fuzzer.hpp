// A coverage-guided fuzzer in few words: what g++ can count of the edges that an input takes decides which inputs are kept
// and changed again. Sanitizers and the targets' own checks say what is wrong.
//
//   corpus ─▶ choose ─▶ change (mutate.hpp) ─▶ run the target ─▶ a new edge? keep it
//
// An input is one byte that chooses a channel, one that seeds the cuts between reads, and the bytes of a connection.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

// Of functions that do the work of a target's checks.
#define NOT_COUNTED __attribute__((no_sanitize_coverage))

namespace fuzz {

using Bytes = std::vector<std::byte>;
using Input = std::span<const std::byte>;

struct Target {
    void (*run)(Input input);    // returns, or calls wrong()
    std::vector<Bytes> (*seeds)();
};

/// Targets by name, as their files register them.
inline std::map<std::string, Target>& targets() {
    static std::map<std::string, Target> all;
    return all;
}

/// The target did what it must not: keeps the input and ends the program.
[[noreturn]] void wrong(const std::string& what);
inline void require(bool good, const char* what) {
    if (!good) wrong(what);
}
template <class A, class B>
void require_equal(const A& got, const B& want, const char* what) {
    if (!(got == want)) wrong(std::string(what) + ": " + std::to_string(got) + ", expected " + std::to_string(want));
}

/// What follows is the target's own business: its edges do not count.
void stop_counting();

/// xorshift64*: the same everywhere.
struct Random {
    uint64_t state;
    explicit Random(uint64_t seed) : state(seed * 0x9e3779b97f4a7c15 + 0x2545f4914f6cdd1d) {}
    uint64_t next() noexcept {
        state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
        return state * 0x2545f4914f6cdd1d;
    }
    /// 0 … n − 1; n > 0.
    uint64_t below(uint64_t n) noexcept { return (next() >> 16) % n; }
    bool one_in(uint64_t n) noexcept { return below(n) == 0; }
};

}  // namespace fuzz
