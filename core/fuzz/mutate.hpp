// Changes of inputs: blind ones, and some that know frames, since behind a checksum blind ones seldom come.
#pragma once

#include <algorithm>
#include <utility>

#include <psyne/net/wire.hpp>

#include "fuzzer.hpp"

namespace fuzz {

inline constexpr size_t kMostBytes = 16 * 1024;
inline constexpr size_t kPrefix = 2;  // bytes that are no bytes of the connection

class Mutator {
public:
    explicit Mutator(Random& random) : random_(random) {}

    /// `other`: an input to cut pieces from.
    void mutate(Bytes& input, const Bytes& other) {
        if (input.size() < kPrefix) input.resize(kPrefix);
        for (uint64_t n = 1ull << random_.below(5); n != 0; --n) one(input, other);
        if (input.size() > kMostBytes) input.resize(kMostBytes);
        if (random_.one_in(2)) repair(input);
    }

private:
    Random& random_;

    static constexpr uint64_t kInteresting[] = {
        0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 1023, 1024, 4095, 4096, 4097,
        5000, 65535, 65536, 65537, 1 << 20, (1 << 20) + 1, (64 << 20) + 1, 0x7fffffff, 0x80000000, 0xffffffff, 1ull << 32,
        1ull << 48, (1ull << 61) + 1, 1ull << 62, (1ull << 63) - 1, 1ull << 63, ~0ull - 31, ~0ull - 1, ~0ull};

    uint64_t interesting() noexcept {
        const uint64_t v = kInteresting[random_.below(std::size(kInteresting))];
        return random_.one_in(8) ? random_.next() : v;
    }
    size_t place(const Bytes& b) noexcept { return random_.below(b.size()); }
    /// Mostly short.
    size_t length(size_t most) noexcept { return most == 0 ? 0 : 1 + random_.below(random_.one_in(4) ? most : std::min<size_t>(most, 32)); }

    void one(Bytes& b, const Bytes& other) {
        switch (random_.below(14)) {
            case 0: b[place(b)] ^= std::byte{static_cast<uint8_t>(1u << random_.below(8))}; break;
            case 1: b[place(b)] = static_cast<std::byte>(random_.next()); break;
            case 2: number(b, place(b)); break;
            case 3: erase(b); break;
            case 4: copy_within(b); break;
            case 5: splice(b, other); break;
            case 6: b.insert(b.begin() + at(b), length(64), static_cast<std::byte>(random_.next())); break;
            case 7: cut(b); break;
            case 8: add(b, place(b)); break;
            case 9: insert_frame(b); break;
            case 10: move_frame(b); break;
            case 11: b[1] = static_cast<std::byte>(random_.next()); break;  // other cuts
            default: field(b);
        }
    }
    std::ptrdiff_t at(const Bytes& b) noexcept {
        return static_cast<std::ptrdiff_t>(kPrefix + random_.below(b.size() - kPrefix + 1));
    }
    void number(Bytes& b, size_t to) {
        const size_t n = std::min<size_t>(size_t{1} << random_.below(4), b.size() - to);
        const uint64_t v = interesting();
        for (size_t i = 0; i < n; ++i) b[to + i] = static_cast<std::byte>(v >> (8 * i));
    }
    void add(Bytes& b, size_t to) {
        b[to] = static_cast<std::byte>(static_cast<uint8_t>(b[to]) + random_.below(17) - 8);
    }
    void erase(Bytes& b) {
        const auto from = at(b);
        b.erase(b.begin() + from, b.begin() + from + static_cast<std::ptrdiff_t>(length(b.size() - static_cast<size_t>(from))));
    }
    void copy_within(Bytes& b) {
        const size_t from = place(b), n = length(b.size() - from);
        const Bytes piece(b.begin() + static_cast<std::ptrdiff_t>(from), b.begin() + static_cast<std::ptrdiff_t>(from + n));
        b.insert(b.begin() + at(b), piece.begin(), piece.end());
    }
    void splice(Bytes& b, const Bytes& other) {
        if (other.size() <= kPrefix) return;
        const size_t from = kPrefix + random_.below(other.size() - kPrefix), n = length(other.size() - from);
        const auto piece = other.begin() + static_cast<std::ptrdiff_t>(from);
        if (random_.one_in(2)) b.resize(static_cast<size_t>(at(b)));
        b.insert(b.begin() + at(b), piece, piece + static_cast<std::ptrdiff_t>(random_.one_in(2) ? other.size() - from : n));
    }
    void cut(Bytes& b) {
        if (random_.one_in(4)) b.resize(static_cast<size_t>(at(b)));
    }

    // ---- what knows frames ------------------------------------------------------------------------------------------

    /// Where frames begin, as far as that can be seen.
    static std::vector<size_t> frames(const Bytes& b) {
        std::vector<size_t> found;
        const std::byte* const end = b.data() + b.size();
        for (const std::byte* at = b.data() + kPrefix; at < end;) {
            at = static_cast<const std::byte*>(::memmem(at, static_cast<size_t>(end - at), "PSYN", 4));
            if (!at || static_cast<size_t>(end - at) < psyne::net::kHeader) break;
            found.push_back(static_cast<size_t>(at++ - b.data()));
        }
        return found;
    }
    /// A field of a header, or of the words behind it.
    void field(Bytes& b) {
        static constexpr std::pair<size_t, size_t> kFields[] = {{4, 1}, {5, 1}, {6, 2}, {8, 4}, {16, 8}, {24, 8}, {32, 8}, {40, 4},
                                                                {44, 4}, {48, 8}, {56, 8}, {64, 8}};
        const auto all = frames(b);
        if (all.empty()) return;
        const size_t frame = all[random_.below(all.size())];
        const auto [offset, bytes] = kFields[random_.below(std::size(kFields))];
        if (frame + offset + bytes > b.size()) return;
        uint64_t before = 0;
        for (size_t i = 0; i < bytes; ++i) before |= std::to_integer<uint64_t>(b[frame + offset + i]) << (8 * i);
        uint64_t v = interesting();
        if (offset == 5) v = random_.one_in(2) ? 1 + random_.below(7) : 15 + random_.below(9);
        else if (offset == 6) v = random_.below(8);
        else if (random_.one_in(2)) v = before + random_.below(5) - 2;
        for (size_t i = 0; i < bytes; ++i) b[frame + offset + i] = static_cast<std::byte>(v >> (8 * i));
    }
    /// Writes one frame behind another.
    void move_frame(Bytes& b) {
        const auto all = frames(b);
        if (all.empty()) return;
        const size_t i = random_.below(all.size()), to = all[random_.below(all.size())];
        const size_t end = i + 1 < all.size() ? all[i + 1] : b.size();
        const Bytes piece(b.begin() + static_cast<std::ptrdiff_t>(all[i]), b.begin() + static_cast<std::ptrdiff_t>(end));
        b.insert(b.begin() + static_cast<std::ptrdiff_t>(to), piece.begin(), piece.end());
    }
    void insert_frame(Bytes& b) {
        using namespace psyne::net;
        static constexpr Frame kTypes[] = {Frame::refuse, Frame::data, Frame::ack, Frame::ping, Frame::pong, Frame::end, Frame::bye,
                                           Frame::leave};
        const Frame type = kTypes[random_.below(std::size(kTypes))];
        uint64_t body = 8;
        if (type == Frame::end) body = 1;
        if (type == Frame::bye || type == Frame::leave) body = 0;
        if (type == Frame::data) body = kDataHead + length(128);
        if (type == Frame::refuse) body = length(64);
        Bytes frame(kHeader + body);
        const bool numbered = type == Frame::data || type == Frame::ack || type == Frame::end;
        Header{type, 0, type == Frame::data ? 1u : 0u, body, numbered ? random_.below(20) : 0}.encode(frame.data());
        if (type == Frame::ack) put(&frame[kHeader], random_.below(20));
        if (type == Frame::data) put(&frame[kHeader + 16], body - kDataHead);
        const auto all = frames(b);
        const auto to = all.empty() || random_.one_in(2) ? std::ssize(b) : static_cast<std::ptrdiff_t>(all[random_.below(all.size())]);
        b.insert(b.begin() + to, frame.begin(), frame.end());
    }
    /// Makes headers right again, and some of what they say of their bodies.
    void repair(Bytes& b) {
        using namespace psyne::net;
        const bool sequences = random_.one_in(2), lengths = random_.one_in(2), sums = random_.one_in(2);
        uint64_t next = 0;
        for (const size_t at : frames(b)) {
            std::byte* const h = &b[at];
            const size_t there = b.size() - at - kHeader;
            const auto flags = get<uint16_t>(h + 6);
            const uint64_t count = get<uint32_t>(h + 8);
            if (Frame{get<uint8_t>(h + 5)} == Frame::data && there >= kDataHead) {
                if (sequences) put(h + 24, std::exchange(next, next + count));
                const uint64_t stamps = (flags & kStamps) != 0 ? 8 * count : 0;
                if (lengths) put(h + 16, kDataHead + stamps + count * get<uint64_t>(h + kHeader + 16));
                const auto length = get<uint64_t>(h + 16);
                if (sums && length >= kDataHead && length <= there)
                    put(h + kHeader + 12, crc32c(h + kHeader + kDataHead, length - kDataHead));
            } else if (Frame{get<uint8_t>(h + 5)} == Frame::end && sequences) {
                put(h + 24, next);
            }
            put(h + 12, uint32_t{0});
            put(h + 12, crc32c(h, kHeader));
        }
    }
};

}  // namespace fuzz
