// The frames of a connection: 32 bytes of header, then `length` bytes of body.
//
//   0      4       5      6       8       12                16       24         32
//  ┌──────┬───────┬──────┬───────┬───────┬─────────────────┬────────┬──────────┬──────┄
//  │ PSYN │version│ type │ flags │ count │ header checksum │ length │ sequence │ body
//  └──────┴───────┴──────┴───────┴───────┴─────────────────┴────────┴──────────┴──────┄
//
//  body of DATA   variant │ missed │ checksum │ size │ stamps: count × 8 │ payload: count × size
//                 0         8        12         16     24, where flagged
//
// Numbers are little-endian. Stamps and payload are as the sender's host has them.
#pragma once

#include <cstddef>
#include <cstring>
#include <string>

#include <psyne/errors.hpp>
#include <psyne/net/crc32c.hpp>

namespace psyne::net {

inline constexpr uint8_t kWireVersion = 1;
inline constexpr size_t kHeader = 32;    // bytes of a header
inline constexpr size_t kDataHead = 24;  // bytes of DATA before its stamps
inline constexpr uint32_t kMagic = 0x4e595350;  // "PSYN"
inline constexpr uint32_t kMostMessages = 4096;     // of a DATA frame
inline constexpr uint64_t kMostPayload = 1u << 20;  // of a DATA frame of several messages
inline constexpr uint64_t kMostReason = 64 * 1024;  // of a REFUSE

enum class Frame : uint8_t {
    hello = 1, challenge, proof, open, welcome, refuse,        // handshake
    data = 16, ack, ping, pong, end, bye, leave,
};

// Flags of DATA.
inline constexpr uint16_t kStamps = 1;    // the sender's clock for each message
inline constexpr uint16_t kChecksum = 2;  // of stamps and payload
inline constexpr uint16_t kColumns = 4;   // the payload is one field of all messages after the other

template <class T>
constexpr void put(std::byte* to, T v) noexcept {
    for (size_t i = 0; i < sizeof(T); ++i) to[i] = static_cast<std::byte>(static_cast<uint64_t>(v) >> (8 * i));
}
template <class T>
constexpr T get(const std::byte* from) noexcept {
    uint64_t v = 0;
    for (size_t i = 0; i < sizeof(T); ++i) v |= static_cast<uint64_t>(from[i]) << (8 * i);
    return static_cast<T>(v);
}

/// What the peer did against the protocol. The connection is over.
[[noreturn]] inline void violation(const std::string& what) { fail(Errc::protocol, what); }

struct Header {
    Frame type = Frame::data;
    uint16_t flags = 0;
    uint32_t count = 0;
    uint64_t length = 0;    // bytes of the body
    uint64_t sequence = 0;  // of DATA the first message; of ACK: all before are let go; of END: messages in all

    void encode(std::byte* to) const noexcept {
        put(to, kMagic);
        put(to + 4, kWireVersion);
        put(to + 5, static_cast<uint8_t>(type));
        put(to + 6, flags);
        put(to + 8, count);
        put(to + 12, uint32_t{0});
        put(to + 16, length);
        put(to + 24, sequence);
        put(to + 12, crc32c(to, kHeader));
    }

    /// Throws Errc::protocol for what is no header, and for one whose type cannot have such numbers. How long DATA may
    /// be, and which sequence is due, knows who reads it.
    static Header decode(const std::byte* from) {
        if (get<uint32_t>(from) != kMagic) violation("the bytes of the peer are no frame of psyne: " + hex(from, 4));
        if (const auto v = get<uint8_t>(from + 4); v != kWireVersion)
            violation("the peer speaks version " + std::to_string(v) + " of the protocol, this end version " + std::to_string(kWireVersion));
        std::byte bytes[kHeader];
        std::memcpy(bytes, from, kHeader);
        put(bytes + 12, uint32_t{0});
        if (const uint32_t told = get<uint32_t>(from + 12), found = crc32c(bytes, kHeader); told != found)
            violation("a header has the checksum " + std::to_string(told) + " and says " + std::to_string(found));
        const Header h{Frame{get<uint8_t>(from + 5)}, get<uint16_t>(from + 6), get<uint32_t>(from + 8), get<uint64_t>(from + 16),
                       get<uint64_t>(from + 24)};
        h.check();
        return h;
    }

    std::string text() const {
        return "a frame of type " + std::to_string(static_cast<int>(type)) + " with flags " + std::to_string(flags) + ", count " +
               std::to_string(count) + ", length " + std::to_string(length) + " and sequence " + std::to_string(sequence);
    }

private:
    void check() const {
        uint64_t least = 0, most = 0;  // of length
        bool numbered = false;         // has a sequence
        switch (type) {
            case Frame::hello: case Frame::challenge: most = 1024; break;
            case Frame::proof: least = most = 32; break;
            case Frame::open: case Frame::welcome: most = 1 << 20; break;
            case Frame::refuse: most = kMostReason; break;
            case Frame::data: least = kDataHead, most = ~0ull, numbered = true; break;
            case Frame::ack: least = most = 8, numbered = true; break;
            case Frame::ping: case Frame::pong: least = most = 8; break;
            case Frame::end: least = most = 1, numbered = true; break;
            case Frame::bye: case Frame::leave: break;
            default: violation("there is no frame of type " + std::to_string(static_cast<int>(type)));
        }
        const bool data = type == Frame::data;
        const bool counted = data ? count >= 1 && count <= kMostMessages : count == 0;
        const bool flagged = (flags & ~(data ? kStamps | kChecksum | kColumns : 0)) == 0;
        if (!counted || !flagged || length < least || length > most || (!numbered && sequence != 0))
            violation(text() + " cannot be");
    }
    static std::string hex(const std::byte* from, size_t n) {
        std::string s;
        for (size_t i = 0; i < n; ++i)
            for (const unsigned shift : {4u, 0u}) s += "0123456789abcdef"[static_cast<unsigned>(from[i]) >> shift & 15];
        return s;
    }
};

struct DataHead {
    uint64_t variant = 0;   // VariantHdr word
    uint32_t missed = 0;    // messages that were lost just before the first
    uint32_t checksum = 0;
    uint64_t size = 0;      // bytes of each message

    void encode(std::byte* to) const noexcept {
        put(to, variant);
        put(to + 8, missed);
        put(to + 12, checksum);
        put(to + 16, size);
    }
    static DataHead decode(const std::byte* from) noexcept {
        return {get<uint64_t>(from), get<uint32_t>(from + 8), get<uint32_t>(from + 12), get<uint64_t>(from + 16)};
    }
};

}  // namespace psyne::net
