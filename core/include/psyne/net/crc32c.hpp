// The CRC-32C (Castagnoli, reflected, all ones before and after): by the processor where it can, else by tables.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

namespace psyne::net {

namespace crc {

/// tables[k][b]: what byte b does to the sum when k zero bytes come behind it.
inline constexpr auto tables = [] {
    std::array<std::array<uint32_t, 256>, 8> t{};
    for (uint32_t b = 0; b < 256; ++b) {
        uint32_t v = b;
        for (int i = 0; i < 8; ++i) v = v >> 1 ^ (v & 1 ? 0x82f63b78u : 0u);
        t[0][b] = v;
    }
    for (size_t k = 1; k < 8; ++k)
        for (size_t b = 0; b < 256; ++b) t[k][b] = t[k - 1][b] >> 8 ^ t[0][t[k - 1][b] & 0xff];
    return t;
}();

/// `state` is the sum without its last inversion.
inline uint32_t by_tables(const std::byte* data, size_t n, uint32_t state) noexcept {
    const auto at = [&](size_t i) { return static_cast<uint32_t>(data[i]); };
    for (; n >= 8; data += 8, n -= 8) {
        const uint32_t low = state ^ (at(0) | at(1) << 8 | at(2) << 16 | at(3) << 24);
        state = tables[7][low & 0xff] ^ tables[6][low >> 8 & 0xff] ^ tables[5][low >> 16 & 0xff] ^ tables[4][low >> 24] ^
                tables[3][at(4)] ^ tables[2][at(5)] ^ tables[1][at(6)] ^ tables[0][at(7)];
    }
    for (; n != 0; ++data, --n) state = state >> 8 ^ tables[0][(state ^ at(0)) & 0xff];
    return state;
}

inline uint64_t eight(const std::byte* data) noexcept {
    uint64_t v;
    std::memcpy(&v, data, 8);
    return v;
}

#if defined(__x86_64__)
inline const bool hardware = __builtin_cpu_supports("sse4.2") != 0;

__attribute__((target("sse4.2"))) inline uint32_t by_hardware(const std::byte* data, size_t n, uint32_t state) noexcept {
    uint64_t wide = state;
    for (; n >= 8; data += 8, n -= 8) wide = _mm_crc32_u64(wide, eight(data));
    state = static_cast<uint32_t>(wide);
    for (; n != 0; ++data, --n) state = _mm_crc32_u8(state, static_cast<uint8_t>(*data));
    return state;
}
#elif defined(__aarch64__)
#if defined(__linux__)
inline const bool hardware = (::getauxval(AT_HWCAP) & (1u << 7)) != 0;  // HWCAP_CRC32
#else
inline const bool hardware = true;
#endif

__attribute__((target("+crc"))) inline uint32_t by_hardware(const std::byte* data, size_t n, uint32_t state) noexcept {
    for (; n >= 8; data += 8, n -= 8) state = __crc32cd(state, eight(data));
    for (; n != 0; ++data, --n) state = __crc32cb(state, static_cast<uint8_t>(*data));
    return state;
}
#else
inline const bool hardware = false;

inline uint32_t by_hardware(const std::byte* data, size_t n, uint32_t state) noexcept { return by_tables(data, n, state); }
#endif

}  // namespace crc

/// Of `n` bytes; `before`: the sum of those before them.
inline uint32_t crc32c(const void* data, size_t n, uint32_t before = 0) noexcept {
    const auto* bytes = static_cast<const std::byte*>(data);
    return ~(crc::hardware ? crc::by_hardware(bytes, n, ~before) : crc::by_tables(bytes, n, ~before));
}

}  // namespace psyne::net
